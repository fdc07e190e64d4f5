"""How gradients change weights: each rule in one pass over flat arrays, in place."""

from typing import Any

import numba
import numpy as np

from minidl_kernels.cpu import jit, pool


def adam(
    weights: np.ndarray,
    gradients: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    *,
    rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    decay: float = 1.0,
) -> None:
    """Update `weights`, `mean` and `square` by Adam.

    Kingma & Ba, ICLR 2015, algorithm 1; `rate` is the step size with both bias corrections in it.

    Parameters
    ----------
    weights, gradients, mean, square : numpy.ndarray
        Flat, contiguous, of one size and dtype, float32 or float64.
    rate, beta_1, beta_2, epsilon : float
        Rounded to that dtype; 1 - beta is computed before.
    decay : float
        What the weights are multiplied by first.

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
    >>> adam(weights, gradients, mean, square, rate=0.1, beta_1=0.0, beta_2=0.0, epsilon=0.0)
    >>> weights
    array([0.9, 1.1], dtype=float32)
    """
    arrays = (weights, gradients, mean, square)
    dtype = _checked("adam", *arrays)
    numbers = (dtype.type(number) for number in (rate, 1 - beta_1, 1 - beta_2, epsilon, decay))
    _update(_adam, _adam_parallel, *arrays, *numbers)


def sgd(
    weights: np.ndarray,
    gradients: np.ndarray,
    velocity: np.ndarray | None,
    *,
    rate: float,
    momentum: float,
    nesterov: bool,
    decay: float = 1.0,
) -> None:
    """Update `weights` and `velocity` by gradient descent.

    With momentum m and gradient g: v = m v - rate g; w = w + v; with `nesterov` (Sutskever et al.,
    ICML 2013) w = w + m v - rate g.

    Parameters
    ----------
    weights, gradients : numpy.ndarray
        Flat, contiguous, of one size and dtype, float32 or float64.
    velocity : numpy.ndarray or None
        Likewise; it may be None where `momentum` is 0.
    rate, momentum : float
        Rounded to that dtype.
    nesterov : bool
        Whether to look ahead.
    decay : float
        What the weights are multiplied by first.

    Raises
    ------
    TypeError
        If the arrays are not of one floating dtype.
    ValueError
        If they are not flat, contiguous and of one size, or `velocity` is missing.

    Examples
    --------
    >>> weights = np.ones(2)
    >>> sgd(weights, np.array([0.5, -2.0]), None, rate=0.5, momentum=0.0, nesterov=False)
    >>> weights
    array([0.75, 2.  ])
    """
    arrays: tuple[np.ndarray, ...] = (weights, gradients)
    if velocity is not None:
        arrays += (velocity,)
    elif momentum != 0:
        raise ValueError(f"sgd: expected a velocity for momentum {momentum}, received None")
    dtype = _checked("sgd", *arrays)
    numbers = (dtype.type(rate), dtype.type(momentum), nesterov, dtype.type(decay))
    if velocity is None:
        arrays += (weights[:0],)
    _update(_sgd, _sgd_parallel, *arrays, *numbers)


def rmsprop(
    weights: np.ndarray,
    gradients: np.ndarray,
    square: np.ndarray,
    *,
    rate: float,
    rho: float,
    epsilon: float,
    decay: float = 1.0,
) -> None:
    """Update `weights` and `square` by RMSprop (Hinton, lecture 6e, 2012).

    Parameters
    ----------
    weights, gradients, square : numpy.ndarray
        Flat, contiguous, of one size and dtype, float32 or float64.
    rate, rho, epsilon : float
        Rounded to that dtype; 1 - rho is computed before.
    decay : float
        What the weights are multiplied by first.

    Raises
    ------
    TypeError
        If the arrays are not of one floating dtype.
    ValueError
        If they are not flat, contiguous and of one size.

    Examples
    --------
    >>> weights, square = np.ones(2), np.zeros(2)
    >>> rmsprop(weights, np.array([0.5, -2.0]), square, rate=0.5, rho=0.0, epsilon=0.0)
    >>> weights
    array([0.5, 1.5])
    """
    dtype = _checked("rmsprop", weights, gradients, square)
    numbers = (dtype.type(number) for number in (rate, rho, 1 - rho, epsilon, decay))
    _update(_rmsprop, _rmsprop_parallel, weights, gradients, square, *numbers)


def _update(serial: Any, parallel: Any, weights: np.ndarray, *arguments: Any) -> None:
    """Run a rule on one thread, or on as many as pay for so many weights."""
    pieces = pool.pieces(weights.size)
    if pieces == 1:
        serial(weights, *arguments)
    else:
        parallel(weights, *arguments, pieces)


def _checked(who: str, *arrays: np.ndarray) -> np.dtype:
    """Return the one dtype of flat arrays of one size."""
    first = arrays[0]
    dtype = first.dtype
    if dtype not in jit.FLOATS or any(array.dtype != dtype for array in arrays):
        raise TypeError(
            f"{who}: expected arrays of one dtype, float32 or float64, received "
            f"{', '.join(str(array.dtype) for array in arrays)}"
        )
    if any(array.shape != (first.size,) or not array.flags.c_contiguous for array in arrays):
        raise ValueError(
            f"{who}: expected flat, contiguous arrays of one size, received shapes "
            f"{', '.join(str(array.shape) for array in arrays)}"
        )
    return dtype


@jit.kernel(announce="Adam for the CPU")
def _adam(
    weights: Any,
    gradients: Any,
    mean: Any,
    square: Any,
    rate: Any,
    new_mean: Any,
    new_square: Any,
    epsilon: Any,
    decay: Any,
) -> None:
    """Update each element; `new_mean` and `new_square` are the shares of the new gradient."""
    for i in range(weights.size):
        g = gradients[i]
        m = mean[i] + new_mean * (g - mean[i])
        s = square[i] + new_square * (g * g - square[i])
        mean[i] = m
        square[i] = s
        weights[i] = weights[i] * decay - rate * m / (np.sqrt(s) + epsilon)


@jit.kernel(announce="Adam for the CPU on several threads", parallel=True)
def _adam_parallel(
    weights: Any,
    gradients: Any,
    mean: Any,
    square: Any,
    rate: Any,
    new_mean: Any,
    new_square: Any,
    epsilon: Any,
    decay: Any,
    pieces: Any,
) -> None:
    for piece in numba.prange(pieces):
        start, stop = pool.share(piece, pieces, weights.size, pool.UNIT)
        _adam(
            weights[start:stop],
            gradients[start:stop],
            mean[start:stop],
            square[start:stop],
            rate,
            new_mean,
            new_square,
            epsilon,
            decay,
        )


@jit.kernel(announce="SGD for the CPU")
def _sgd(
    weights: Any,
    gradients: Any,
    velocity: Any,
    rate: Any,
    momentum: Any,
    nesterov: Any,
    decay: Any,
) -> None:
    """Update each element; an empty velocity is none."""
    if velocity.size == 0:
        for i in range(weights.size):
            weights[i] = weights[i] * decay - gradients[i] * rate
    for i in range(velocity.size):
        step = gradients[i] * rate
        v = velocity[i] * momentum - step
        w = weights[i] * decay
        velocity[i] = v
        weights[i] = w + momentum * v - step if nesterov else w + v


@jit.kernel(announce="SGD for the CPU on several threads", parallel=True)
def _sgd_parallel(
    weights: Any,
    gradients: Any,
    velocity: Any,
    rate: Any,
    momentum: Any,
    nesterov: Any,
    decay: Any,
    pieces: Any,
) -> None:
    for piece in numba.prange(pieces):
        start, stop = pool.share(piece, pieces, weights.size, pool.UNIT)
        _sgd(
            weights[start:stop],
            gradients[start:stop],
            velocity[start:stop],
            rate,
            momentum,
            nesterov,
            decay,
        )


@jit.kernel(announce="RMSprop for the CPU")
def _rmsprop(
    weights: Any,
    gradients: Any,
    square: Any,
    rate: Any,
    rho: Any,
    new_square: Any,
    epsilon: Any,
    decay: Any,
) -> None:
    """Update each element; `new_square` is the share of the new gradient."""
    for i in range(weights.size):
        g = gradients[i]
        s = square[i] * rho + new_square * g * g
        square[i] = s
        weights[i] = weights[i] * decay - rate * g / np.sqrt(s + epsilon)


@jit.kernel(announce="RMSprop for the CPU on several threads", parallel=True)
def _rmsprop_parallel(
    weights: Any,
    gradients: Any,
    square: Any,
    rate: Any,
    rho: Any,
    new_square: Any,
    epsilon: Any,
    decay: Any,
    pieces: Any,
) -> None:
    for piece in numba.prange(pieces):
        start, stop = pool.share(piece, pieces, weights.size, pool.UNIT)
        _rmsprop(
            weights[start:stop],
            gradients[start:stop],
            square[start:stop],
            rate,
            rho,
            new_square,
            epsilon,
            decay,
        )
