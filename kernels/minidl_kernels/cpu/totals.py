"""Addition of a batch's sums to running totals."""

from typing import Any

from minidl_kernels.cpu import jit, launch


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
    >>> import numpy as np
    >>> totals = np.zeros(2)
    >>> add_sums(totals, np.array([0.5, 3.0]), rows=4)
    >>> totals
    array([2., 3.])
    """
    launch.launch(_add_sums, totals, sums, rows)


@jit.kernel
def _add_sums(totals: Any, sums: Any, rows: Any) -> None:
    totals[0] += float(sums[0]) * rows
    for i in range(1, totals.size):
        totals[i] += sums[i]
