"""Learning rates that change with the number of updates; public as ``optimizers.schedules``."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

RATE = "a number, 0 or above and finite"


def as_rate(value: Any) -> float | None:
    """Return a number, or an array without axes, as a learning rate; None where it can be none.

    With 0 weights stay as they are.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    return float(value) if isinstance(value, Real) and 0 <= float(value) < math.inf else None


def returned_rate(who: str, value: Any, when: str) -> float:
    """Return the learning rate that `who` returned, or raise ValueError where it is none."""
    rate = as_rate(value)
    if rate is None:
        raise ValueError(f"{who} must return {RATE}, received {value!r} for {when}")
    return rate


class LearningRateSchedule:
    """Give the learning rate of an update; subclass it and give ``__call__``."""

    def __call__(self, step: int) -> float:
        """Return the learning rate of update `step`, 0 or above and finite; the first is 0."""
        raise NotImplementedError


class _PeriodicDecay(LearningRateSchedule):
    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive_steps(self, decay_steps)
        self.decay_rate = decay_rate
        self.staircase = staircase

    def periods(self, step: int) -> float:
        """Return how many times `decay_steps` have gone by, whole ones with `staircase`."""
        return step // self.decay_steps if self.staircase else step / self.decay_steps


class ExponentialDecay(_PeriodicDecay):
    """Multiply by `decay_rate` every `decay_steps` updates, in between too unless `staircase`.

    Examples
    --------
    >>> ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)(20)
    0.025
    """

    def __call__(self, step: int) -> float:
        """Return initial * decay_rate ** (step / decay_steps)."""
        return self.initial_learning_rate * self.decay_rate ** self.periods(step)


class InverseTimeDecay(_PeriodicDecay):
    """Divide by 1 + `decay_rate` * step / `decay_steps`.

    Examples
    --------
    >>> InverseTimeDecay(0.1, decay_steps=10, decay_rate=1.0)(10)
    0.05
    """

    def __call__(self, step: int) -> float:
        """Return initial / (1 + decay_rate * step / decay_steps)."""
        return self.initial_learning_rate / (1 + self.decay_rate * self.periods(step))


class PiecewiseConstantDecay(LearningRateSchedule):
    """Take ``values[i]`` up to and with step ``boundaries[i]``, the last value after them.

    Examples
    --------
    >>> [PiecewiseConstantDecay([2], [0.1, 0.01])(step) for step in (0, 2, 3)]
    [0.1, 0.1, 0.01]
    """

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]):
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"PiecewiseConstantDecay: {len(boundaries)} boundaries need "
                f"{len(boundaries) + 1} values, received {len(values)}"
            )
        self.boundaries = list(boundaries)
        self.values = list(values)

    def __call__(self, step: int) -> float:
        """Return the value of the interval that holds `step`."""
        return self.values[sum(step > boundary for boundary in self.boundaries)]


class CosineDecay(LearningRateSchedule):
    """Fall along half a cosine to `alpha` times the start, in `decay_steps` updates.

    Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5, without restarts.

    Examples
    --------
    >>> round(CosineDecay(0.1, decay_steps=10)(5), 6)
    0.05
    """

    def __init__(self, initial_learning_rate: float, decay_steps: int, alpha: float = 0.0):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive_steps(self, decay_steps)
        self.alpha = alpha

    def __call__(self, step: int) -> float:
        """Return the learning rate; after `decay_steps` it stays."""
        cosine = (1 + math.cos(math.pi * min(step / self.decay_steps, 1.0))) / 2
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


def _positive_steps(schedule: LearningRateSchedule, decay_steps: int) -> int:
    if not decay_steps > 0:
        raise ValueError(
            f"{type(schedule).__name__}: decay_steps must be above 0, received {decay_steps}"
        )
    return decay_steps
