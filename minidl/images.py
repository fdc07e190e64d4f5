"""Image files for predictions: PNG, JPEG, IDX and NPY, recognised by their first bytes."""

import io
import math
import os
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from minidl.datasets import idx
from minidl.storage.atomic import PathLike, check_regular_file
from minidl.storage.extras import from_extra

MAX_PIXELS = 2**24  # of a PNG or JPEG
MAX_BYTES = 2**30  # of an array, and of any file
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_BITS = 24  # where a PNG has the bits of a sample
# Keywords of PNG's text chunks that may hold the orientation.
ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")


def read(path: PathLike, sample_shape: tuple[int, ...], *, invert: bool = False) -> np.ndarray:
    """Return the images of a file, of shape (images, *sample_shape).

    PNG and JPEG are rotated as their EXIF data say, converted to bytes from 0 (black) to 255
    (white), and resized if necessary. Arrays are returned as they are; they hold one sample or
    several.

    Parameters
    ----------
    sample_shape : tuple of int
        The shape of the network's samples; for PNG and JPEG (height, width).
    invert : bool
        Whether to invert PNG and JPEG: for dark ink on light paper, if the network was trained on
        light ink, as in MNIST.

    Raises
    ------
    ValueError
        If the file has another format or shape, is damaged, or is too large.
    ImportError
        If Pillow, the extra ``images``, is needed and not installed.
    OSError
        If the file cannot be read.
    """
    check_regular_file(path, MAX_BYTES)
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return _picture(path, sample_shape, invert)[np.newaxis]
    if start.startswith(b"\x93NUMPY"):
        array = _npy(path)
    elif start.startswith((b"\0\0", idx.GZIP_MAGIC)):
        array = idx.read(path, max_bytes=MAX_BYTES)
    else:
        raise ValueError(
            f"{path}: expected a PNG, JPEG, IDX or NPY file, got one that starts with {start!r}. "
            "Convert it."
        )
    if array.shape == sample_shape:
        array = array[np.newaxis]
    if array.shape[1:] != sample_shape or len(array) == 0:
        raise ValueError(
            f"{path}: expected samples of shape {sample_shape}, got {array.shape}. Resize "
            "or reshape them."
        )
    return array


def _npy(path: PathLike) -> np.ndarray:
    """Return an array, mapped into memory: it cannot be larger than its file."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy does not document what damaged files raise
        raise ValueError(
            f"{path}: expected an intact NPY file, got: {error}. Save it again with numpy.save."
        ) from error
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:  # longdouble has 12 or 16
        raise ValueError(
            f"{path}: expected integers, bool, or floats of 16, 32 or 64 bits, got {array.dtype}. "
            "Save the array with another dtype."
        )
    return array


def _picture(path: PathLike, sample_shape: tuple[int, ...], invert: bool) -> np.ndarray:
    with from_extra("images", "Pillow", who=os.fspath(path)):
        from PIL import Image, ImageOps

    if len(sample_shape) != 2:
        raise ValueError(
            f"{path}: expected a network for images, got one for samples of shape {sample_shape}. "
            "Use an array (NPY or IDX)."
        )
    try:
        with (
            open(path, "rb") as file,
            _without_extras(file) as content,
            Image.open(content, formats=("PNG", "JPEG")) as image,
        ):
            if math.prod(image.size) > MAX_PIXELS:
                raise ValueError(f"{image.size} pixels")
            if image.mode.startswith(("I", "F")):
                raise ValueError("16 bits or more")
            image.load()
            if image.format == "PNG":
                content.seek(PNG_BITS)
                _scale_transparency(image, content.read(1)[0])
            upright: Image.Image = image
            with suppress(Exception):  # of invalid EXIF data; the pixels are intact
                upright = ImageOps.exif_transpose(image)
            upright = upright.convert("RGBA")
            paper = Image.new("RGBA", upright.size, "white" if invert else "black")
            grey = Image.alpha_composite(paper, upright).convert("L")
            height, width = sample_shape
            pixels = np.asarray(grey.resize((width, height), Image.Resampling.BOX))
    except Exception as error:  # Pillow does not document what damaged files raise
        raise ValueError(
            f"{path}: expected an intact image of 8 bits a channel and at most {MAX_PIXELS:,} "
            f"pixels, got: {error}. Save it again in this form."
        ) from error
    return 255 - pixels if invert else pixels


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
