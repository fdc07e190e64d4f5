"""Ctrl-C that waits until an update of the weights is complete."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupts:
    """Deferral of SIGINT, as a context manager around a run and a flag within it.

    While `is_held` is True, SIGINT is remembered; `release` then handles it. Otherwise it is
    handled at once. In threads other than the main one Python delivers no signals, and nothing is
    installed.

    Attributes
    ----------
    is_held : bool
        Whether a signal waits.

    Examples
    --------
    >>> with Interrupts() as interrupts:
    ...     interrupts.is_held = True
    ...     signal.raise_signal(signal.SIGINT)
    ...     try:
    ...         interrupts.release()
    ...     except KeyboardInterrupt:
    ...         print("after the update")
    after the update
    """

    def __init__(self) -> None:
        self.is_held = False
        self._pending: tuple[int, FrameType | None] | None = None
        self._previous: Callable[[int, FrameType | None], Any] | None = None

    def __enter__(self) -> "Interrupts":
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(handler):
            self._previous = handler
            signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        assert self._previous is not None, "set before this handler is installed"
        if self.is_held:
            self._pending = (number, frame)
        else:
            self._previous(number, frame)

    def release(self) -> None:
        """Handle a signal that waited, and handle further ones at once."""
        self.is_held = False
        pending, self._pending = self._pending, None
        if pending is not None and self._previous is not None:
            self._previous(*pending)
