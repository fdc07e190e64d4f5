"""Folder of a run: its configuration and the history of its epochs."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from minidl.callbacks import Callback, Logs
from minidl.commands.watch import json_line
from minidl.storage.atomic import PathLike, write_atomically
from minidl.storage.folders import lock_folder

CHECKPOINTS, REPORT, PLAYGROUND = "checkpoints", "report.html", "playground.html"
HISTORY = "history.jsonl"
LOCK = ".run"  # a separate folder: the checkpoints, and their lock, may be in the run's folder


def check_no_run(folder: PathLike) -> None:
    """Raise FileExistsError if the folder has a run."""
    if Path(folder, HISTORY).exists():
        raise FileExistsError(
            f"{folder}: expected a folder without a run, got one with a run. Add --resume latest, "
            "or use another folder."
        )


class RunFolder(Callback):
    """Files ``config.json`` and ``history.jsonl``, with one line for each epoch.

    NaN and infinity, which JSON lacks, are null in the history.

    Both describe the whole run from its first epoch on, however often it was resumed.

    Parameters
    ----------
    folder : path
        Created if it does not exist. Only one run at a time may use it.
    configuration : mapping
        JSON values. The configuration of a resumed run replaces the older one.
    is_resumed : bool
        Whether the run of the folder is resumed; otherwise the folder must not have a run.

    Raises
    ------
    FileExistsError
        When training begins, if the folder has a run that is not resumed.
    BlockingIOError
        When training begins, if another run uses the folder.
    OSError
        If a file cannot be written.
    """

    comes_last = True  # so that other callbacks can reject the run before anything is written
    writes = True

    def __init__(self, folder: PathLike, configuration: Mapping[str, Any], *, is_resumed: bool):
        self.folder = Path(folder)
        self.configuration = configuration
        self.is_resumed = is_resumed
        self._history = self.folder / HISTORY

    def on_train_begin(self, logs: Logs) -> None:
        """Lock the folder, and write the configuration and the epochs so far."""
        lock = self.folder / LOCK
        lock.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            opened.enter_context(lock_folder(lock))
            if not self.is_resumed:
                check_no_run(self.folder)  # now that no other run can begin
            self._write_configuration()
            self._write_history()
            self._opened = opened.pop_all()

    def _write_configuration(self) -> None:
        path = self.folder / "config.json"
        if self.model.position.epoch < self.params["epochs"] or not path.exists():
            write_atomically(path, (json.dumps(self.configuration, indent=2) + "\n").encode())

    def _write_history(self) -> None:
        rows = self.model.history.rows()
        lines = (json_line({"epoch": epoch + 1, **logs}) + "\n" for epoch, logs in rows)
        write_atomically(self._history, "".join(lines).encode())

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write the epochs so far, counted from 1."""
        self._write_history()

    def on_train_end(self, logs: Logs) -> None:
        """Write an epoch that diverged."""
        self._write_history()

    def close(self) -> None:
        """Unlock the folder."""
        self._opened.close()
