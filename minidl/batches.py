"""Data sets: checked samples on the host, and batches on the device."""

import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from minidl.arguments import integer, number, number_array
from minidl.backend import Array, Backend
from minidl.engine.tensor import Tensor
from minidl.losses.crossentropies import check_whole
from minidl.losses.outputs import fields

CHECKED_BYTES = 2**22  # read of each array for its checksum, in a few milliseconds


@dataclass(frozen=True)
class Samples:
    """Inputs `x`, and targets `y` and weights if there are any; axis 0 is the samples.

    For several outputs, `y` is a structured array with a field for each, and so may be the weights.

    Attributes
    ----------
    shortage : str
        A warning if there were fewer batches than expected: never, so it is empty.

    Examples
    --------
    >>> len(Samples.checked("fit", [[1.0], [2.0], [3.0]], [0, 1, 2]))
    3
    """

    x: np.ndarray
    y: np.ndarray | None = None
    weight: np.ndarray | None = None
    shortage: ClassVar[str] = ""

    @classmethod
    def checked(cls, who: str, x: Any, y: Any = None, weight: Any = None) -> "Samples":
        """Return the samples that `who` received.

        Raises
        ------
        TypeError
            If an array does not hold numbers, or is masked.
        ValueError
            If there are no samples, if they differ in shape, or if the arrays differ in length.
        """
        x = number_array(who, "x", x)
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(
                f"{who}: expected at least one sample in x, got shape {x.shape}. Pass an array "
                "with the samples along axis 0."
            )
        if y is not None:
            y = _rows(who, "y", y, len(x), "Pass one target for each sample.")
        if weight is not None:
            advice = "Pass one number for each sample, or for each of its losses."
            weight = _rows(who, "sample_weight", weight, len(x), advice)
            if weight.shape == (len(x), 1):
                weight = weight[:, 0]
        return cls(x, y, weight)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> "Samples":
        parts = (self.x, self.y, self.weight)
        return Samples(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]

    def steps(self, size: int) -> float:
        """Return the number of batches of `size` in an epoch."""
        return math.ceil(len(self) / size)

    def begin_epoch(self) -> bool:
        """Prepare the next epoch; return whether it has a batch."""
        return True

    def weighted_by_class(self, class_weight: Mapping[int, float]) -> "Samples":
        """Return the samples with the weights of their classes; other classes have weight 1.

        Raises
        ------
        TypeError, ValueError
            If `class_weight` does not map class numbers to weights, there are weights already, or
            a sample has more than one class.

        Examples
        --------
        >>> Samples(np.zeros((3, 1)), np.array([0, 2, 1])).weighted_by_class({2: 5.0}).weight
        array([1., 5., 1.])
        """
        if self.weight is not None:
            raise ValueError(
                "fit: expected class_weight or sample_weight, got both. Multiply the weights, and "
                "pass sample_weight."
            )
        if not isinstance(class_weight, Mapping):
            raise TypeError(
                "fit: expected class_weight to map class numbers to weights, got "
                f"{class_weight!r:.80}. Use {{0: 1.0, 1: 5.0}}."
            )
        assert self.y is not None, "checked by fit"
        labels = self.y[..., 0] if self.y.ndim > 1 and self.y.shape[-1] == 1 else self.y
        if labels.ndim == 2 and np.allclose(labels.sum(axis=1), 1):  # one-hot
            labels = labels.argmax(axis=1)
        if labels.ndim != 1 or labels.dtype.names:
            raise ValueError(
                "fit: expected y with one class for each sample to use class_weight, got shape "
                f"{self.y.shape} of {self.y.dtype}. Pass sample_weight instead."
            )
        check_whole("fit: class_weight", labels)
        weight = np.ones(len(self))
        for key, value in class_weight.items():
            label = integer("fit: class_weight: a class", key)
            weight[labels == label] = number("fit", f"class_weight[{label}]", value, "[0, inf)")
        return replace(self, weight=weight)

    def checksum(self, *, complete: bool = False) -> int:
        """Return the CRC-32 of shapes, dtypes and values.

        Of an array above 4 MiB, which may be a mapped file, every k-th row is read: about 4 MiB.
        With `complete`, all rows are read.
        """
        total = 0
        for part in (self.x, self.y, self.weight):
            if part is not None:
                every = 1 if complete else max(1, math.ceil(part.nbytes / CHECKED_BYTES))
                total = zlib.crc32(f"{part.shape} {part.dtype.str}".encode(), total)
                total = zlib.crc32(np.ascontiguousarray(part[::every]).data, total)
        return total

    def split(self, share: float) -> "tuple[Samples, Samples]":
        """Return the training samples and the validation samples, the last `share` of all.

        Raises
        ------
        ValueError
            If `share` is not in (0, 1), or one part would be empty.
        """
        if not 0 < share < 1:
            raise ValueError(
                f"fit: expected validation_split in [0, 1), got {share}. Pass a fraction, as 0.2."
            )
        first = math.floor(len(self) * (1 - share))
        if not 0 < first < len(self):
            raise ValueError(
                f"fit: expected a validation_split that leaves samples in both parts, got {share} "
                f"of {len(self)} samples. Choose another fraction, or pass validation_data."
            )
        return self[:first], self[first:]


def _rows(who: str, name: str, values: Any, count: int, advice: str) -> np.ndarray:
    """Return an array with a row for each sample, or raise TypeError or ValueError."""
    if fields(values) is values:  # not a structured array
        values = number_array(who, name, of_one(values, slice(1), (count,)))
    if values.ndim == 0 or len(values) != count:
        raise ValueError(
            f"{who}: expected {name} for {count} samples, got shape {values.shape}. {advice}"
        )
    return values


class Batch:
    """Samples of one batch, which the device gathers when they are first read.

    Parameters
    ----------
    feed : Feed
        The data set.
    order : array
        Rows of the data set, on the device: int64, shape (count,).
    start, stop : int
        The part of `order` that is the batch; without `stop`, up to its end.
    host_order : numpy.ndarray, optional
        The same as `order` on the host.

    Attributes
    ----------
    first_row : int
        The number of samples before the batch: its first row in the addresses of drawn outputs.
    """

    def __init__(
        self,
        feed: "Feed",
        order: Array,
        start: int = 0,
        stop: int | None = None,
        host_order: np.ndarray | None = None,
    ):
        self.order, self.start = order, start
        self.first_row = start
        self._stop = len(order) if stop is None else min(stop, len(order))
        self._feed, self._host_order = feed, host_order

    def __len__(self) -> int:
        return self._stop - self.start

    def part(self, first: int, stop: int) -> "Batch":
        """Return the batch of some of its samples, in [first, stop)."""
        rows = self.start + first, self.start + stop
        return Batch(self._feed, self.order, *rows, self._host_order)

    @functools.cached_property
    def _gathered(self) -> tuple[Any, ...]:
        rows = slice(self.start, self._stop)
        host_rows = None if self._host_order is None else self._host_order[rows]
        return self._feed.gather(self.order[rows], host_rows)

    @functools.cached_property
    def x(self) -> Tensor:
        """The inputs."""
        return self._gathered[0]

    @functools.cached_property
    def y(self) -> Any:
        """The targets: a tensor, a list of them for several outputs, or None."""
        return self._gathered[1]

    @functools.cached_property
    def weight(self) -> Any:
        """The weights, likewise."""
        return self._gathered[2]


class Feed:
    """Source of batches: the device gathers, casts and scales the samples of each batch.

    Parameters
    ----------
    samples : Samples
        The data set. It stays on the device in its own dtype, unless it is too large.
    backend : Backend
        The device.
    dtype : numpy.dtype
        The floating dtype of the inputs in a batch.
    scale, offset : float
        Inputs are multiplied by `scale`, then `offset` is added.
    flat : bool
        Whether inputs are flattened to one axis beside the batch.

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
        self._backend = backend
        self._x = backend.dataset_array(samples.x)
        self._y = for_each(backend.asarray, fields(samples.y))
        self._weight = for_each(backend.asarray, fields(samples.weight))
        self._labels = None  # class numbers, which are gathered together with x
        y = samples.y
        is_one = y is not None and y.ndim == 1 and y.dtype.kind in "iu"
        if is_one and backend.is_array(self._x):
            self._labels, self._y = self._y, None
        self._dtype, self._scale, self._offset = dtype, scale, offset
        self._flat = flat

    def __len__(self) -> int:
        return len(self._x)

    @property
    def obstacle(self) -> str:
        """Why the work on its batches must not be recorded, or an empty string."""
        is_on_device = self._backend.is_array(self._x)
        return "" if is_on_device else "the samples are too large for the device"

    def batches(self, size: int, order: np.ndarray | None = None) -> Iterator[Batch]:
        """Yield the samples in batches of `size`, in `order`; the last batch may be smaller."""
        order = np.arange(len(self)) if order is None else order
        order_on_device = self._backend.asarray(order)
        for start in range(0, len(order), size):
            yield Batch(self, order_on_device, start, start + size, order)

    def gather(self, rows: Array, host_rows: np.ndarray | None) -> tuple[Any, ...]:
        """Return inputs, targets and weights of a batch."""
        backend, x, chosen = self._backend, self._x, rows
        with backend.active:
            if not backend.is_array(x):  # too large for the device: copy the rows of this batch
                x = backend.asarray(np.ascontiguousarray(x[host_rows]))
                chosen = backend.xp.arange(len(rows))
            x, labels = backend.gather(
                x, chosen, self._dtype, scale=self._scale, offset=self._offset, labels=self._labels
            )
            if self._flat:
                x = x.reshape(len(x), math.prod(x.shape[1:]))
            if self._y is not None or self._weight is not None or chosen is not rows:
                backend.not_recorded("samples are gathered without a kernel")
            y = labels if self._y is None else for_each(lambda part: part[rows], self._y)
            weight = for_each(lambda part: part[rows], self._weight)
            return tuple(for_each(lambda part: Tensor.of(part, backend), a) for a in (x, y, weight))


def of_one(values: Any, axes: slice, lengths: Any) -> Any:
    """Return the array in a list of one array, if these axes of it have these lengths.

    Keras accepts such a list for one input or output. Other values stay as they are: a list of
    one sample has other lengths.
    """
    is_list = isinstance(values, list | tuple) and len(values) == 1
    return values[0] if is_list and getattr(values[0], "shape", ())[axes] == lengths else values


def for_each(function: Callable[[Any], Any], value: Any) -> Any:
    """Return the function of a value, or of each value in a list; None stays."""
    if isinstance(value, list):
        return [function(item) for item in value]
    return None if value is None else function(value)
