"""IDX files, the format of MNIST and similar data sets.

An IDX file is two zero bytes, one byte for the element type, one byte for the number of
dimensions, each dimension as a big-endian uint32, and the elements in C order, big-endian
(http://yann.lecun.com/exdb/mnist/, "The IDX file format").
"""

import gzip
import hashlib
import math
import os
import zlib
from typing import Any, BinaryIO

import numpy as np

GZIP_MAGIC = b"\x1f\x8b"
MAX_NDIM = 64  # NumPy's own limit
GET_AGAIN = "Copy or download the file again."
DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}


def read(
    path: str | os.PathLike[str], *, max_bytes: int = 2**30, sha256: str | None = None
) -> np.ndarray:
    """Read an IDX file, plain or compressed with gzip, into an array.

    A compressed file is recognised by its content, not by its name. Several gzip members in a row
    are one stream (RFC 1952).

    Parameters
    ----------
    path : path
        The file.
    max_bytes : int
        The largest allowed array, in bytes. The file's header is checked against this limit first,
        and no more than its array (and one buffer of gzip) is allocated or decompressed. So a
        decompression bomb does no harm.
    sha256 : str, optional
        The expected SHA-256 of the uncompressed file, in hexadecimal.

    Returns
    -------
    numpy.ndarray
        uint8, int8, int16, int32, float32 or float64 in native byte order; C-contiguous,
        writable, owning its memory. A file with 0 dimensions holds a 0-d array.

    Raises
    ------
    ValueError
        If the content is not an IDX file, is damaged, truncated, too large, followed by other
        bytes, or has another SHA-256.
    OSError
        If the file cannot be opened or read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 0x08, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     read(path)
    array([7, 2, 1], dtype=uint8)
    """
    with open(path, "rb") as file:
        compressed = file.peek(2)[:2] == GZIP_MAGIC
        try:
            return _read(gzip.GzipFile(fileobj=file) if compressed else file, max_bytes, sha256)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(
                f"{path}: expected an intact gzip file, got: {error}. {GET_AGAIN}"
            ) from error
        except MemoryError as error:
            raise ValueError(
                f"{path}: expected data that fit into memory, got more. Split the file."
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _read(stream: BinaryIO | gzip.GzipFile, max_bytes: int, sha256: str | None) -> np.ndarray:
    magic = _read_exactly(stream, 4, "the magic number")
    if magic[:2] != b"\0\0":
        raise ValueError(
            f"expected an IDX file, which starts with bytes 00 00, got {magic!r}. Use another file."
        )
    type_code, ndim = magic[2:]
    if type_code not in DTYPES:
        known = ", ".join(f"0x{code:02X}" for code in DTYPES)
        raise ValueError(
            f"expected one of the IDX type codes {known}, got 0x{type_code:02X}. {GET_AGAIN}"
        )
    if ndim > MAX_NDIM:
        raise ValueError(f"expected at most {MAX_NDIM} dimensions, got {ndim}. {GET_AGAIN}")

    dimensions = _read_exactly(stream, 4 * ndim, f"{ndim} dimensions")
    shape = tuple(np.frombuffer(dimensions, ">u4").tolist())
    dtype = DTYPES[type_code]
    # Without the axes of length 0, because NumPy limits the product of the others, too.
    extent = math.prod(size for size in shape if size) * dtype.itemsize
    if extent > max_bytes:
        raise ValueError(
            f"expected at most {max_bytes:,} bytes, got shape {shape} of {dtype.name}, which needs "
            f"{extent:,}. Split the file, or raise the limit."
        )

    data = _read_exactly(stream, math.prod(shape) * dtype.itemsize, f"shape {shape}")
    # Reading one more byte also makes gzip compare its checksum.
    if stream.read(1):
        raise ValueError(
            f"expected the file to end after shape {shape}, got more bytes. {GET_AGAIN}"
        )
    if sha256 is not None:
        found = hashlib.sha256(magic + dimensions)
        found.update(data)
        if found.hexdigest() != sha256:
            raise ValueError(
                f"expected contents with SHA-256 {sha256}, got {found.hexdigest()}. {GET_AGAIN}"
            )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read_exactly(stream: BinaryIO | gzip.GzipFile, count: int, what: str) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise ValueError(f"expected {count} bytes for {what}, got {len(data)}. {GET_AGAIN}")
    return data
