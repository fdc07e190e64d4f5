"""Layers of normal noise, which regularises in training."""

import math
from typing import Any

from minidl_kernels.placed import keeps_all

from minidl import rng
from minidl.arguments import Number
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply
from minidl.layers.random_layer import RandomLayer, Rate, RateLike


class GaussianNoise(RandomLayer):
    """Add normal noise in training, and nothing in inference.

    The result is x + stddev * n (Bishop, "Training with noise is equivalent to Tikhonov
    regularization", Neural Computation 7 (1995) 108-116). Each number n depends only on the seed,
    stream, step, row and column: it has the same bits on every device and for every split of the
    batch. The noise is not stored.

    Parameters
    ----------
    stddev : float
        The standard deviation of the noise, at least 0. Unlike in Keras, it may be above 1.
    seed : int, optional
        In [0, 2**64). If None, the seed of the model is used.
    stream : int, optional
        The number of the random stream, in [0, 2**20). If None, the model assigns one.

    Attributes
    ----------
    seed, stream, step
        As those of `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> import minidl
    >>> layer, x = GaussianNoise(0.1, seed=3), Tensor([[1.0, 2.0, 3.0]])
    >>> layer(x).numpy()
    array([[1., 2., 3.]], dtype=float32)
    >>> with minidl.training(step=0):
    ...     layer(x).numpy().round(4)
    array([[1.0473, 1.8462, 3.016 ]], dtype=float32)
    """

    stddev: Any = Number("[0, inf)")

    def __init__(
        self,
        stddev: float,
        seed: int | None = None,
        *,
        stream: int | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(seed=seed, stream=stream, **layer_arguments)
        self.stddev = stddev

    def call(self, x: Tensor) -> Tensor:
        """Return `x` with noise in training."""
        if not rng.is_training():
            return x
        address = self.random_stream.next_address(x.shape)  # the draw counts without noise, too
        if self.stddev == 0:
            return x
        return apply(ops.noise, x, sigma=self.stddev, address=address, is_factor=False)


class GaussianDropout(RandomLayer):
    """Multiply by normal noise with mean 1 in training, and return the input in inference.

    The result is x * (1 + sigma * n), where sigma is sqrt(rate / (1 - rate)). The factors have the
    mean and the variance of those of `Dropout`, which are 0 and 1 / (1 - rate) (Srivastava et al.,
    "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15 (2014), section
    10). Each number n depends only on the seed, stream, step, row and column, as in
    `GaussianNoise`.

    Parameters
    ----------
    rate : float or callable
        The rate of the dropout with the same variance, in [0, 1), or a function of the training
        step, as in `Dropout`. Unlike in Keras, 1 is rejected: sigma would be infinite.
    seed, stream : int, optional
        As in `GaussianNoise`.

    Attributes
    ----------
    seed, stream, step
        As those of `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> import minidl
    >>> layer, x = GaussianDropout(0.5, seed=3), Tensor([[1.0, 2.0, 3.0]])
    >>> with minidl.training(step=0):
    ...     layer(x).numpy().round(4)
    array([[ 1.4726, -1.076 ,  3.4798]], dtype=float32)
    """

    rate: Any = Rate("[0, 1)")

    def __init__(
        self,
        rate: RateLike,
        seed: int | None = None,
        *,
        stream: int | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(seed=seed, stream=stream, **layer_arguments)
        self.rate = rate

    def call(self, x: Tensor) -> Tensor:
        """Return `x` times noise in training."""
        if not rng.is_training():
            return x
        rate, address = self.next_draw(x.shape)
        if keeps_all(rate):
            return x
        (sigma,) = self.numbers_for(rate)
        return apply(ops.noise, x, sigma=sigma, address=address, is_factor=True)

    def numbers_of(self, rate: float) -> tuple[int | float, ...]:
        """Return the standard deviation of the factors."""
        return (math.sqrt(rate / (1 - rate)),)
