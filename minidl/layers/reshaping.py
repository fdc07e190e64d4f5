"""Layers that bring data into the form that the next layer reads."""

import math
from typing import Any

from minidl.autograd import Tensor
from minidl.layers.base import Layer


class Input(Layer):
    """Say the shape of one sample, as the first element of a `Sequential`.

    Parameters
    ----------
    shape : tuple of int
        Without the batch.
    """

    def __init__(self, shape: tuple[int, ...], **layer_arguments: Any):
        super().__init__(input_shape=shape, **layer_arguments)

    def call(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x


class Flatten(Layer):
    """Make one axis of all but the batch.

    Examples
    --------
    >>> Flatten()(Tensor([[[1.0, 2.0], [3.0, 4.0]]])).shape
    (1, 4)
    """

    def call(self, x: Tensor) -> Tensor:
        """Return shape (batch, features)."""
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Rescaling(Layer):
    """Compute ``x * scale + offset``: 1 / 255 brings bytes to [0, 1].

    As a model's first layer it is computed where batches are made; `fit` reads it when it begins.

    Examples
    --------
    >>> Rescaling(1 / 255)(Tensor([0.0, 255.0]))
    Tensor([0., 1.], dtype=float32)
    """

    def __init__(self, scale: float, offset: float = 0.0, **layer_arguments: Any):
        super().__init__(**layer_arguments)
        self.scale = float(scale)
        self.offset = float(offset)

    def call(self, x: Tensor) -> Tensor:
        """Return the scaled values."""
        scaled = x * self.scale
        return scaled + self.offset if self.offset else scaled
