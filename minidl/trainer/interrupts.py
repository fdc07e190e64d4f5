"""Ctrl-C and SIGTERM that wait until an update of the weights is complete."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Deferral of signals: a context manager around a run, and `held` within it.

    While `is_held` is True, SIGINT and SIGTERM are remembered; `release` then handles the last one.
    Otherwise they are handled at once, by the handlers that the program has installed. Without
    one, SIGTERM ends the process. In threads other than the main one Python delivers no signals,
    and nothing is installed.

    Attributes
    ----------
    is_held : bool
        Whether signals wait.

    Examples
    --------
    >>> with Interrupts() as interrupts:
    ...     try:
    ...         with interrupts.held():
    ...             signal.raise_signal(signal.SIGINT)
    ...             print("in the update")
    ...     except KeyboardInterrupt:
    ...         print("after the update")
    in the update
    after the update
    """

    def __init__(self) -> None:
        self.is_held = False
        self._pending: tuple[int, FrameType | None] | None = None
        self._previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if threading.current_thread() is threading.main_thread() and callable(handler):
                self._previous[number] = handler
                signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.is_held:
            self._pending = (number, frame)
        else:
            self._previous[number](number, frame)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait until the end of the outermost of these contexts."""
        if self.is_held:
            yield
            return
        self.is_held = True
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Handle a signal that waited, and handle further ones at once."""
        self.is_held = False
        pending, self._pending = self._pending, None
        if pending is not None:
            self._previous[pending[0]](*pending)
