"""Methods of `Tensor` that apply one operation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from minidl.alternatives import missing_attribute
from minidl.backend import Array
from minidl.engine import ops
from minidl.engine.operands import flat, number

T = TypeVar("T")


class TensorMethods(Generic[T]):
    """Base of `Tensor`, which is `T`."""

    __slots__ = ()
    data: Array

    if not TYPE_CHECKING:  # type checkers would accept every attribute

        def __getattr__(self, name: str) -> Any:
            return missing_attribute(self, "Tensor", name)

    def __format__(self, specification: str) -> str:
        """Return the only element as text in a format such as ``.3f``."""
        return format(self.data.item(), specification) if specification else str(self)

    def _apply(self, op: ops.Op, **static: Any) -> T:
        """Return the operation of this tensor."""
        raise NotImplementedError

    # -------------------------------------------------------------------------- elementwise

    def abs(self) -> T:
        """Return the absolute value of each element; the gradient at 0 is 0."""
        return self._apply(ops.abs)

    __abs__ = abs

    def sqrt(self) -> T:
        """Return the square root of each element; the gradient at 0 is infinite."""
        return self._apply(ops.sqrt)

    def exp(self) -> T:
        """Return e to the power of each element."""
        return self._apply(ops.exp)

    def log(self) -> T:
        """Return the natural logarithm of each element."""
        return self._apply(ops.log)

    def clip(self, low: float, high: float) -> T:
        """Return the elements limited to [low, high]."""
        return self._apply(ops.clip, low=number(low), high=number(high))

    def elu(self, alpha: float = 1.0) -> T:
        """Return x where x > 0, else alpha (exp(x) - 1)."""
        return self._apply(ops.elu, alpha=number(alpha))

    def gelu(self, approximate: bool = False) -> T:
        """Return x times the normal distribution function of x, or a tanh in its place."""
        return self._apply(ops.gelu, approximate=approximate)

    def leaky_relu(self, negative_slope: float = 0.2) -> T:
        """Return x where x > 0, else negative_slope x."""
        return self._apply(ops.leaky_relu, negative_slope=number(negative_slope))

    def relu(self) -> T:
        """Return the positive part of each element."""
        return self._apply(ops.relu)

    def selu(self) -> T:
        """Return the scaled exponential linear unit of each element."""
        return self._apply(ops.selu)

    def silu(self) -> T:
        """Return x times its sigmoid, also known as swish."""
        return self._apply(ops.silu)

    def softplus(self) -> T:
        """Return log(1 + exp(x))."""
        return self._apply(ops.softplus)

    def tanh(self) -> T:
        """Return the hyperbolic tangent of each element."""
        return self._apply(ops.tanh)

    # -------------------------------------------------------------------------- over axes

    def sum(self, axis: ops.Axis = None, keepdims: bool = False) -> T:
        """Return the sum over `axis`; None means all axes."""
        return self._apply(ops.sum, axis=axis, keepdims=keepdims)

    def mean(self, axis: ops.Axis = None, keepdims: bool = False) -> T:
        """Return the mean over `axis`; None means all axes."""
        return self._apply(ops.mean, axis=axis, keepdims=keepdims)

    def max(self, axis: ops.Axis = None, keepdims: bool = False) -> T:
        """Return the maximum over `axis`; None means all axes."""
        return self._apply(ops.max, axis=axis, keepdims=keepdims)

    def log_softmax(self, axis: int = -1) -> T:
        """Return the logarithm of `softmax`, without under- or overflow."""
        return self._apply(ops.log_softmax, axis=axis)

    def logsumexp(self, axis: ops.Axis = None, keepdims: bool = False) -> T:
        """Return the logarithm of the sum of exp(x) over `axis`, without under- or overflow."""
        return self._apply(ops.logsumexp, axis=axis, keepdims=keepdims)

    def var(self, axis: ops.Axis = None, keepdims: bool = False) -> T:
        """Return the mean squared difference from the mean over `axis`, as NumPy and Keras.

        It divides by the number n of elements; PyTorch divides by n - 1.
        """
        return self._apply(ops.var, axis=axis, keepdims=keepdims)

    def std(self, axis: ops.Axis = None, keepdims: bool = False) -> T:
        """Return the square root of `var`; where it is 0, so is its gradient.

        Examples
        --------
        >>> from minidl import Tensor
        >>> Tensor([[1.0, 3.0], [2.0, 2.0]]).std(axis=1)
        Tensor([1., 0.], dtype=float32)
        """
        return self._apply(ops.std, axis=axis, keepdims=keepdims)

    # -------------------------------------------------------------------------- shapes

    def reshape(self, *shape: int | Sequence[int]) -> T:
        """Return the elements in another shape, in C order; one length may be -1."""
        return self._apply(ops.reshape, shape=flat(shape))

    def transpose(self, *axes: int | Sequence[int]) -> T:
        """Return the tensor with its axes in the given order; without one, reversed."""
        return self._apply(ops.transpose, axes=flat(axes) if axes else None)

    def expand_dims(self, axis: int | tuple[int, ...]) -> T:
        """Return the tensor with new axes of length 1, at these places of the result.

        Examples
        --------
        >>> from minidl import Tensor
        >>> Tensor([1.0, 2.0]).expand_dims(-1).shape
        (2, 1)
        """
        return self._apply(ops.reshape, shape=np.expand_dims(self._outline(), axis).shape)

    def squeeze(self, axis: ops.Axis = None) -> T:
        """Return the tensor without these axes, whose length is 1; None means all of length 1."""
        return self._apply(ops.reshape, shape=np.squeeze(self._outline(), axis).shape)

    def _outline(self) -> np.ndarray:
        """Return an array of the host of this shape, without memory: NumPy checks its axes."""
        return np.broadcast_to(np.int8(0), self.data.shape)
