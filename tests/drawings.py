"""Test drawings: digits as people draw them, and drawings that are no digits.

Pen strokes only, no font. Each digit is drawn by several hands; each drawing has its own slant,
rotation, proportions, wobble and pen. All numbers come from NumPy's generator, so a seed decides
the picture. The generator was written and frozen before `minidl.images.prepare`. Do not tune it.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

STYLES = (
    *("thick", "thin", "black on white", "white on black"),
    *("transparent", "off-centre", "1200x1600", "photo"),
)
# Strokes of each digit in several hands, in percent of the height: "x,y x,y" are points on a smooth
# curve, x to the right and y downwards; * is a corner; / lifts the pen.
HANDS = {
    0: [
        "30,0 10,12 0,42 4,76 21,98 42,96 57,72 59,38 47,9 27,0",
        "32,3 18,3 7,27 6,62 13,91 27,100 40,84 45,52 41,19 28,1",
        "44,7 26,1 9,16 2,47 7,78 22,98 40,96 54,74 58,42 49,13",
    ],
    1: [
        "30,0 30,100",
        "40,0 20,100",
        "8,25 30,0* 30,100",
        "12,20 30,0* 30,100 / 10,100 50,100",
    ],
    2: [
        "4,25 13,7 33,0 51,10 52,32 30,65 2,100* 60,100",
        "5,20 25,0 50,10 50,35 30,70 12,95 2,92 10,80 28,87 45,98 64,92",
        "4,12 28,0 53,12 45,45 2,97* 20,92 40,100 62,95",
    ],
    3: [
        "4,12 25,0 47,8 47,32 20,46* 48,54 56,77 36,98 12,98 0,86",
        "4,2 50,2* 22,40* 45,46 56,66 50,89 27,100 2,90",
        "8,10 30,0 50,16 40,40 20,48 22,42 44,50 54,76 30,100 2,94",
    ],
    4: [
        "10,0 2,57* 62,57 / 45,10 42,100",
        "42,0 0,65* 62,65 / 42,0 42,100",
        "15,4 4,45 10,56 52,52 / 50,0 40,100",
    ],
    5: [
        "12,2 8,43* 30,36 52,50 53,78 32,100 2,91 / 12,2 55,2",
        "56,0 15,2* 10,42* 34,40 52,56 48,86 25,100 0,93",
        "13,5 10,45* 36,42 52,62 44,90 20,100 0,90 / 19,2 58,0",
    ],
    6: [
        "50,2 25,20 5,60 10,90 30,100 50,88 52,68 35,56 15,64 6,80",
        "40,0 15,40 3,75 18,100 40,96 48,77 36,60 16,67 5,82",
        "30,0 8,40 6,82 28,100 50,86 46,62 24,54 7,68",
    ],
    7: [
        "3,3 55,3* 20,100",
        "3,3 55,3* 20,100 / 14,50 52,48",
        "3,8 20,4 55,3* 36,40 25,70 23,100",
        "4,18 5,3* 55,3* 25,100",
    ],
    8: [
        "48,12 30,0 10,12 12,32 30,47 50,65 50,88 28,100 6,88 8,66 28,48 46,30 48,12",
        "28,0 14,7 8,24 14,41 28,48 42,41 48,23 42,7 27,0"
        " / 28,48 10,56 2,74 10,93 28,100 47,92 54,73 46,55 27,48",
    ],
    9: [
        "51,18 38,3 20,2 6,16 5,36 18,51 36,52 50,38 51,18 / 53,12 50,100",
        "51,18 38,3 20,2 6,16 5,36 18,51 36,52 50,38 51,18 / 53,15 52,60 40,90 20,100 5,95",
        "50,16 32,0 6,14 8,42 30,48 50,20* 44,60 28,100",
    ],
}
# Letters that resemble no digit, and other drawings.
DOODLES = {
    "A": "0,100 30,0* 60,100 / 12,60 48,60",
    "E": "55,0 5,0* 5,100* 55,100 / 5,50 45,50",
    "H": "5,0 5,100 / 55,0 55,100 / 5,50 55,50",
    "K": "5,0 5,100 / 55,0 5,55* 58,100",
    "M": "0,100 5,0* 35,70* 65,0* 70,100",
    "N": "5,100 5,0* 60,100* 60,0",
    "R": "5,100 5,0* 40,0 55,22 40,48 5,50* 60,100",
    "W": "0,0 20,100* 40,30* 60,100* 80,0",
    "X": "2,0 60,100 / 58,0 0,100",
    "plus": "40,10 40,90 / 0,50 80,50",
    "star": "20,100 50,0* 80,100* 0,38* 100,38* 20,100",
    "heart": "50,100 2,40 12,5 38,2 50,30* 62,2 88,5 98,40 50,100",
    "face": "100,50 88,82 59,99 25,93 3,67 3,33 25,7 59,1 88,18 100,50"
    " / 36,38 32,44 28,38 32,32 36,38 / 72,38 68,44 64,38 68,32 72,38"
    " / 75,64 70,72 61,78 50,80 39,78 30,72 25,64",
    "house": "10,100 10,45* 50,0* 90,45* 90,100* 10,100* 10,45* 90,45",
    "spiral": "52,51 53,54 52,57 49,59 44,60 39,58 34,54 32,47 33,39 37,31 45,25"
    " 56,23 67,26 77,34 84,45 85,60 80,74 69,86 53,93 35,93 18,85 4,71",
    "scribble": "0,0 10,47 20,68 30,63 40,32 50,75 60,92 70,83 80,48 90,87 100,0 0,87",
}


# ------------------------------------------------------------------------------------- strokes


def curve(points: np.ndarray) -> np.ndarray:
    """Return a dense Catmull-Rom curve through the points."""
    if len(points) == 2:
        return np.linspace(points[0], points[1], 40)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, 24)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2)
        + 0.5 * (3 * b - a - 3 * c + d) * t**3
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    return np.concatenate(pieces)


def path(stroke: str, rng: np.random.Generator) -> np.ndarray:
    """Return the dense path of a stroke, with the wobble of a hand."""
    places = stroke.split()
    points = np.array([place.rstrip("*").split(",") for place in places], float) / 100
    points += rng.normal(0, 0.014, points.shape)
    corners = [n for n, place in enumerate(places) if place.endswith("*")]
    ends = zip([0, *corners], [*corners, len(points) - 1], strict=True)
    return np.concatenate([curve(points[start : end + 1]) for start, end in ends])


def hand(strokes: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the paths of strokes in one hand: proportions, slant, rotation, wobble; height 1."""
    turn, slant = np.radians(rng.normal(0, 5)), rng.normal(0.08, 0.1)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shape = np.array([[rng.uniform(0.85, 1.3), -slant], [0, 1]])
    paths = [path(stroke, rng) @ (rotation @ shape).T for stroke in strokes.split(" / ")]
    low = np.min([p.min(axis=0) for p in paths], axis=0)
    high = np.max([p.max(axis=0) for p in paths], axis=0)
    return [(p - low) / (high - low)[1] for p in paths]


def draw(
    size: tuple[int, int],
    items: Sequence[tuple[list[np.ndarray], tuple[float, float], float, float]],
    rng: np.random.Generator,
) -> Image.Image:
    """Return the ink of drawings, 0 to 255, on a canvas of (width, height).

    Parameters
    ----------
    items : sequence of (paths, corner, height, pen)
        The paths of a drawing, its upper left corner, its height and the width of the pen.
    """
    fine = 3 if max(size) < 700 else 1
    ink = Image.new("L", (size[0] * fine, size[1] * fine))
    pencil = ImageDraw.Draw(ink)
    for paths, corner, height, pen in items:
        for points in paths:
            placed = (points * height + corner) * fine
            # The pressure changes slowly along a stroke.
            pressure = 1 + 0.18 * np.sin(
                np.linspace(0, rng.uniform(1, 5), len(placed)) + rng.uniform(0, 6)
            )
            radii = np.maximum(pen * fine * pressure / 2, 0.6)
            steps = max(1, int(np.abs(np.diff(placed, axis=0)).max() / max(radii.min() / 2, 0.5)))
            where = np.arange(0, len(placed) - 1, 1 / steps)
            numbers = np.arange(len(placed))
            xs, ys = (np.interp(where, numbers, placed[:, axis]) for axis in (0, 1))
            for x, y, r in zip(xs, ys, np.interp(where, numbers, radii), strict=True):
                pencil.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return ink.resize(size, Image.Resampling.BOX)


# ------------------------------------------------------------------------------------- pictures


def paint(ink: Image.Image, paper: tuple[int, ...], pen: tuple[int, ...]) -> Image.Image:
    """Return a picture in colour: paper with ink."""
    return Image.composite(Image.new("RGB", ink.size, pen), Image.new("RGB", ink.size, paper), ink)


def photo(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a photo of ink on paper: uneven light, a soft shadow, blur, noise, JPEG's losses."""
    width, height = ink.size
    tone = rng.uniform(175, 235) * np.array([1, rng.uniform(0.96, 1), rng.uniform(0.86, 1)])
    pen = rng.choice([(25, 25, 30), (30, 40, 110), (55, 55, 60)])
    cover = np.asarray(ink, float)[..., None] / 255 * rng.uniform(0.85, 1)
    picture = tone * (1 - cover) + pen * cover
    y, x = np.mgrid[:height, :width]
    x, y = x / width - 0.5, y / height - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0.1, 0.35) * (x * np.cos(angle) + y * np.sin(angle))
    light -= rng.uniform(0, 0.25) * (x**2 + y**2)  # of the lens
    # The shadow of a hand or a phone: a half plane, or a round patch, with a soft edge.
    angle, softness = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.12)
    if rng.random() < 0.6:
        distance = x * np.cos(angle) + y * np.sin(angle) - rng.uniform(-0.2, 0.25)
    else:
        centre = rng.uniform(-0.5, 0.5, 2)
        distance = rng.uniform(0.25, 0.5) - np.hypot(x - centre[0], y - centre[1])
    light *= 1 - rng.uniform(0.15, 0.45) / (1 + np.exp(-np.clip(distance / softness * 4, -50, 50)))
    picture *= light[..., None]
    blurred = Image.fromarray(np.clip(picture, 0, 255).astype("uint8")).filter(
        ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5) * width / 1000)
    )
    grain = rng.normal(0, rng.uniform(2, 7), (height, width, 1)) + rng.normal(
        0, 1.5, (height, width, 3)
    )
    file = io.BytesIO()
    grainy = Image.fromarray(np.clip(np.asarray(blurred) + grain, 0, 255).astype("uint8"))
    grainy.save(file, "JPEG", quality=int(rng.integers(40, 86)))
    return Image.open(file)


def picture(strokes: str, style: str, rng: np.random.Generator) -> Image.Image:
    """Return a drawing of strokes in a style."""
    paths = hand(strokes, rng)
    aspect = max(p[:, 0].max() for p in paths)  # the width, where the height is 1
    side = int(rng.integers(120, 420))
    size = (side, side)
    relative, pen = rng.uniform(0.5, 0.8), rng.uniform(0.07, 0.12)
    if style == "thick":
        pen = rng.uniform(0.15, 0.2)
    elif style == "thin":
        pen = rng.uniform(0.025, 0.045)
    elif style == "off-centre":
        relative = rng.uniform(0.2, 0.4)
    elif style == "1200x1600":
        size, relative, pen = (1200, 1600), rng.uniform(0.2, 0.6), rng.uniform(0.05, 0.1)
    elif style == "photo":
        size = ((1000, 750), (750, 1000), (1280, 960))[rng.integers(3)]
        relative, pen = rng.uniform(0.25, 0.6), rng.uniform(0.05, 0.11)
    height = min(relative * size[1], 0.8 * size[0] / aspect)
    pen *= height
    free = np.array(size) - (aspect * height + pen * 1.3, height + pen * 1.3)
    if style == "off-centre":
        place = free * rng.choice([(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0), (0, 0.5), (1, 0.5)])
        place = np.clip(place + rng.uniform(-0.1, 0.1, 2) * size, 2, free - 2)
    elif style in {"1200x1600", "photo"}:
        place = rng.uniform(0.1, 0.9, 2) * free
    else:
        place = free * rng.uniform(0.4, 0.6, 2)
    ink = draw(size, [(paths, tuple(place + pen * 0.65), height, pen)], rng)
    if style == "transparent":
        colour = ((0, 0, 0), (20, 40, 140), (255, 255, 255))[rng.integers(3)]
        layer = Image.new("RGBA", size, (*colour, 0))
        layer.putalpha(ink)
        return layer
    if style == "photo":
        return photo(ink, rng)
    if style == "white on black":
        return paint(ink, (0, 0, 0), (255, 255, 255))
    if style == "1200x1600":
        return paint(ink, (244, 241, 232), (40, 44, 80))
    return paint(ink, (255, 255, 255), (0, 0, 0))


def drawings(style: str, seed: int) -> Iterator[tuple[int, Image.Image]]:
    """Yield ten digits and their pictures in a style."""
    rng = np.random.default_rng([seed, STYLES.index(style)])
    for digit, hands in HANDS.items():
        yield digit, picture(hands[rng.integers(len(hands))], style, rng)


def doodles(style: str, seed: int) -> Iterator[tuple[str, Image.Image]]:
    """Yield drawings that are no digits, in a style."""
    rng = np.random.default_rng([seed, STYLES.index(style), 1])
    for name, strokes in DOODLES.items():
        yield name, picture(strokes, style, rng)


def sheet(
    lines: Sequence[str], seed: int, *, ruled: bool = False, as_photo: bool = False
) -> Image.Image:
    """Return a sheet with lines of digits, such as ["31415", "92"]; ruled paper has lines."""
    rng = np.random.default_rng([seed, 100])
    height = rng.uniform(70, 110)
    pitch = height * 1.7
    size = (int(height * (1.1 * max(map(len, lines)) + 1.5)), int(pitch * len(lines) + height))
    pen = height * rng.uniform(0.07, 0.12)
    items = []
    for row, line in enumerate(lines):
        x = height * rng.uniform(0.3, 0.7)
        for character in line:
            hands = HANDS[int(character)]
            paths = hand(hands[rng.integers(len(hands))], rng)
            tall = height * rng.uniform(0.85, 1.1)
            items.append(
                (paths, (x, height * 0.5 + pitch * row + rng.normal(0, 0.04) * height), tall, pen)
            )
            x += max(p[:, 0].max() for p in paths) * tall + height * rng.uniform(0.3, 0.5)
    ink = draw(size, items, rng)
    if as_photo:
        return photo(ink, rng)
    paper = paint(Image.new("L", size), (252, 252, 250), (0, 0, 0))
    if ruled:
        pencil = ImageDraw.Draw(paper)
        for row in range(len(lines) + 1):
            y = height * 0.5 + pitch * row - (pitch - height) * 0.2
            pencil.line((0, y, size[0], y), fill=(150, 175, 220), width=2)
    return Image.composite(Image.new("RGB", size, (30, 30, 60)), paper, ink)
