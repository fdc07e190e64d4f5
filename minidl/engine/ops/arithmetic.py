"""Arithmetic: sums, products, powers, roots and matrix products."""

from collections.abc import Sequence

from minidl.backend import Array, Backend
from minidl.engine.ops.op import Arrays, Result, differentiable

__all__ = ["abs", "add", "divide", "matmul", "multiply", "negative", "power", "sqrt", "subtract"]


@differentiable
def add(backend: Backend, a: Array, b: Array) -> Result:
    """Return ``a + b``."""
    return a + b, (lambda g: g, lambda g: g)


@differentiable
def subtract(backend: Backend, a: Array, b: Array) -> Result:
    """Return ``a - b``."""
    return a - b, (lambda g: g, lambda g: -g)


@differentiable
def multiply(backend: Backend, a: Array, b: Array) -> Result:
    """Return ``a * b``."""
    return a * b, (lambda g: g * b, lambda g: g * a)


@differentiable
def divide(backend: Backend, a: Array, b: Array) -> Result:
    """Return ``a / b``."""
    y = a / b
    return y, (lambda g: g / b, lambda g: -g * y / b)


@differentiable
def power(backend: Backend, a: Array, b: Array) -> Result:
    """Return ``a ** b``.

    The gradients are those of PyTorch. For `a` it is 0 where b is 0, even if a is 0, infinite or
    NaN. For `b` it is 0 where a is 0 and b at least 0, and NaN where a is negative.
    """
    xp = backend.xp
    y = a**b

    def vjp_base(g: Array) -> Array:
        is_constant = xp.asarray(b) == 0
        powers = xp.where(is_constant, 1, a) ** xp.where(is_constant, 1, b - 1).astype(a.dtype)
        return g * b * powers

    def vjp_exponent(g: Array) -> Array:
        is_constant = (xp.asarray(a) == 0) & (xp.asarray(b) >= 0)
        return g * y * xp.where(is_constant, 0, xp.log(xp.where(is_constant, 1, a)))

    return y, (vjp_base, vjp_exponent)


@differentiable
def sqrt(backend: Backend, x: Array) -> Result:
    """Return the square root; the gradient at 0 is infinite."""
    y = backend.xp.sqrt(x)
    return y, (lambda g: g / (2 * y),)


@differentiable
def abs(backend: Backend, x: Array) -> Result:
    """Return the absolute value; the gradient at 0 is 0."""
    return backend.xp.abs(x), (lambda g: g * backend.xp.sign(x),)


@differentiable
def negative(backend: Backend, x: Array) -> Result:
    """Return ``-x``."""
    return -x, (lambda g: -g,)


@differentiable
def matmul(backend: Backend, a: Array, b: Array) -> Result:
    """Return ``a @ b``: the product of matrices, stacks of matrices, or vectors."""
    if a.ndim == b.ndim == 2 and a.dtype == b.dtype:

        def vjp(g: Array, wanted: Sequence[bool], out: Arrays) -> Arrays:
            return (
                backend.matmul(g, b, transpose_b=True, out=out[0]) if wanted[0] else None,
                backend.matmul(a, g, transpose_a=True, out=out[1]) if wanted[1] else None,
            )

        return backend.matmul(a, b), vjp
    # As in NumPy, a vector on the left is one row and a vector on the right is one column.
    rows = a[None, :] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b

    def as_matrix(g: Array) -> Array:
        g = g[..., None] if b.ndim == 1 else g
        return g[..., None, :] if a.ndim == 1 else g

    def vjp_a(g: Array) -> Array:
        return backend.matmul(as_matrix(g), columns.swapaxes(-1, -2))

    def vjp_b(g: Array) -> Array:
        product = backend.matmul(rows.swapaxes(-1, -2), as_matrix(g))
        return product[..., 0] if b.ndim == 1 else product

    return backend.matmul(a, b), (vjp_a, vjp_b)
