"""The folder of a run: what it was asked for, what each epoch gave, its checkpoints, its report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from minidl.callbacks import Callback, Logs
from minidl.files import PathLike, write_whole

CHECKPOINTS = "checkpoints"


class RunFolder(Callback):
    """Keep ``config.json`` and, one line an epoch, flushed at once, ``history.jsonl``.

    Parameters
    ----------
    folder : path
        Made where it is not there.
    configuration : mapping
        What JSON can hold.
    goes_on : bool
        Whether the folder's run is resumed; any other finds a folder that has no run yet.

    Raises
    ------
    FileExistsError
        If the folder has a run that is not resumed.
    OSError
        If it cannot be written.
    """

    def __init__(self, folder: PathLike, configuration: Mapping[str, Any], *, goes_on: bool):
        self.folder = Path(folder)
        self._history = self.folder / "history.jsonl"
        self._file: IO[str] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._history.exists() and not goes_on:
            raise FileExistsError(
                f"{folder}: has a run already; go on with it, --resume latest, or give a new run "
                "another folder"
            )
        text = json.dumps(configuration, indent=2) + "\n"
        write_whole(self.folder / "config.json", text.encode())

    def on_train_begin(self, logs: Logs) -> None:
        """Begin with the epochs that a resumed run had when it was saved."""
        past = self.model.history
        rows = zip(*past.history.values(), strict=True)
        lines = [
            self._line(epoch, dict(zip(past.history, row, strict=True)))
            for epoch, row in zip(past.epoch, rows, strict=True)
        ]
        write_whole(self._history, "".join(lines).encode())
        self._file = open(self._history, "a", encoding="utf-8")  # noqa: SIM115  on_train_end closes

    @staticmethod
    def _line(epoch: int, logs: Logs) -> str:
        return json.dumps({"epoch": epoch + 1, **logs}) + "\n"

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write the epoch, counted from 1."""
        assert self._file is not None, "opened when training began"
        self._file.write(self._line(epoch, logs))
        self._file.flush()

    def on_train_end(self, logs: Logs) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
