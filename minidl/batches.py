"""Samples of the host, checked and split, and the batches that a device makes of them."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minidl.autograd import Tensor, refuse_masked
from minidl.backend import Array, Backend

LABELS_AS_NUMBERS = "; number them: classes, y = np.unique(y, return_inverse=True), all y at once"
CHECKED_BYTES = 2**22  # read for a checksum of x, of y or of the weights, in milliseconds


@dataclass(frozen=True)
class Samples:
    """Inputs `x` and, where there are any, targets `y` and weights; axis 0 counts the samples.

    Examples
    --------
    >>> len(Samples.checked("fit", [[1.0], [2.0], [3.0]], [0, 1, 2]))
    3
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
            If one of them does not hold numbers, or is a masked array.
        ValueError
            If there are no samples, they differ in shape, or the three do not agree in their
            number.
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
            if weight.shape == (len(x), 1):
                weight = weight[:, 0]
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

    def checksum(self) -> int:
        """Return a number below 2**32 that tells these samples from others.

        It is the CRC-32 of shapes, dtypes and numbers. Of an array above 4 MiB, which may be a
        mapped file, about 4 MiB are read: every k-th row.
        """
        total = 0
        for part in (self.x, self.y, self.weight):
            if part is not None:
                rows = part[:: max(1, math.ceil(part.nbytes / CHECKED_BYTES))]
                total = zlib.crc32(f"{part.shape} {part.dtype.str}".encode(), total)
                total = zlib.crc32(np.ascontiguousarray(rows).data, total)
        return total

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
    refuse_masked(f"{who}: {name}", values)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{who}: {name} must be an array of numbers, received {type(values).__name__} whose "
            "items differ in shape; give them one shape, for instance by padding"
        ) from error
    if array.dtype.kind not in "fiub":
        are_labels = name == "y" and array.size and isinstance(array.flat[0], str)
        raise TypeError(
            f"{who}: {name} must be an array of numbers, received {type(values).__name__} "
            f"of {array.dtype}" + LABELS_AS_NUMBERS * are_labels
        )
    return array


class Batch(NamedTuple):
    """Some of the samples, on the device."""

    x: Tensor
    y: Tensor | None
    weight: Tensor | None


class Feed:
    """Samples where the device reads them, which gathers, casts and scales each batch itself.

    Parameters
    ----------
    samples : Samples
        They are kept on the device, in their own dtype, unless they are too large for it.
    backend : Backend
        The device.
    dtype : numpy.dtype
        The floating dtype of the inputs in a batch.
    scale, offset : float
        Each input is multiplied by `scale`, then `offset` is added.
    flat : bool
        Whether inputs have one axis besides that of the batch.

    Examples
    --------
    >>> from minidl.backend import get_backend
    >>> samples = Samples.checked("fit", np.array([[10], [20], [30]], "uint8"), [0, 1, 2])
    >>> feed = Feed(samples, get_backend("cpu"), np.dtype("float32"), scale=0.1)
    >>> [batch.x.numpy().tolist() for batch in feed.batches(2, order=np.array([2, 0, 1]))]
    [[[3.0], [1.0]], [[2.0]]]
    """

    def __init__(
        self,
        samples: Samples,
        backend: Backend,
        dtype: np.dtype,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        flat: bool = False,
    ):
        self._count = len(samples)
        self._backend = backend
        self._x = backend.dataset_array(samples.x)
        self._y = None if samples.y is None else backend.asarray(samples.y)
        self._weight = None if samples.weight is None else backend.asarray(samples.weight)
        self._dtype, self._scale, self._offset = dtype, scale, offset
        self._flat = flat

    def __len__(self) -> int:
        return self._count

    def batches(self, size: int, order: np.ndarray | None = None) -> Iterator[Batch]:
        """Give the samples in batches of `size`, the last smaller where they do not divide."""
        order = np.arange(self._count) if order is None else order
        order_on_device = self._backend.asarray(order)
        for start in range(0, len(order), size):
            rows = slice(start, start + size)
            with self._backend.active:
                batch = self._batch(order[rows], order_on_device[rows])
            yield batch

    def _batch(self, rows: np.ndarray, rows_on_device: Array) -> Batch:
        backend, x, y = self._backend, self._x, self._y
        chosen = rows_on_device
        if not backend.is_array(x):  # too large for the device: these rows go there now
            x = backend.asarray(np.ascontiguousarray(x[rows]))
            chosen = backend.xp.arange(len(rows))
        are_labels = y is not None and y.ndim == 1 and y.dtype.kind in "iu"
        labels = y if are_labels and chosen is rows_on_device else None
        x, y_chosen = backend.gather(
            x, chosen, self._dtype, scale=self._scale, offset=self._offset, labels=labels
        )
        if self._flat:
            x = x.reshape(len(x), math.prod(x.shape[1:]))
        if y is not None and y_chosen is None:
            y_chosen = y[rows_on_device]
        weight = None if self._weight is None else self._weight[rows_on_device]
        return Batch(
            Tensor.of(x, backend),
            None if y_chosen is None else Tensor.of(y_chosen, backend),
            None if weight is None else Tensor.of(weight, backend),
        )
