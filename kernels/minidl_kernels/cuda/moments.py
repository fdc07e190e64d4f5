"""Running mean, variance and entropy of outputs with dropout, in one launch."""

import math
from typing import Any

from numba import cuda
from numpy import float64, uint32, uint64

from minidl_kernels.cuda import launch, reduction
from minidl_kernels.cuda.scalars import argument, number


def add_moments(y: Any, draw: int, mean: Any, squares: Any, entropy: Any) -> None:
    """Add the outputs of a draw (Welford, Technometrics 4, 1962).

    Parameters
    ----------
    y : cupy.ndarray
        Outputs, shape (rows, outputs), float32 or float64, C-contiguous and not empty.
    draw : int
        The number of the draw. At 0, what `mean`, `squares` and `entropy` held is overwritten.
    mean, squares : cupy.ndarray
        The mean of the draws, and their squared differences from it: float64, of the shape of `y`.
    entropy : cupy.ndarray
        The sum over the draws of -sum(y log y) of each row: float64, shape (rows,).
    """
    arguments = y, argument(draw, uint32), mean, squares, entropy
    launch.launch(_add_moments, (reduction.chunks(len(y)),), reduction.BLOCK, *arguments)


@cuda.jit
def _add_moments(y: Any, draw: Any, mean: Any, squares: Any, entropy: Any) -> None:
    """Each warp takes a row of its chunk at a time."""
    is_first = uint32(number(draw)) == uint32(0)
    count = float64(uint32(number(draw))) + float64(1)
    lane, warp = reduction.place()
    chunk = uint64(cuda.blockIdx.x)  # type: ignore[arg-type]
    row, end = reduction.rows_of_warp(chunk, warp, uint64(y.shape[0]))
    while row < end:
        surprise = float64(0)
        column = uint64(lane)
        while column < uint64(y.shape[1]):
            value = float64(y[row, column])
            old_mean = mean[row, column]
            old_squares = squares[row, column]
            if is_first:
                old_mean = float64(0)
                old_squares = float64(0)
            difference = value - old_mean
            new_mean = old_mean + difference / count
            mean[row, column] = new_mean
            squares[row, column] = old_squares + difference * (value - new_mean)
            if value > float64(0):
                surprise += value * math.log(value)
            column = uint64(column + uint64(32))
        surprise = reduction.add_lanes(surprise)
        if lane == uint32(0):
            old_entropy = entropy[row]
            if is_first:
                old_entropy = float64(0)
            entropy[row] = old_entropy - surprise
        row = uint64(row + uint64(32))
