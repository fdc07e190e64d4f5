"""Taking the rows of a batch, on device arrays."""

import math
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import libdevice
from numpy import uint64

from minidl_kernels.cuda import launch
from minidl_kernels.cuda.checks import check_array, check_float, check_labels


def gather(
    source: Any,
    rows: Any,
    out: Any,
    labels: Any,
    labels_out: Any,
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    cuda_stream: int = 0,
) -> None:
    """Write source[rows] * scale + offset to `out`, and labels[rows] to `labels_out`.

    An element is cast to the dtype of `out` first; the product and the sum are rounded, each once.

    Parameters
    ----------
    source : device array
        Integers or floats, shape (n, ...), C-contiguous.
    rows : device array
        int64, shape (k,), each in [0, n); that is not checked.
    out : device array
        float32 or float64, shape (k, ...), C-contiguous.
    labels, labels_out : device arrays or None
        Integers of one dtype, shapes (n,) and (k,); or both None.
    scale, offset : float
        Rounded to the dtype of `out`; with 1 and 0 elements are only cast.
    cuda_stream : int
        As in `dropout.dropout`.

    Raises
    ------
    TypeError
        If a dtype is another one.
    ValueError
        If the shapes do not fit, or an array is not contiguous.
    """
    check_float("gather", "out", out)
    if source.dtype.kind not in "iuf" or source.dtype == np.float16:
        raise TypeError(
            f"gather: source must be integers, float32 or float64, received {source.dtype}"
        )
    check_array("gather", "source", source, source.dtype, source.shape)
    check_array("gather", "rows", rows, np.int64, (rows.size,))
    check_array("gather", "out", out, out.dtype, (rows.size, *source.shape[1:]))
    if labels is None:
        labels = labels_out = rows[:0]
    else:
        check_labels("gather", "labels", labels, source.shape[:1])
        check_array("gather", "labels_out", labels_out, labels.dtype, rows.shape)
    if rows.size == 0:
        return
    columns = math.prod(source.shape[1:])
    grid, block = launch.grid_and_block(rows.size, columns)
    number = out.dtype.type
    if scale == 1 and offset == 0:
        offset = -0.0  # which changes no number, where 0.0 would change -0.0
    launch.launch(
        take_float32 if out.dtype == np.float32 else take_float64,
        grid,
        block,
        cuda_stream,
        source.reshape(-1),
        rows,
        out.reshape(-1),
        labels,
        labels_out,
        uint64(columns),
        number(scale),
        number(offset),
    )


def _kernel(number: Any, multiply: Any, add: Any) -> Any:
    """Return the kernel for a dtype of `out`; `multiply` and `add` are never fused."""

    @cuda.jit
    def take(
        source: Any,
        rows: Any,
        out: Any,
        labels: Any,
        labels_out: Any,
        columns: Any,
        scale: Any,
        offset: Any,
    ) -> None:
        """Take rows of flat arrays; the threads at the start of a row take its label too."""
        thread_x, thread_y = cuda.grid(2)  # type: ignore[call-arg, var-annotated]
        threads_x, threads_y = cuda.gridsize(2)
        row = uint64(thread_y)
        while row < uint64(rows.size):
            taken = uint64(rows[row])
            if thread_x == 0 and row < uint64(labels_out.size):
                labels_out[row] = labels[taken]
            start = uint64(taken * columns)
            out_start = uint64(row * columns)
            column = uint64(thread_x)
            while column < columns:
                element = number(source[uint64(start + column)])
                out[uint64(out_start + column)] = add(multiply(element, scale), offset)
                column = uint64(column + uint64(threads_x))
            row = uint64(row + uint64(threads_y))

    return take


take_float32 = _kernel(np.float32, libdevice.fmul_rn, libdevice.fadd_rn)
take_float64 = _kernel(np.float64, libdevice.dmul_rn, libdevice.dadd_rn)
