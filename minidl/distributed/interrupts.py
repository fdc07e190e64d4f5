"""Ctrl-C and SIGTERM in a run of several workers: all stop after the same step."""

import signal
import threading
from types import FrameType
from typing import Any

from minidl.trainer.interrupts import Interrupts

SIGNALS = signal.SIGINT, signal.SIGTERM


class SharedInterrupts(Interrupts):
    """Deferral of signals until all workers have agreed to stop.

    From `install` to `restore`, a signal waits in `pending`. A second one is handled at once, which
    ends all workers. After `settle`, further signals are ignored: ``mpiexec`` sends its own to each
    worker, which may come late.

    Attributes
    ----------
    pending : int
        The number of the signal that waits, or 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_held = True
        self.pending = 0
        self._is_settled = False
        self._original: dict[int, Any] = {}
        self._outer: SharedInterrupts | None = None  # of a run, or a program, around this run

    def __enter__(self) -> "SharedInterrupts":
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the handlers: they stay until `restore`."""

    def install(self) -> None:
        """Let signals wait from now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                self._original[number] = signal.signal(number, self._receive)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, SharedInterrupts):
                self._outer, self.pending = outer, outer.pending

    def restore(self) -> None:
        """Restore the handlers of before, and handle a signal that still waits."""
        while self._original:
            signal.signal(*self._original.popitem())
        if self.pending:
            signal.raise_signal(self.pending)

    def settle(self, number: int) -> None:
        """Handle a signal that all workers have agreed on, as if this one had received it."""
        self._set_settled(True)
        self._handle(number, None)
        self._set_settled(False)  # the handler has not raised, so that training goes on

    def _set_settled(self, is_settled: bool) -> None:
        self._is_settled, self.pending = is_settled, 0
        if self._outer is not None:
            self._outer._set_settled(is_settled)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._is_settled:
            return
        if self.pending:
            self.pending = 0
            self._handle(number, frame)
        self.pending = number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._outer is not None:
            self._outer._handle(number, frame)
            return
        handler = self._original.get(number)
        if not callable(handler):  # SIGTERM without a handler would kill this worker alone
            raise KeyboardInterrupt
        handler(number, frame)
