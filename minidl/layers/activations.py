"""Activation functions, by name and as layers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.arguments import Number, integer
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply
from minidl.layers.base import Layer

Function = Callable[[Tensor], Tensor]


def linear(x: Tensor) -> Tensor:
    """Return `x`."""
    return x


def gelu_tanh(x: Tensor) -> Tensor:
    """Return `Tensor.gelu` with a tanh for the distribution function."""
    return x.gelu(approximate=True)


_FUNCTIONS: tuple[Any, ...] = (
    *(Tensor.elu, Tensor.gelu, gelu_tanh, Tensor.leaky_relu, linear, Tensor.relu, Tensor.selu),
    *(Tensor.sigmoid, Tensor.silu, Tensor.softmax, Tensor.softplus, Tensor.tanh),
)
_BY_NAME: dict[str, Function] = {function.__name__: function for function in _FUNCTIONS}
_BY_NAME["swish"] = Tensor.silu


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
        f"activation: expected a function of a Tensor or one of {', '.join(sorted(_BY_NAME))}, "
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


class ReLU(Layer):
    """Layer that returns min(x, max_value) above the threshold, and below it a line.

    Parameters
    ----------
    max_value : float, optional
        The largest output, 0 or above.
    negative_slope : float
        0 or above; the line is ``negative_slope * (x - threshold)``.
    threshold : float
        0 or above.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number, or is out of range.

    Examples
    --------
    >>> ReLU()(Tensor([-1.0, 2.0]))
    Tensor([0., 2.], dtype=float32)
    >>> ReLU(6, 0.1, threshold=1)(Tensor([-1.0, 0.5, 2.0, 8.0]))
    Tensor([-0.2 , -0.05,  2.  ,  6.  ], dtype=float32)
    """

    max_value: Any = Number("[0, inf)", or_none=True)
    negative_slope: Any = Number("[0, inf)")
    threshold: Any = Number("[0, inf)")

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **layer_arguments: Any,
    ):
        super().__init__(**layer_arguments)
        self.max_value = max_value
        self.negative_slope = negative_slope
        self.threshold = threshold

    def call(self, x: Tensor) -> Tensor:
        """Return the rectified input."""
        line = {"negative_slope": self.negative_slope, "threshold": self.threshold}
        if self.max_value is None and not any(line.values()):
            return x.relu()
        largest = math.inf if self.max_value is None else self.max_value
        return apply(ops.leaky_relu, x, **line, max_value=largest)


class LeakyReLU(Layer):
    """Layer that returns x where x > 0, else negative_slope x.

    Parameters
    ----------
    negative_slope : float
        0 or above. PyTorch's default is 0.01.

    Examples
    --------
    >>> LeakyReLU(0.5)(Tensor([-1.0, 2.0]))
    Tensor([-0.5,  2. ], dtype=float32)
    """

    negative_slope: Any = Number("[0, inf)")

    def __init__(self, negative_slope: float = 0.3, **layer_arguments: Any):
        super().__init__(**layer_arguments)
        self.negative_slope = negative_slope

    def call(self, x: Tensor) -> Tensor:
        """Return the rectified input."""
        return x.leaky_relu(self.negative_slope)


class ELU(Layer):
    """Layer that returns x where x > 0, else alpha (exp(x) - 1).

    Parameters
    ----------
    alpha : float
        The limit at minus infinity is -alpha.

    Examples
    --------
    >>> ELU()(Tensor([-50.0, 2.0]))
    Tensor([-1.,  2.], dtype=float32)
    """

    alpha: Any = Number("(-inf, inf)")

    def __init__(self, alpha: float = 1.0, **layer_arguments: Any):
        super().__init__(**layer_arguments)
        self.alpha = alpha

    def call(self, x: Tensor) -> Tensor:
        """Return the exponential linear unit of the input."""
        return x.elu(self.alpha)


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
