"""Where weights start: each weight is drawn from its own stream, the same bits on every device."""

import math
from collections.abc import Callable

import numpy as np

from minidl import rng
from minidl.by_name import choose


class Initializer:
    """Draw the first values of a weight; subclass it and give `draw`.

    Parameters
    ----------
    seed : int, optional
        The seed of the draw; the model's where it is None.
    """

    seed: int | None = None  # here as well, for subclasses that do not call __init__

    def __init__(self, *, seed: int | None = None):
        self.seed = seed

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return float64 values of `shape` that depend on nothing but the arguments."""
        raise NotImplementedError


class Zeros(Initializer):
    """All zero: the usual start of a bias."""

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return zeros."""
        return np.zeros(shape)


class Ones(Initializer):
    """All one."""

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return ones."""
        return np.ones(shape)


class VarianceScaling(Initializer):
    """Draw with variance scale / n, n the number of units that feed or are fed by a unit.

    The last axis of a weight counts the units it feeds (fan out), the others those it reads (fan
    in). The subclasses are the two cases in use.
    """

    scale: float
    distribution: Callable[..., np.ndarray]

    @staticmethod
    def count(fan_in: int, fan_out: int) -> float:
        """Return n."""
        raise NotImplementedError

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return values of mean 0 and variance scale / n."""
        if len(shape) < 2:
            raise ValueError(
                f"{type(self).__name__}: expected a weight with at least two axes, received shape "
                f"{shape}; use Zeros or Ones"
            )
        fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
        variance = self.scale / max(1.0, self.count(fan_in, fan_out))
        return type(self).distribution(shape, variance, seed=seed, stream=stream)


def _uniform(shape: tuple[int, ...], variance: float, *, seed: int, stream: int) -> np.ndarray:
    return rng.uniform(shape, math.sqrt(3.0 * variance), seed=seed, stream=stream)


def _normal(shape: tuple[int, ...], variance: float, *, seed: int, stream: int) -> np.ndarray:
    return rng.truncated_normal(shape, math.sqrt(variance), seed=seed, stream=stream)


class _Glorot(VarianceScaling):
    scale = 1.0

    @staticmethod
    def count(fan_in: int, fan_out: int) -> float:
        """Return the mean of both fans: Glorot & Bengio, AISTATS 2010, equation 12."""
        return (fan_in + fan_out) / 2


class _He(VarianceScaling):
    scale = 2.0

    @staticmethod
    def count(fan_in: int, fan_out: int) -> float:
        """Return the fan in: He et al., ICCV 2015, equation 10."""
        return fan_in


class GlorotUniform(_Glorot):
    """Uniform within sqrt(6 / (fan in + fan out)) of 0.

    Examples
    --------
    >>> weights = GlorotUniform().draw((2, 4), seed=0, stream=2**31 + 1)
    >>> bool((abs(weights) < 1).all())
    True
    """

    distribution = _uniform


class GlorotNormal(_Glorot):
    """Normal, cut at two sigma, variance 2 / (fan in + fan out)."""

    distribution = _normal


class HeUniform(_He):
    """Uniform within sqrt(6 / fan in) of 0."""

    distribution = _uniform


class HeNormal(_He):
    """Normal, cut at two sigma, variance 2 / fan in."""

    distribution = _normal


_BY_NAME: dict[str, type[Initializer]] = {
    "zeros": Zeros,
    "ones": Ones,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
}


def get(initializer: str | Initializer) -> Initializer:
    """Return the initializer of that name, or the one given.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.
    """
    return choose("initializer", initializer, Initializer, _BY_NAME)
