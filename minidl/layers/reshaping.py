"""Layers that prepare data: shapes and scales."""

import math
from typing import Any

from minidl.alternatives import keras_defaults
from minidl.arguments import Number
from minidl.engine.tensor import Tensor
from minidl.layers.base import Layer
from minidl.layers.symbol import Symbol


@keras_defaults(
    batch_size=None, sparse=(None, False), batch_shape=None, tensor=None, optional=False
)
class Input(Layer, Symbol):
    """Shape of one sample: the first element of a `Sequential`, or a symbol that layers take.

    Parameters
    ----------
    shape : tuple of int
        The shape without the batch.

    Examples
    --------
    >>> from minidl import layers, models
    >>> models.Sequential([Input((4,)), layers.Dense(2)]).output_shape
    (None, 2)
    >>> x = Input((4,))
    >>> models.Model(x, layers.Dense(2)(x)).output_shape
    (None, 2)
    """

    def __init__(self, shape: tuple[int, ...], **layer_arguments: Any):
        super().__init__(input_shape=shape, **layer_arguments)
        assert self.input_shape is not None, "given"
        self.shape = self.output_shape = (None, *self.input_shape)
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x


@keras_defaults(data_format=None)
class Flatten(Layer):
    """Layer that flattens all axes but the batch.

    Examples
    --------
    >>> Flatten()(Tensor([[[1.0, 2.0], [3.0, 4.0]]])).shape
    (1, 4)
    """

    def call(self, x: Tensor) -> Tensor:
        """Return `x` in shape (batch, features)."""
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Rescaling(Layer):
    """Layer that returns ``x * scale + offset``; a scale of 1 / 255 maps bytes to [0, 1].

    As the first layer of a model it is fused into the gathering of batches. `fit` reads its numbers
    once, when it begins.

    Parameters
    ----------
    scale, offset : float
        The factor and the summand.

    Examples
    --------
    >>> Rescaling(1 / 255)(Tensor([0.0, 255.0]))
    Tensor([0., 1.], dtype=float32)
    """

    scale: Any = Number("(-inf, inf)")
    offset: Any = Number("(-inf, inf)")

    def __init__(self, scale: float, offset: float = 0.0, **layer_arguments: Any):
        super().__init__(**layer_arguments)
        self.scale = scale
        self.offset = offset

    def call(self, x: Tensor) -> Tensor:
        """Return ``x * scale + offset``."""
        scaled = x * self.scale
        return scaled + self.offset if self.offset else scaled
