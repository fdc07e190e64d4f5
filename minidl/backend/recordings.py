"""Recordings of work, and the kernels that recorded work needs beside those of networks.

A recording runs again without Python. So what changes from batch to batch lies at fixed places on
the device, where the recorded kernels read it. `Recordings.begin` fills these places.
"""

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from minidl_kernels import checks

from minidl.backend.arrays import Array, DeviceArrays
from minidl.backend.kernel import kernel

_FLOAT64 = np.dtype("float64")


class Recordings(DeviceArrays):
    """The part of a backend that records work, and adds up results where they lie."""

    def stream(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which work is recorded and replayed; enter ``active`` before."""
        return contextlib.nullcontext()

    def record(self, work: Callable[[], None]) -> Any:
        """Do some work once, and return a recording of its kernels, which can be replayed.

        The recording has the methods and attributes of `minidl_kernels.cpu.recording.Recording`.
        """
        with self.active:
            return importlib.import_module(f"{self.kernels}.recording").record(work)

    @kernel("steps")
    def begin(
        self,
        cursor: Array,
        order: Array,
        starts: Array,
        integers: Array,
        floats: Array,
        rows: Array,
        integers_now: Array,
        floats_now: Array,
    ) -> None:
        """Copy the next row of a table to fixed places, where recorded kernels read it.

        The shapes are not checked.

        Parameters
        ----------
        cursor : array
            The number of the row: int64, shape (1,). It is advanced by 1.
        order, starts : array
            int64. The batch is the part of `order` that begins at ``starts[cursor]``.
        integers, floats : array
            The other columns of the table: uint32 and floating numbers, shape (n, columns).
        rows, integers_now, floats_now : array
            The places: of the batch, int64, shape (count,), and of the columns, shape (columns,).
        """
        row = int(cursor[0])
        start = int(starts[row])
        rows[...] = order[start : start + len(rows)]
        integers_now[...] = integers[row]
        floats_now[...] = floats[row]
        cursor += 1

    def add_sums(self, totals: Array, sums: Array, *, rows: int) -> None:
        """Add a batch to `totals`: the first of `sums` times `rows`, and the others as they are.

        Parameters
        ----------
        totals : array
            float64, shape (n,), C-contiguous and not empty.
        sums : array
            Likewise, float32 or float64: the mean over the rows of the batch, and sums over them.
        rows : int
            The number of rows.
        """
        checks.check_like("add_sums", "totals", totals, _FLOAT64, totals.shape[:1])
        checks.check_dtype("add_sums", "sums", sums, checks.KERNEL_TYPES)
        for name, array in (("totals", totals), ("sums", sums)):
            checks.check_output("add_sums", name, array, array.dtype, totals.shape)
        checks.check_not_empty("add_sums", "totals", totals)
        self._add_sums(totals, sums, rows=rows)

    @kernel("steps")
    def _add_sums(self, totals: Array, sums: Array, *, rows: int) -> None:
        totals[0] += sums[0].astype("float64") * rows
        totals[1:] += sums[1:]

    def add_moments(self, y: Array, draw: int, mean: Array, squares: Array, entropy: Array) -> None:
        """Add the outputs of a draw to their running moments (Welford, Technometrics 4, 1962).

        Parameters
        ----------
        y : array
            Outputs, shape (rows, outputs), float32 or float64, not empty.
        draw : int
            The number of the draw. At 0, what the other arrays held is overwritten.
        mean, squares : array
            The mean of the draws, and the sum of their squared differences from it: float64, of the
            shape of `y`, C-contiguous.
        entropy : array
            The sum over the draws of -sum(y log y) of each row: float64, shape (rows,).
        """
        checks.check_matrix("add_moments", "y", y, "rows, outputs", checks.KERNEL_TYPES)
        checks.check_not_empty("add_moments", "y", y)
        checks.check_output("add_moments", "mean", mean, _FLOAT64, y.shape)
        checks.check_output("add_moments", "squares", squares, _FLOAT64, y.shape)
        checks.check_output("add_moments", "entropy", entropy, _FLOAT64, y.shape[:1])
        self._add_moments(self._contiguous(y), draw, mean, squares, entropy)

    @kernel("moments")
    def _add_moments(
        self, y: Array, draw: int, mean: Array, squares: Array, entropy: Array
    ) -> None:
        if draw == 0:
            for array in (mean, squares, entropy):
                array[...] = 0
        difference = y - mean
        mean += difference / (draw + 1)
        squares += difference * (y - mean)
        entropy -= (y * self.xp.log(self.xp.where(y > 0, y, 1))).sum(axis=1)
