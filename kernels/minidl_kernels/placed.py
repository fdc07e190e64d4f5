"""Numbers that lie on the device, too, so that they can change between the runs of a recorded step.

A kernel that gets a plain number keeps its value when it is recorded. From a placed number it gets
the place instead, and reads the number there, each time it runs.
"""

from typing import Any


class PlacedInt(int):
    """An integer, and the array of one element in which kernels read it.

    Parameters
    ----------
    value : int
        The number in this run.
    place : array
        uint32, one element, on the device.

    Examples
    --------
    >>> import numpy as np
    >>> step = PlacedInt(7, np.array([7], "uint32"))
    >>> step + 1, place_of(step), place_of(7)
    (8, array([7], dtype=uint32), None)
    """

    place: Any

    def __new__(cls, value: int, place: Any) -> "PlacedInt":
        self = super().__new__(cls, value)
        self.place = place
        return self


class PlacedFloat(float):
    """A float, and the array of one element in which kernels read it, of the kernels' dtype."""

    place: Any

    def __new__(cls, value: float, place: Any) -> "PlacedFloat":
        self = super().__new__(cls, value)
        self.place = place
        return self


def place_of(number: Any) -> Any:
    """Return the array in which kernels read this number, or None if it is a plain number."""
    return getattr(number, "place", None)
