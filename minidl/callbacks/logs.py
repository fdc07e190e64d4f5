"""Write the epochs' numbers where other programs read them."""

import csv
import os
from typing import Any

from minidl.callbacks.base import Callback, Logs


class CSVLogger(Callback):
    """Write a line of comma-separated values for each epoch, flushed at once.

    Parameters
    ----------
    filename : path
        The file; the first line names the columns, ``epoch`` the first.
    separator : str
        What stands between the values.
    append : bool
        Whether lines are added to a file that is there, as a resumed run wants it.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        At the beginning of training, where the file to append to has other columns.
    """

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ):
        self.filename = filename
        self.separator = separator
        self.append = append

    def on_train_begin(self, logs: Logs) -> None:
        """Open the file, and write or check the names of the columns."""
        columns = ["epoch", *self.params["metrics"]]
        mode = "a+" if self.append else "w"
        self._file = open(self.filename, mode, newline="", encoding="utf-8")  # noqa: SIM115
        self._writer = csv.writer(self._file, delimiter=self.separator)
        self._file.seek(0)
        found = next(csv.reader(self._file, delimiter=self.separator), []) if self.append else []
        if not found:
            self._write(columns)
        elif found != columns:
            self._file.close()
            raise ValueError(
                f"CSVLogger: {self.filename} has the columns {found}, and this run logs "
                f"{columns}; give another file, or append=False"
            )

    def _write(self, values: list[Any]) -> None:
        self._writer.writerow(values)
        self._file.flush()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write the epoch."""
        self._write([epoch, *(logs[name] for name in self.params["metrics"])])

    def on_train_end(self, logs: Logs) -> None:
        """Close the file."""
        if hasattr(self, "_file"):
            self._file.close()


class TensorBoard(Callback):
    """Write loss, metrics and learning rate of each epoch for TensorBoard.

    Curves are named as in Keras: ``epoch_loss`` in the sub-folders ``train`` and ``validation``.
    It needs tensorboardX, the extra ``tensorboard``.

    Parameters
    ----------
    log_dir : path
        The folder that ``tensorboard --logdir`` reads.

    Raises
    ------
    ImportError
        If tensorboardX is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str] = "logs"):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard: tensorboardX is not installed; pip install 'minidl[tensorboard]'"
            ) from error
        self.log_dir = os.fspath(log_dir)
        self._new_writer = SummaryWriter

    def on_train_begin(self, logs: Logs) -> None:
        """Open the files."""
        names = ["train"]
        if any(name.startswith("val_") for name in self.params["metrics"]):
            names.append("validation")
        self._writers = {name: self._new_writer(os.path.join(self.log_dir, name)) for name in names}

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write the epoch."""
        for name, value in logs.items():
            part = "validation" if name.startswith("val_") else "train"
            title = f"epoch_{name.removeprefix('val_')}"
            self._writers[part].add_scalar(title, value, epoch)
        optimizer = self.model.optimizer
        assert optimizer is not None, "fit has checked it"
        rate = optimizer.learning_rate
        now = rate(optimizer.iterations) if callable(rate) else rate
        self._writers["train"].add_scalar("epoch_learning_rate", now, epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs: Logs) -> None:
        """Close the files."""
        for writer in getattr(self, "_writers", {}).values():
            writer.close()
