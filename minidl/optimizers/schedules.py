"""Schedules of the learning rate, or of a dropout rate: functions of the number of updates."""

import math
from collections.abc import Iterable
from typing import Any

from minidl.alternatives import keras_defaults
from minidl.arguments import Number, as_list, finite, number, shown_arguments, undefined, written

__all__ = [
    "CosineDecay",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
]

RATE = "a finite number, 0 or above"


def as_rate(value: Any) -> float | None:
    """Return a number or a 0-d array as a learning rate, or None if it is not a valid one.

    A learning rate of 0 is valid: the weights stay as they are.
    """
    if type(value) is float and 0 <= value < math.inf:  # the usual case, at each step
        return value
    rate = finite(value)
    return rate if rate is not None and rate >= 0 else None


def returned_rate(who: str, value: Any, when: str) -> float:
    """Return a learning rate that `who` returned, or raise ValueError if it is invalid."""
    rate = as_rate(value)
    if rate is None:
        raise ValueError(
            f"{who}: expected it to return {RATE}, got {value!r} for {when}. Correct its "
            "formula or its arguments."
        )
    return rate


class LearningRateSchedule:
    """Learning rate as a function of the update; a subclass defines ``__call__``.

    The rate may grow, as in Keras. An update whose rate overflows, or is otherwise invalid, raises
    ValueError and changes nothing.
    """

    def __repr__(self) -> str:
        """Return the constructor's arguments that are not at their defaults, if they are kept."""
        try:
            return written(self, shown_arguments(self))
        except (AttributeError, TypeError, ValueError):  # a user's class may keep others
            return super().__repr__()

    def __call__(self, step: int) -> float:
        """Return the learning rate of update `step`: finite, 0 or above. The first step is 0."""
        undefined(self, "__call__(self, step)")


class _PeriodicDecay(LearningRateSchedule):
    """Decay by a rate in each period of `decay_steps` updates."""

    initial_learning_rate: Any = Number("[0, inf)", keeps_int=True)
    decay_steps: Any = Number("(0, inf)", keeps_int=True)
    decay_rate: Any = Number("[0, inf)", keeps_int=True)

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.decay_rate = decay_rate
        self.staircase = staircase

    def periods(self, step: int) -> float:
        """Return the number of periods that have passed, rounded down with `staircase`."""
        return step // self.decay_steps if self.staircase else step / self.decay_steps


@keras_defaults(name="ExponentialDecay")
class ExponentialDecay(_PeriodicDecay):
    """Multiplication by `decay_rate` in every `decay_steps` updates, in steps if `staircase`.

    Parameters
    ----------
    initial_learning_rate : float
        The learning rate of the first update.
    decay_steps : int
        The length of a period, above 0.
    decay_rate : float
        The factor of a period, 0 or above.
    staircase : bool
        Whether the learning rate is constant within a period.

    Examples
    --------
    >>> ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)(20)
    0.025
    """

    def __call__(self, step: int) -> float:
        """Return initial * decay_rate ** (step / decay_steps)."""
        return self.initial_learning_rate * self.decay_rate ** self.periods(step)


@keras_defaults(name="InverseTimeDecay")
class InverseTimeDecay(_PeriodicDecay):
    """Division by 1 + `decay_rate` * step / `decay_steps`.

    Parameters
    ----------
    initial_learning_rate, decay_steps, decay_rate, staircase
        As in `ExponentialDecay`.

    Examples
    --------
    >>> InverseTimeDecay(0.1, decay_steps=10, decay_rate=1.0)(10)
    0.05
    """

    def __call__(self, step: int) -> float:
        """Return initial / (1 + decay_rate * step / decay_steps)."""
        return self.initial_learning_rate / (1 + self.decay_rate * self.periods(step))


@keras_defaults(name="PiecewiseConstant")
class PiecewiseConstantDecay(LearningRateSchedule):
    """Constant values: ``values[i]`` up to and including step ``boundaries[i]``, then the last.

    Parameters
    ----------
    boundaries : sequence of int
        The last step of each value but the last.
    values : sequence of float
        One more than boundaries.

    Raises
    ------
    TypeError, ValueError
        If an element is not a number, or the numbers of boundaries and values do not fit.

    Examples
    --------
    >>> [PiecewiseConstantDecay([2], [0.1, 0.01])(step) for step in (0, 2, 3)]
    [0.1, 0.1, 0.01]
    """

    def __init__(self, boundaries: Iterable[int], values: Iterable[float]):
        who = "PiecewiseConstantDecay"
        boundaries = as_list(who, "boundaries", boundaries)
        values = as_list(who, "values", values)
        for boundary in boundaries:
            number(who, "boundaries", boundary, "(-inf, inf)")
        for value in values:
            number(who, "values", value, "[0, inf)")
        if len(values) != len(boundaries) + 1:
            expected = f"{len(boundaries) + 1} values for {len(boundaries)} boundaries"
            raise ValueError(
                f"PiecewiseConstantDecay: expected {expected}, got {len(values)}. Pass one value "
                "more than boundaries."
            )
        self.boundaries = boundaries
        self.values = values

    def __call__(self, step: int) -> float:
        """Return the value of the interval that holds `step`."""
        return self.values[sum(step > boundary for boundary in self.boundaries)]


@keras_defaults(name="CosineDecay", warmup_target=None, warmup_steps=0)
class CosineDecay(LearningRateSchedule):
    """Half a cosine from the initial value to `alpha` times it, in `decay_steps` updates.

    Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5, without restarts.

    Parameters
    ----------
    initial_learning_rate : float
        The learning rate of the first update.
    decay_steps : int
        The number of updates until the minimum, above 0.
    alpha : float
        The minimum, as a fraction of the initial learning rate.

    Examples
    --------
    >>> round(CosineDecay(0.1, decay_steps=10)(5), 6)
    0.05
    """

    initial_learning_rate: Any = Number("[0, inf)", keeps_int=True)
    decay_steps: Any = Number("(0, inf)", keeps_int=True)
    alpha: Any = Number("[0, inf)", keeps_int=True)

    def __init__(self, initial_learning_rate: float, decay_steps: int, alpha: float = 0.0):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.alpha = alpha

    def __call__(self, step: int) -> float:
        """Return the learning rate; after `decay_steps` it is constant."""
        cosine = (1 + math.cos(math.pi * min(step / self.decay_steps, 1.0))) / 2
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


@keras_defaults(name="PolynomialDecay")
class PolynomialDecay(LearningRateSchedule):
    """Polynomial from the initial value to `end_learning_rate`, in `decay_steps` updates.

    Parameters
    ----------
    initial_learning_rate : float
        The learning rate of the first update.
    decay_steps : int
        The number of updates until the end, above 0.
    end_learning_rate : float
        The last value, 0 or above. It may be larger than the first.
    power : float
        The degree, 0 or above: 1 is a straight line.
    cycle : bool
        Whether to begin anew after the end, each time with `decay_steps` more updates until the
        next end.

    Examples
    --------
    >>> PolynomialDecay(0.1, decay_steps=10, end_learning_rate=0.0)(5)
    0.05

    As a dropout rate that grows from 0 (Morerio et al., "Curriculum dropout", ICCV 2017, grows it
    by an exponential):

    >>> from minidl import layers
    >>> layers.Dropout(PolynomialDecay(0.0, 10, 0.5)).rate_at(5)
    0.25
    """

    initial_learning_rate: Any = Number("[0, inf)", keeps_int=True)
    decay_steps: Any = Number("(0, inf)", keeps_int=True)
    end_learning_rate: Any = Number("[0, inf)", keeps_int=True)
    power: Any = Number("[0, inf)", keeps_int=True)

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.end_learning_rate = end_learning_rate
        self.power = power
        self.cycle = cycle

    def __call__(self, step: int) -> float:
        """Return (initial - end) * (1 - step / decay_steps) ** power + end."""
        periods = max(1, math.ceil(step / self.decay_steps)) if self.cycle else 1
        left = 1 - min(step / (self.decay_steps * periods), 1)
        difference = self.initial_learning_rate - self.end_learning_rate
        return difference * left**self.power + self.end_learning_rate
