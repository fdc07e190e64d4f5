"""Uncertainty: the spread of a network's outputs with dropout."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl import notebooks


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
    predictive_entropy: np.ndarray | Any  # None is left out: editors would flag each use
    mutual_information: np.ndarray | Any

    def __repr__(self) -> str:
        """Return shapes and ranges; the arrays are the attributes."""
        ranges = (f"{name}: {shape}, {low} to {high}" for name, shape, low, _, high in self._rows())
        return f"Uncertainty({'; '.join(ranges)})"

    def _repr_html_(self) -> str:
        """Return a table of shapes and ranges, for notebooks."""
        heads = ("", "Shape", "Smallest", "Mean", "Largest")
        return notebooks.table("Uncertainty", heads, self._rows())

    def _rows(self) -> list[tuple[Any, ...]]:
        return [
            (name, array.shape, *(f"{float(f(array)):.4g}" for f in (np.min, np.mean, np.max)))
            for name, array in self._asdict().items()
            if array is not None and array.size
        ]


def of_moments(
    mean: np.ndarray, squares: np.ndarray, entropy: np.ndarray | None, draws: int, dtype: np.dtype
) -> Uncertainty:
    """Return the uncertainty of a batch from what `Backend.add_moments` added up.

    Parameters
    ----------
    mean, squares : numpy.ndarray
        The mean of the draws and the sum of their squared differences from it, float64.
    entropy : numpy.ndarray or None
        The sum of the draws' entropies; None if the outputs are no distributions.
    draws : int
        The number of draws.
    dtype : numpy.dtype
        The dtype of the results.

    Examples
    --------
    >>> mean, squares = np.array([[0.5, 0.5]]), np.array([[0.5, 0.5]])
    >>> result = of_moments(mean, squares, np.zeros(1), 2, np.dtype("float32"))
    >>> result.std
    array([[0.5, 0.5]], dtype=float32)
    >>> float(result.mutual_information[0]) == float(np.float32(np.log(2)))
    True
    """
    std = np.sqrt(squares / draws).astype(dtype)
    if entropy is None:
        return Uncertainty(mean.astype(dtype), std, None, None)
    total = _entropy(mean)
    spread = np.maximum(total - entropy / draws, 0)  # at least 0 (Jensen), up to rounding
    return Uncertainty(mean.astype(dtype), std, total.astype(dtype), spread.astype(dtype))


def joined(parts: Sequence[Uncertainty]) -> Uncertainty:
    """Return the uncertainty of several batches, one after the other."""
    columns = zip(*parts, strict=True)
    return Uncertainty(*(None if c[0] is None else np.concatenate(c) for c in columns))  # type: ignore[arg-type]


def _entropy(distribution: np.ndarray) -> np.ndarray:
    """Return -sum p log p over the last axis, where 0 log 0 is 0."""
    return -(distribution * np.log(np.where(distribution > 0, distribution, 1))).sum(axis=-1)
