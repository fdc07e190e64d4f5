"""Updates of all weights, each rule in one launch over flat arrays, in place.

`rate` and `decay` may be placed numbers.
"""

from typing import Any

from numba import cuda
from numpy import uint64

from minidl_kernels import formulas
from minidl_kernels.cuda import jit, launch, scalars
from minidl_kernels.cuda.scalars import number

_adam_rule = jit.inline_rounded(formulas.adam)
_momentum_rule = jit.inline_rounded(formulas.momentum)
_nesterov_rule = jit.inline_rounded(formulas.nesterov)
_rmsprop_rule = jit.inline_rounded(formulas.rmsprop)
_sgd_rule = jit.inline_rounded(formulas.sgd)


def sgd(
    weights: Any,
    gradients: Any,
    velocity: Any,
    *,
    rate: float,
    momentum: float,
    nesterov: bool,
    decay: float,
) -> None:
    """Update `weights` and `velocity` by `formulas.sgd`, `momentum` or `nesterov`.

    Parameters
    ----------
    weights, gradients : cupy.ndarray
        Flat, contiguous and not empty, of one size and dtype, float32 or float64.
    velocity : cupy.ndarray or None
        Likewise; None for no momentum.
    rate, momentum, decay : float
        Rounded to that dtype.
    nesterov : bool
        Whether to take Nesterov's step.
    """
    if velocity is None:
        _update(_sgd, (weights, gradients), (rate, decay))
    else:
        kernel = _nesterov if nesterov else _momentum
        _update(kernel, (weights, gradients, velocity), (rate, momentum, decay))


def rmsprop(
    weights: Any,
    gradients: Any,
    square: Any,
    *,
    rate: float,
    rho: float,
    epsilon: float,
    decay: float,
) -> None:
    """Update `weights` and `square` by `formulas.rmsprop`.

    Parameters
    ----------
    weights, gradients, square : cupy.ndarray
        Flat, contiguous and not empty, of one size and dtype, float32 or float64.
    rate, rho, epsilon, decay : float
        Rounded to that dtype; 1 - rho is computed before.
    """
    arrays = (weights, gradients, square)
    _update(_rmsprop, arrays, (rate, rho, 1 - rho, epsilon, decay))


def adam(
    weights: Any,
    gradients: Any,
    mean: Any,
    square: Any,
    *,
    rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    decay: float,
) -> None:
    """Update `weights`, `mean` and `square` by `formulas.adam`.

    Parameters
    ----------
    weights, gradients, mean, square : cupy.ndarray
        Flat, contiguous and not empty, of one size and dtype, float32 or float64.
    rate, beta_1, beta_2, epsilon, decay : float
        Rounded to that dtype; 1 - beta is computed before. `rate` includes both bias corrections.
    """
    arrays = (weights, gradients, mean, square)
    _update(_adam, arrays, (rate, 1 - beta_1, 1 - beta_2, epsilon, decay))


def _update(kernel: Any, arrays: tuple[Any, ...], numbers: tuple[float, ...]) -> None:
    """Launch a kernel, with the numbers in the dtype of the arrays."""
    size, dtype = arrays[0].size, arrays[0].dtype.type
    arguments = (scalars.argument(value, dtype) for value in numbers)
    launch.launch_flat(kernel, size, *arrays, *arguments)


@cuda.jit(device=True)
def _place() -> tuple[Any, Any]:
    """Return the first element of a thread, and the distance between its elements."""
    return uint64(cuda.grid(1)), uint64(cuda.gridsize(1))  # type: ignore[call-arg]


@cuda.jit
def _sgd(weights: Any, gradients: Any, rate: Any, decay: Any) -> None:
    rate, decay = number(rate), number(decay)
    i, stride = _place()
    while i < uint64(weights.size):
        weights[i] = _sgd_rule(weights[i], gradients[i], rate, decay)
        i = uint64(i + stride)


@cuda.jit
def _momentum(
    weights: Any, gradients: Any, velocity: Any, rate: Any, momentum: Any, decay: Any
) -> None:
    rate, decay = number(rate), number(decay)
    i, stride = _place()
    while i < uint64(weights.size):
        weights[i], velocity[i] = _momentum_rule(
            weights[i], gradients[i], velocity[i], rate, momentum, decay
        )
        i = uint64(i + stride)


@cuda.jit
def _nesterov(
    weights: Any, gradients: Any, velocity: Any, rate: Any, momentum: Any, decay: Any
) -> None:
    rate, decay = number(rate), number(decay)
    i, stride = _place()
    while i < uint64(weights.size):
        weights[i], velocity[i] = _nesterov_rule(
            weights[i], gradients[i], velocity[i], rate, momentum, decay
        )
        i = uint64(i + stride)


@cuda.jit
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
    rate, decay = number(rate), number(decay)
    i, stride = _place()
    while i < uint64(weights.size):
        weights[i], square[i] = _rmsprop_rule(
            weights[i], gradients[i], square[i], rate, rho, new_square, epsilon, decay
        )
        i = uint64(i + stride)


@cuda.jit
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
    rate, decay = number(rate), number(decay)
    i, stride = _place()
    while i < uint64(weights.size):
        weights[i], mean[i], square[i] = _adam_rule(
            weights[i], gradients[i], mean[i], square[i], rate, new_mean, new_square, epsilon, decay
        )
        i = uint64(i + stride)
