"""Dropout for self-normalizing networks."""

import math
from typing import Any

from minidl_kernels.mask_contract import threshold
from minidl_kernels.placed import keeps_all

from minidl import rng
from minidl.engine import ops
from minidl.engine.ops.functions import SELU_ALPHA, SELU_SCALE
from minidl.engine.tensor import Tensor, apply
from minidl.layers.random_layer import NoiseShape, RandomLayer, Rate, RateLike, checked_noise_shape

NEGATIVE_SATURATION = -SELU_SCALE * SELU_ALPHA  # the limit of selu towards minus infinity


class AlphaDropout(RandomLayer):
    """Set dropped elements to the negative saturation of selu, and keep mean and variance.

    Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017, section 3: with p = rate,
    q = 1 - p and s = -1.7581, the output is a x + b for a kept element and a s + b for a dropped
    one, where a = (q (1 + p s^2))^-1/2 and b = -a p s. Inputs with mean 0 and variance 1 keep both.

    Parameters
    ----------
    rate : float or callable
        The probability of being dropped, in [0, 1]. At rate 1 the output is 0, the mean.
    noise_shape, seed, stream
        As in `Dropout`. A noise shape that shares all axes but batch and channel is known as
        feature alpha dropout.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> import minidl
    >>> with minidl.training(step=0):
    ...     AlphaDropout(0.5, seed=0)(Tensor([[0.0, 1.0]])).numpy().round(4)
    array([[-0.7792,  1.6656]], dtype=float32)
    """

    rate: Any = Rate("[0, 1]")

    def __init__(
        self,
        rate: RateLike,
        noise_shape: NoiseShape | None = None,
        seed: int | None = None,
        *,
        stream: int | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(seed=seed, stream=stream, **layer_arguments)
        self.rate = rate
        self.noise_shape = checked_noise_shape(type(self).__name__, noise_shape)

    def call(self, x: Tensor) -> Tensor:
        """Return `x` in inference; in training, kept and dropped elements by the formula."""
        if not rng.is_training():
            return x
        rate = self.current_rate()
        shape, address = self.next_decisions(x.shape, self.noise_shape)
        if keeps_all(rate):
            return x
        scale, shift, dropped = (1.0, -0.0, 0.0) if rate == 1 else self.numbers_for(rate)[1:]
        return apply(
            ops.affine_dropout,
            x,
            rate=rate,
            address=address,
            noise_shape=shape,
            scale=scale,
            shift=shift,
            dropped=dropped,
        )

    def numbers_of(self, rate: float) -> tuple[int | float, ...]:
        """Return threshold, factor and shift of kept elements, and the value of dropped ones."""
        p, q, s = rate, 1 - rate, NEGATIVE_SATURATION
        a = 1 / math.sqrt(q * (1 + p * s**2))
        return threshold(rate), a, -a * p * s, a * q * s
