"""Gather of the samples of a batch from a data set, cast and scaled in one launch."""

import math
from typing import Any

import numpy as np
from numba import cuda
from numpy import uint64

from minidl_kernels.cuda import launch, scalars


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
    source : cupy.ndarray
        Shape (n, ...), integers of 8 to 64 bits, float32 or float64, C-contiguous.
    rows : cupy.ndarray
        int64, shape (count,), contiguous and not empty, each in [0, n).
    labels : cupy.ndarray or None
        Shape (n,), of any dtype that Numba knows.
    out : cupy.ndarray
        Output: shape (count, ...), float32 or float64, C-contiguous.
    labels_out : cupy.ndarray or None
        Output: shape (count,), of the dtype of `labels`.
    scale, offset : float
        Rounded to the dtype of `out`; with 1 and 0 elements are only cast.
    """
    columns = math.prod(source.shape[1:])
    grid, block = launch.grid_and_block(rows.size, columns)
    number = out.dtype.type
    if labels is None:
        labels = labels_out = rows[:0]
    if scale == 1 and offset == 0:
        offset = -0.0  # changes nothing, while 0.0 would change -0.0
    launch.launch(
        _gather_float32 if out.dtype == np.float32 else _gather_float64,
        grid,
        block,
        source.reshape(-1),
        rows,
        out.reshape(-1),
        labels,
        labels_out,
        uint64(columns),
        number(scale),
        number(offset),
    )


def _kernel(number: Any) -> Any:
    """Return the kernel for a dtype of `out`."""

    @cuda.jit
    def gather(
        source: Any,
        rows: Any,
        out: Any,
        labels: Any,
        labels_out: Any,
        columns: Any,
        scale: Any,
        offset: Any,
    ) -> None:
        """Gather rows of flat arrays; the threads at the start of a row gather its label too."""
        thread_x, thread_y = cuda.grid(2)  # type: ignore[call-arg, var-annotated]
        threads_x, threads_y = cuda.gridsize(2)
        row = uint64(thread_y)
        while row < uint64(rows.size):
            sample = uint64(rows[row])
            if thread_x == 0 and row < uint64(labels_out.size):
                labels_out[row] = labels[sample]
            start = uint64(sample * columns)
            out_start = uint64(row * columns)
            column = uint64(thread_x)
            while column < columns:
                element = number(source[uint64(start + column)])
                scaled = scalars.multiply(element, scale)
                out[uint64(out_start + column)] = scalars.add(scaled, offset)
                column = uint64(column + uint64(threads_x))
            row = uint64(row + uint64(threads_y))

    return gather


_gather_float32 = _kernel(np.float32)
_gather_float64 = _kernel(np.float64)
