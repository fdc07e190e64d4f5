"""What a weight must satisfy after each update."""

from minidl.backend import Array, Backend
from minidl.by_name import choose


class MaxNorm:
    """Keep the weights into each unit within a ball.

    Srivastava et al. (JMLR 15, 2014) found it to help dropout most (section 5.1), with `max_value`
    between 3 and 4 (appendix A).

    Parameters
    ----------
    max_value : float
        The largest Euclidean norm, above 0.
    axis : int
        The axis over which the norm is taken; 0 is the inputs of a `Dense` layer's unit.

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

    def __init__(self, max_value: float = 2.0, axis: int = 0):
        if not max_value > 0:
            raise ValueError(f"MaxNorm: max_value must be above 0, received {max_value}")
        self.max_value = float(max_value)
        self.axis = axis

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError where a weight of that shape has no such axis."""
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"{self!r}: a weight of shape {shape} has no axis {self.axis}")

    def __repr__(self) -> str:
        return f"MaxNorm(max_value={self.max_value}, axis={self.axis})"

    def apply(self, weight: Array, backend: Backend) -> None:
        """Scale down, in place, what is too long; leave the rest bit for bit."""
        xp = backend.xp
        # Squares of float16 overflow above 255.
        wide = weight.astype("float32") if weight.dtype == "float16" else weight
        norm = xp.sqrt((wide * wide).sum(axis=self.axis, keepdims=True))
        weight *= (self.max_value / xp.maximum(norm, self.max_value)).astype(weight.dtype)


_BY_NAME = {"max_norm": MaxNorm}


def get(constraint: str | MaxNorm | None) -> MaxNorm | None:
    """Return the constraint of that name with its defaults, or the one given; None is none.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.
    """
    return None if constraint is None else choose("constraint", constraint, MaxNorm, _BY_NAME)
