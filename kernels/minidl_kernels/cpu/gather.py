"""Gather of the samples of a batch from a data set, cast and scaled in one pass."""

import math
from typing import Any

from minidl_kernels.cpu import jit, launch, pool


def gather(
    source: Any,
    rows: Any,
    labels: Any,
    out: Any,
    labels_out: Any,
    *,
    scale: float,
    offset: float,
) -> None:
    """Write source[rows] * scale + offset to `out`, and labels[rows] to `labels_out`.

    An element is cast to the dtype of `out` first. The product and the sum are rounded, each once.

    Parameters
    ----------
    source : numpy.ndarray
        Shape (n, ...), integers of 8 to 64 bits, float32 or float64, C-contiguous.
    rows : numpy.ndarray
        int64, shape (count,), contiguous and not empty, each in [0, n).
    labels : numpy.ndarray or None
        Shape (n,), of any dtype that Numba knows.
    out : numpy.ndarray
        Output: shape (count, ...), float32 or float64, C-contiguous.
    labels_out : numpy.ndarray or None
        Output: shape (count,), of the dtype of `labels`.
    scale, offset : float
        Rounded to the dtype of `out`; with 1 and 0 elements are only cast.

    Examples
    --------
    >>> import numpy as np
    >>> source, out = np.arange(12, dtype=np.uint8).reshape(4, 3), np.empty((2, 3), np.float32)
    >>> gather(source, np.array([3, 0]), None, out, None, scale=0.5, offset=0.0)
    >>> out
    array([[4.5, 5. , 5.5],
           [0. , 0.5, 1. ]], dtype=float32)
    """
    number, width = out.dtype.type, math.prod(source.shape[1:])
    flat, flat_out = source.reshape(-1), out.reshape(-1)
    if labels is None:
        labels = labels_out = rows[:0]
    numbers = number(scale), number(offset)
    pieces = pool.pieces(out.size)
    arguments = flat, rows, flat_out, width, *numbers, labels, labels_out
    launch.launch_pieces(pieces, _gather, *arguments)


@jit.kernel
def _gather(
    piece: Any,
    pieces: Any,
    source: Any,
    rows: Any,
    out: Any,
    width: Any,
    scale: Any,
    offset: Any,
    labels: Any,
    labels_out: Any,
) -> None:
    start, stop = pool.share(piece, pieces, rows.size, 1)
    is_cast = scale == 1 and offset == 0
    for i in range(start, stop):
        if labels_out.size:
            labels_out[i] = labels[rows[i]]
        sample = source[rows[i] * width : (rows[i] + 1) * width]
        row = out[i * width : (i + 1) * width]
        if is_cast:
            for j in range(width):
                row[j] = sample[j]
        else:
            for j in range(width):
                row[j] = out.dtype.type(sample[j]) * scale + offset
