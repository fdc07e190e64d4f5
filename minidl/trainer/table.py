"""The numbers of the next batches, in a table on the device."""

import contextlib
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from minidl_kernels.placed import PlacedFloat, PlacedInt

from minidl.backend import Array, Backend
from minidl.batches import Batch


class Numbers(NamedTuple):
    """Numbers that change from batch to batch."""

    step: int = 0  # the number of the training step, or of the Monte-Carlo draw
    row_offset: int = 0  # of the batch's first row, in the addresses of masks
    # Step size and decay of the optimizer, for each group of weights.
    updates: tuple[tuple[float, ...], ...] = ((0.0, 1.0),)
    # Of each layer whose rate is a schedule, what its kernels take for the rate.
    rates: tuple[tuple[int | float, ...], ...] = ()

    def flat(self) -> list[int | float]:
        """Return all numbers."""
        return [*self[:2], *chain(*self.updates, *self.rates)]


class Table:
    """The numbers of the next batches of one size, on the device.

    The first kernel of a recording, `Backend.begin`, copies the next row of the table to fixed
    places, where the other kernels read it. So nothing is copied from the host in a replay.

    Parameters
    ----------
    backend : Backend
        The device.
    dtype : numpy.dtype
        The dtype of the weights.
    samples, size, repeats : int
        The number of samples, of samples in a batch, and of runs for each batch.
    numbers : Numbers
        An example: the numbers of all batches have its structure.

    Attributes
    ----------
    rows : array
        The place of the batch: its rows in the data set.
    """

    def __init__(
        self,
        backend: Backend,
        dtype: np.dtype,
        samples: int,
        size: int,
        repeats: int,
        numbers: Numbers,
    ):
        xp = backend.xp
        self._backend = backend
        floating = np.result_type(dtype, "float32")  # no kernel knows float16
        capacity = -(-samples // size) if repeats == 1 else repeats
        self._order = xp.zeros(samples, "int64")
        self._source: Array = ()
        self._cursor = xp.zeros(1, "int64")
        integers, floats = (len(values) for values in _by_kind(numbers))
        self._columns = (
            xp.zeros(capacity, "int64"),
            xp.zeros((capacity, integers), "uint32"),
            xp.zeros((capacity, floats), floating),
        )
        self.rows = xp.zeros(size, "int64")
        self._integers, self._floats = xp.zeros(integers, "uint32"), xp.zeros(floats, floating)
        self._known: list[tuple[int, Numbers]] = []  # the table on the host
        self._next = 0  # the cursor on the host
        self._ahead = capacity  # the number of rows to fill

    def aim(self, batch: Batch, upcoming: Iterator[tuple[int, Numbers]]) -> None:
        """Make sure that `begin` copies the numbers of this batch next.

        `upcoming` is as `Work.upcoming` for this batch.
        """
        now = next(upcoming)
        if batch.order is not self._source:
            self._source = batch.order
            self._order[: len(self._source)] = self._source
        is_exhausted = self._next == len(self._known)
        if is_exhausted or self._known[self._next] != now:
            # After an unforeseen change, the numbers may change at each batch.
            self._ahead = min(2 * self._ahead, len(self._columns[0])) if is_exhausted else 1
            self._fill(now, upcoming)

    def placed(self, numbers: Numbers) -> Numbers:
        """Return the numbers of this batch with the places from which kernels read them."""
        integers, floats = _each_place(self._integers), _each_place(self._floats)

        def place(number: float) -> Any:
            if isinstance(number, int):
                return PlacedInt(number, next(integers))
            return PlacedFloat(number, next(floats))

        step, row_offset, *groups = numbers
        placed_first = place(step), place(row_offset)  # in the order of `flat`
        return Numbers(*placed_first, *(tuple(tuple(map(place, g)) for g in gs) for gs in groups))

    def _fill(self, now: tuple[int, Numbers], upcoming: Iterator[tuple[int, Numbers]]) -> None:
        """Fill the table with start and numbers of this batch and of the next ones."""
        self._known = [now]
        # A schedule may have an end; it raises again when its turn comes.
        with contextlib.suppress(Exception):
            for row in islice(upcoming, self._ahead - 1):
                self._known.append(row)
        starts, rows = zip(*self._known, strict=True)
        parts = starts, *zip(*map(_by_kind, rows), strict=True)
        for column, values in zip(self._columns, parts, strict=True):
            column[: len(starts)] = self._backend.asarray(np.array(values, column.dtype))
        self._cursor[...] = 0
        self._next = 0

    def begin(self) -> None:
        """Copy the next row of the table to the places."""
        self._backend.begin(
            self._cursor, self._order, *self._columns, self.rows, self._integers, self._floats
        )
        self._next += 1

    def advance(self, times: int) -> None:
        """Count the rows that replays have copied."""
        self._next += times

    @property
    def left(self) -> int:
        """The number of rows that are not copied yet."""
        return len(self._known) - self._next


def _each_place(row: Array) -> Iterator[Array]:
    """Yield the places of a row, arrays of one element."""
    return (row[n : n + 1] for n in range(len(row)))


def _by_kind(numbers: Numbers) -> tuple[list[int], list[float]]:
    """Return the integers and the real numbers, each in their order."""
    flat = numbers.flat()
    return [n for n in flat if isinstance(n, int)], [n for n in flat if isinstance(n, float)]
