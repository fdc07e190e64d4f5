"""Every operation: its value and, beside it, how gradients go back through it.

An op takes a backend and arrays and returns ``(value, vjps)``. ``vjps`` holds one function for each
input, its vector-Jacobian product: given the gradient of the loss with respect to the value it
returns the gradient with respect to that input. An op knows no `Tensor`, and it never undoes
broadcasting: the engine in `autograd` does that once for all.

To add an op, write one function here; the completeness test asks for its gradient check.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from minidl_kernels.mask_contract import scale

from minidl.backend import Array, Backend
from minidl.rng import Address

Vjp = Callable[..., Array]
Op = Callable[..., tuple[Array, tuple[Vjp, ...]]]
Axis = int | tuple[int, ...] | None

OPS: dict[str, Op] = {}


def differentiable(op: Op) -> Op:
    """Record `op` by its name, so that a test can ask for its checks."""
    OPS[op.__name__] = op
    return op


def takes_out(vjp: Vjp) -> Vjp:
    """Say that `vjp` takes ``out=``, a C-contiguous array for its result."""
    vjp.takes_out = True  # type: ignore[attr-defined]
    return vjp


# ------------------------------------------------------------------------------ arithmetic


@differentiable
def add(backend: Backend, a: Array, b: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return ``a + b``."""
    return a + b, (lambda g: g, lambda g: g)


@differentiable
def subtract(backend: Backend, a: Array, b: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return ``a - b``."""
    return a - b, (lambda g: g, lambda g: -g)


@differentiable
def multiply(backend: Backend, a: Array, b: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return ``a * b``."""
    return a * b, (lambda g: g * b, lambda g: g * a)


@differentiable
def divide(backend: Backend, a: Array, b: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return ``a / b``."""
    y = a / b
    return y, (lambda g: g / b, lambda g: -g * y / b)


@differentiable
def power(backend: Backend, a: Array, b: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return ``a ** b``."""
    xp = backend.xp
    y = a**b

    def vjp_base(g: Array) -> Array:
        # At b = 0 the slope is 0 also where a is 0, not 0 * infinity.
        return g * b * a ** xp.where(xp.asarray(b) == 0, 1, b - 1).astype(a.dtype)

    def vjp_exponent(g: Array) -> Array:
        positive = xp.asarray(a) > 0
        return g * y * xp.where(positive, xp.log(xp.where(positive, a, 1)), 0)

    return y, (vjp_base, vjp_exponent)


@differentiable
def negative(backend: Backend, x: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return ``-x``."""
    return -x, (lambda g: -g,)


@differentiable
def matmul(backend: Backend, a: Array, b: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return ``a @ b``: the product of matrices, of stacks of matrices, or of vectors."""
    if a.ndim == b.ndim == 2 and a.dtype == b.dtype:
        return backend.matmul(a, b), (
            takes_out(lambda g, out=None: backend.matmul(g, b, transpose_b=True, out=out)),
            takes_out(lambda g, out=None: backend.matmul(a, g, transpose_a=True, out=out)),
        )
    # As in NumPy, a vector on the left is one row and a vector on the right one column.
    rows = a[None, :] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b
    y = backend.matmul(a, b)

    def as_matrix(g: Array) -> Array:
        if a.ndim == 1:
            g = g[..., None, :] if b.ndim > 1 else g[None]
        return g[..., None] if b.ndim == 1 else g

    def vjp_a(g: Array) -> Array:
        return backend.matmul(as_matrix(g), columns, transpose_b=True)

    def vjp_b(g: Array) -> Array:
        product = backend.matmul(rows, as_matrix(g), transpose_a=True)
        return product[..., 0] if b.ndim == 1 else product

    return y, (vjp_a, vjp_b)


# ------------------------------------------------------------------------------ shape


@differentiable
def getitem(backend: Backend, x: Array, *, index: Any) -> tuple[Array, tuple[Vjp, ...]]:
    """Return ``x[index]`` for every index that the array library takes."""
    return x[index], (lambda g: backend.index_add(x.shape, index, g),)


@differentiable
def reshape(backend: Backend, x: Array, *, shape: tuple[int, ...]) -> tuple[Array, tuple[Vjp, ...]]:
    """Return `x` in another shape, in C order."""
    return x.reshape(shape), (lambda g: g.reshape(x.shape),)


@differentiable
def transpose(
    backend: Backend, x: Array, *, axes: Sequence[int] | None = None
) -> tuple[Array, tuple[Vjp, ...]]:
    """Return `x` with its axes in another order, reversed where none is given."""
    y = x.transpose(axes)
    # The inverse of an order is its argsort, once no axis is counted from the end.
    back = None if axes is None else [int(axis) for axis in np.argsort([a % x.ndim for a in axes])]
    return y, (lambda g: g.transpose(back),)


@differentiable
def cast(backend: Backend, x: Array, *, dtype: Any) -> tuple[Array, tuple[Vjp, ...]]:
    """Return `x` in another dtype."""
    return x.astype(dtype), (lambda g: g.astype(x.dtype),)


@differentiable
def transfer(backend: Backend, x: Array, *, target: Backend) -> tuple[Array, tuple[Vjp, ...]]:
    """Return `x` on another device."""
    return (
        target.asarray(backend.to_numpy(x)),
        (lambda g: backend.asarray(target.to_numpy(g)),),
    )


# ------------------------------------------------------------------------------ reductions


def _keep_axes(g: Array, x: Array, axis: Axis, keepdims: bool) -> Array:
    """Give `g` back the axes of length 1 that a reduction of `x` took away."""
    if keepdims:
        return g
    if axis is None:
        axes: Sequence[int] = range(x.ndim)
    else:
        axes = axis if isinstance(axis, Sequence) else (axis,)
    gone = {place % x.ndim for place in axes}
    return g.reshape([1 if place in gone else size for place, size in enumerate(x.shape)])


@differentiable
def sum(
    backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False
) -> tuple[Array, tuple[Vjp, ...]]:
    """Return the sum over `axis`, over all axes where it is None."""

    def vjp(g: Array) -> Array:
        return backend.xp.broadcast_to(_keep_axes(g, x, axis, keepdims), x.shape)

    return x.sum(axis=axis, keepdims=keepdims), (vjp,)


@differentiable
def mean(
    backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False
) -> tuple[Array, tuple[Vjp, ...]]:
    """Return the mean over `axis`, over all axes where it is None."""
    y = x.mean(axis=axis, keepdims=keepdims)
    count = x.size // y.size if y.size else 1

    def vjp(g: Array) -> Array:
        return backend.xp.broadcast_to(_keep_axes(g, x, axis, keepdims) / count, x.shape)

    return y, (vjp,)


@differentiable
def max(
    backend: Backend, x: Array, *, axis: Axis = None, keepdims: bool = False
) -> tuple[Array, tuple[Vjp, ...]]:
    """Return the maximum over `axis`; elements that share it share its gradient equally.

    NaN counts as the largest, as in NumPy.
    """
    y = x.max(axis=axis, keepdims=keepdims)

    def vjp(g: Array) -> Array:
        largest = (x == _keep_axes(y, x, axis, keepdims)) | (x != x)  # the latter for NaN
        count = largest.sum(axis=axis, keepdims=True).astype(x.dtype)
        return backend.xp.where(largest, _keep_axes(g, x, axis, keepdims) / count, 0)

    return y, (vjp,)


# ------------------------------------------------------------------------------ functions


@differentiable
def exp(backend: Backend, x: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return e to the power of `x`."""
    y = backend.xp.exp(x)
    return y, (lambda g: g * y,)


@differentiable
def log(backend: Backend, x: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return the natural logarithm."""
    return backend.xp.log(x), (lambda g: g / x,)


@differentiable
def clip(backend: Backend, x: Array, *, low: float, high: float) -> tuple[Array, tuple[Vjp, ...]]:
    """Return `x` held within [low, high]; outside, the gradient is 0."""
    xp = backend.xp
    return xp.clip(x, low, high), (lambda g: xp.where((x >= low) & (x <= high), g, 0),)


@differentiable
def relu(backend: Backend, x: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return the positive part of `x`; the gradient at 0 is 0."""
    y = backend.xp.maximum(x, 0)
    return y, (lambda g: backend.xp.where(y > 0, g, 0),)


@differentiable
def sigmoid(backend: Backend, x: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return 1 / (1 + exp(-x)), by a form in which nothing overflows."""
    y = backend.xp.exp(-backend.xp.logaddexp(0, -x))
    return y, (lambda g: g * y * (1 - y),)


@differentiable
def tanh(backend: Backend, x: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """Return the hyperbolic tangent."""
    y = backend.xp.tanh(x)
    return y, (lambda g: g * (1 - y * y),)


@differentiable
def softmax(backend: Backend, x: Array, *, axis: int = -1) -> tuple[Array, tuple[Vjp, ...]]:
    """Return exp(x) divided by its sum over `axis`."""
    e = backend.xp.exp(x - x.max(axis=axis, keepdims=True))
    y = e / e.sum(axis=axis, keepdims=True)
    return y, (lambda g: y * (g - (g * y).sum(axis=axis, keepdims=True)),)


@differentiable
def log_softmax(backend: Backend, x: Array, *, axis: int = -1) -> tuple[Array, tuple[Vjp, ...]]:
    """Return the logarithm of `softmax`, by a form in which nothing under- or overflows."""
    xp = backend.xp
    shifted = x - x.max(axis=axis, keepdims=True)
    y = shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))
    return y, (lambda g: g - xp.exp(y) * g.sum(axis=axis, keepdims=True),)


# ------------------------------------------------------------------------------ networks


@differentiable
def dropout(
    backend: Backend, x: Array, *, rate: float, address: Address, rescale: bool = True
) -> tuple[Array, tuple[Vjp, ...]]:
    """Return `x` with elements dropped, as ``backend.dropout`` says.

    Dropout is linear and its matrix is diagonal, so its gradient is the same call: nothing but the
    address is kept.
    """

    def apply(array: Array) -> Array:
        return backend.dropout(array, rate, address, rescale=rescale)

    return apply(x), (apply,)


@differentiable
def dense(
    backend: Backend,
    x: Array,
    weight: Array,
    bias: Array,
    *,
    activation: str = "linear",
    rate: float = 0.0,
    address: Address | None = None,
    rescale: bool = True,
) -> tuple[Array, tuple[Vjp, ...]]:
    """Return ``dropout(activation(x @ weight + bias))`` of a batch of vectors, as one op.

    What `matmul`, `add`, `relu` and `dropout` give one after the other, with less memory and time.
    """
    options: dict[str, Any] = {} if address is None else {"rate": rate, "rescale": rescale}
    y = backend.dense(x, weight, bias, activation=activation, address=address, **options)

    def undo(g: Array, g_bias: Array | None) -> tuple[Array, Array]:
        if activation == "relu":
            factor = scale(rate, y.dtype) if rescale and rate < 1 else 1.0
            return backend.bias_act_dropout_vjp(g, y, factor, g_bias)
        g_z = g if address is None else backend.dropout(g, rate, address, rescale=rescale)
        return g_z, g_z.sum(axis=0, out=g_bias)

    return y, _affine_vjps(backend, x, weight, undo)


@differentiable
def dense_cross_entropy(
    backend: Backend, x: Array, weight: Array, bias: Array, *, labels: Array, sums: Array
) -> tuple[Array, tuple[Vjp, ...]]:
    """Return the mean of -log softmax(x @ weight + bias) at the labels, as one op.

    What `dense`, `sparse_cross_entropy` and `mean` give one after the other, and besides how many
    labels have the largest logit: `sums`, of shape (2,), is filled with both.
    """
    z = backend.matmul(x, weight)
    backend.cross_entropy(z, bias, labels, sums)

    def undo(g: Array, g_bias: Array | None) -> tuple[Array, Array]:
        return backend.cross_entropy_vjp(g, z, bias, labels, g_bias)

    return sums[0], _affine_vjps(backend, x, weight, undo)


def _affine_vjps(
    backend: Backend,
    x: Array,
    weight: Array,
    undo: Callable[[Array, Array | None], tuple[Array, Array]],
) -> tuple[Vjp, ...]:
    """Return the VJPs of an op that begins with ``x @ weight + bias``.

    ``undo(g, g_bias)`` goes back to there: it returns the gradients for the product and for the
    bias, the latter in `g_bias` where that is given.
    """
    g_product: Array = None  # computed for the first input that asks, and shared by all three

    def vjp_bias(g: Array, out: Array | None = None) -> Array:
        nonlocal g_product
        g_product, g_bias = undo(g, out)
        return g_bias

    def vjp_weight(g: Array, out: Array | None = None) -> Array:
        if g_product is None:
            vjp_bias(g)
        return backend.matmul(x, g_product, transpose_a=True, out=out)

    def vjp_x(g: Array) -> Array:
        if g_product is None:
            vjp_bias(g)
        return backend.matmul(g_product, weight, transpose_b=True)

    return vjp_x, takes_out(vjp_weight), takes_out(vjp_bias)


@differentiable
def sparse_cross_entropy(
    backend: Backend, logits: Array, *, labels: Array
) -> tuple[Array, tuple[Vjp, ...]]:
    """Return -log softmax(logits) at the labels: shape ``logits.shape[:-1]``, the classes last."""
    xp = backend.xp
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_sum = xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    chosen = xp.take_along_axis(shifted, labels[..., None], axis=-1)

    def vjp(g: Array) -> Array:
        probabilities = xp.exp(shifted - log_sum)
        one_hot = xp.arange(logits.shape[-1]) == labels[..., None]
        return xp.where(one_hot, probabilities - 1, probabilities) * g[..., None]

    return (log_sum - chosen)[..., 0], (vjp,)
