"""Schedules of the learning rate, or of a dropout rate: functions of the number of updates."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from minidl.alternatives import keras_defaults
from minidl.arguments import Number, Shown, as_list, finite, number, undefined

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
]

RATE = "a finite number, 0 or above"
LearningRate = float | Callable[[int], float]
"""A number, a `LearningRateSchedule`, or another function of the update."""


def as_rate(value: Any) -> float | None:
    """Return a number or a 0-d array as a learning rate, or None if it is not a valid one.

    A learning rate of 0 is valid: the weights stay as they are.
    """
    if type(value) is float and 0 <= value < math.inf:  # the usual case, at each step
        return value
    rate = finite(value)
    return rate if rate is not None and rate >= 0 else None


def name_of(schedule: Callable[[int], float]) -> str:
    """Return the name of a function, or of the class of a schedule."""
    return getattr(schedule, "__name__", type(schedule).__name__)


def returned_rate(who: str, value: Any, when: str) -> float:
    """Return a learning rate that `who` returned, or raise ValueError if it is invalid."""
    rate = as_rate(value)
    if rate is None:
        raise ValueError(
            f"{who}: expected it to return {RATE}, got {value!r} for {when}. Correct its "
            "formula or its arguments."
        )
    return rate


class LearningRateSchedule(Shown):
    """Learning rate as a function of the update; a subclass defines ``__call__``.

    The rate may grow, as in Keras. An update whose rate overflows, or is otherwise invalid, raises
    ValueError and changes nothing.
    """

    def __call__(self, step: int) -> float:
        """Return the learning rate of update `step`: finite, 0 or above. The first step is 0."""
        undefined(self, "__call__(self, step)")


class _Decay(LearningRateSchedule):
    """A learning rate that falls; a subclass has some of these arguments."""

    initial_learning_rate: Any = Number("[0, inf)", keeps_int=True)
    decay_steps: Any = Number("(0, inf)", keeps_int=True)
    alpha: Any = Number("[0, inf)", keeps_int=True)


class _PeriodicDecay(_Decay):
    """Decay by a rate in each period of `decay_steps` updates."""

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
        self.boundaries = as_list(who, "boundaries", boundaries)
        self.values = as_list(who, "values", values)
        for boundary in self.boundaries:
            number(who, "boundaries", boundary, "(-inf, inf)")
        for value in self.values:
            number(who, "values", value, "[0, inf)")
        limits = len(self.boundaries)
        if len(self.values) != limits + 1:
            raise ValueError(
                f"{who}: expected {limits + 1} values for {limits} boundaries, got "
                f"{len(self.values)}. Pass one value more than boundaries."
            )

    def __call__(self, step: int) -> float:
        """Return the value of the interval that holds `step`."""
        return self.values[sum(step > boundary for boundary in self.boundaries)]


def _half_cosine(fraction: float) -> float:
    """Return half a cosine: 1 for a fraction of 0, 0 for one of 1."""
    return (1 + math.cos(math.pi * fraction)) / 2


@keras_defaults(name="CosineDecay")
class CosineDecay(_Decay):
    """Half a cosine from the initial value to `alpha` times it, in `decay_steps` updates.

    Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5, without restarts. With `warmup_target`, the
    learning rate first grows in a straight line to this value, in `warmup_steps` updates. The
    cosine begins there.

    Parameters
    ----------
    initial_learning_rate : float
        The learning rate of the first update.
    decay_steps : int
        The number of updates of the cosine, above 0.
    alpha : float
        The minimum, as a fraction of the value at which the cosine begins.
    warmup_target : float, optional
        The value after the warm-up, 0 or above; None for no warm-up.
    warmup_steps : int
        The number of updates of the warm-up.

    Examples
    --------
    >>> round(CosineDecay(0.1, decay_steps=10)(5), 6)
    0.05
    >>> warm = CosineDecay(0.0, decay_steps=10, warmup_target=0.1, warmup_steps=4)
    >>> [round(warm(step), 6) for step in (0, 2, 4, 9, 14)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """

    warmup_target: Any = Number("[0, inf)", or_none=True, keeps_int=True)
    warmup_steps: Any = Number("[0, inf)", keeps_int=True)

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        *,
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ):
        self.initial_learning_rate, self.alpha = initial_learning_rate, alpha
        self.decay_steps = decay_steps
        self.warmup_target, self.warmup_steps = warmup_target, warmup_steps
        if warmup_steps and warmup_target is None:
            raise ValueError(
                f"CosineDecay: expected warmup_target with warmup_steps={warmup_steps}, got None. "
                "Pass the learning rate after the warm-up."
            )

    def __call__(self, step: int) -> float:
        """Return the learning rate; after the cosine it is constant."""
        first, target = self.initial_learning_rate, self.warmup_target
        if target is not None:
            if step < self.warmup_steps:
                return first + (target - first) * (step / self.warmup_steps)
            first, step = target, step - self.warmup_steps
        cosine = _half_cosine(min(step / self.decay_steps, 1.0))
        return first * ((1 - self.alpha) * cosine + self.alpha)


@keras_defaults(name="SGDRDecay")
class CosineDecayRestarts(_Decay):
    """Half cosines, each from a maximum to `alpha` times the initial learning rate.

    Loshchilov & Hutter, "SGDR", ICLR 2017, section 3.

    Parameters
    ----------
    initial_learning_rate : float
        The learning rate of the first update.
    first_decay_steps : int
        The number of updates of the first cosine, above 0.
    t_mul : float
        The number of updates of each cosine, relative to the one before; 1 or above.
    m_mul : float
        The maximum of each cosine, relative to the one before; 0 or above.
    alpha : float
        The minimum, as a fraction of the initial learning rate.

    Examples
    --------
    >>> rate = CosineDecayRestarts(0.1, first_decay_steps=10, m_mul=0.5)
    >>> [round(rate(step), 6) for step in (0, 5, 10, 20, 30)]
    [0.1, 0.05, 0.05, 0.025, 0.025]
    """

    first_decay_steps: Any = Number("(0, inf)", keeps_int=True)
    t_mul: Any = Number("[1, inf)", keeps_int=True)
    m_mul: Any = Number("[0, inf)", keeps_int=True)

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
    ):
        self.initial_learning_rate, self.alpha = initial_learning_rate, alpha
        self.first_decay_steps, self.t_mul, self.m_mul = first_decay_steps, t_mul, m_mul

    def __call__(self, step: int) -> float:
        """Return the learning rate of the cosine that holds `step`."""
        length = self.first_decay_steps
        restarts, left = divmod(step, length) if self.t_mul == 1 else (0, step)
        while left >= length:
            restarts, left, length = restarts + 1, left - length, length * self.t_mul
        cosine = self.m_mul**restarts * _half_cosine(left / length)
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


@keras_defaults(name="PolynomialDecay")
class PolynomialDecay(_Decay):
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
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.end_learning_rate, self.power, self.cycle = end_learning_rate, power, cycle

    def __call__(self, step: int) -> float:
        """Return (initial - end) * (1 - step / decay_steps) ** power + end."""
        periods = max(1, math.ceil(step / self.decay_steps)) if self.cycle else 1
        left = 1 - min(step / (self.decay_steps * periods), 1)
        difference = self.initial_learning_rate - self.end_learning_rate
        return difference * left**self.power + self.end_learning_rate
