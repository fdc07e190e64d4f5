"""Batches that come from an iterable, such as a generator or a data loader."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from minidl.backend import Backend
from minidl.batches import Batch, Feed, Samples


def yields_batches(x: Any, kinds: type | tuple[type, ...] = (tuple, list)) -> bool:
    """Return whether `x`, given without targets, is an iterable of batches and not an array.

    Batches in a list must be of these kinds, such as ``(x, y)``, and hold arrays.

    Examples
    --------
    >>> x, y = np.zeros((4, 2)), np.zeros(4)
    >>> yields_batches([(x, y)]), yields_batches(iter([x])), yields_batches(x)
    (True, True, False)
    """
    if isinstance(x, Sequence):
        batch: Any = x[0] if len(x) and isinstance(x[0], kinds) else ()
        return len(batch) > 0 and getattr(batch[0], "ndim", 0) > 0
    is_array = hasattr(x, "__array__") or hasattr(x, "__array_interface__")
    if is_array or isinstance(x, Mapping | Set):
        return False
    is_indexed = hasattr(x, "__getitem__") and hasattr(x, "__len__")
    return is_indexed or isinstance(x, Iterable) or hasattr(x, "as_numpy_iterator")


class BatchSource:
    """Batches from an iterable, checked on the host.

    An epoch takes `steps` batches; the next epoch goes on there. Without `steps`, an epoch is one
    pass. One batch is read ahead, so that the end of an epoch is known at its last batch.

    Parameters
    ----------
    who : str
        The function that received the iterable, for messages.
    iterable : iterable
        It yields batches, or has ``__len__`` and ``__getitem__``, or ``as_numpy_iterator``.
    checked : callable
        Takes the parts of a batch, such as x and y, and returns its `Samples`.
    steps : int, optional
        The number of batches in an epoch.

    Attributes
    ----------
    example : Samples
        The first batch. All others have its shapes, up to the number of samples.
    shortage : str
        A warning if there were fewer batches than expected, or an empty string.
    done : int
        The number of batches of this epoch that were used.

    Raises
    ------
    ValueError
        If there are no batches, or if a batch has other parts or shapes than the first.

    Examples
    --------
    >>> pairs = [(np.zeros((4, 2)), np.zeros(4)), (np.ones((2, 2)), np.ones(2))]
    >>> source = BatchSource("fit", pairs, lambda x, y: Samples.checked("fit", x, y))
    >>> [len(batch) for batch in source]
    [4, 2]
    """

    def __init__(
        self,
        who: str,
        iterable: Any,
        checked: Callable[..., Samples],
        steps: int | None = None,
    ):
        self._who, self._iterable, self._checked, self._wanted = who, iterable, checked, steps
        self._known = steps
        if steps is None and hasattr(iterable, "__len__"):
            try:
                self._known = len(iterable)
            except TypeError:  # some classes have no length after all
                self._known = None
        self.done, self.shortage = 0, ""
        self._iterator: Iterator[Any] | None = None
        self._next: Samples | None = None
        self.example: Any = None
        if not self.begin_epoch():
            raise ValueError(f"{who}: expected an iterable of batches, got none. Pass a new one.")
        self.example = self._next

    def begin_epoch(self) -> bool:
        """Prepare the next epoch; return whether it has a batch."""
        if self.done and hasattr(self._iterable, "on_epoch_end"):
            self._iterable.on_epoch_end()  # as Keras calls it, to shuffle
        self.done = 0
        if self._next is None and self._iterator is not None and self._wanted:
            self._read_ahead()
        if self._next is None:
            self._iterator = self._new_iterator()
            self._read_ahead()
        if self._next is None:
            self.shortage = (
                f"{self._who}: expected batches for each epoch, got none after the first: the "
                "iterable ended. Pass a list or a data loader, or a generator that does not end."
            )
        return self._next is not None

    def __iter__(self) -> Iterator[Samples]:
        while self._next is not None:
            batch, self._next = self._next, None
            self.done += 1
            if self.done != self._wanted:
                self._read_ahead()
                if self._next is None and self._wanted:
                    self.shortage = (
                        f"{self._who}: expected {self._wanted} batches in an epoch, got "
                        f"{self.done}: the iterable ended. Pass fewer steps, or more batches."
                    )
            yield batch

    @property
    def steps(self) -> float:
        """The number of batches in this epoch; inf if it is not known yet."""
        if self._next is None:
            return self.done
        return math.inf if self._known is None else max(self._known, self.done + 1)

    def _new_iterator(self) -> Iterator[Any]:
        given = self._iterable
        if hasattr(given, "as_numpy_iterator"):
            return iter(given.as_numpy_iterator())
        if hasattr(given, "__iter__"):
            return iter(given)
        return map(given.__getitem__, range(len(given)))

    def _read_ahead(self) -> None:
        assert self._iterator is not None, "set by begin_epoch"
        for given in self._iterator:
            # A list of numbers is one array; PyTorch's loaders yield lists of tensors.
            is_list = isinstance(given, list) and any(getattr(part, "ndim", 0) for part in given)
            parts = given if is_list or isinstance(given, tuple) else (given,)
            if not 1 <= len(parts) <= 3:
                raise ValueError(
                    f"{self._who}: expected batches (x, y) or (x, y, sample_weight), got "
                    f"{len(parts)} parts. Yield tuples of arrays."
                )
            batch = self._checked(*parts)
            found, expected = _structure(batch), _structure(self.example or batch)
            if found != expected:
                raise ValueError(
                    f"{self._who}: expected all batches to have parts of shapes {expected} beside "
                    f"the samples, got {found}. Yield batches of one kind."
                )
            # A copy: a generator may fill the same arrays again.
            held = (None if p is None else np.array(p) for p in (batch.x, batch.y, batch.weight))
            self._next = Samples(*held)  # type: ignore[arg-type]
            return


def _structure(batch: Samples) -> list[tuple[int, ...] | None]:
    parts = batch.x, batch.y, batch.weight
    return [None if part is None else part.shape[1:] for part in parts]


class SourceFeed(Feed):
    """Feed of the batches of a source, each of which goes to the device by itself.

    Parameters
    ----------
    source : BatchSource
        The source.
    backend, dtype, scale, offset, flat
        As in `Feed`.
    """

    obstacle = "batches come from an iterable"

    def __init__(self, source: BatchSource, backend: Backend, dtype: np.dtype, **options: Any):
        super().__init__(source.example, backend, dtype, **options)
        self._source, self._options = source, options

    @property
    def shortage(self) -> str:  # type: ignore[override]
        """A warning if there were fewer batches than expected, or an empty string."""
        return self._source.shortage

    def steps(self, size: int) -> float:
        """Return the number of batches in this epoch; inf if it is not known yet."""
        return self._source.steps

    def begin_epoch(self) -> bool:
        """Prepare the next epoch; return whether it has a batch."""
        return self._source.begin_epoch()

    def batches(self, size: int, order: np.ndarray | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch as they come: `size` and `order` are not used."""
        first_row = 0
        for samples in self._source:
            feed = Feed(samples, self._backend, self._dtype, **self._options)
            (batch,) = feed.batches(len(samples))
            batch.first_row = first_row
            first_row += len(samples)
            yield batch
