"""Initial values of weights: each weight has its own random stream, equal on every device."""

import math
from collections.abc import Callable

import numpy as np

from minidl import rng
from minidl.alternatives import RefusesMethods
from minidl.arguments import choose, undefined

__all__ = [
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Zeros",
    "get",
]


class Initializer(RefusesMethods):
    """Initial values of a weight; a subclass defines `draw`.

    Parameters
    ----------
    seed : int, optional
        The seed of the draw. If None, the seed of the model is used.
    """

    seed: int | None = None  # also here, for subclasses that do not call __init__
    is_random = False  # whether `draw` depends on the seed

    def __init__(self, *, seed: int | None = None):
        if seed is not None:
            seed = rng.checked_integer(f"{type(self).__name__}: seed", seed, 2**64)
        self.seed = seed

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if a weight of `shape` cannot be initialised so."""

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


class VarianceScaling(Initializer):
    """Random values whose variance depends on the weight's fan-in and fan-out.

    The last axis of a weight counts its outputs, the axis before it its inputs. The axes before
    these two are a receptive field, as in Keras: their product multiplies both. A weight with one
    axis has its length as fan-in and fan-out, and a 0-d weight has 1.
    """

    is_random = True
    distribution: Callable[..., np.ndarray]

    @staticmethod
    def variance(fan_in: int, fan_out: int) -> float:
        """Return the variance for a fan-in and a fan-out, of which both may be 0."""
        raise NotImplementedError

    def draw(self, shape: tuple[int, ...], *, seed: int, stream: int) -> np.ndarray:
        """Return values with mean 0 and this variance."""
        fan_in, fan_out = _fans(shape)
        variance = self.variance(fan_in, fan_out)
        return type(self).distribution(shape, variance, seed=seed, stream=stream)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the fan-in and the fan-out of a weight."""
    *field, inputs, outputs = shape if len(shape) > 1 else shape * 2 or (1, 1)
    size = math.prod(field)
    return size * inputs, size * outputs


def _uniform(shape: tuple[int, ...], variance: float, *, seed: int, stream: int) -> np.ndarray:
    return rng.initial_uniform(shape, math.sqrt(3.0 * variance), seed=seed, stream=stream)


def _normal(shape: tuple[int, ...], variance: float, *, seed: int, stream: int) -> np.ndarray:
    return rng.initial_truncated_normal(shape, math.sqrt(variance), seed=seed, stream=stream)


class _Glorot(VarianceScaling):
    @staticmethod
    def variance(fan_in: int, fan_out: int) -> float:
        """Return 1 / the mean of both: Glorot & Bengio, AISTATS 2010, equation 12."""
        return 1 / max(1, (fan_in + fan_out) / 2)


class _He(VarianceScaling):
    @staticmethod
    def variance(fan_in: int, fan_out: int) -> float:
        """Return 2 / fan-in: He et al., ICCV 2015, equation 10."""
        return 2 / max(1, fan_in)


class _Lecun(VarianceScaling):
    @staticmethod
    def variance(fan_in: int, fan_out: int) -> float:
        """Return 1 / fan-in: LeCun et al., "Efficient BackProp", 1998, equation 16."""
        return 1 / max(1, fan_in)


class GlorotUniform(_Glorot):
    """Uniform values within sqrt(6 / (fan-in + fan-out)) of 0.

    Examples
    --------
    >>> weights = GlorotUniform().draw((2, 4), seed=0, stream=2**31 + 1)
    >>> bool((abs(weights) < 1).all())
    True
    """

    distribution = _uniform


class GlorotNormal(_Glorot):
    """Normal values, cut at two sigma, with variance 2 / (fan-in + fan-out)."""

    distribution = _normal


class HeUniform(_He):
    """Uniform values within sqrt(6 / fan-in) of 0."""

    distribution = _uniform


class HeNormal(_He):
    """Normal values, cut at two sigma, with variance 2 / fan-in."""

    distribution = _normal


class LecunUniform(_Lecun):
    """Uniform values within sqrt(3 / fan-in) of 0."""

    distribution = _uniform


class LecunNormal(_Lecun):
    """Normal values, cut at two sigma, with variance 1 / fan-in: those that selu needs."""

    distribution = _normal


_BY_NAME: dict[str, type[Initializer]] = {
    "zeros": Zeros,
    "ones": Ones,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LecunUniform,
    "lecun_normal": LecunNormal,
}


def get(initializer: str | Initializer) -> Initializer:
    """Return the initializer of that name, or the given one.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the names.
    """
    return choose("initializer", initializer, Initializer, _BY_NAME)
