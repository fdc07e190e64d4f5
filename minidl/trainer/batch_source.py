"""Batches that come from an iterable, such as a generator or a data loader."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from operator import length_hint
from typing import Any

import numpy as np

from minidl.arguments import positive_integer
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
        first = next(iter(batch), None)
        if isinstance(first, list | tuple):  # several inputs
            first = next(iter(first), None)
        return isinstance(first, Mapping) or getattr(first, "ndim", 0) > 0
    is_array = hasattr(x, "__array__") or hasattr(x, "__array_interface__")
    if is_array or isinstance(x, Mapping | Set):
        return False
    is_indexed = hasattr(x, "__getitem__") and hasattr(x, "__len__")
    return is_indexed or isinstance(x, Iterable) or hasattr(x, "as_numpy_iterator")


class BatchSource:
    """Batches from an iterable, checked on the host.

    An epoch takes `steps` batches; the next epoch goes on there, or with `restarts` begins anew.
    Without `steps`, an epoch is one pass. One batch is read ahead, so that the end of an epoch is
    known at its last batch.

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
    restarts : bool
        Whether each epoch has the same batches, if the iterable can be iterated again.

    Attributes
    ----------
    x, y, weight : numpy.ndarray
        Those of the first batch. All others have their shapes, up to the number of samples.
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

    x: np.ndarray
    y: np.ndarray | None
    weight: np.ndarray | None

    def __init__(
        self,
        who: str,
        iterable: Any,
        checked: Callable[..., Samples],
        steps: int | None = None,
        restarts: bool = False,
    ):
        wanted = None if steps is None else positive_integer(f"{who}: number of steps", steps)
        self._who, self._iterable, self._checked, self._wanted = who, iterable, checked, wanted
        self._restarts = restarts
        self._known = wanted or length_hint(iterable) or math.inf
        self.done, self.shortage = 0, ""
        self._batches: Iterator[Samples] = iter(())
        self._next: Samples | None = None
        self._shapes: list[Any] = []
        if not self.begin_epoch():
            raise ValueError(f"{who}: expected an iterable of batches, got none. Pass a new one.")
        assert self._next is not None, "the first batch"
        self.x, self.y, self.weight = self._next.x, self._next.y, self._next.weight

    def begin_epoch(self) -> bool:
        """Prepare the next epoch; return whether it has a batch."""
        if self.done and hasattr(self._iterable, "on_epoch_end"):
            self._iterable.on_epoch_end()  # as Keras calls it, to shuffle
        if self.done and self._restarts:
            self._batches = iter(())  # a new iterator follows; that of a generator is itself
        self.done = 0
        if self._next is None and self._wanted:
            self._next = next(self._batches, None)
        if self._next is None:
            self._batches = map(self._checked_batch, self._new_iterator())
            self._next = next(self._batches, None)
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
                self._next = next(self._batches, None)
                if self._next is None and self._wanted:
                    self.shortage = (
                        f"{self._who}: expected {self._wanted} batches in an epoch, got "
                        f"{self.done}: the iterable ended. Pass fewer steps, or more batches."
                    )
            yield batch

    def steps(self, size: int = 0) -> float:
        """Return the number of batches in this epoch; inf if it is unknown. `size` is ignored."""
        return self.done if self._next is None else max(self._known, self.done + 1)

    def _new_iterator(self) -> Iterator[Any]:
        given = self._iterable
        if hasattr(given, "as_numpy_iterator"):
            return iter(given.as_numpy_iterator())
        if hasattr(given, "__iter__"):
            return iter(given)
        return map(given.__getitem__, range(len(given)))

    def _checked_batch(self, given: Any) -> Samples:
        """Return a batch of the iterable as samples, in arrays of their own."""
        # A list of numbers is one array; PyTorch's loaders yield lists of tensors.
        is_list = isinstance(given, list) and any(getattr(part, "ndim", 0) for part in given)
        parts = given if is_list or isinstance(given, tuple) else (given,)
        if not 1 <= len(parts) <= 3:
            wanted = "expected batches (x, y) or (x, y, sample_weight)"
            raise ValueError(f"{self._who}: {wanted}, got {len(parts)} parts. Yield tuples.")
        batch = self._checked(*parts)
        held = batch.x, batch.y, batch.weight
        shapes = [None if part is None else part.shape[1:] for part in held]
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            raise ValueError(
                f"{self._who}: expected x, y and weights of shapes {self._shapes} for each "
                f"sample, as in the first batch, got {shapes}. Make all batches alike."
            )
        return copy.deepcopy(batch)  # a generator may fill the same arrays again


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
        self._source, self._backend = source, backend
        self._feed_of = lambda samples: Feed(samples, backend, dtype, **options)

    def batches(self, size: int, order: np.ndarray | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch as they come: `size` and `order` are not used."""
        first_row = 0
        for samples in self._source:
            (batch,) = self._feed_of(samples).batches(len(samples))
            batch.first_row = first_row
            first_row += len(samples)
            yield batch
