"""The folder of a run: what it was asked for, what each epoch gave, its checkpoints, its report."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from minidl.callbacks import Callback, Logs
from minidl.files import PathLike, lock_folder, write_whole

CHECKPOINTS = "checkpoints"
LOCK = ".run"  # a folder of its own, since the checkpoints, and their lock, may be in the run's


class RunFolder(Callback):
    """Keep ``config.json`` and, one line an epoch, flushed at once, ``history.jsonl``.

    Both tell of the whole run, from its first epoch on, however often it was resumed.

    Parameters
    ----------
    folder : path
        Made where it is not there. Only one run at a time may use it.
    configuration : mapping
        What JSON can hold. That of a command that goes on with a run takes the place of the older.
    goes_on : bool
        Whether the folder's run is resumed; any other finds a folder that has no run yet.

    Raises
    ------
    FileExistsError
        Where the folder has a run that is not resumed.
    BlockingIOError
        At the beginning of training, where another run uses the folder.
    OSError
        If it cannot be written.
    """

    comes_last = True  # so that the others can refuse the run before anything is written

    def __init__(self, folder: PathLike, configuration: Mapping[str, Any], *, goes_on: bool):
        self.folder = Path(folder)
        self.configuration = configuration
        self.goes_on = goes_on
        self._history = self.folder / "history.jsonl"
        self._check()

    def _check(self) -> None:
        if self._history.exists() and not self.goes_on:
            raise FileExistsError(
                f"{self.folder}: has a run already; go on with it, --resume latest, or give a new "
                "run another folder"
            )

    def on_train_begin(self, logs: Logs) -> None:
        """Take the folder, and begin with the epochs that a resumed run had when it was saved."""
        lock = self.folder / LOCK
        lock.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            opened.enter_context(lock_folder(lock))
            self._check()  # again, now that no other run can begin
            self._write_configuration()
            self._write_past()
            self._file = opened.enter_context(open(self._history, "a", encoding="utf-8"))
            self._opened = opened.pop_all()

    def _write_configuration(self) -> None:
        path = self.folder / "config.json"
        if self.model.position.epoch < self.params["epochs"] or not path.exists():
            write_whole(path, (json.dumps(self.configuration, indent=2) + "\n").encode())

    def _write_past(self) -> None:
        past = self.model.history
        lines = map(self._line, past.epoch, past.logs)
        write_whole(self._history, "".join(lines).encode())

    @staticmethod
    def _line(epoch: int, logs: Logs) -> str:
        return json.dumps({"epoch": epoch + 1, **logs}) + "\n"

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write the epoch, counted from 1."""
        self._file.write(self._line(epoch, logs))
        self._file.flush()

    def on_train_end(self, logs: Logs) -> None:
        """Close the file, and give the folder back."""
        self._opened.close()
