"""Training that resumes by itself after an interruption."""

from collections.abc import Mapping
from typing import Any

from minidl.callbacks.base import Logs
from minidl.callbacks.saving import ModelCheckpoint
from minidl.storage import registry
from minidl.storage.atomic import PathLike
from minidl.storage.folders import latest, step_files


class BackupAndRestore(ModelCheckpoint):
    """Backup of a run, from which the same call of `fit` resumes it after an interruption.

    If the folder holds a backup, `fit` loads it and resumes the run as ``fit(resume=True)`` does:
    in the middle of an epoch, too, and with the bits of an uninterrupted run. Model, settings and
    data must be the same. At the end of training, the backup is deleted. If batches come from an
    iterable, only the ends of epochs are saved: it must then yield the batches of the epochs that
    are left.

    Parameters
    ----------
    backup_dir : path
        The folder. Only one run at a time may use it. Of several workers, the first writes it, and
        all must be able to read it.
    save_freq : "epoch" or int
        The run is saved after each epoch and, if this is a number, each time this number of steps
        is done. It is also saved if an exception or Ctrl-C interrupts it.
    double_checkpoint : bool
        Whether the backup before the last one is kept, too.
    delete_checkpoint : bool
        Whether the backup is deleted at the end of training.

    Raises
    ------
    TypeError, ValueError, OSError
        As `ModelCheckpoint`.
    ValueError
        When training begins, if the backup is damaged, or of another model or other data.

    Examples
    --------
    >>> backup = BackupAndRestore("backup", save_freq=1000)
    """

    def __init__(
        self,
        backup_dir: PathLike,
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ):
        keep = 2 if double_checkpoint else 1
        super().__init__(backup_dir, save_freq=save_freq, every_epochs=1, keep=keep)
        self.delete_checkpoint = delete_checkpoint

    def restore(self, model: Any, arguments: Mapping[str, int]) -> bool:
        """Load the backup, if there is one; return whether `fit` resumes it."""
        path = latest(self.folder) if self.folder.is_dir() else None
        if path is None:
            return False
        saved = registry.find("model", path).matching(model, path)
        saved.train_state.check_resume(arguments)
        model.train_state.load_state(saved.train_state.state())
        return True

    def save(self) -> None:
        """Save now, unless the run could not be resumed here."""
        if self.model.position.is_known:
            super().save()

    def on_train_end(self, logs: Logs) -> None:
        """Delete the backup."""
        for path in step_files(self.folder) if self.delete_checkpoint else ():
            path.unlink(missing_ok=True)
        self._saved_step = self.model.step  # nothing is left to save
