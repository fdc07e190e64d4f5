"""The first and the last kernel of a step: numbers of the batch, and running totals."""

from typing import Any

import numpy as np
from numba import cuda
from numpy import int64, uint64

from minidl_kernels.cuda import launch, scalars


def begin(
    cursor: Any,
    order: Any,
    starts: Any,
    integers: Any,
    floats: Any,
    rows: Any,
    integers_now: Any,
    floats_now: Any,
) -> None:
    """Copy the next row of a table to fixed places, where the other kernels read it.

    Parameters
    ----------
    cursor : cupy.ndarray
        The number of the row in the table: int64, shape (1,). It is advanced by 1.
    order : cupy.ndarray
        The rows of the samples in the order of an epoch: int64, shape (samples,).
    starts : cupy.ndarray
        Column of the table: where in `order` the batch begins; int64, shape (n,).
    integers, floats : cupy.ndarray
        Columns of the table: uint32 and floating numbers, each of shape (n, columns).
    rows : cupy.ndarray
        Output: the rows of the batch, int64, shape (count,).
    integers_now, floats_now : cupy.ndarray
        Outputs: the row of the table, each of shape (columns,).
    """
    places = rows, integers_now, floats_now
    # One block, since all threads must have read the cursor before it is advanced.
    launch.launch(_begin, (1,), (launch.THREADS,), cursor, order, starts, integers, floats, *places)


def add_sums(totals: Any, sums: Any, *, rows: int) -> None:
    """Add the first of `sums` times `rows`, and the others as they are, to `totals`.

    Parameters
    ----------
    totals : cupy.ndarray
        float64, shape (n,), contiguous and not empty.
    sums : cupy.ndarray
        Likewise, float32 or float64: a mean over `rows`, and sums.
    rows : int
        1 or above.
    """
    launch.launch_flat(_add_sums, totals.size, totals, sums, np.float64(rows))


@cuda.jit
def _begin(
    cursor: Any,
    order: Any,
    starts: Any,
    integers: Any,
    floats: Any,
    rows: Any,
    integers_now: Any,
    floats_now: Any,
) -> None:
    thread = uint64(cuda.grid(1))  # type: ignore[call-arg]
    row = uint64(cursor[uint64(0)])
    start = uint64(starts[row])
    i = thread
    while i < uint64(rows.size):
        rows[i] = order[uint64(start + i)]
        i = uint64(i + uint64(cuda.gridsize(1)))
    i = thread
    while i < uint64(integers_now.size):
        integers_now[i] = integers[row, i]
        i = uint64(i + uint64(cuda.gridsize(1)))
    i = thread
    while i < uint64(floats_now.size):
        floats_now[i] = floats[row, i]
        i = uint64(i + uint64(cuda.gridsize(1)))
    cuda.syncthreads()
    if thread == uint64(0):
        cursor[thread] = int64(row + uint64(1))


@cuda.jit
def _add_sums(totals: Any, sums: Any, rows: Any) -> None:
    i = uint64(cuda.grid(1))  # type: ignore[call-arg]
    if i < uint64(totals.size):
        part = np.float64(sums[i])
        if i == uint64(0):  # rounded before it is added, as on the CPU
            part = scalars.multiply(part, rows)
        totals[i] = scalars.add(totals[i], part)
