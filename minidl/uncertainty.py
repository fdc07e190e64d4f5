"""How sure a network is: the spread of its outputs with dropout."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Uncertainty(NamedTuple):
    """What many outputs with dropout say of each sample.

    Gal & Ghahramani, ICML 2016, equations 6 and 7 without the noise of the data; Gal, "Uncertainty
    in deep learning", thesis, Cambridge 2016, section 3.3.1, for the entropies, here in nats.

    Attributes
    ----------
    mean, std : numpy.ndarray
        Of the outputs, with their shape.
    predictive_entropy : numpy.ndarray or None
        Of the mean distribution over the classes, shape (samples, ...): how unsure the network is
        for any reason. None where the outputs do not come from a softmax.
    mutual_information : numpy.ndarray or None
        That entropy less the mean entropy of the single outputs: how unsure it is because it knows
        too little, so that its outputs disagree.
    """

    mean: np.ndarray
    std: np.ndarray
    predictive_entropy: np.ndarray | None
    mutual_information: np.ndarray | None

    @classmethod
    def joined(cls, parts: "Sequence[Uncertainty]") -> "Uncertainty":
        """Put together what was computed for batches."""
        columns = zip(*parts, strict=True)
        return cls(*(None if c[0] is None else np.concatenate(c) for c in columns))  # type: ignore[arg-type]


class Moments:
    """Add up outputs of one batch, one draw after the other (Welford, Technometrics 4, 1962).

    Examples
    --------
    >>> moments = Moments()
    >>> for output in ([[1.0, 0.0]], [[0.0, 1.0]]):
    ...     moments.add(np.array(output), is_distribution=True)
    >>> result = moments.result(np.dtype("float32"))
    >>> result.mean, result.std
    (array([[0.5, 0.5]], dtype=float32), array([[0.5, 0.5]], dtype=float32))
    >>> float(result.mutual_information[0]) == float(np.float32(np.log(2)))
    True
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = self._entropy = np.zeros(())
        self._are_distributions = True

    def add(self, outputs: np.ndarray, *, is_distribution: bool) -> None:
        """Add the outputs of one draw."""
        outputs = outputs.astype("float64")
        self._count += 1
        difference = outputs - self._mean
        self._mean = self._mean + difference / self._count
        self._squares = self._squares + difference * (outputs - self._mean)
        self._are_distributions &= is_distribution
        if self._are_distributions:
            self._entropy = self._entropy + _entropy(outputs)

    def result(self, dtype: np.dtype) -> Uncertainty:
        """Return what the draws say, in `dtype`."""
        total = spread = None
        if self._are_distributions:
            total = _entropy(self._mean)
            # It is 0 or above (Jensen), but for rounding.
            spread = np.maximum(total - self._entropy / self._count, 0).astype(dtype)
            total = total.astype(dtype)
        std = np.sqrt(self._squares / self._count)
        return Uncertainty(self._mean.astype(dtype), std.astype(dtype), total, spread)


def _entropy(distribution: np.ndarray) -> np.ndarray:
    """Return -sum p log p over the last axis, 0 log 0 being 0."""
    return -(distribution * np.log(np.where(distribution > 0, distribution, 1))).sum(axis=-1)
