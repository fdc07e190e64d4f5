"""Layers that merge several inputs: sums, products and concatenation."""

import functools
import operator
from collections.abc import Callable
from typing import Any

from minidl.arguments import integer
from minidl.engine import functions, ops
from minidl.engine.tensor import Tensor, apply
from minidl.layers.base import Layer
from minidl.layers.symbol import Symbol


class _Merge(Layer):
    """Function of a list of tensors of one shape; a subclass defines `merge`."""

    takes_list = True
    merge: Callable[[Any, Any], Any]  # of two tensors
    expected = "two inputs or more of one shape"

    def fits(self, shapes: list[tuple[int, ...]]) -> bool:
        """Return whether the layer can merge inputs of these shapes."""
        return len(shapes) > 1 and len(set(shapes)) == 1

    def check_inputs(self, x: list[Tensor]) -> None:
        """Raise ValueError if the inputs cannot be merged."""
        shapes = [each.shape for each in x]
        if not self.fits(shapes):
            raise ValueError(
                f"{self.label}: expected {self.expected}, got shapes {shapes}. Change the units "
                "of the layers before it."
            )

    def call(self, x: list[Tensor]) -> Tensor:
        """Return the result of all inputs, from the first to the last."""
        self.check_inputs(x)
        return functools.reduce(type(self).merge, x)


class Add(_Merge):
    """Layer that returns the sum of its inputs, such as a skip connection and its branch.

    Examples
    --------
    >>> Add()([Tensor([[1.0, 2.0]]), Tensor([[3.0, 4.0]])])
    Tensor([[4., 6.]], dtype=float32)
    """

    merge = staticmethod(operator.add)


class Multiply(_Merge):
    """Layer that returns the product of its inputs, element by element.

    Examples
    --------
    >>> Multiply()([Tensor([[1.0, 2.0]]), Tensor([[3.0, 4.0]])])
    Tensor([[3., 8.]], dtype=float32)
    """

    merge = staticmethod(operator.mul)


class Maximum(_Merge):
    """Layer that returns the largest of its inputs, element by element.

    Equal elements share the gradient, as in `minidl.maximum`.

    Examples
    --------
    >>> Maximum()([Tensor([[1.0, 4.0]]), Tensor([[3.0, 2.0]])])
    Tensor([[3., 4.]], dtype=float32)
    """

    merge = staticmethod(functions.maximum)


class Minimum(_Merge):
    """Layer that returns the smallest of its inputs; see `Maximum`.

    Examples
    --------
    >>> Minimum()([Tensor([[1.0, 4.0]]), Tensor([[3.0, 2.0]])])
    Tensor([[1., 2.]], dtype=float32)
    """

    merge = staticmethod(functions.minimum)


class Subtract(_Merge):
    """Layer that returns the first of two inputs minus the second.

    Examples
    --------
    >>> Subtract()([Tensor([[1.0, 2.0]]), Tensor([[3.0, 5.0]])])
    Tensor([[-2., -3.]], dtype=float32)
    """

    merge = staticmethod(operator.sub)
    expected = "two inputs of one shape"

    def fits(self, shapes: list[tuple[int, ...]]) -> bool:
        """Return whether there are two inputs of one shape."""
        return super().fits(shapes) and len(shapes) == 2


class Average(Add):
    """Layer that returns the mean of its inputs.

    Examples
    --------
    >>> Average()([Tensor([[1.0, 2.0]]), Tensor([[3.0, 4.0]])])
    Tensor([[2., 3.]], dtype=float32)
    """

    def call(self, x: list[Tensor]) -> Tensor:
        """Return the mean of all inputs."""
        return super().call(x) / len(x)


class Concatenate(_Merge):
    """Layer that joins its inputs along an axis.

    Parameters
    ----------
    axis : int
        The axis; 0 is the batch, and is not allowed.

    Raises
    ------
    ValueError
        If `axis` is not an integer or is 0, or if shapes differ in other axes.

    Examples
    --------
    >>> Concatenate()([Tensor([[1.0, 2.0]]), Tensor([[3.0]])])
    Tensor([[1., 2., 3.]], dtype=float32)
    """

    def __init__(self, axis: int = -1, **layer_arguments: Any):
        super().__init__(**layer_arguments)
        self.axis = integer("Concatenate: axis", axis)
        if axis == 0:
            raise ValueError("Concatenate: expected an axis of the samples, got 0, the batch.")
        self.expected = f"two inputs or more of one shape but in axis {axis}"

    def fits(self, shapes: list[tuple[int, ...]]) -> bool:
        """Return whether the inputs have one shape, but in the axis."""
        others = {
            (len(shape), *(n for a, n in enumerate(shape) if a - self.axis not in (0, len(shape))))
            for shape in shapes
        }
        return len(shapes) > 1 and len(others) == 1 and -len(shapes[0]) < self.axis < len(shapes[0])

    def call(self, x: list[Tensor]) -> Tensor:
        """Return all inputs in one tensor."""
        self.check_inputs(x)
        return apply(ops.concatenate, *x, axis=self.axis)


Symbol.operators |= {"__add__": Add, "__sub__": Subtract, "__mul__": Multiply}
