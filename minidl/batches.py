"""Samples of the host: checked once, split, and cut into batches."""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

DEFAULT_SIZE = 32


@dataclass(frozen=True)
class Samples:
    """Inputs `x` and, where there are any, targets `y` and weights; axis 0 counts the samples.

    Examples
    --------
    >>> samples = Samples.checked("fit", [[1.0], [2.0], [3.0]], [0, 1, 2])
    >>> [batch.y.tolist() for batch in samples.batches(2, order=np.array([2, 0, 1]))]
    [[2, 0], [1]]
    """

    x: np.ndarray
    y: np.ndarray | None = None
    weight: np.ndarray | None = None

    @classmethod
    def checked(cls, who: str, x: Any, y: Any = None, weight: Any = None) -> "Samples":
        """Return the samples, or raise for what `who` cannot use.

        Raises
        ------
        TypeError
            If one of them does not hold numbers.
        ValueError
            If there are no samples, or the three do not agree in their number.
        """
        x = _numbers(who, "x", x)
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(f"{who}: x must hold at least one sample, received shape {x.shape}")
        if y is not None:
            y = _numbers(who, "y", y)
            if y.ndim == 0 or len(y) != len(x):
                raise ValueError(
                    f"{who}: x has {len(x)} samples and y has shape {y.shape}; they must agree"
                )
        if weight is not None:
            weight = _numbers(who, "sample_weight", weight)
            if weight.shape != (len(x),):
                raise ValueError(
                    f"{who}: sample_weight must hold one number for each of {len(x)} samples, "
                    f"received shape {weight.shape}"
                )
        return cls(x, y, weight)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> "Samples":
        parts = (self.x, self.y, self.weight)
        return Samples(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]

    def batches(self, size: int, order: np.ndarray | None = None) -> "Iterator[Samples]":
        """Give the samples in batches of `size`, the last smaller where they do not divide."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield self[rows if order is None else order[rows]]

    def split(self, share: float) -> "tuple[Samples, Samples]":
        """Return the samples to train on and, from the end, the `share` that is held out."""
        if not 0 < share < 1:
            raise ValueError(f"fit: validation_split must be in [0, 1), received {share}")
        first = math.floor(len(self) * (1 - share))
        if not 0 < first < len(self):
            raise ValueError(
                f"fit: validation_split {share} of {len(self)} samples leaves one part empty"
            )
        return self[:first], self[first:]


def _numbers(who: str, name: str, values: Any) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{who}: {name} must hold numbers, received {values.dtype}")
    return values


def checked_size(who: str, batch_size: int | None) -> int:
    """Return the batch size to use, the default where it is None; raise where it is below 1."""
    if batch_size is None:
        return DEFAULT_SIZE
    if operator.index(batch_size) < 1:
        raise ValueError(f"{who}: batch_size must be at least 1, received {batch_size}")
    return operator.index(batch_size)
