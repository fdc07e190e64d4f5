"""The first and the last kernel of a step: numbers of the batch, and running totals."""

from typing import Any

import numpy as np

from minidl_kernels.cpu import jit, launch


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
    cursor : numpy.ndarray
        The number of the row in the table: int64, shape (1,). It is advanced by 1.
    order : numpy.ndarray
        The rows of the samples in the order of an epoch: int64, shape (samples,).
    starts : numpy.ndarray
        Column of the table: where in `order` the batch begins; int64, shape (n,).
    integers, floats : numpy.ndarray
        Columns of the table: uint32 and floating numbers, each of shape (n, columns).
    rows : numpy.ndarray
        Output: the rows of the batch, int64, shape (count,).
    integers_now, floats_now : numpy.ndarray
        Outputs: the row of the table, each of shape (columns,).

    Examples
    --------
    >>> cursor, order, starts = np.array([1]), np.array([3, 0, 2, 1]), np.array([0, 2])
    >>> integers, floats = np.array([[5], [6]], "uint32"), np.array([[0.1], [0.2]])
    >>> places = np.empty(2, int), np.empty(1, "uint32"), np.empty(1)
    >>> begin(cursor, order, starts, integers, floats, *places)
    >>> places, cursor
    ((array([2, 1]), array([6], dtype=uint32), array([0.2])), array([2]))
    """
    places = rows, integers_now, floats_now
    launch.launch(_begin, cursor, order, starts, integers, floats, *places)


def add_sums(totals: Any, sums: Any, *, rows: int) -> None:
    """Add the first of `sums` times `rows`, and the others as they are, to `totals`.

    Parameters
    ----------
    totals : numpy.ndarray
        float64, shape (n,), contiguous and not empty.
    sums : numpy.ndarray
        Likewise, float32 or float64: a mean over `rows`, and sums.
    rows : int
        1 or above.

    Examples
    --------
    >>> totals = np.zeros(2)
    >>> add_sums(totals, np.array([0.5, 3.0]), rows=4)
    >>> totals
    array([2., 3.])
    """
    launch.launch(_add_sums, totals, sums, rows)


@jit.kernel
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
    row = cursor[0]
    cursor[0] = row + 1
    for i in range(rows.size):
        rows[i] = order[starts[row] + i]
    for i in range(integers_now.size):
        integers_now[i] = integers[row, i]
    for i in range(floats_now.size):
        floats_now[i] = floats[row, i]


@jit.kernel
def _add_sums(totals: Any, sums: Any, rows: Any) -> None:
    totals[0] += np.float64(sums[0]) * rows
    for i in range(1, totals.size):
        totals[i] += sums[i]
