"""Variance, standard deviation, and the logarithm of a sum of exponentials."""

from collections.abc import Callable

from minidl.backend import Array, Backend
from minidl.engine.ops.op import Result, differentiable
from minidl.engine.ops.reductions import Axis

__all__ = ["logsumexp", "std", "var"]


@differentiable
def var(backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """Return the mean of the squared differences from the mean over `axis`; None means all axes."""
    return _spread(backend, "var", lambda count, y: 2 / count, x, axis, keepdims)


@differentiable
def std(backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """Return the square root of `var`. Where it is 0, so is the gradient, as in PyTorch."""

    def factor(count: int, y: Array) -> Array:
        is_zero = y == 0
        return backend.xp.where(is_zero, 0, 1 / (count * backend.xp.where(is_zero, 1, y)))

    return _spread(backend, "std", factor, x, axis, keepdims)


def _spread(
    backend: Backend,
    name: str,
    factor: Callable[[int, Array], Array],
    x: Array,
    axis: Axis,
    keepdims: bool,
) -> Result:
    """Return an array's `name` and its VJP: the differences from the mean, times a factor."""
    wide = backend.widened(x)
    kept = getattr(wide, name)(axis=axis, keepdims=True)
    count = x.size // kept.size if kept.size else 1

    def vjp(g: Array) -> Array:
        scaled = backend.widened(g).reshape(kept.shape) * factor(count, kept)
        return (scaled * (wide - wide.mean(axis=axis, keepdims=True))).astype(x.dtype, copy=False)

    return _narrowed(kept if keepdims else kept.squeeze(axis), x), (vjp,)


@differentiable
def logsumexp(backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """Return the logarithm of the sum of exp(x), in a form that cannot under- or overflow."""
    xp, wide = backend.xp, backend.widened(x)
    largest = wide.max(axis=axis, keepdims=True)
    offset = xp.where(xp.isfinite(largest), largest, 0)
    powers = xp.exp(wide - offset)
    total = powers.sum(axis=axis, keepdims=True)
    kept = xp.log(total) + offset

    def vjp(g: Array) -> Array:
        scaled = backend.widened(g).reshape(kept.shape) / total
        return (scaled * powers).astype(x.dtype, copy=False)

    return _narrowed(kept if keepdims else kept.squeeze(axis), x), (vjp,)


def _narrowed(y: Array, x: Array) -> Array:
    """Return `y` in the dtype of `x`; for integers, in its own."""
    return y.astype(x.dtype, copy=False) if x.dtype.kind == "f" else y
