"""Callbacks that write the logs of each epoch to files of other programs."""

import csv
import io
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from minidl.alternatives import keras_defaults
from minidl.arguments import count, positive_integer
from minidl.callbacks.base import Callback, Logs, numbers
from minidl.storage.atomic import PathLike
from minidl.storage.extras import from_extra

log = logging.getLogger(__name__)


class _EpochLogger(Callback):
    """Base class of callbacks that write the logs of each epoch."""

    comes_last = True
    writes = True

    def on_train_begin(self, logs: Logs) -> None:
        """Begin with the next epoch of the run."""
        self._next_epoch = self.model.position.epoch

    def on_train_end(self, logs: Logs) -> None:
        """Write an epoch that diverged, so that it has not ended; a resumed run replaces it."""
        history, epoch = self.model.history, self.model.position.epoch
        if history.epoch[-1:] == [epoch]:
            self.on_epoch_end(epoch, history.logs[-1])
            self._next_epoch = epoch

    def state(self) -> dict[str, Any]:
        """Return the next epoch to write."""
        return {"next_epoch": self._next_epoch}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        self._next_epoch = state["next_epoch"]


@dataclass(eq=False, repr=False)
class CSVLogger(_EpochLogger):
    """Lines of comma-separated values, one for each epoch, flushed at once.

    The columns are the names that the first epoch logs, or those of an existing file. A value that
    an epoch lacks is written as ``NA``. A warning is logged for a value without a column.

    Parameters
    ----------
    filename : path
        The file. Its first line names the columns, beginning with ``epoch``. An existing file is
        changed when the first epoch is written, not by a run that is rejected before.
    separator : str
        The character between values.
    append : bool
        Whether lines are added to an existing file. A resumed run needs it: it first removes the
        lines of epochs that it will repeat.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If `separator` is not one character; when training begins, if an existing file lacks a
        column for the loss, a metric or the epoch.

    Examples
    --------
    >>> logger = CSVLogger("training.csv", append=True)
    """

    filename: PathLike
    separator: str = ","
    append: bool = False

    def __post_init__(self) -> None:
        separator = self.separator
        if not isinstance(separator, str) or len(separator) != 1 or separator in '\r\n"':
            raise ValueError(
                "CSVLogger: expected separator to be one character, but no quote or line break, "
                f'got {separator!r}. Use "," or ";".'
            )

    def on_train_begin(self, logs: Logs) -> None:
        """Open the file, and check the names of the columns."""
        super().on_train_begin(logs)
        self._left_out: set[str] = set()
        # The next row removes all after these bytes; before it, another callback may raise.
        self._kept = None if self.append else 0
        self._file = open(self.filename, "ab")  # noqa: SIM115
        expected, found = ["epoch", *self.params["metrics"]], self._columns(self._kept_content())
        if found and not set(expected) <= set(found):
            self._file.close()
            raise ValueError(
                f"CSVLogger: expected the columns {expected} in {self.filename}, got {found}. "
                "Use another file, or append=False."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Write the epoch."""
        values = {str(name): _text(value) for name, value in logs.items()} | {"epoch": str(epoch)}
        kept = self._kept_content()
        known = self._columns(kept)
        metrics = self.params["metrics"]  # an epoch without validation has some of them
        columns = known or list(dict.fromkeys(["epoch", *metrics, *values]))
        row = self._line([values.get(name, "NA") for name in columns])
        if not known:
            row = self._line(columns) + row
        if self._kept is not None:
            self._file.truncate(self._kept)
            self._kept = None
        self._file.write(self._start(kept) + row)
        self._file.flush()
        self._next_epoch = epoch + 1
        new = set(values) - set(columns) - self._left_out
        if new:
            log.warning("CSVLogger: %s has no column for %s", self.filename, ", ".join(sorted(new)))
            self._left_out |= new

    def on_train_end(self, logs: Logs) -> None:
        """Write an epoch that diverged; a resumed run replaces it."""
        before = self._kept_content()
        super().on_train_end(logs)
        self._kept = len(before)

    def state(self) -> dict[str, Any]:
        """Return the next epoch to write, and length and checksum of the file."""
        content = self._content()
        return super().state() | {"bytes": len(content), "crc32": zlib.crc32(content)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Let the next row replace the lines that a resumed run will repeat.

        A file that another run has changed stays as it is.
        """
        super().load_state(state)
        content, end = self._content(), state["bytes"]
        rows = self._rows(content[end:])
        if not self._columns(content[:end]):
            next(rows, None)  # the columns
        epochs = [int(row[0]) if row and row[0].isdigit() else -1 for row in rows]
        is_repeated = bool(epochs) and min(epochs) >= self._next_epoch
        if is_repeated and zlib.crc32(content[:end]) == state["crc32"]:
            self._kept = end

    def _content(self) -> bytes:
        """Return what precedes the next row."""
        kept = self._kept_content()
        return kept + self._start(kept)

    def _kept_content(self) -> bytes:
        with open(self.filename, "rb") as file:
            return file.read()[: self._kept]

    def _start(self, kept: bytes) -> bytes:
        """Return the line break that the file may lack before the next row."""
        return b"" if not kept.strip() or kept.endswith((b"\n", b"\r")) else b"\r\n"

    def _columns(self, content: bytes) -> list[str]:
        """Return the names in the first line, or an empty list."""
        return next(filter(None, self._rows(content.strip())), [])

    def _line(self, values: list[str]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.separator).writerow(values)
        return text.getvalue().encode()

    def _rows(self, content: bytes) -> Iterator[list[str]]:
        text = io.StringIO(content.decode(errors="replace"), newline="")
        return csv.reader(text, delimiter=self.separator)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _text(value: Any) -> str:
    return str(value.tolist() if hasattr(value, "tolist") else value)


@keras_defaults(write_images=False, profile_batch=0)
class TensorBoard(_EpochLogger):
    """Numbers in the logs, and the learning rate, of each epoch for TensorBoard.

    Curves have the names of Keras: ``epoch_loss`` in the sub-folders ``train`` and ``validation``.
    It needs tensorboardX, the extra ``tensorboard``. A resumed run replaces the epochs that it
    repeats.

    Parameters
    ----------
    log_dir : path
        The folder for ``tensorboard --logdir``.
    histogram_freq : int
        The number of epochs between two histograms of each weight; 0 writes none.
    update_freq : {"epoch", "batch"} or int
        The number of steps between two values of the batches, the means of the epoch so far, in
        the sub-folder ``batches``; batch is 1. Each waits for the device.

    Raises
    ------
    ImportError
        If tensorboardX is not installed.
    OSError
        When training begins, if the folder cannot be created.
    """

    def __init__(
        self,
        log_dir: PathLike = "logs",
        histogram_freq: int = 0,
        *,
        update_freq: str | int = "epoch",
    ):
        with from_extra("tensorboard", "tensorboardX", who="TensorBoard"):
            from tensorboardX import SummaryWriter
        self.log_dir = os.fspath(log_dir)
        self._new_writer = SummaryWriter
        self.histogram_freq = count("TensorBoard: histogram_freq", histogram_freq)
        self.update_freq = 1 if update_freq == "batch" else update_freq
        if update_freq != "epoch":
            self._every = positive_integer("TensorBoard: update_freq", self.update_freq)
            vars(self)["on_train_batch_end"] = self._write_step  # without it, steps can be joined

    def on_train_begin(self, logs: Logs) -> None:
        """Create the folder."""
        super().on_train_begin(logs)
        os.makedirs(self.log_dir, exist_ok=True)
        self._writers: dict[str, Any] = {}
        self._purge_step: int | None = None

    def _write_step(self, batch: int, logs: Logs) -> None:
        """Write the means so far, if the number of steps is a multiple of `update_freq`."""
        step = self.model.step
        if step % self._every == 0:
            writer = self._writer("batches", step)
            for name, value in numbers(logs).items():
                writer.add_scalar(f"batch_{name}", value, step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Write the epoch."""
        optimizer = self.model.optimizer
        assert optimizer is not None, "checked by fit"
        rate = optimizer.learning_rate
        now = rate(optimizer.calls) if callable(rate) else rate
        for name, value in ({"learning_rate": now} | numbers(logs)).items():
            part = "validation" if name.startswith("val_") else "train"
            self._writer(part).add_scalar(f"epoch_{name.removeprefix('val_')}", value, epoch)
        if self.histogram_freq and (epoch + 1) % self.histogram_freq == 0:
            for weight in self.model.parameters():
                name = f"{weight.name}/histogram"
                self._writer("train").add_histogram(name, weight.numpy(), epoch)
        for writer in self._writers.values():
            writer.flush()
        self._next_epoch = epoch + 1

    def _writer(self, part: str, purge_step: int | None = None) -> Any:
        """Return the writer of a sub-folder; its first values hide later ones of an earlier run."""
        if part not in self._writers:
            folder = os.path.join(self.log_dir, part)
            first = self._purge_step if purge_step is None else purge_step
            self._writers[part] = self._new_writer(folder, purge_step=first)
        return self._writers[part]

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned; TensorBoard then hides the epochs that are repeated."""
        super().load_state(state)
        self._purge_step = self._next_epoch

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
