"""Numbers that also lie on a device.

A recorded step runs again without Python, so a number that Python passed to a kernel stays the
same. A number that changes is placed: it has a value for Python, and a place in memory, from which
kernels read it. Arithmetic with it returns ordinary numbers, which stay the same.
"""

from collections.abc import Sequence
from typing import Any


class NotRecorded(Exception):
    """Some work cannot be recorded; the message says why. None of it was done."""


class PlacedInt(int):
    """An integer that also lies in memory of a device.

    Parameters
    ----------
    value : int
        The number.
    place : array
        Where kernels read it: shape (1,), uint32.

    Examples
    --------
    >>> import numpy as np
    >>> step = PlacedInt(3, place=np.array([3], "uint32"))
    >>> step + 1, step.place
    (4, array([3], dtype=uint32))
    """

    place: Any

    def __new__(cls, value: int, place: Any) -> "PlacedInt":
        self = super().__new__(cls, value)
        self.place = place
        return self


class PlacedFloat(float):
    """A real number that also lies in memory of a device.

    Parameters
    ----------
    value : float
        The number.
    place : array
        Where kernels read it: shape (1,), of the dtype of the arrays that they compute with.
    """

    place: Any

    def __new__(cls, value: float, place: Any) -> "PlacedFloat":
        self = super().__new__(cls, value)
        self.place = place
        return self


class MovingRate(float):
    """The rate of one step, with the numbers that kernels take for it; they may be placed.

    Parameters
    ----------
    rate : float
        In [0, 1).
    numbers : sequence
        Of a layer that drops: the threshold of `mask_contract.threshold` and the factor of a kept
        element. Other layers may have other numbers.

    Examples
    --------
    >>> rate = MovingRate(0.5, (2**31, 2.0))
    >>> rate * 2, rate.numbers
    (1.0, (2147483648, 2.0))
    """

    numbers: Sequence[Any]

    def __new__(cls, rate: float, numbers: Sequence[Any]) -> "MovingRate":
        self = super().__new__(cls, rate)
        self.numbers = numbers
        return self


def keeps_all(rate: float) -> bool:
    """Return whether a rate is 0 for good: nothing is dropped, and no kernel needs to run.

    A `MovingRate` of 0 may be another in the next replay of what is recorded now.

    Examples
    --------
    >>> keeps_all(0.0), keeps_all(MovingRate(0.0, (0, 1.0)))
    (True, False)
    """
    return rate == 0 and not isinstance(rate, MovingRate)


def place_of(number: Any) -> Any:
    """Return the place of a placed number, or None.

    Examples
    --------
    >>> place_of(3) is None
    True
    """
    return getattr(number, "place", None)
