"""Updates of weights: each rule of an optimizer in one pass over flat arrays, in place.

Arrays are contiguous, of one size and dtype, float32 or float64. Numbers are rounded to that dtype.
Each rule first multiplies the weights by `decay`.
"""

from minidl_kernels import checks

from minidl.backend.arrays import Array, DeviceArrays
from minidl.backend.kernel import kernel


class OptimizerRules(DeviceArrays):
    """The part of a backend that updates weights."""

    @kernel("optimizers", checks.check_update)
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
        if velocity is not None:
            velocity *= momentum
            velocity -= step
            weights += momentum * velocity if nesterov else velocity
        if velocity is None or nesterov:
            weights -= step

    @kernel("optimizers", checks.check_update)
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

    @kernel("optimizers", checks.check_update)
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
