"""Initial values of weights: each weight has its own random stream, equal on every device."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from minidl_kernels.checks import check_choice

from minidl import rng
from minidl.alternatives import RefusesMethods
from minidl.arguments import Number, Shown, choose, optional, snake_case, undefined

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "get",
]


class Initializer(Shown, RefusesMethods):
    """Initial values of a weight; a subclass defines `draw`.

    Parameters
    ----------
    seed : int, optional
        The seed of the draw. If None, the seed of the model is used.
    """

    seed: int | None = None  # also here, for subclasses that do not call __init__
    is_random = False  # whether `draw` depends on the seed

    def __init__(self, *, seed: int | None = None):
        who = type(self).__name__
        self.seed = optional(rng.checked_integer, f"{who}: seed", seed, 2**64)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if a weight of `shape` does not fit the initializer."""

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return float64 values of `shape` that depend only on the arguments."""
        undefined(self, "draw(self, shape, *, seed, stream)")


class Zeros(Initializer):
    """Zeros, the usual initial values of a bias."""

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return zeros."""
        return np.zeros(shape)


class Ones(Initializer):
    """Ones."""

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return ones."""
        return np.ones(shape)


class Constant(Initializer):
    """One value everywhere.

    Parameters
    ----------
    value : float
        The value.

    Examples
    --------
    >>> Constant(0.5).draw((2,), seed=0, stream=0)
    array([0.5, 0.5])
    """

    value: Any = Number("(-inf, inf)")

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.value = value

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return the value everywhere."""
        return np.full(shape, self.value)


class RandomUniform(Initializer):
    """Uniform values.

    Parameters
    ----------
    minval, maxval : float
        The bounds of the values; `maxval` is not below `minval`.
    seed : int, optional
        As in `Initializer`.
    """

    is_random = True
    minval: Any = Number("(-inf, inf)")
    maxval: Any = Number("(-inf, inf)")

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, *, seed: int | None = None):
        super().__init__(seed=seed)
        self.minval, self.maxval = minval, maxval
        if maxval < minval:
            raise ValueError(
                f"{type(self).__name__}: expected maxval of {minval} or above, got {maxval}. Swap "
                "the bounds."
            )

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return values between the bounds."""
        middle, limit = (self.maxval + self.minval) / 2, (self.maxval - self.minval) / 2
        return middle + rng.initial_uniform(shape, limit, seed=seed, stream=stream)


class RandomNormal(Initializer):
    """Normal values, which are not cut.

    Parameters
    ----------
    mean, stddev : float
        The mean, and the standard deviation, 0 or above.
    seed : int, optional
        As in `Initializer`.
    """

    is_random = True
    mean: Any = Number("(-inf, inf)")
    stddev: Any = Number("[0, inf)")

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, *, seed: int | None = None):
        super().__init__(seed=seed)
        self.mean, self.stddev = mean, stddev

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return values with this mean and this standard deviation."""
        return self.mean + rng.initial_normal(shape, self.stddev, seed=seed, stream=stream)


class TruncatedNormal(RandomNormal):
    """Normal values, cut at two standard deviations.

    Parameters
    ----------
    mean, stddev : float
        The mean, and the standard deviation before the cut, 0 or above.
    seed : int, optional
        As in `Initializer`.
    """

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return values at most two standard deviations from the mean."""
        after_cut = self.stddev * rng.TRUNCATED_SIGMA
        return self.mean + rng.initial_truncated_normal(shape, after_cut, seed=seed, stream=stream)


_MODES: dict[str, Callable[[float, float], float]] = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
}
# The square of the numbers' parameter at variance 1, and the function that draws them.
_DISTRIBUTIONS: dict[str, tuple[float, Callable[..., np.ndarray]]] = {
    "truncated_normal": (1.0, rng.initial_truncated_normal),
    "untruncated_normal": (1.0, rng.initial_normal),
    "uniform": (3.0, rng.initial_uniform),
}


class VarianceScaling(Initializer):
    """Random values with mean 0, whose variance is `scale` / n for the fan n of the weight.

    The last axis of a weight counts its outputs, the axis before it its inputs. The axes before
    these two are a receptive field, as in Keras: their product multiplies both. A weight with one
    axis has its length as fan-in and fan-out, and a 0-d weight has 1. A fan of 0 counts as 1.

    Parameters
    ----------
    scale : float
        Above 0.
    mode : {"fan_in", "fan_out", "fan_avg"}
        The meaning of n: the number of inputs, that of outputs, or the mean of both.
    distribution : {"truncated_normal", "untruncated_normal", "uniform"}
        The first is cut at two sigma and has this variance after the cut.
    seed : int, optional
        As in `Initializer`.

    Examples
    --------
    >>> weights = VarianceScaling(1.0, "fan_avg", "uniform").draw((2, 4), seed=0, stream=0)
    >>> bool((weights == GlorotUniform().draw((2, 4), seed=0, stream=0)).all())
    True
    """

    is_random = True
    scale: Any = Number("(0, inf)")

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        *,
        seed: int | None = None,
    ):
        super().__init__(seed=seed)
        self.scale, self.mode, self.distribution = scale, mode, distribution
        check_choice(type(self).__name__, "mode", mode, _MODES)
        check_choice(type(self).__name__, "distribution", distribution, _DISTRIBUTIONS)

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return values with mean 0 and this variance."""
        variance = self.scale / max(1, _MODES[self.mode](*_fans(shape)))
        square, draw = _DISTRIBUTIONS[self.distribution]
        return draw(shape, math.sqrt(square * variance), seed=seed, stream=stream)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the fan-in and the fan-out of a weight."""
    *field, inputs, outputs = shape if len(shape) > 1 else shape * 2 or (1, 1)
    size = math.prod(field)
    return size * inputs, size * outputs


class _Preset(VarianceScaling):
    """Values whose scale, mode and distribution have a name of their own."""

    _arguments: tuple[float, str, str]

    def __init__(self, *, seed: int | None = None):
        super().__init__(*self._arguments, seed=seed)


class GlorotUniform(_Preset):
    """Uniform values within sqrt(6 / (fan-in + fan-out)) of 0.

    Glorot & Bengio, AISTATS 2010, equation 12.

    Examples
    --------
    >>> weights = GlorotUniform().draw((2, 4), seed=0, stream=2**31 + 1)
    >>> bool((abs(weights) < 1).all())
    True
    """

    _arguments = 1.0, "fan_avg", "uniform"


class GlorotNormal(_Preset):
    """Normal values, cut at two sigma, with variance 2 / (fan-in + fan-out).

    Glorot & Bengio, AISTATS 2010, equation 12.
    """

    _arguments = 1.0, "fan_avg", "truncated_normal"


class HeUniform(_Preset):
    """Uniform values within sqrt(6 / fan-in) of 0.

    He et al., ICCV 2015, equation 10.
    """

    _arguments = 2.0, "fan_in", "uniform"


class HeNormal(_Preset):
    """Normal values, cut at two sigma, with variance 2 / fan-in.

    He et al., ICCV 2015, equation 10.
    """

    _arguments = 2.0, "fan_in", "truncated_normal"


class LecunUniform(_Preset):
    """Uniform values within sqrt(3 / fan-in) of 0.

    LeCun et al., "Efficient BackProp", 1998, equation 16.
    """

    _arguments = 1.0, "fan_in", "uniform"


class LecunNormal(_Preset):
    """Normal values, cut at two sigma, with variance 1 / fan-in: those that selu needs.

    LeCun et al., "Efficient BackProp", 1998, equation 16.
    """

    _arguments = 1.0, "fan_in", "truncated_normal"


_KINDS: tuple[type[Initializer], ...] = (
    *(Zeros, Ones, Constant, RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling),
    *(GlorotUniform, GlorotNormal, HeUniform, HeNormal, LecunUniform, LecunNormal),
)
_BY_NAME = {snake_case(kind.__name__): kind for kind in _KINDS}


def get(initializer: str | Initializer) -> Initializer:
    """Return the initializer of that name, or the given one.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the names.
    """
    return choose("initializer", initializer, Initializer, _BY_NAME)
