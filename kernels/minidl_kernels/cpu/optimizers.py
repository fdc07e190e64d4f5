"""Updates of all weights, each rule in one pass over flat arrays, in place."""

from typing import Any

from minidl_kernels import formulas
from minidl_kernels.cpu import jit, launch, pool

_adam_rule = jit.inline(formulas.adam)
_momentum_rule = jit.inline(formulas.momentum)
_nesterov_rule = jit.inline(formulas.nesterov)
_rmsprop_rule = jit.inline(formulas.rmsprop)
_sgd_rule = jit.inline(formulas.sgd)


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
    weights, gradients : numpy.ndarray
        Flat, contiguous, of one size and dtype, float32 or float64.
    velocity : numpy.ndarray or None
        Likewise; None for no momentum.
    rate, momentum, decay : float
        Rounded to that dtype.
    nesterov : bool
        Whether to take Nesterov's step.

    Examples
    --------
    >>> import numpy as np
    >>> weights, numbers = np.ones(2), {"momentum": 0.0, "nesterov": False, "decay": 1.0}
    >>> sgd(weights, np.array([0.5, -2.0]), None, rate=0.5, **numbers)
    >>> weights
    array([0.75, 2.  ])
    """
    velocity = weights[:0] if velocity is None else velocity
    arrays = (weights, gradients, velocity)
    _update(_sgd, arrays, rate, decay, (momentum,), int(nesterov))


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
    weights, gradients, square : numpy.ndarray
        Flat, contiguous, of one size and dtype, float32 or float64.
    rate, rho, epsilon, decay : float
        Rounded to that dtype; 1 - rho is computed before.

    Examples
    --------
    >>> import numpy as np
    >>> weights, square = np.ones(2), np.zeros(2)
    >>> numbers = {"rate": 0.5, "rho": 0.0, "epsilon": 0.0, "decay": 1.0}
    >>> rmsprop(weights, np.array([0.5, -2.0]), square, **numbers)
    >>> weights
    array([0.5, 1.5])
    """
    arrays = (weights, gradients, square)
    _update(_rmsprop, arrays, rate, decay, (rho, 1 - rho, epsilon))


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
    weights, gradients, mean, square : numpy.ndarray
        Flat, contiguous, of one size and dtype, float32 or float64.
    rate, beta_1, beta_2, epsilon, decay : float
        Rounded to that dtype; 1 - beta is computed before. `rate` includes both bias corrections.

    Examples
    --------
    >>> import numpy as np
    >>> weights, gradients = np.ones(2, "float32"), np.array([0.5, -2], "float32")
    >>> mean, square = np.zeros(2, "float32"), np.zeros(2, "float32")
    >>> numbers = {"beta_1": 0.0, "beta_2": 0.0, "epsilon": 0.0, "decay": 1.0}
    >>> adam(weights, gradients, mean, square, rate=0.1, **numbers)
    >>> weights
    array([0.9, 1.1], dtype=float32)
    """
    arrays = (weights, gradients, mean, square)
    _update(_adam, arrays, rate, decay, (1 - beta_1, 1 - beta_2, epsilon))


def _update(
    rule: Any,
    arrays: tuple[Any, ...],
    rate: float,
    decay: float,
    numbers: tuple[float, ...],
    *options: int,
) -> None:
    """Run a rule, with the numbers in the dtype of the arrays; rate and decay may be placed."""
    size, dtype = arrays[0].size, arrays[0].dtype
    places = launch.placed(rate, dtype), launch.placed(decay, dtype)
    numbers = tuple(map(dtype.type, numbers))
    launch.launch_pieces(pool.pieces(size), rule, *arrays, *places, *numbers, *options)


@jit.kernel
def _sgd(
    piece: Any,
    pieces: Any,
    weights: Any,
    gradients: Any,
    velocity: Any,
    rate: Any,
    decay: Any,
    momentum: Any,
    nesterov: Any,
) -> None:
    """Update a piece of the elements; an empty velocity means no momentum."""
    start, stop = pool.share(piece, pieces, weights.size, pool.UNIT)
    rate, decay = rate[0], decay[0]
    w, g, v = weights[start:stop], gradients[start:stop], velocity[start:stop]
    if v.size == 0:
        for i in range(w.size):
            w[i] = _sgd_rule(w[i], g[i], rate, decay)
    elif nesterov:
        for i in range(w.size):
            w[i], v[i] = _nesterov_rule(w[i], g[i], v[i], rate, momentum, decay)
    else:
        for i in range(w.size):
            w[i], v[i] = _momentum_rule(w[i], g[i], v[i], rate, momentum, decay)


@jit.kernel
def _rmsprop(
    piece: Any,
    pieces: Any,
    weights: Any,
    gradients: Any,
    square: Any,
    rate: Any,
    decay: Any,
    rho: Any,
    new_square: Any,
    epsilon: Any,
) -> None:
    start, stop = pool.share(piece, pieces, weights.size, pool.UNIT)
    rate, decay = rate[0], decay[0]
    w, g, s = weights[start:stop], gradients[start:stop], square[start:stop]
    for i in range(w.size):
        w[i], s[i] = _rmsprop_rule(w[i], g[i], s[i], rate, rho, new_square, epsilon, decay)


@jit.kernel
def _adam(
    piece: Any,
    pieces: Any,
    weights: Any,
    gradients: Any,
    mean: Any,
    square: Any,
    rate: Any,
    decay: Any,
    new_mean: Any,
    new_square: Any,
    epsilon: Any,
) -> None:
    start, stop = pool.share(piece, pieces, weights.size, pool.UNIT)
    rate, decay = rate[0], decay[0]
    w, g, m, s = weights[start:stop], gradients[start:stop], mean[start:stop], square[start:stop]
    for i in range(w.size):
        w[i], m[i], s[i] = _adam_rule(
            w[i], g[i], m[i], s[i], rate, new_mean, new_square, epsilon, decay
        )
