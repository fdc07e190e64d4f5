"""Constraints on weights, applied after each update."""

from typing import Any

import numpy as np

from minidl.alternatives import RefusesMethods
from minidl.arguments import Number, choose, integer
from minidl.backend import Array, Backend

__all__ = ["MaxNorm", "get"]


class MaxNorm(RefusesMethods):
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

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if a weight of `shape` has no such axis."""
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"{self!r}: expected a weight with axis {self.axis}, got {shape}.")

    def __repr__(self) -> str:
        return f"MaxNorm(max_value={self.max_value}, axis={self.axis})"

    def apply(self, weight: Array, backend: Backend) -> None:
        """Scale down in place the units whose norm is too large; the others keep their bits."""
        xp = backend.xp
        # Squares of float16 overflow above 255.
        wide = backend.widened(weight)
        norm = xp.sqrt((wide * wide).sum(axis=self.axis, keepdims=True))
        largest = min(self.max_value, float(np.finfo(wide.dtype).max))  # infinity would give NaN
        weight *= (largest / xp.maximum(norm, largest)).astype(weight.dtype)


_BY_NAME = {"max_norm": MaxNorm}


def get(constraint: str | MaxNorm | None) -> MaxNorm | None:
    """Return the constraint of that name with its defaults, or the given one; None stays None.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the names.
    """
    return None if constraint is None else choose("constraint", constraint, MaxNorm, _BY_NAME)
