"""Running mean, variance and entropy of outputs with dropout."""

import math
from typing import Any

import numpy as np

from minidl_kernels.cpu import jit, launch


def add_moments(y: Any, draw: int, mean: Any, squares: Any, entropy: Any) -> None:
    """Add the outputs of a draw (Welford, Technometrics 4, 1962).

    Parameters
    ----------
    y : numpy.ndarray
        Outputs, shape (rows, outputs), float32 or float64, C-contiguous and not empty.
    draw : int
        The number of the draw. At 0, what `mean`, `squares` and `entropy` held is overwritten.
    mean, squares : numpy.ndarray
        The mean of the draws, and their squared differences from it: float64, of the shape of `y`.
    entropy : numpy.ndarray
        The sum over the draws of -sum(y log y) of each row: float64, shape (rows,).

    Examples
    --------
    >>> mean, squares, entropy = np.empty((1, 2)), np.empty((1, 2)), np.empty(1)
    >>> for draw, y in enumerate([[[1.0, 0.0]], [[0.5, 0.5]]]):
    ...     add_moments(np.array(y), draw, mean, squares, entropy)
    >>> mean, squares, entropy.round(4)
    (array([[0.75, 0.25]]), array([[0.125, 0.125]]), array([0.6931]))
    """
    launch.launch(_add_moments, y, launch.placed(draw, np.uint32), mean, squares, entropy)


@jit.kernel
def _add_moments(y: Any, draw: Any, mean: Any, squares: Any, entropy: Any) -> None:
    count = np.float64(draw[0]) + 1.0
    for row in range(y.shape[0]):
        if draw[0] == 0:
            mean[row], squares[row], entropy[row] = 0.0, 0.0, 0.0
        surprise = 0.0
        for i in range(y.shape[1]):
            value = np.float64(y[row, i])
            difference = value - mean[row, i]
            mean[row, i] += difference / count
            squares[row, i] += difference * (value - mean[row, i])
            if value > 0:
                surprise += value * math.log(value)
        entropy[row] -= surprise
