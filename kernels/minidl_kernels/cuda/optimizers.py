"""One update of all weights on a device, in place; the rules are those of `cpu.optimizers`."""

import math
from typing import Any

from numba import cuda
from numpy import uint64

from minidl_kernels.cuda import launch
from minidl_kernels.cuda.checks import check_array, check_float


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
    decay: float = 1.0,
    cuda_stream: int = 0,
) -> None:
    """Multiply `weights` by `decay`, then update `weights`, `mean` and `square` as Adam does.

    Kingma & Ba, ICLR 2015, algorithm 1; `rate` is the step size with both bias corrections in it.

    Parameters
    ----------
    weights, gradients, mean, square : device arrays
        Flat, contiguous, of one size and dtype, float32 or float64.
    rate, beta_1, beta_2, epsilon, decay : float
        Rounded to that dtype; 1 - beta is computed before.
    cuda_stream : int
        As in `dropout.dropout`.

    Raises
    ------
    TypeError
        If the arrays are not of one floating dtype.
    ValueError
        If they are not flat, contiguous and of one size.
    """
    arrays = {"weights": weights, "gradients": gradients, "mean": mean, "square": square}
    numbers = (rate, 1 - beta_1, 1 - beta_2, epsilon, decay)
    _update("adam", adam_update, arrays, numbers, cuda_stream)


def sgd(
    weights: Any,
    gradients: Any,
    velocity: Any,
    *,
    rate: float,
    momentum: float,
    nesterov: bool,
    decay: float = 1.0,
    cuda_stream: int = 0,
) -> None:
    """Multiply `weights` by `decay`, then update `weights` and `velocity` by gradient descent.

    With momentum m and gradient g: v = m v - rate g; w = w + v; with `nesterov` (Sutskever et al.,
    ICML 2013) w = w + m v - rate g.

    Parameters
    ----------
    weights, gradients, velocity : device arrays
        As in `adam`; `velocity` is None where `momentum` is 0.
    rate, momentum, decay : float
        Rounded to that dtype.
    nesterov : bool
        Whether to look ahead.
    cuda_stream : int
        As in `dropout.dropout`.

    Raises
    ------
    TypeError, ValueError
        As in `adam`.
    """
    arrays = {"weights": weights, "gradients": gradients}
    if velocity is None:
        _update("sgd", descend, arrays, (rate, decay), cuda_stream)
    else:
        kernel = descend_nesterov if nesterov else descend_momentum
        arrays["velocity"] = velocity
        _update("sgd", kernel, arrays, (rate, momentum, decay), cuda_stream)


def rmsprop(
    weights: Any,
    gradients: Any,
    square: Any,
    *,
    rate: float,
    rho: float,
    epsilon: float,
    decay: float = 1.0,
    cuda_stream: int = 0,
) -> None:
    """Multiply `weights` by `decay`, then update `weights` and `square` as RMSprop does.

    Hinton, lecture 6e, 2012.

    Parameters
    ----------
    weights, gradients, square : device arrays
        As in `adam`.
    rate, rho, epsilon, decay : float
        Rounded to that dtype; 1 - rho is computed before.
    cuda_stream : int
        As in `dropout.dropout`.

    Raises
    ------
    TypeError, ValueError
        As in `adam`.
    """
    arrays = {"weights": weights, "gradients": gradients, "square": square}
    _update("rmsprop", rmsprop_update, arrays, (rate, rho, 1 - rho, epsilon, decay), cuda_stream)


def _update(
    who: str, kernel: Any, arrays: dict[str, Any], numbers: tuple[float, ...], cuda_stream: int
) -> None:
    """Check the arrays and launch a kernel on them, with the numbers in their dtype."""
    weights = arrays["weights"]
    check_float(who, "weights", weights)
    for name, array in arrays.items():
        check_array(who, name, array, weights.dtype, (weights.size,))
    if weights.size:
        typed = (weights.dtype.type(number) for number in numbers)
        launch.launch_flat(kernel, weights.size, cuda_stream, *arrays.values(), *typed)


@cuda.jit(device=True)
def _place() -> tuple[Any, Any]:
    """Return the first element of a thread, and how far apart its elements are."""
    return uint64(cuda.grid(1)), uint64(cuda.gridsize(1))  # type: ignore[call-arg]


@cuda.jit
def adam_update(
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
    i, stride = _place()
    while i < uint64(weights.size):
        w = weights[i]
        g = gradients[i]
        m = mean[i]
        s = square[i]
        m += new_mean * (g - m)
        s += new_square * (g * g - s)
        mean[i] = m
        square[i] = s
        weights[i] = w * decay - rate * m / (math.sqrt(s) + epsilon)
        i = uint64(i + stride)


@cuda.jit
def descend(weights: Any, gradients: Any, rate: Any, decay: Any) -> None:
    """Update each element without momentum."""
    i, stride = _place()
    while i < uint64(weights.size):
        w = weights[i]
        g = gradients[i]
        weights[i] = w * decay - rate * g
        i = uint64(i + stride)


@cuda.jit
def descend_momentum(
    weights: Any, gradients: Any, velocity: Any, rate: Any, momentum: Any, decay: Any
) -> None:
    """Update each element with momentum."""
    i, stride = _place()
    while i < uint64(weights.size):
        w = weights[i]
        g = gradients[i]
        v = velocity[i]
        v = momentum * v - rate * g
        velocity[i] = v
        weights[i] = w * decay + v
        i = uint64(i + stride)


@cuda.jit
def descend_nesterov(
    weights: Any, gradients: Any, velocity: Any, rate: Any, momentum: Any, decay: Any
) -> None:
    """Update each element with momentum, and look ahead."""
    i, stride = _place()
    while i < uint64(weights.size):
        w = weights[i]
        step = rate * gradients[i]
        v = velocity[i]
        v = momentum * v - step
        velocity[i] = v
        weights[i] = w * decay + momentum * v - step
        i = uint64(i + stride)


@cuda.jit
def rmsprop_update(
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
    i, stride = _place()
    while i < uint64(weights.size):
        w = weights[i]
        g = gradients[i]
        s = square[i]
        s = rho * s + new_square * g * g
        square[i] = s
        weights[i] = w * decay - rate * g / math.sqrt(s + epsilon)
        i = uint64(i + stride)
