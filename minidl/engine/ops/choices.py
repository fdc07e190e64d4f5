"""Operations that choose one of two elements."""

from collections.abc import Callable

from minidl.backend import Array, Backend
from minidl.engine.ops.op import Result, Vjp, differentiable

__all__ = ["maximum", "minimum", "where"]


@differentiable
def minimum(backend: Backend, a: Array, b: Array) -> Result:
    """Return the smaller of each two elements; see `maximum`."""
    return _chosen(backend, backend.xp.minimum, a, b, a > b)


@differentiable
def maximum(backend: Backend, a: Array, b: Array) -> Result:
    """Return the larger of each two elements, or NaN if one is NaN.

    As in PyTorch, equal elements share the gradient equally, and both have it beside NaN.
    """
    return _chosen(backend, backend.xp.maximum, a, b, a < b)


def _chosen(
    backend: Backend, choose: Callable[..., Array], a: Array, b: Array, a_loses: Array
) -> Result:
    xp, ties = backend.xp, a == b
    b_loses = ~(a_loses | ties | (a != a) | (b != b))  # x != x finds NaN

    def share(loses: Array) -> Vjp:
        return lambda g: xp.where(ties, g / 2, xp.where(loses, 0, g))

    return choose(a, b), (share(a_loses), share(b_loses))


@differentiable
def where(backend: Backend, a: Array, b: Array, *, condition: Array) -> Result:
    """Return `a` where the condition, an array of bool, is true, and `b` elsewhere."""
    where = backend.xp.where
    y = where(condition, a, b)
    return y, (lambda g: where(condition, g, 0), lambda g: where(condition, 0, g))
