"""Launches of CPU kernels: `launch` and `launch_pieces` are the only functions that launch them."""

from typing import Any

import numpy as np

from minidl_kernels.cpu import calls, current, pool
from minidl_kernels.mask_contract import PackedAddress, rows_and_columns
from minidl_kernels.placed import place_of


def launch(kernel: Any, *arguments: Any) -> None:
    """Run a compiled kernel on this thread.

    Host code calls it as ``launch.launch``, so that tests can replace it.
    """
    kernel(*arguments)
    if current.thread.recording is not None:
        current.thread.recording.add(kernel, arguments)


def launch_pieces(pieces: int, kernel: Any, *arguments: Any) -> None:
    """Run ``kernel(piece, pieces, *arguments)`` for each piece, on the threads of the pool.

    Parameters
    ----------
    pieces : int
        1 for this thread, without a parallel region; see `pool.pieces`.
    kernel : compiled kernel
        It computes one piece.
    """
    if pieces == 1:
        launch(kernel, 0, 1, *arguments)
        return
    arguments = (pieces, *arguments)
    call, words = calls.of(kernel, arguments, is_shared=True), calls.words(arguments)
    calls.run(np.array([[call.address, words.buffer_info()[0], pieces]]))
    if current.thread.recording is not None:
        current.thread.recording.add(kernel, arguments, pieces)


def launch_rows(
    kernel: Any, x: Any, out: Any, address: PackedAddress, number: Any, *more: Any
) -> None:
    """Launch a kernel that draws for the rows of flat arrays, with a number that may be placed."""
    rows, columns = rows_and_columns(out.shape)
    launch_pieces(
        pool.pieces(out.size),
        kernel,
        x.reshape(-1),
        out.reshape(-1),
        rows,
        columns,
        *placed_address(address),
        placed(number, out.dtype),
        *more,
    )


def placed(number: Any, dtype: Any) -> np.ndarray:
    """Return the array of one element in which a kernel reads a number."""
    place = place_of(number)
    return np.array([number], dtype) if place is None else place


def placed_address(address: PackedAddress) -> tuple[np.ndarray, ...]:
    """Return the words of an address, and the places of step, row offset and threshold."""
    words = np.array(address, np.uint32)
    places = enumerate(map(place_of, address[3:]), start=3)
    return words, *(words[n : n + 1] if place is None else place for n, place in places)
