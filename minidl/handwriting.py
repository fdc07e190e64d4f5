"""Drawn digits, found in a picture and prepared as MNIST's images were made."""

from typing import Any

import numpy as np

SIZE, BOX = 28, 20  # of MNIST's images, and of the digits in them
CENTRE = 14.5  # MNIST's centre of mass: the middle of pixel 14
WORKING_SIDE, PAPER_SIDE = 640, 96  # pictures are reduced to these sides
FAINTEST = 0.25  # ink takes this part of the paper's light; blank photos have up to 0.2
IS_INK = 0.5  # a pixel of a stroke, as a part of full ink
LEAST_SHEET, LEAST_PAPER = 0.4, 0.8  # of the picture that is sheet; of a sheet that is light
DARKEST_SHADOW = 0.4  # of the sheet's tone; what is darker around it is a table
IS_RULE, SPECK = 0.9, 0.02  # longer or shorter pieces are no digits, as a part of the picture
Box = tuple[int, int, int, int]  # left, top, right, bottom
Pieces = tuple[int, ...]  # of one digit


def digits(picture: Any, is_dark: bool | None = None) -> np.ndarray:
    """Return the digits in a picture as images like MNIST's, shape (digits, 28, 28), uint8.

    Lines are read from top to bottom, and digits in a line from left to right.

    Parameters
    ----------
    picture : PIL.Image.Image
        Mode RGBA or L.
    is_dark : bool, optional
        Whether the ink is darker than the paper. If None, the picture decides.
    """
    from PIL import Image

    grey = _opaque(picture)
    grey.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    if is_dark is None and (sheet := _sheet(grey)) is not None:
        grey, is_dark = sheet, True
    ink = _ink(grey, is_dark)
    labels, boxes = _pieces(ink > IS_INK)
    extents = boxes[:, 2:] - boxes[:, :2]
    is_rule = (extents > IS_RULE * np.array(ink.shape[::-1])).any(axis=1)
    if not is_rule.all():
        extents[is_rule] = 0
    sides = extents.max(axis=1, initial=0)
    smallest = max(SPECK * max(ink.shape), 0.15 * sides.max(initial=0))
    groups = _grouped(boxes, np.flatnonzero(sides > smallest))
    sizes = {pieces: max(box[2] - box[0], box[3] - box[1]) for pieces, box in groups.items()}
    usual = np.median([*sizes.values()]) if sizes else 0
    found = {pieces: box for pieces, box in groups.items() if sizes[pieces] > 0.4 * usual}
    fitted = [_fitted(ink, labels, pieces, found[pieces]) for pieces in _read_in_order(found)]
    return np.stack(fitted) if fitted else np.zeros((0, SIZE, SIZE), np.uint8)


def _opaque(picture: Any) -> Any:
    """Return a picture in grey; transparent paper is white behind dark ink, black behind light."""
    from PIL import Image

    if "A" not in picture.getbands():
        return picture.convert("L")
    cover = np.asarray(picture.getchannel("A"), float)
    tones = np.asarray(picture.convert("RGB").convert("L"), float)
    is_light = (tones * cover).sum() > 127 * cover.sum()
    paper = Image.new("RGBA", picture.size, "black" if is_light else "white")
    return Image.alpha_composite(paper, picture).convert("L")


def _sheet(grey: Any) -> Any:
    """Return a picture of a sheet of paper on a dark table without the table, or None."""
    from PIL import Image, ImageFilter

    tones = np.asarray(grey)
    labels, _ = _pieces(tones > np.quantile(tones, (0.02, 0.98)).mean())
    is_sheet = labels == np.bincount(labels[labels >= 0], minlength=1).argmax()
    inside = is_sheet
    for axis in (0, 1):  # between the first and the last pixel of each line
        after = np.maximum.accumulate(inside, axis=axis)
        inside = after & np.flip(np.maximum.accumulate(np.flip(inside, axis), axis=axis), axis)
    if not (LEAST_SHEET < inside.mean() < 1 and is_sheet.sum() > LEAST_PAPER * inside.sum()):
        return None
    tone = np.median(tones[is_sheet])
    if np.median(tones[~inside]) > DARKEST_SHADOW * tone:
        return None
    inner = Image.fromarray(inside).convert("L").filter(ImageFilter.MinFilter(9))
    return Image.composite(grey, Image.new("L", grey.size, int(tone)), inner)


def _ink(grey: Any, is_dark: bool | None) -> np.ndarray:
    """Return how much ink each pixel has, from 0 (paper) to 1."""
    from PIL import Image, ImageFilter, ImageOps

    small = grey.copy()
    small.thumbnail((PAPER_SIDE, PAPER_SIDE), Image.Resampling.BOX)
    if is_dark is None:
        # Ink is the smaller and sharper part: it decides the sign of the third moment.
        around = small.filter(ImageFilter.GaussianBlur(max(small.size) / 6))
        is_dark = ((np.asarray(small, float) - np.asarray(around)) ** 3).sum() < 0
    if not is_dark:
        grey, small = ImageOps.invert(grey), ImageOps.invert(small)
    # A morphological closing fills strokes that are narrower than the window, with the paper
    # beside them, and keeps shadows. Edges are continued, so that dark corners count as paper.
    window = min(small.size) // 3 | 1
    wide = Image.fromarray(np.pad(np.asarray(small), window, mode="edge"))
    wide = wide.filter(ImageFilter.MaxFilter(window)).filter(ImageFilter.MinFilter(window))
    paper = wide.crop((window, window, window + small.width, window + small.height))
    smooth = paper.filter(ImageFilter.BoxBlur(1)).resize(grey.size, Image.Resampling.BILINEAR)
    ink = 1 - np.asarray(grey, float) / np.maximum(np.asarray(smooth), 1)
    usual = np.median(ink)
    noise = usual + 5 * np.median(np.abs(ink - usual))
    strong = ink[ink > max(FAINTEST, noise)]
    return np.clip(ink / np.quantile(strong, 0.95), 0, 1) if strong.size else np.zeros_like(ink)


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the connected pieces of a mask: the label of each pixel, or -1, and their boxes.

    Runs of pixels in a row are united with the runs that they touch in the next row.

    Returns
    -------
    labels : numpy.ndarray
        In the shape of the mask.
    boxes : numpy.ndarray
        (left, top, right, bottom) of each piece, shape (pieces, 4).
    """
    width = mask.shape[1] + 2
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    first = np.searchsorted(rows * width + stops, (rows + 1) * width + starts)
    last = np.searchsorted(rows * width + starts, (rows + 1) * width + stops, "right")
    root = list(range(len(rows)))

    def root_of(run: int) -> int:
        while root[run] != run:
            root[run] = run = root[root[run]]
        return run

    for run, (low, high) in enumerate(zip(first, last, strict=True)):
        for other in range(low, high):
            root[root_of(other)] = root_of(run)
    _, piece = np.unique([root_of(run) for run in root], return_inverse=True)
    beyond = max(mask.shape)
    boxes = np.tile((beyond, beyond, 0, 0), (piece.max(initial=-1) + 1, 1))
    np.minimum.at(boxes[:, 0], piece, starts)
    np.minimum.at(boxes[:, 1], piece, rows)
    np.maximum.at(boxes[:, 2], piece, stops)
    np.maximum.at(boxes[:, 3], piece, rows + 1)
    labels = np.full(mask.shape, -1)
    labels[mask] = np.repeat(piece, stops - starts)
    return labels, boxes


def _grouped(boxes: np.ndarray, numbers: np.ndarray) -> dict[Pieces, Box]:
    """Return the pieces of each digit, such as the two strokes of a 5, and the box of all."""
    groups: dict[Pieces, Box] = {(n,): tuple(boxes[n].tolist()) for n in numbers.tolist()}
    waiting = list(groups)
    while waiting:
        one = waiting.pop()
        for other in groups:
            if other != one and _belong_together(groups[one], groups[other]):
                a, b = groups.pop(one), groups.pop(other)
                left, top, right, bottom = zip(a, b, strict=True)
                groups[one + other] = (min(left), min(top), max(right), max(bottom))
                waiting = [each for each in waiting if each != other] + [one + other]
                break
    return groups


def _belong_together(a: Box, b: Box) -> bool:
    """Return whether one piece is above the other, or in the same place, with a small gap."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    gap = max(a[1], b[1]) - min(a[3], b[3])
    narrower, taller = min(a[2] - a[0], b[2] - b[0]), max(a[3] - a[1], b[3] - b[1])
    return across >= 0.4 * narrower and gap < 0.2 * taller


def _read_in_order(found: dict[Pieces, Box]) -> list[Pieces]:
    """Return the keys in the order of reading. Lines may slope."""
    lines: list[list[Pieces]] = []
    for pieces in sorted(found, key=lambda each: found[each][0]):
        _, top, _, bottom = found[pieces]
        for line in lines:
            _, high, _, low = found[line[-1]]
            if min(low, bottom) - max(high, top) > 0.4 * min(low - high, bottom - top):
                line.append(pieces)
                break
        else:
            lines.append([pieces])
    lines.sort(key=lambda line: found[line[0]][1] + found[line[0]][3])
    return [pieces for line in lines for pieces in line]


def _fitted(ink: np.ndarray, labels: np.ndarray, pieces: Pieces, box: Box) -> np.ndarray:
    """Return a digit in MNIST's form: in a box of 20x20, its centre of mass in the middle.

    The edges of the digit's box fall on edges of pixels, so most images of MNIST hardly change.
    """
    from PIL import Image, ImageFilter

    start, stop = np.array(box[:2]), np.array(box[2:])
    left, top = around = np.maximum(start - 2, 0)
    place = (slice(top, box[3] + 2), slice(left, box[2] + 2))
    near = Image.fromarray(np.isin(labels[place], pieces)).convert("L")
    near = near.filter(ImageFilter.MaxFilter(5))  # with the soft edges of strokes
    alone = ink[place] * (np.asarray(near) > 0)
    scale = BOX / (stop - start).max()
    mass = alone.sum(axis=0), alone.sum(axis=1)
    centre = around + [m @ (np.arange(m.size) + 0.5) / m.sum() for m in mass]
    free = SIZE - np.ceil((stop - start) * scale)
    offset = np.clip(np.round(CENTRE - (centre - start) * scale), 0, free)
    margin = int(SIZE / scale) + 1
    corner = start - around + margin - offset / scale
    drawn = Image.fromarray(np.pad(alone, margin).astype(np.float32)).resize(
        (SIZE, SIZE), Image.Resampling.HAMMING, box=(*corner, *(corner + SIZE / scale))
    )
    form = np.asarray(drawn)
    return np.round(255 * np.clip(form / form.max(), 0, 1)).astype(np.uint8)
