"""Launches of CPU kernels: `launch` and `launch_pieces` are the only functions that launch them."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl_kernels.cpu import calls
from minidl_kernels.placed import place_of


class _Thread(threading.local):
    recording: Any = None  # a `recording.Recording` that is being made


_thread = _Thread()


def launch(kernel: Any, *arguments: Any) -> None:
    """Run a compiled kernel on this thread.

    Host code calls it as ``launch.launch``, so that tests can replace it.
    """
    kernel(*arguments)
    if _thread.recording is not None:
        _thread.recording.add(kernel, arguments)


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
    calls.run(np.array([[call.address, words.ctypes.data, pieces]]))
    if _thread.recording is not None:
        _thread.recording.add(kernel, arguments, pieces)


@contextlib.contextmanager
def recorded_by(recording: Any) -> Iterator[None]:
    """Add the launches of this thread to a recording."""
    _thread.recording = recording
    try:
        yield
    finally:
        _thread.recording = None


def not_recorded(reason: str) -> None:
    """Note that something is computed without a kernel: what is being recorded cannot be replayed."""
    if _thread.recording is not None:
        _thread.recording.obstacle = _thread.recording.obstacle or reason


def placed(number: Any, dtype: Any) -> np.ndarray:
    """Return the array of one element in which a kernel reads a number."""
    place = place_of(number)
    return np.array([number], dtype) if place is None else place
