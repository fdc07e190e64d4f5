"""The numbers of the next batches, in a table on the device."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from minidl_kernels.placed import PlacedFloat, PlacedInt

from minidl.backend import Array, Backend
from minidl.batches import Batch


class Numbers(NamedTuple):
    """Numbers that change from batch to batch."""

    step: int = 0  # the number of the training step, or of the Monte-Carlo draw
    row_offset: int = 0  # of the batch's first row, in the addresses of masks
    rate: float = 0.0  # step size and decay of the optimizer
    decay: float = 1.0


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

    Attributes
    ----------
    rows : array
        The place of the batch: its rows in the data set.
    """

    def __init__(self, backend: Backend, dtype: np.dtype, samples: int, size: int, repeats: int):
        xp = backend.xp
        self._backend, self._size, self._repeats = backend, size, repeats
        floating = np.result_type(dtype, "float32")  # no kernel knows float16
        capacity = -(-samples // size) if repeats == 1 else repeats
        self._order = xp.zeros(samples, "int64")
        self._source: Array = ()
        self._cursor = xp.zeros(1, "int64")
        self._columns = (
            xp.zeros(capacity, "int64"),
            xp.zeros((capacity, 2), "uint32"),
            xp.zeros((capacity, 2), floating),
        )
        self.rows = xp.zeros(size, "int64")
        self._integers, self._floats = xp.zeros(2, "uint32"), xp.zeros(2, floating)
        self._known: list[tuple[int, Numbers]] = []  # the table on the host
        self._next = 0  # the cursor on the host
        self._ahead = capacity  # the number of rows to fill

    def aim(self, batch: Batch, numbers: Callable[[int], Numbers]) -> None:
        """Make sure that `begin` copies the numbers of this batch next.

        ``numbers(n)`` returns the numbers of the n-th batch after this one.
        """
        if batch.order is not self._source:
            self._source = batch.order
            self._order[: len(self._source)] = self._source
        is_exhausted = self._next == len(self._known)
        if is_exhausted or self._known[self._next] != (batch.start, numbers(0)):
            # After an unforeseen change, the numbers may change at each batch.
            self._ahead = 2 * self._ahead if is_exhausted else 1
            self._fill(batch.start, numbers)

    def placed(self, numbers: Numbers) -> Numbers:
        """Return the numbers of this batch with the places from which kernels read them."""
        step, row_offset, rate, decay = numbers
        return Numbers(
            PlacedInt(step, self._integers[0:1]),
            PlacedInt(row_offset, self._integers[1:2]),
            PlacedFloat(rate, self._floats[0:1]),
            PlacedFloat(decay, self._floats[1:2]),
        )

    def _fill(self, start: int, numbers: Callable[[int], Numbers]) -> None:
        """Fill the table with the numbers of the batch at `start` and of those after it."""
        first = numbers(0)
        self._known = [(start, first)]
        stride, runs = self._size, (len(self._source) - start) // self._size
        if self._repeats > 1:
            stride, runs = 0, self._repeats - first.step
        for n in range(1, min(self._ahead, runs)):
            try:
                self._known.append((start + n * stride, numbers(n)))
            except Exception:  # a schedule may have an end; it raises again when its turn comes
                break
        starts, rows = zip(*self._known, strict=True)
        parts = starts, [row[:2] for row in rows], [row[2:] for row in rows]
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
