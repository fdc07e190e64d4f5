"""Constraints on weights, applied after each update."""

from typing import Any

import numpy as np

from minidl.alternatives import RefusesMethods
from minidl.arguments import Number, Shown, choose, integer, undefined
from minidl.backend import Array, Backend

__all__ = ["Constraint", "MaxNorm", "NonNeg", "UnitNorm", "get"]


class Constraint(Shown, RefusesMethods):
    """Constraint on a weight; a subclass defines `apply`."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if the constraint does not fit a weight of `shape`."""

    def apply(self, weight: Array, backend: Backend) -> None:
        """Change the weight in place, after an update."""
        undefined(self, "apply(self, weight, backend)")


class NonNeg(Constraint):
    """Weights of 0 or above: negative ones become 0."""

    def apply(self, weight: Array, backend: Backend) -> None:
        """Replace negative weights by 0 in place."""
        weight[...] = backend.xp.maximum(weight, 0)


class _OfUnits(Constraint):
    """Constraint on the weights of each unit, along an axis."""

    axis: int

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if a weight of `shape` has no such axis."""
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"{self!r}: expected a weight with axis {self.axis}, got {shape}.")

    def _norms(self, weight: Array, backend: Backend) -> Array:
        """Return the norm of each unit, in float32 at least."""
        # Squares of float16 overflow above 255.
        wide = backend.widened(weight)
        return backend.xp.sqrt((wide * wide).sum(axis=self.axis, keepdims=True))


class MaxNorm(_OfUnits):
    """Upper bound on the norm of the weights into each unit.

    Srivastava et al. (JMLR 15, 2014) report that dropout gains most from it (section 5.1), with
    `max_value` between 3 and 4 (appendix A).

    Parameters
    ----------
    max_value : float
        The largest Euclidean norm, above 0.
    axis : int
        The axis over which the norm is computed; 0 is the inputs of a unit of `Dense`.

    Raises
    ------
    TypeError, ValueError
        If `max_value` is not a number, or not above 0 and finite, or `axis` is not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> from minidl.backend import get_backend
    >>> weight = np.array([[3.0, 0.1], [4.0, 0.1]])
    >>> MaxNorm(1.0).apply(weight, get_backend("cpu"))
    >>> weight
    array([[0.6, 0.1],
           [0.8, 0.1]])
    """

    max_value: Any = Number("(0, inf)")

    def __init__(self, max_value: float = 2.0, axis: int = 0):
        self.max_value = max_value
        self.axis = integer("MaxNorm: axis", axis)

    def apply(self, weight: Array, backend: Backend) -> None:
        """Scale down in place the units whose norm is too large; the others keep their bits."""
        norm = self._norms(weight, backend)
        largest = min(self.max_value, float(np.finfo(norm.dtype).max))  # infinity would give NaN
        weight *= (largest / backend.xp.maximum(norm, largest)).astype(weight.dtype)


class UnitNorm(_OfUnits):
    """Norm of 1 for the weights into each unit: they are divided by their norm, plus 1e-7.

    Parameters
    ----------
    axis : int
        The axis over which the norm is computed; 0 is the inputs of a unit of `Dense`.
    """

    def __init__(self, axis: int = 0):
        self.axis = integer("UnitNorm: axis", axis)

    def apply(self, weight: Array, backend: Backend) -> None:
        """Divide the weights by the norms of their units, in place."""
        weight[...] = weight / (self._norms(weight, backend) + 1e-7)


_BY_NAME: dict[str, type[Any]] = {"max_norm": MaxNorm, "non_neg": NonNeg, "unit_norm": UnitNorm}


def get(constraint: str | Constraint | None) -> Constraint | None:
    """Return the constraint of that name with its defaults, or the given one; None stays None.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the names.
    """
    return None if constraint is None else choose("constraint", constraint, Constraint, _BY_NAME)
