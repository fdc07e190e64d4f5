"""Elementwise functions, and the softmax."""

from minidl.backend import Array, Backend
from minidl.engine.ops.op import Result, differentiable, made_of_kernels

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

__all__ = ["clip", "exp", "log", "log_softmax", "relu", "selu", "sigmoid", "softmax", "tanh"]


@differentiable
def exp(backend: Backend, x: Array) -> Result:
    """Return e to the power of `x`."""
    y = backend.xp.exp(x)
    return y, (lambda g: g * y,)


@differentiable
def log(backend: Backend, x: Array) -> Result:
    """Return the natural logarithm."""
    return backend.xp.log(x), (lambda g: g / x,)


@differentiable
def clip(backend: Backend, x: Array, *, low: float, high: float) -> Result:
    """Return `x` limited to [low, high]; outside, the gradient is 0."""
    xp = backend.xp
    return xp.clip(x, low, high), (lambda g: xp.where((x >= low) & (x <= high), g, 0),)


@differentiable
def relu(backend: Backend, x: Array) -> Result:
    """Return the positive part of `x`; the gradient at 0 is 0."""
    y = backend.xp.maximum(x, 0)
    return y, (lambda g: backend.xp.where(y > 0, g, 0),)


@differentiable
def selu(backend: Backend, x: Array) -> Result:
    """Return s x where x > 0, else s a (exp(x) - 1): Klambauer et al., NeurIPS 2017, equation 2.

    The constants s and a make 0 and 1 a fixed point of mean and variance. The gradient at 0 is s a.
    """
    xp = backend.xp
    s, a = SELU_SCALE, SELU_ALPHA
    y = xp.where(x > 0, s * x, s * a * xp.expm1(xp.minimum(x, 0)))
    return y, (lambda g: g * xp.where(y > 0, s, y + s * a),)


@differentiable
def sigmoid(backend: Backend, x: Array) -> Result:
    """Return 1 / (1 + exp(-x)), in a form that cannot overflow."""
    y = backend.xp.exp(-backend.xp.logaddexp(0, -x))
    return y, (lambda g: g * y * (1 - y),)


@differentiable
def tanh(backend: Backend, x: Array) -> Result:
    """Return the hyperbolic tangent."""
    y = backend.xp.tanh(x)
    return y, (lambda g: g * (1 - y * y),)


@differentiable
@made_of_kernels
def softmax(backend: Backend, x: Array, *, axis: int = -1) -> Result:
    """Return exp(x) divided by its sum over `axis`."""
    if axis in (-1, x.ndim - 1):
        y = backend.softmax(x)
    else:
        y = backend.xp.moveaxis(backend.softmax(backend.xp.moveaxis(x, axis, -1)), -1, axis)

    def vjp(g: Array) -> Array:
        backend.not_recorded("the gradient of a softmax has no kernel")
        g = backend.widened(g)
        wide = backend.widened(y)
        return (wide * (g - (g * wide).sum(axis=axis, keepdims=True))).astype(x.dtype, copy=False)

    return y, (vjp,)


@differentiable
def log_softmax(backend: Backend, x: Array, *, axis: int = -1) -> Result:
    """Return the logarithm of `softmax`, in a form that cannot under- or overflow."""
    xp = backend.xp
    wide = backend.widened(x)
    shifted = wide - wide.max(axis=axis, keepdims=True)
    y = shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))

    def vjp(g: Array) -> Array:
        g = backend.widened(g)
        return (g - xp.exp(y) * g.sum(axis=axis, keepdims=True)).astype(x.dtype, copy=False)

    return y.astype(x.dtype, copy=False), (vjp,)
