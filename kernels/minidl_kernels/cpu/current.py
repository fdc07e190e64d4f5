"""The recording in progress on this thread, if any. This file does not import Numba."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any


class _Thread(threading.local):
    recording: Any = None  # a `recording.Recording`


thread = _Thread()


@contextlib.contextmanager
def recorded_by(recording: Any) -> Iterator[None]:
    """Add the launches of this thread to a recording."""
    not_recorded("work is recorded on its own")
    outer, thread.recording = thread.recording, recording
    try:
        yield
    finally:
        thread.recording = outer


def not_recorded(reason: str) -> None:
    """Note in the recording in progress that something has no kernel: a replay leaves it out."""
    recording = thread.recording
    if recording is not None and not recording.obstacle:
        recording.obstacle = reason
