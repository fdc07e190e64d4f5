"""Operations of networks: dropout, dense layers, normalisation and cross-entropy.

They are fused if a kernel exists.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from minidl_kernels.mask_contract import scale as dropout_scale

from minidl.backend import Array, Backend
from minidl.engine.ops.op import Arrays, JointVjp, Result, differentiable, made_of_kernels
from minidl.rng import Address

__all__ = [
    "affine_dropout",
    "binary_cross_entropy",
    "dense",
    "dense_cross_entropy",
    "dropout",
    "noise",
    "sparse_cross_entropy",
    "standardize",
]


@differentiable
@made_of_kernels
def dropout(
    backend: Backend, x: Array, *, rate: float, address: Address, rescale: bool = True
) -> Result:
    """Return `x` with dropped elements, as ``backend.dropout`` computes it.

    Dropout is linear and its matrix is diagonal, so the gradient is the same call with the same
    address. No mask is kept.
    """

    def apply(array: Array) -> Array:
        return backend.dropout(array, rate, address, rescale=rescale)

    return apply(x), (apply,)


@differentiable
@made_of_kernels
def affine_dropout(
    backend: Backend,
    x: Array,
    *,
    rate: float,
    address: Address,
    noise_shape: tuple[int, ...],
    scale: float,
    shift: float = -0.0,
    dropped: float = 0.0,
) -> Result:
    """Return ``x * scale + shift`` where elements are kept, and `dropped` elsewhere.

    The decisions are those of an array of `noise_shape`. Elements share one along an axis of length
    1 there, and `x` broadcasts to longer ones. The gradient draws the same mask: none is kept.
    """
    shape = np.broadcast_shapes(x.shape, noise_shape)
    has_own_shape = shape == x.shape

    def select(array: Array, *numbers: float, out: Array | None = None) -> Array:
        keep = backend.keep_factors(noise_shape, rate, address, array.dtype)
        return backend.select(array, keep, *numbers, out=out)

    def vjp(g: Array, wanted: Sequence[bool], out: Arrays) -> Arrays:
        writes_out = has_own_shape and g.dtype in Backend.KERNEL_TYPES
        return (select(g, scale, out=out[0] if writes_out else None),)

    y = select(x if has_own_shape else backend.xp.broadcast_to(x, shape), scale, shift, dropped)
    return y, vjp


@differentiable
@made_of_kernels
def noise(
    backend: Backend, x: Array, *, sigma: float, address: Address, is_factor: bool = False
) -> Result:
    """Return x + sigma n, or x (1 + sigma n), as ``backend.noise`` computes it.

    The gradient of the second is the same call with the same address. No noise is kept.
    """

    def apply(array: Array) -> Array:
        return backend.noise(array, sigma, address, is_factor=is_factor)

    return apply(x), (apply if is_factor else lambda g: g,)


@differentiable
@made_of_kernels
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
) -> Result:
    """Return ``dropout(activation(x @ weight + bias))`` of a batch of vectors, fused.

    It equals `matmul`, `add`, `relu` and `dropout` in sequence, with less memory and time. A rate
    above 0 needs an address.
    """
    y = backend.dense(
        x, weight, bias, activation=activation, rate=rate, address=address, rescale=rescale
    )

    def vjp_affine(g: Array, g_bias: Array | None) -> tuple[Array, Array]:
        if activation == "relu":
            factor = 1.0 if rate == 1 else dropout_scale(rate, y.dtype, rescale)
            return backend.bias_act_dropout_vjp(g, y, factor, g_bias)
        backend.not_recorded("a dense layer without relu adds up the gradient of its bias")
        g_z = g if address is None else backend.dropout(g, rate, address, rescale=rescale)
        return g_z, g_z.sum(axis=0, out=g_bias)

    return y, _affine_vjp(backend, x, weight, vjp_affine)


@differentiable
@made_of_kernels
def dense_cross_entropy(
    backend: Backend, x: Array, weight: Array, bias: Array, *, labels: Array, sums: Array
) -> Result:
    """Return the mean of -log softmax(x @ weight + bias) at the labels, fused.

    It equals `dense`, `sparse_cross_entropy` and `mean` in sequence. It also fills `sums`, of shape
    (2,), with that mean and the number of rows whose label has the largest logit.
    """
    z = backend.matmul(x, weight)
    backend.cross_entropy(z, bias, labels, sums)

    def vjp_affine(g: Array, g_bias: Array | None) -> tuple[Array, Array]:
        return backend.cross_entropy_vjp(g, z, bias, labels, g_bias)

    return sums[0], _affine_vjp(backend, x, weight, vjp_affine)


def _affine_vjp(
    backend: Backend,
    x: Array,
    weight: Array,
    vjp_affine: Callable[[Array, Array | None], tuple[Array, Array]],
) -> JointVjp:
    """Return the joint VJP of an operation that begins with ``x @ weight + bias``.

    ``vjp_affine(g, g_bias)`` returns the gradients of the product and of the bias. It writes the
    latter to `g_bias` if that is given.
    """

    def vjp(g: Array, wanted: Sequence[bool], out: Arrays) -> Arrays:
        g_product, g_bias = vjp_affine(g, out[2])
        return (
            backend.matmul(g_product, weight, transpose_b=True, out=out[0]) if wanted[0] else None,
            backend.matmul(x, g_product, transpose_a=True, out=out[1]) if wanted[1] else None,
            g_bias if wanted[2] else None,
        )

    return vjp


@differentiable
def sparse_cross_entropy(backend: Backend, logits: Array, *, labels: Array) -> Result:
    """Return -log softmax(logits) at the labels.

    The last axis of `logits` is the classes; the result has shape ``logits.shape[:-1]``.
    """
    xp = backend.xp
    wide = backend.widened(logits)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    log_sum = xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    chosen = xp.take_along_axis(shifted, labels[..., None], axis=-1)

    def vjp(g: Array) -> Array:
        probabilities = xp.exp(shifted - log_sum)
        one_hot = xp.arange(logits.shape[-1]) == labels[..., None]
        g_wide = xp.where(one_hot, probabilities - 1, probabilities) * g[..., None]
        return g_wide.astype(logits.dtype, copy=False)

    return (log_sum - chosen)[..., 0].astype(logits.dtype, copy=False), (vjp,)


@differentiable
def binary_cross_entropy(backend: Backend, logits: Array, *, targets: Array) -> Result:
    """Return -t log p - (1 - t) log(1 - p) for p = sigmoid(logits), without log(0).

    `targets` has the shape of `logits`. The gradient is p - t.
    """
    xp = backend.xp
    z, t = backend.widened(logits), backend.widened(targets)
    y = xp.maximum(z, 0) - z * t + xp.log1p(xp.exp(-xp.abs(z)))

    def vjp(g: Array) -> Array:
        p = xp.exp(-xp.logaddexp(0, -z))
        return (g * (p - t)).astype(logits.dtype, copy=False)

    return y.astype(logits.dtype, copy=False), (vjp,)


@differentiable
def standardize(
    backend: Backend,
    x: Array,
    *,
    axis: tuple[int, ...],
    epsilon: float,
    moments: Array | None = None,
) -> Result:
    """Return (x - mean) / sqrt(variance + epsilon), with mean and variance over `axis`.

    The variance is the mean of the squared differences from the mean. If `moments` is given, of
    shape (2, means), it is filled with the means and the variances. The gradient is that of Ioffe &
    Szegedy, ICML 2015, section 3, in one formula.
    """
    xp = backend.xp
    count = math.prod(x.shape[place] for place in axis) or 1

    def mean(array: Array) -> Array:
        return backend.sum(array, axis, keepdims=True) / count

    wide = xp.ascontiguousarray(backend.widened(x))  # for sums whose order is always the same
    center = mean(wide)
    shifted = wide - center
    variance = mean(shifted * shifted)
    inverse = 1 / xp.sqrt(variance + epsilon)
    y = shifted * inverse
    if moments is not None:
        moments[0], moments[1] = center.ravel(), variance.ravel()

    def vjp(g: Array) -> Array:
        g = backend.widened(g)
        return (inverse * (g - mean(g) - y * mean(g * y))).astype(x.dtype, copy=False)

    return y.astype(x.dtype, copy=False), (vjp,)
