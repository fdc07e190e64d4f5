"""Activation functions by name, and the layers that apply one."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.autograd import Tensor
from minidl.layers.base import Layer

Function = Callable[[Tensor], Tensor]


def linear(x: Tensor) -> Tensor:
    """Return `x`."""
    return x


_BY_NAME: dict[str, Function] = {
    "linear": linear,
    "relu": Tensor.relu,
    "sigmoid": Tensor.sigmoid,
    "softmax": Tensor.softmax,
    "tanh": Tensor.tanh,
}


def get(activation: str | Function | None) -> Function:
    """Return the activation of that name, or the function given; None is linear.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.
    """
    if activation is None:
        return linear
    if callable(activation) and not isinstance(activation, np.ufunc):
        return activation
    if isinstance(activation, str) and activation in _BY_NAME:
        return _BY_NAME[activation]
    raise ValueError(
        f"activation: expected a function of a Tensor or one of {', '.join(_BY_NAME)}; "
        f"received {activation!r}"
    )


def name_of(activation: Function) -> str | None:
    """Return the name under which `get` knows an activation; None for a function of the user's."""
    return next((name for name, function in _BY_NAME.items() if function is activation), None)


class Activation(Layer):
    """Apply an activation function.

    Examples
    --------
    >>> Activation("relu")(Tensor([-1.0, 2.0]))
    Tensor([0., 2.], dtype=float32)
    """

    def __init__(self, activation: str | Function, **layer_arguments: Any):
        super().__init__(**layer_arguments)
        self.activation = get(activation)

    def call(self, x: Tensor) -> Tensor:
        """Return the function's value."""
        return self.activation(x)


class ReLU(Layer):
    """Return the positive part."""

    def call(self, x: Tensor) -> Tensor:
        """Return max(x, 0)."""
        return x.relu()


class Softmax(Layer):
    """Return exp(x) divided by its sum over `axis`.

    Examples
    --------
    >>> Softmax()(Tensor([[0.0, 0.0]]))
    Tensor([[0.5, 0.5]], dtype=float32)
    """

    def __init__(self, axis: int = -1, **layer_arguments: Any):
        super().__init__(**layer_arguments)
        self.axis = axis

    def call(self, x: Tensor) -> Tensor:
        """Return probabilities."""
        return x.softmax(self.axis)
