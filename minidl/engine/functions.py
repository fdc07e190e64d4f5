"""Functions of several tensors."""

from collections.abc import Sequence
from typing import Any

from minidl.arguments import as_list
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply, as_operands


def minimum(a: Any, b: Any) -> Tensor:
    """Return the smaller of each two elements, of tensors or numbers, or NaN if one is NaN.

    Equal elements share the gradient equally.

    Examples
    --------
    >>> minimum(Tensor([1.0, 3.0]), 2.0)
    Tensor([1., 2.], dtype=float32)
    """
    return apply(ops.minimum, a, b)


def maximum(a: Any, b: Any) -> Tensor:
    """Return the larger of each two elements, of tensors or numbers; see `minimum`.

    Examples
    --------
    >>> maximum(Tensor([1.0, 3.0]), 2.0)
    Tensor([2., 3.], dtype=float32)
    """
    return apply(ops.maximum, a, b)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """Return the elements of `a` where the condition is not 0, and those of `b` elsewhere.

    Parameters
    ----------
    condition : Tensor or array_like
        It has no gradient.
    a, b : Tensor, array or number
        At least one is a tensor. All three broadcast.

    Examples
    --------
    >>> x = Tensor([-1.0, 2.0])
    >>> where(x > 0, x, 0.0)
    Tensor([0., 2.], dtype=float32)
    """
    backend, (condition, *_) = as_operands("where", (condition, a, b))
    with backend.active:
        is_true = backend.xp.asarray(condition) != 0
    return apply(ops.where, a, b, condition=is_true)


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Return tensors joined along `axis`, in which alone their shapes may differ.

    Examples
    --------
    >>> concatenate([Tensor([[1.0]]), Tensor([[2.0, 3.0]])], axis=1)
    Tensor([[1., 2., 3.]], dtype=float32)
    """
    return apply(ops.concatenate, *_tensors("concatenate", tensors), axis=axis)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Return tensors of one shape, joined along a new axis.

    Examples
    --------
    >>> stack([Tensor([1.0, 2.0]), Tensor([3.0, 4.0])], axis=1)
    Tensor([[1., 3.],
            [2., 4.]], dtype=float32)
    """
    return concatenate([each.expand_dims(axis) for each in _tensors("stack", tensors)], axis)


def _tensors(who: str, values: Any) -> list[Tensor]:
    """Return the elements of a sequence of tensors, or raise TypeError."""
    tensors = as_list(who, "tensors", values)
    for each in tensors:
        if not isinstance(each, Tensor):
            raise TypeError(f"{who}: expected tensors, got a {type(each).__name__}. Use Tensor.")
    return tensors
