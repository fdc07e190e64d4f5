"""Reductions over axes."""

from minidl.backend import Array, Backend
from minidl.engine.ops.op import Result, differentiable

__all__ = ["Axis", "max", "mean", "penalty", "sum"]

Axis = int | tuple[int, ...] | None


def _restore_axes(backend: Backend, g: Array, x: Array, axis: Axis, keepdims: bool) -> Array:
    """Return `g` with the axes of length 1 that a reduction of `x` removed."""
    if keepdims:
        return g
    return g.reshape((1,) * x.ndim) if axis is None else backend.xp.expand_dims(g, axis)


@differentiable
def sum(backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """Return the sum over `axis`; None means all axes."""

    def vjp(g: Array) -> Array:
        return backend.xp.broadcast_to(_restore_axes(backend, g, x, axis, keepdims), x.shape)

    return backend.sum(x, axis, keepdims=keepdims), (vjp,)


@differentiable
def mean(backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """Return the mean over `axis`; None means all axes."""
    y = x.mean(axis=axis, keepdims=keepdims)
    count = x.size // y.size if y.size else 1

    def vjp(g: Array) -> Array:
        share = (backend.widened(g) / count).astype(g.dtype, copy=False)
        return backend.xp.broadcast_to(_restore_axes(backend, share, x, axis, keepdims), x.shape)

    return y, (vjp,)


@differentiable
def max(backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """Return the maximum over `axis`; None means all axes.

    Elements that share the maximum share its gradient equally. NaN counts as the largest value, as
    in NumPy.
    """
    y = x.max(axis=axis, keepdims=keepdims)

    def vjp(g: Array) -> Array:
        largest = (x == _restore_axes(backend, y, x, axis, keepdims)) | (x != x)  # x != x finds NaN
        g = backend.widened(_restore_axes(backend, g, x, axis, keepdims))
        share = g / largest.sum(axis=axis, keepdims=True).astype(g.dtype)
        return backend.xp.where(largest, share, 0).astype(x.dtype, copy=False)

    return y, (vjp,)


@differentiable
def penalty(backend: Backend, x: Array, *, l1: float, l2: float) -> Result:
    """Return `l1` times the sum of absolute values, plus `l2` times the sum of squares.

    The gradient of the absolute value at 0 is 0. On the CPU, the bits do not depend on threads.
    """
    xp, wide = backend.xp, backend.widened(x)
    total = l2 * (wide * wide).sum()
    if l1:
        total = total + l1 * xp.abs(wide).sum()

    def vjp(g: Array) -> Array:
        slope = (2 * l2 * g) * wide
        if l1:
            slope += (l1 * g) * xp.sign(wide)
        return slope.astype(x.dtype, copy=False)

    return total.astype(x.dtype), (vjp,)
