"""Softmax of rows, in one launch."""

import math
from typing import Any

import numpy as np
from numba import cuda
from numpy import uint64

from minidl_kernels import formulas
from minidl_kernels.cuda import jit, launch, reduction

_MINUS_INFINITY = np.float32(-np.inf)

_larger = jit.inline(formulas.larger)


def softmax(z: Any, out: Any) -> None:
    """Write exp(z) divided by its sum over each row, without overflow; NaN fills its row.

    Parameters
    ----------
    z, out : cupy.ndarray
        Shape (rows, classes), of one dtype, float32 or float64, C-contiguous and not empty; they
        may be the same array.
    """
    launch.launch(_softmax, (reduction.chunks(len(z)),), reduction.BLOCK, z, out)


@cuda.jit
def _softmax(z: Any, out: Any) -> None:
    """Each warp takes a row of its chunk at a time."""
    lane, warp = reduction.place()
    chunk = uint64(cuda.blockIdx.x)  # type: ignore[arg-type]
    classes = uint64(z.shape[1])
    row, end = reduction.rows_of_warp(chunk, warp, uint64(z.shape[0]))
    while row < end:
        largest = _MINUS_INFINITY
        column = uint64(lane)
        while column < classes:
            largest = _larger(z[row, column], largest)
            column = uint64(column + uint64(32))
        largest = reduction.largest_of_lanes(largest)
        total = np.float32(0)
        column = uint64(lane)
        while column < classes:
            power = math.exp(z[row, column] - largest)
            out[row, column] = power
            total += power
            column = uint64(column + uint64(32))
        total = reduction.add_lanes(total)
        column = uint64(lane)
        while column < classes:
            out[row, column] = out[row, column] / total
            column = uint64(column + uint64(32))
        row = uint64(row + uint64(32))
