"""Images for predictions: drawn digits, and PNG, JPEG, IDX and NPY files."""

import io
import math
import os
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from minidl import handwriting
from minidl.datasets import idx
from minidl.storage.atomic import PathLike, check_regular_file, write_atomically
from minidl.storage.extras import from_extra

PREPARED_SHAPE = (handwriting.SIZE, handwriting.SIZE)
MAX_PIXELS = 2**24  # of a PNG or JPEG
MAX_BYTES = 2**30  # of an array, and of any file
IN_A_ROW, MAX_SHOWN, FRAME = 10, 200, 96  # of images that are written
PICTURES = (b"\x89PNG", b"\xff\xd8\xff")  # how PNG and JPEG start
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_SIDE = 1024  # a JPEG with more pixels is reduced, and no shorter side below this
PNG_BITS = 24  # where a PNG has the bits of a sample
# Keywords of PNG's text chunks that may hold the orientation.
ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")


def prepare(image: Any, *, invert: bool | None = None) -> np.ndarray:
    """Return the drawn digits in an image as MNIST's images were made.

    The background is removed, even under uneven light. Digits are separated, and ordered in lines
    from top to bottom, from left to right. Each is cropped, scaled to fit 20x20 pixels, and centred
    in 28x28 by its centre of mass, as in LeCun et al., "Gradient-based learning applied to document
    recognition", Proc. IEEE 86(11), 1998, section III.A. Most images of MNIST change by at most 2
    of 255 grey levels.

    Parameters
    ----------
    image : path, PIL.Image.Image or numpy.ndarray
        A PNG or JPEG file, a picture, or bytes of shape (height, width), or with 3 or 4 channels.
    invert : bool, optional
        True for dark ink on light paper, False for light ink. By default, the image decides.

    Returns
    -------
    numpy.ndarray
        uint8 from 0 (paper) to 255 (ink), shape (digits, 28, 28). No digits if there is no ink.

    Raises
    ------
    ValueError
        If the image is damaged, too large, or has more than 8 bits a channel.
    ImportError
        If Pillow, the extra ``images``, is not installed.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> page = np.full((60, 100), 240, np.uint8)  # light grey, with two strokes
    >>> page[10:50, 20:25] = page[10:50, 70:75] = 30
    >>> prepare(page).shape
    (2, 28, 28)
    """
    return handwriting.digits(_upright(image), invert)


def read(
    path: PathLike,
    sample_shape: tuple[int, ...],
    *,
    invert: bool | None = None,
    prepared: bool = False,
) -> np.ndarray:
    """Return the images of a file, of shape (images, *sample_shape).

    PNG and JPEG are rotated as their EXIF data say, converted to bytes from 0 (black) to 255
    (white), and prepared or resized. Arrays are returned as they are; they hold one sample or
    several.

    Parameters
    ----------
    sample_shape : tuple of int
        The shape of the network's samples; for PNG and JPEG (height, width).
    invert : bool, optional
        Whether to invert PNG and JPEG: for dark ink on light paper, if the network was trained on
        light ink, as in MNIST. None is False, or the choice of `prepare`.
    prepared : bool
        Whether to return the digits that `prepare` finds in PNG and JPEG. Only for networks of
        28x28 inputs; for others, pictures are resized.

    Raises
    ------
    ValueError
        If the file has another format or shape, is damaged, or is too large, or if `prepare` finds
        no digit.
    ImportError
        If Pillow, the extra ``images``, is needed and not installed.
    OSError
        If the file cannot be read.
    """
    check_regular_file(path, MAX_BYTES)
    start = _start(path)
    if start.startswith(PICTURES):
        if prepared and sample_shape == PREPARED_SHAPE:
            found = prepare(path, invert=invert)
            if len(found) == 0:
                raise ValueError(
                    f"{path}: expected a drawn digit, found no ink. Leave paper around the digit, "
                    "and use a stronger pen."
                )
            return found
        return _resized(path, sample_shape, bool(invert))[np.newaxis]
    if start.startswith(b"\x93NUMPY"):
        array = _npy(path)
    elif start.startswith((b"\0\0", idx.GZIP_MAGIC)):
        array = idx.read(path, max_bytes=MAX_BYTES)
    else:
        got = f"one that starts with {start!r}" if start else "an empty file"
        raise ValueError(
            f"{path}: expected a PNG, JPEG, IDX or NPY file, got {got}. Convert or replace it."
        )
    if array.shape == sample_shape:
        array = array[np.newaxis]
    if array.shape[1:] != sample_shape or len(array) == 0:
        raise ValueError(
            f"{path}: expected samples of shape {sample_shape}, got {array.shape}. Resize "
            "or reshape them."
        )
    return array


def is_picture(path: PathLike) -> bool:
    """Return whether a file starts as PNG or JPEG."""
    return _start(path).startswith(PICTURES)


def write(path: PathLike, x: np.ndarray) -> None:
    """Write images to a PNG, enlarged, ten in a row.

    Parameters
    ----------
    x : numpy.ndarray
        Shape (images, height, width). Bytes are written as they are; the range of other numbers
        becomes black to white.
    """
    with from_extra("images", "Pillow", who=os.fspath(path)):
        from PIL import Image

    if x.ndim != 3:
        raise ValueError(f"{path}: expected images of 2 dimensions, got {x.ndim - 1}. Show others.")
    x = x[:MAX_SHOWN]
    if x.dtype != np.uint8:
        low, high = float(x.min()), float(x.max())
        x = (255 * ((x - low) / (high - low or 1))).astype(np.uint8)
    columns = min(len(x), IN_A_ROW)
    framed = np.pad(x, ((0, -len(x) % columns), (1, 1), (1, 1)), constant_values=FRAME)
    rows = framed.reshape(-1, columns, *framed.shape[1:])
    page = Image.fromarray(rows.transpose(0, 2, 1, 3).reshape(len(rows) * rows.shape[2], -1))
    content = io.BytesIO()
    enlarged = page.resize((4 * page.width, 4 * page.height), Image.Resampling.NEAREST)
    enlarged.save(content, "PNG")
    write_atomically(path, content.getvalue())


def _start(path: PathLike) -> bytes:
    with open(path, "rb") as file:
        return file.read(8)


def _npy(path: PathLike) -> np.ndarray:
    """Return an array, mapped into memory: it cannot be larger than its file."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy does not document what damaged files raise
        raise ValueError(
            f"{path}: expected an intact NPY file, got: {str(error).rstrip('.')}. "
            "Save an array of numbers with numpy.save."
        ) from error
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:  # longdouble has 12 or 16
        raise ValueError(
            f"{path}: expected integers, bool, or floats of 16, 32 or 64 bits, got {array.dtype}. "
            "Save the array with another dtype."
        )
    return array


def _resized(path: PathLike, sample_shape: tuple[int, ...], invert: bool) -> np.ndarray:
    if len(sample_shape) != 2:
        raise ValueError(
            f"{path}: expected a network for images, got one for samples of shape {sample_shape}. "
            "Use an array (NPY or IDX)."
        )
    upright = _upright(path)
    from PIL import Image

    paper = Image.new("RGBA", upright.size, "white" if invert else "black")
    grey = Image.alpha_composite(paper, upright).convert("L")
    height, width = sample_shape
    pixels = np.asarray(grey.resize((width, height), Image.Resampling.BOX))
    return 255 - pixels if invert else pixels


def _upright(image: Any) -> Any:
    """Return a picture in RGBA, rotated as its EXIF data say."""
    is_path = isinstance(image, str | os.PathLike)
    who = os.fspath(image) if is_path else "prepare"
    with from_extra("images", "Pillow", who=who):
        from PIL import Image, ImageOps

    if isinstance(image, np.ndarray):
        is_picture = image.ndim in {2, 3} and image.shape[2:] in {(), (3,), (4,)}
        if image.dtype != np.uint8 or image.size == 0 or not is_picture:
            raise ValueError(
                f"{who}: expected uint8 of shape (height, width), or with 3 or 4 channels, got "
                f"{image.dtype} of shape {image.shape}. Convert it."
            )
        image = Image.fromarray(image)
    try:
        picture = _loaded(image) if is_path else image
        if picture.mode.startswith(("I", "F")):
            raise ValueError("16 bits or more")
        with suppress(Exception):  # of invalid EXIF data; the pixels are intact
            picture = ImageOps.exif_transpose(picture)
        return picture.convert("RGBA")
    except Exception as error:  # Pillow does not document what damaged files raise
        raise ValueError(
            f"{who}: expected an intact image of 8 bits a channel and at most {MAX_PIXELS:,} "
            f"pixels, got: {error}. Replace, reduce or convert it."
        ) from error


def _loaded(path: PathLike) -> Any:
    """Return the picture in a PNG or JPEG file."""
    from PIL import Image

    with (
        open(path, "rb") as file,
        _without_extras(file) as content,
        Image.open(content, formats=("PNG", "JPEG")) as image,
    ):
        if math.prod(image.size) > MAX_PIXELS:
            image.draft(image.mode, (JPEG_SIDE, JPEG_SIDE))  # photos; it ignores PNG
        if math.prod(image.size) > MAX_PIXELS:
            raise ValueError(f"{image.width:,} x {image.height:,} pixels")
        image.load()
        if image.format == "PNG":
            content.seek(PNG_BITS)
            _scale_transparency(image, content.read(1)[0])
        return image


def _without_extras(file: BinaryIO) -> BinaryIO:
    """Return a PNG with only the chunks that its pixels and orientation need; else the file.

    Pillow rejects intact pictures because of other chunks, such as a long text.
    """
    if file.read(8) != PNG_START:
        file.seek(0)
        return file
    kept = io.BytesIO()
    kept.write(PNG_START)
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4]), head[4:]
        content = file.read(length + 4)  # with the checksum
        is_oriented = kind == b"eXIf" or content.startswith(ORIENTED)
        if kind[:1].isupper() or kind == b"tRNS" or is_oriented:
            kept.write(head + content)
    kept.seek(0)
    return kept


def _scale_transparency(image: Any, bits: int) -> None:
    """Convert the transparent colour of a PNG to 8 bits, like Pillow's pixels."""

    def scaled(value: int) -> int:
        largest = 2**bits - 1
        return value >> 8 if bits == 16 else (value & largest) * 255 // largest

    colour = image.info.get("transparency")
    if isinstance(colour, tuple):
        image.info["transparency"] = tuple(map(scaled, colour))
    elif isinstance(colour, int) and image.mode == "L":
        image.info["transparency"] = scaled(colour)
