"""Activation functions, by name and as layers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.alternatives import keras_defaults
from minidl.arguments import integer
from minidl.engine.tensor import Tensor
from minidl.layers.base import Layer

Function = Callable[[Tensor], Tensor]


def linear(x: Tensor) -> Tensor:
    """Return `x`."""
    return x


_BY_NAME: dict[str, Function] = {
    "linear": linear,
    "relu": Tensor.relu,
    "selu": Tensor.selu,
    "sigmoid": Tensor.sigmoid,
    "softmax": Tensor.softmax,
    "tanh": Tensor.tanh,
}


def get(activation: str | Function | None) -> Function:
    """Return the activation of that name, or the given function; None is linear.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the names.
    """
    if activation is None:
        return linear
    if callable(activation) and not isinstance(activation, np.ufunc):
        return activation
    if isinstance(activation, str) and activation in _BY_NAME:
        return _BY_NAME[activation]
    raise ValueError(
        f"activation: expected a function of a Tensor or one of {', '.join(_BY_NAME)}, "
        f"got {activation!r}. Choose a name, or pass a function."
    )


def name_of(activation: Function) -> str | None:
    """Return the name of an activation, or None for a function that `get` has no name for."""
    return next((name for name, function in _BY_NAME.items() if function is activation), None)


class Activation(Layer):
    """Layer that applies an activation function.

    Parameters
    ----------
    activation : str or callable
        As in `Dense`.

    Examples
    --------
    >>> Activation("relu")(Tensor([-1.0, 2.0]))
    Tensor([0., 2.], dtype=float32)
    """

    def __init__(self, activation: str | Function, **layer_arguments: Any):
        super().__init__(**layer_arguments)
        self.activation = get(activation)

    def call(self, x: Tensor) -> Tensor:
        """Return the activation of `x`."""
        return self.activation(x)


@keras_defaults(max_value=None, negative_slope=0.0, threshold=0.0)
class ReLU(Layer):
    """Layer that returns the positive part.

    Examples
    --------
    >>> ReLU()(Tensor([-1.0, 2.0]))
    Tensor([0., 2.], dtype=float32)
    """

    def call(self, x: Tensor) -> Tensor:
        """Return max(x, 0)."""
        return x.relu()


class Softmax(Layer):
    """Layer that returns exp(x) divided by its sum over `axis`.

    Parameters
    ----------
    axis : int
        The axis of the classes.

    Examples
    --------
    >>> Softmax()(Tensor([[0.0, 0.0]]))
    Tensor([[0.5, 0.5]], dtype=float32)
    """

    def __init__(self, axis: int = -1, **layer_arguments: Any):
        super().__init__(**layer_arguments)
        self.axis = integer("Softmax: axis", axis)

    def call(self, x: Tensor) -> Tensor:
        """Return probabilities."""
        return x.softmax(self.axis)
