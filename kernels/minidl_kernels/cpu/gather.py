"""The samples of a batch, taken from a data set, cast and scaled in one pass."""

import math
from typing import Any

import numpy as np

from minidl_kernels.cpu import jit

_KINDS = frozenset("bBhHiIlLqQfd")


def gather(
    source: np.ndarray,
    rows: np.ndarray,
    out: np.ndarray,
    *,
    scale: float = 1.0,
    offset: float = 0.0,
) -> None:
    """Write out[i] = source[rows[i]] * scale + offset, computed in the dtype of `out`.

    Parameters
    ----------
    source : numpy.ndarray
        Shape (n, ...); integers of 8 to 64 bits, float32 or float64. Of one that is not
        C-contiguous the rows are copied first.
    rows : numpy.ndarray
        int64, shape (count,), contiguous; each in [0, n), which is not checked.
    out : numpy.ndarray
        Shape (count, ...), float32 or float64, C-contiguous.
    scale, offset : float
        Rounded to the dtype of `out`, and so is the product before the sum. At 1 and 0 nothing is
        computed: a plain cast.

    Raises
    ------
    TypeError
        If a dtype is another one.
    ValueError
        If the shapes do not fit or `out` or `rows` is not contiguous.

    Examples
    --------
    >>> out = np.empty((2, 3), np.float32)
    >>> gather(np.arange(12, dtype=np.uint8).reshape(4, 3), np.array([3, 0]), out, scale=0.5)
    >>> out
    array([[4.5, 5. , 5.5],
           [0. , 0.5, 1. ]], dtype=float32)
    """
    if source.dtype.char not in _KINDS or out.dtype not in jit.FLOATS or rows.dtype != np.int64:
        raise TypeError(
            "gather: expected a source of integers, float32 or float64, rows of int64 and out of "
            f"float32 or float64, received {source.dtype}, {rows.dtype} and {out.dtype}"
        )
    if source.ndim == 0 or rows.ndim != 1 or out.shape != (*rows.shape, *source.shape[1:]):
        raise ValueError(
            f"gather: expected out of shape (count, ...) for a source of shape (n, ...) and rows "
            f"of shape (count,), received {out.shape}, {source.shape} and {rows.shape}"
        )
    if not (out.flags.c_contiguous and rows.flags.c_contiguous):
        raise ValueError(
            "gather: expected contiguous out and rows, received strides "
            f"{out.strides} and {rows.strides}"
        )
    if not (source.flags.c_contiguous and source.dtype.isnative):
        source = source[rows].astype(source.dtype.newbyteorder("="), order="C")
        rows = np.arange(rows.size)
    width = math.prod(source.shape[1:])
    number = out.dtype.type
    flat = np.asarray(source).reshape(-1)
    _gather(flat, rows, out.reshape(-1), width, number(scale), number(offset))


@jit.kernel(announce="the taking of batches for the CPU")
def _gather(source: Any, rows: Any, out: Any, width: Any, scale: Any, offset: Any) -> None:
    plain = scale == 1 and offset == 0
    for i in range(rows.size):
        taken = source[rows[i] * width : (rows[i] + 1) * width]
        row = out[i * width : (i + 1) * width]
        if plain:
            for j in range(width):
                row[j] = taken[j]
        else:
            for j in range(width):
                row[j] = out.dtype.type(taken[j]) * scale + offset
