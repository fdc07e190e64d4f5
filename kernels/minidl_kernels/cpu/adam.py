"""Adam's update of NumPy arrays, in one pass."""

from typing import Any

import numpy as np

from minidl_kernels.cpu import jit


def update(
    weights: np.ndarray,
    gradients: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    *,
    rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> None:
    """Update `weights`, `mean` and `square` in place.

    Kingma & Ba, ICLR 2015, algorithm 1; `rate` is the step size with both bias corrections in it.

    Parameters
    ----------
    weights, gradients, mean, square : numpy.ndarray
        Flat, contiguous, of one size and dtype, float32 or float64.
    rate, beta_1, beta_2, epsilon : float
        Rounded to that dtype; 1 - beta is computed before.

    Raises
    ------
    TypeError
        If the arrays are not of one floating dtype.
    ValueError
        If they are not flat, contiguous and of one size.

    Examples
    --------
    >>> weights, gradients = np.ones(2, "float32"), np.array([0.5, -2], "float32")
    >>> mean, square = np.zeros(2, "float32"), np.zeros(2, "float32")
    >>> update(weights, gradients, mean, square, rate=0.1, beta_1=0.0, beta_2=0.0, epsilon=0.0)
    >>> weights
    array([0.9, 1.1], dtype=float32)
    """
    arrays = (weights, gradients, mean, square)
    dtype = weights.dtype
    if dtype not in (np.float32, np.float64) or any(array.dtype != dtype for array in arrays):
        raise TypeError(
            "adam: expected arrays of one dtype, float32 or float64, received "
            f"{', '.join(str(array.dtype) for array in arrays)}"
        )
    if any(array.shape != (weights.size,) or not array.flags.c_contiguous for array in arrays):
        raise ValueError(
            "adam: expected flat, contiguous arrays of one size, received shapes "
            f"{', '.join(str(array.shape) for array in arrays)}"
        )
    numbers = (rate, 1 - beta_1, 1 - beta_2, epsilon)
    _update(*arrays, *(dtype.type(number) for number in numbers))


@jit.kernel(announce="Adam for the CPU")
def _update(
    weights: Any,
    gradients: Any,
    mean: Any,
    square: Any,
    rate: Any,
    new_mean: Any,
    new_square: Any,
    epsilon: Any,
) -> None:
    """Update each element; `new_mean` and `new_square` are the shares of the new gradient."""
    for i in range(weights.size):
        g = gradients[i]
        m = mean[i] + new_mean * (g - mean[i])
        s = square[i] + new_square * (g * g - square[i])
        mean[i] = m
        square[i] = s
        weights[i] -= rate * m / (np.sqrt(s) + epsilon)
