"""Recordings of launches, which one compiled loop replays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl_kernels.cpu import calls, current


class Recording:
    """Launches that ran once and can run again, on the same memory.

    Attributes
    ----------
    obstacle : str
        What was computed without a kernel, so that a replay would leave it out; empty if nothing.
    """

    def __init__(self) -> None:
        self.obstacle = ""
        self._calls: list[tuple[int, int, int]] = []
        self._owners: list[Any] = []  # of the memory that a replay uses

    @property
    def launches(self) -> int:
        """The number of launches in a replay."""
        return len(self._calls)

    def add(self, kernel: Any, arguments: Sequence[Any], pieces: int | None = None) -> None:
        """Add a launch of a kernel, in pieces or as a whole."""
        call = calls.of(kernel, arguments, is_shared=pieces is not None)
        words = calls.words(arguments)
        self._calls.append((call.address, words.buffer_info()[0], pieces or 1))
        self._owners.append((call, words, arguments))

    def finish(self) -> None:
        """End the recording."""
        self._program = np.array(self._calls, np.int64).reshape(-1, 3)

    def replay(self, times: int = 1) -> None:
        """Do the work again, `times` times."""
        calls.run(self._program, times)


def record(work: Callable[[], None]) -> Recording:
    """Do some work once, and return the recording of its launches.

    Parameters
    ----------
    work : callable
        The numbers that change from run to run are placed, see `minidl_kernels.placed`. Results
        stay alive with the recording, and each replay writes them again.

    Examples
    --------
    >>> from minidl_kernels.cpu import optimizers
    >>> from minidl_kernels.placed import PlacedFloat
    >>> weights, gradients, place = np.ones(1), np.ones(1), np.array([0.5])
    >>> rate, numbers = PlacedFloat(0.5, place), {"momentum": 0.0, "nesterov": False, "decay": 1.0}
    >>> recording = record(lambda: optimizers.sgd(weights, gradients, None, rate=rate, **numbers))
    >>> weights
    array([0.5])
    >>> place[0] = 0.25
    >>> recording.replay()
    >>> weights
    array([0.25])
    """
    recording = Recording()
    with current.recorded_by(recording):
        work()
    recording.finish()
    return recording
