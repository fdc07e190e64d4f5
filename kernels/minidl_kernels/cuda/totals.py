"""Addition of a batch's sums to running totals, in one launch."""

from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import libdevice
from numpy import uint64

from minidl_kernels.cuda import launch


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
def _add_sums(totals: Any, sums: Any, rows: Any) -> None:
    i = uint64(cuda.grid(1))  # type: ignore[call-arg]
    if i < uint64(totals.size):
        part = np.float64(sums[i])
        if i == uint64(0):  # rounded before it is added, as on the CPU
            part = libdevice.dmul_rn(part, rows)
        totals[i] = libdevice.dadd_rn(totals[i], part)
