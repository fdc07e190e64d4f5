"""Variance, standard deviation, and the logarithm of a sum of exponentials."""

from collections.abc import Callable

from minidl.backend import Array, Backend
from minidl.engine.ops.op import Result, differentiable
from minidl.engine.ops.reductions import Axis

__all__ = ["logsumexp", "std", "var"]


@differentiable
def var(backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """Return the mean of the squared differences from the mean over `axis`; None means all axes."""
    deviation, variance, count = _moments(backend, x, axis)
    return _reduced(backend, x, variance, lambda: 2 / count * deviation, axis, keepdims)


@differentiable
def std(backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """Return the square root of `var`. Where it is 0, so is the gradient, as in PyTorch."""
    xp, (deviation, variance, count) = backend.xp, _moments(backend, x, axis)
    y = xp.sqrt(variance)
    slope = lambda: deviation / (count * xp.where(y == 0, xp.inf, y))  # noqa: E731
    return _reduced(backend, x, y, slope, axis, keepdims)


@differentiable
def logsumexp(backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """Return the logarithm of the sum of exp(x), in a form that cannot under- or overflow."""
    xp, wide = backend.xp, backend.widened(x)
    largest = wide.max(axis=axis, keepdims=True)
    offset = xp.where(xp.isfinite(largest), largest, 0)
    powers = xp.exp(wide - offset)
    total = powers.sum(axis=axis, keepdims=True)
    return _reduced(backend, x, xp.log(total) + offset, lambda: powers / total, axis, keepdims)


def _moments(backend: Backend, x: Array, axis: Axis) -> tuple[Array, Array, int]:
    """Return the differences from the mean, the mean of their squares, and its count."""
    wide = backend.widened(x)
    deviation = wide - wide.mean(axis=axis, keepdims=True)
    variance = (deviation * deviation).mean(axis=axis, keepdims=True)
    return deviation, variance, x.size // (variance.size or 1)


def _reduced(
    backend: Backend, x: Array, y: Array, slope: Callable[[], Array], axis: Axis, keepdims: bool
) -> Result:
    """Return a reduction `y` of `x`, which still has all axes, and whose derivative is `slope`."""
    value = y if keepdims else y.squeeze(axis)
    is_float = x.dtype.kind == "f"

    def vjp(g: Array) -> Array:
        return (backend.widened(g).reshape(y.shape) * slope()).astype(x.dtype, copy=False)

    return value.astype(x.dtype, copy=False) if is_float else value, (vjp,)
