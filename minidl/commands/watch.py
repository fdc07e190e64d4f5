"""Events and timing of the training command."""

import contextlib
import json
import math
import time
from collections.abc import Mapping
from typing import IO, Any

import psutil

from minidl.callbacks import Callback, Logs


def json_line(values: Mapping[str, Any]) -> str:
    """Return values as one line of JSON, with null for NaN and infinity, which JSON lacks."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(finite)


class EventLog:
    """File of events, one JSON object on each line; without a path, nothing is written.

    The log of a resumed run is continued; any other is overwritten. The first event opens the file,
    so a run that is rejected leaves an older log as it is, and creates none.
    """

    def __init__(self, path: str | None, is_resumed: bool = False):
        self._path = path
        self._mode = "a" if is_resumed else "w"
        self._file: IO[str] | None = None

    def write(self, event: str, **values: Any) -> None:
        """Write and flush one event; numbers that JSON lacks become null.

        If the file is a pipe that its reader has closed, the log ends and the run goes on.
        """
        if self._path is None:
            return
        if self._file is None:
            self._file = open(self._path, self._mode, encoding="utf-8")  # noqa: SIM115  see close()
        try:
            print(json_line({"event": event, **values}), file=self._file, flush=True)
        except BrokenPipeError:
            self._path = None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # write() has raised it already
                self._file.close()


class Watch(Callback):
    """Clock of the training steps, and events of the epochs."""

    writes = True

    def __init__(self, log: EventLog, samples: int, batch_size: int):
        self.log = log
        self.samples = samples
        self.batch_size = batch_size
        self.first_step_seconds: float | None = None
        self.seconds = 0.0
        self.images = 0
        self.epochs = 0

    def on_train_begin(self, logs: Logs) -> None:
        """Start the clock; a resumed run may begin within an epoch."""
        self.epochs = len(self.model.history.epoch)
        self.on_epoch_begin(self.model.position.epoch, logs)

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Start the clock."""
        self._epoch_began_at = self.seconds
        self._clock = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Read the clock, after waiting for the device at the first step and the last."""
        if self.first_step_seconds is None:
            self.model.backend.synchronize()
            self.first_step_seconds = process_seconds()
        if batch + 1 == self.params["steps"]:
            self.model.backend.synchronize()
        before, self._clock = self._clock, time.perf_counter()
        self.seconds += self._clock - before
        self.images += min(self.batch_size, self.samples - batch * self.batch_size)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Log the epoch, counted from 1."""
        self.epochs = len(self.model.history.epoch)
        seconds = self.seconds - self._epoch_began_at
        self.log.write("epoch", epoch=epoch + 1, seconds=seconds, **logs)

    def report(self) -> dict[str, Any]:
        """Return the results for the event of the end."""
        return {
            "epochs": self.epochs,
            "images_per_second": self.images / self.seconds if self.images else 0.0,
            "first_step_seconds": self.first_step_seconds,
        }


class Start(Callback):
    """Event of the start, written if no other callback has rejected the run."""

    comes_last = True
    writes = True

    def __init__(self, log: EventLog, facts: Mapping[str, Any]):
        self.log = log
        self.facts = facts

    def on_train_begin(self, logs: Logs) -> None:
        """Write the event."""
        self.log.write("start", **self.facts)


def process_seconds() -> float:
    """Return the seconds since the process started."""
    return time.time() - psutil.Process().create_time()
