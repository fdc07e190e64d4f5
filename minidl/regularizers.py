"""Penalties on weights, which are terms of the loss."""

from typing import Any

from minidl.arguments import Number, Shown, choose, undefined
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply

__all__ = ["L1", "L1L2", "L2", "Regularizer", "get", "l1", "l1_l2", "l2"]


class Regularizer(Shown):
    """Penalty on a weight; a subclass defines ``__call__``.

    `fit` and `evaluate` add it to the loss of each batch, and report the sum. A frozen weight has
    no penalty. A loop written by hand adds the model's `losses`. On the CPU, steps with
    penalties are not recorded.

    Examples
    --------
    >>> class Mean(Regularizer):
    ...     def __call__(self, weight):
    ...         return 0.1 * weight.mean()
    >>> from minidl import layers
    >>> layer = layers.Dense(2, kernel_initializer="ones", kernel_regularizer=Mean())
    >>> y = layer(Tensor([[1.0, 2.0, 3.0]]))
    >>> [round(term.item(), 6) for term in layer.losses]
    [0.1]
    """

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the penalty on a weight, a scalar."""
        undefined(self, "__call__(self, weight)")


class L1L2(Regularizer):
    """Penalty of `l1` times the sum of absolute values, and `l2` times the sum of squares.

    The gradient of the absolute value at 0 is 0.

    Parameters
    ----------
    l1, l2 : float
        0 or above.

    Examples
    --------
    >>> L1L2(l1=0.5, l2=2.0)(Tensor([1.0, -3.0])).item()
    22.0
    """

    l1: Any = Number("[0, inf)")
    l2: Any = Number("[0, inf)")

    def __init__(self, l1: float = 0.0, l2: float = 0.0):
        self.l1, self.l2 = l1, l2

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the penalty on a weight."""
        return apply(ops.penalty, weight, l1=self.l1, l2=self.l2)


class L1(L1L2):
    """Penalty of `l1` times the sum of absolute values (Tibshirani, JRSS B 58, 1996)."""

    def __init__(self, l1: float = 0.01):
        super().__init__(l1=l1)


class L2(L1L2):
    """Penalty of `l2` times the sum of squares (Krogh & Hertz, NIPS 1991, with l2 = lambda / 2)."""

    def __init__(self, l2: float = 0.01):
        super().__init__(l2=l2)


l1, l2, l1_l2 = L1, L2, L1L2
_NAMES: dict[str, type[Any]] = {"l1": L1, "l2": L2, "l1_l2": L1L2, "l1l2": L1L2}


def get(regularizer: str | Regularizer | None) -> Regularizer | None:
    """Return the regularizer of that name with its defaults, or the given one; None stays None.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the names.
    """
    return None if regularizer is None else choose("regularizer", regularizer, Regularizer, _NAMES)
