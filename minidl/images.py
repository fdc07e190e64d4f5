"""Read images to predict on: PNG and JPEG, IDX and NPY, each told from its first bytes."""

import math

import numpy as np

from minidl.datasets import idx
from minidl.files import PathLike, check_regular

MAX_PIXELS = 2**24  # of a PNG or JPEG
MAX_BYTES = 2**30  # of an array, and of any file


def read(path: PathLike, sample_shape: tuple[int, ...], *, invert: bool = False) -> np.ndarray:
    """Return the images of a file, of shape (images, *sample_shape).

    PNG and JPEG are turned as viewers show them, become bytes of brightness, 0 (black) to 255
    (white), and are resized where their size differs; arrays are taken as they are, one sample or
    several.

    Parameters
    ----------
    sample_shape
        What the network takes; for PNG and JPEG it must be (height, width).
    invert
        Whether a PNG or JPEG shows dark ink on light paper, and the network learned the reverse,
        as from MNIST.

    Raises
    ------
    ValueError
        If the file is none of these, is damaged, too large, or of another shape.
    ImportError
        If Pillow, the extra ``images``, is needed and not installed.
    OSError
        If it cannot be read.
    """
    check_regular(path, MAX_BYTES)
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return _picture(path, sample_shape, invert)[np.newaxis]
    if start.startswith(b"\x93NUMPY"):
        array = _npy(path)
    elif start.startswith((b"\0\0", idx.GZIP_MAGIC)):
        array = idx.read(path, max_bytes=MAX_BYTES)
    else:
        raise ValueError(f"{path}: expected a PNG, JPEG, IDX or NPY file, found {start!r}")
    if array.shape == sample_shape:
        array = array[np.newaxis]
    if array.shape[1:] != sample_shape or len(array) == 0:
        raise ValueError(
            f"{path}: the network takes samples of shape {sample_shape}, found an array of shape "
            f"{array.shape}"
        )
    return array


def _npy(path: PathLike) -> np.ndarray:
    """Return an array that is mapped into memory, so that it is no larger than its file."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # what NumPy's parser raises of damaged files is not documented
        raise ValueError(f"{path}: expected an intact NPY file, found: {error}") from error
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:  # longdouble has 12 or 16
        raise ValueError(
            f"{path}: expected integers, bool, or floats of 16, 32 or 64 bits, found {array.dtype}"
        )
    return array


def _picture(path: PathLike, sample_shape: tuple[int, ...], invert: bool) -> np.ndarray:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(f"{path}: needs Pillow; pip install 'minidl[images]'") from error
    if len(sample_shape) != 2:
        raise ValueError(
            f"{path}: the network takes samples of shape {sample_shape}, which are no images; give "
            "it arrays (NPY or IDX)"
        )
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if math.prod(image.size) > MAX_PIXELS:
                raise ValueError(f"{image.size} pixels")
            if image.mode.startswith(("I", "F")):
                raise ValueError("16 bits or more; convert it to 8")
            upright = ImageOps.exif_transpose(image).convert("RGBA")  # as viewers show photos
            paper = Image.new("RGBA", upright.size, "white" if invert else "black")
            grey = Image.alpha_composite(paper, upright).convert("L")
            height, width = sample_shape
            pixels = np.asarray(grey.resize((width, height), Image.Resampling.BOX))
    except Exception as error:  # what Pillow raises of damaged files is not documented
        raise ValueError(
            f"{path}: expected an intact image of 8 bits a channel and at most {MAX_PIXELS:,} "
            f"pixels, found: {error}"
        ) from error
    return 255 - pixels if invert else pixels
