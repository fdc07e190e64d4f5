"""Write the epochs' numbers where other programs read them."""

import csv
import os

from minidl.callbacks.base import Callback, Logs
from minidl.files import write_whole


class CSVLogger(Callback):
    """Write a line of comma-separated values for each epoch, flushed at once.

    Parameters
    ----------
    filename : path
        The file; the first line names the columns, ``epoch`` the first.
    separator : str
        What stands between the values.
    append : bool
        Whether lines are added to a file that is there, as a resumed run wants it. Such a run has
        the epochs again that came after its checkpoint: their lines, behind that of the last epoch
        that it knows of, are taken away (none, where it had not come to the end of its first).

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
        if self.append and self.model.history.epoch and os.path.exists(self.filename):
            self._drop_what_comes_again()
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

    def _drop_what_comes_again(self) -> None:
        """Take away the lines behind that of the last epoch which a resumed run has had.

        A file without that very line, or with another run's behind it, stays as it is.
        """
        past = self.model.history
        last = self._row(past.epoch[-1], past.logs[-1])
        with open(self.filename, newline="", encoding="utf-8") as file:
            lines = file.readlines()
        rows = [next(csv.reader([line], delimiter=self.separator), []) for line in lines]
        later: list[list[str]] = []
        while rows and rows[-1] != last:
            later.append(rows.pop())
        epochs = [int(row[0]) if row and row[0].isdigit() else -1 for row in later]
        if rows and later and min(epochs) > past.epoch[-1]:
            write_whole(self.filename, "".join(lines[: len(rows)]).encode())

    def _row(self, epoch: int, logs: Logs) -> list[str]:
        return [str(epoch), *(str(float(logs[name])) for name in self.params["metrics"])]

    def _write(self, values: list[str]) -> None:
        self._writer.writerow(values)
        self._file.flush()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write the epoch."""
        self._write(self._row(epoch, logs))

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
