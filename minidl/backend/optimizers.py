"""Updates of weights: each rule of an optimizer in one pass over flat arrays, in place.

Arrays are contiguous, of one size and dtype, float32 or float64. Numbers are rounded to that dtype.
Each rule first multiplies the weights by `decay`.
"""

from types import ModuleType
from typing import Any

from minidl_kernels import checks

from minidl.backend.kernel import kernel

Array = Any


def _check(who: str, weights: Array, *others: Array | None, **numbers: float) -> bool:
    """Check the arrays of a rule; return whether they have any elements."""
    checks.check_flat(who, weights, *(other for other in others if other is not None))
    if others[-1] is None and numbers["momentum"] != 0:
        raise ValueError(
            f"{who}: expected a velocity for momentum {numbers['momentum']}, got None. "
            "Pass an array."
        )
    return weights.size > 0


class OptimizerRules:
    """The part of a backend that updates weights."""

    xp: ModuleType

    @kernel("optimizers", _check)
    def sgd(
        self,
        weights: Array,
        gradients: Array,
        velocity: Array | None,
        *,
        rate: float,
        momentum: float,
        nesterov: bool,
        decay: float,
    ) -> None:
        """Update `weights` and `velocity` by gradient descent.

        The velocity is None without momentum. With `nesterov`, the step looks ahead (Sutskever et
        al., ICML 2013).
        """
        step = rate * gradients
        weights *= decay
        if velocity is None:
            weights -= step
            return
        velocity *= momentum
        velocity -= step
        weights += momentum * velocity if nesterov else velocity
        if nesterov:
            weights -= step

    @kernel("optimizers", _check)
    def rmsprop(
        self,
        weights: Array,
        gradients: Array,
        square: Array,
        *,
        rate: float,
        rho: float,
        epsilon: float,
        decay: float,
    ) -> None:
        """Update `weights` and the running mean `square` by RMSprop (Hinton, lecture 6e, 2012)."""
        square *= rho
        square += (1 - rho) * gradients * gradients
        weights *= decay
        weights -= rate * gradients / self.xp.sqrt(square + epsilon)

    @kernel("optimizers", _check)
    def adam(
        self,
        weights: Array,
        gradients: Array,
        mean: Array,
        square: Array,
        *,
        rate: float,
        beta_1: float,
        beta_2: float,
        epsilon: float,
        decay: float,
    ) -> None:
        """Update `weights` and the running means `mean` and `square` by Adam.

        Kingma & Ba, ICLR 2015, algorithm 1; `rate` is the step size with both bias corrections.
        """
        mean += (1 - beta_1) * (gradients - mean)
        square += (1 - beta_2) * (gradients * gradients - square)
        weights *= decay
        weights -= rate * mean / (self.xp.sqrt(square) + epsilon)
