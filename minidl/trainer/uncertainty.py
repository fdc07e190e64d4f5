"""Uncertainty: the spread of a network's outputs with dropout."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from minidl import rng
from minidl.batches import Batch
from minidl.engine.tensor import Tensor


class Uncertainty(NamedTuple):
    """Mean, spread and entropies of many outputs with dropout, for each sample.

    Gal & Ghahramani, ICML 2016, equations 6 and 7 without the noise of the data; Gal, "Uncertainty
    in deep learning", thesis, Cambridge 2016, section 3.3.1, for the entropies, in nats.

    Attributes
    ----------
    mean, std : numpy.ndarray
        Mean and standard deviation of the outputs, in their shape.
    predictive_entropy : numpy.ndarray or None
        The entropy of the mean distribution over the classes, shape (samples, ...): the total
        uncertainty. None if the outputs are not those of a softmax.
    mutual_information : numpy.ndarray or None
        The predictive entropy minus the mean entropy of the single outputs: the uncertainty of the
        model, on which the outputs disagree. The members of an ensemble disagree only if each
        was trained with another seed.
    """

    mean: np.ndarray
    std: np.ndarray
    predictive_entropy: np.ndarray | None
    mutual_information: np.ndarray | None


def of_outputs(
    outputs: Callable[[Batch], Tensor], batches: Iterable[Batch], draws: int, dtype: np.dtype
) -> Uncertainty:
    """Return the uncertainty of `draws` outputs with dropout for each sample of the batches.

    Parameters
    ----------
    outputs : callable
        Returns the model's outputs for a batch.
    batches : iterable of Batch
        Consecutive batches; a sample's row among all of them is its address in each draw.
    draws : int
        The number of outputs to draw.
    dtype : numpy.dtype
        The dtype of the results.
    """
    parts: list[Uncertainty] = []
    first = 0
    for batch in batches:
        moments = Moments()
        for draw in range(draws):
            with rng.monte_carlo(sample=draw, row_offset=first):
                y = outputs(batch)
            moments.add(y.numpy(), is_distribution=y.logits is not None)
        parts.append(moments.result(dtype))
        first += len(batch.x)
    columns = zip(*parts, strict=True)
    joined = (None if column[0] is None else np.concatenate(column) for column in columns)
    return Uncertainty(*joined)  # type: ignore[arg-type]


class Moments:
    """Running mean and variance of a batch's outputs (Welford, Technometrics 4, 1962).

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
        """Return the uncertainty of the draws, in `dtype`."""
        total = spread = None
        if self._are_distributions:
            total = _entropy(self._mean)
            # At least 0 (Jensen), up to rounding.
            spread = np.maximum(total - self._entropy / self._count, 0).astype(dtype)
            total = total.astype(dtype)
        std = np.sqrt(self._squares / self._count)
        return Uncertainty(self._mean.astype(dtype), std.astype(dtype), total, spread)


def _entropy(distribution: np.ndarray) -> np.ndarray:
    """Return -sum p log p over the last axis, where 0 log 0 is 0."""
    return -(distribution * np.log(np.where(distribution > 0, distribution, 1))).sum(axis=-1)
