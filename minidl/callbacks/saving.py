"""Keep the model in files while it is trained."""

import logging
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from minidl.callbacks.base import Logs, Watcher
from minidl.callbacks.non_finite import failing_weight
from minidl.files import TEMPORARY, PathLike, lock_folder
from minidl.keras_gaps import refuse

STEP_FILE = "step-{:010d}.safetensors"
STEP_FILES = re.compile(r"step-\d{10}\.safetensors")
BEST_FILE = "best.safetensors"
FILE_ENDINGS = (".keras", ".h5", ".safetensors")  # of Keras' checkpoints and ours

log = logging.getLogger(__name__)


def step_files(folder: PathLike) -> list[Path]:
    """Return the files of a folder that `ModelCheckpoint` wrote for resuming, the oldest first."""
    return sorted(path for path in Path(folder).iterdir() if STEP_FILES.fullmatch(path.name))


class ModelCheckpoint(Watcher):
    """Save the model into ``step-NNNNNNNNNN.safetensors``, so that training can go on from there.

    Each file is whole or not there, whenever the process or the machine stops, and older ones are
    deleted after it. A model whose weights are not all finite is not saved, with a warning: it
    would drive out those that can be used. `fit` tells all other callbacks first, so that what
    they change is saved too. Where one of them stops training within an epoch, the model is saved
    at that step.

    Parameters
    ----------
    folder : path
        Made where it is not there. Only one run at a time may use it.
    every_steps, every_epochs : int, optional
        How often it is saved; each epoch where neither is given. The last epoch always is.
    keep : int
        How many files stay.
    monitor : str, optional
        The name of a number of which the best epoch is kept in ``best.safetensors`` too.
    mode : {"auto", "min", "max"}
        As in `EarlyStopping`.

    Raises
    ------
    ValueError
        If `folder` is the name of a file, or a number is below 1.
    TypeError, ValueError
        At the beginning of training, where `Model.save` cannot save the model.
    BlockingIOError
        At the beginning of training, where another run uses the folder.
    FileExistsError
        At the beginning of training, where the folder has checkpoints of later steps: those of
        another run, or of this one before it was resumed from an earlier file.
    OSError
        If a file cannot be written; those that were stay.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from minidl import checkpoint, layers, models
    >>> model = models.Sequential([layers.Dense(1, input_shape=(2,)), layers.Dropout(0.5)])
    >>> model.compile("adam", "mse")
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saver = ModelCheckpoint(folder, keep=2)
    ...     history = model.fit(x, y, batch_size=4, epochs=3, callbacks=[saver], verbose=0)
    ...     names = sorted(path.name for path in Path(folder).glob("step-*"))
    ...     restored = models.load(checkpoint.latest(folder))
    >>> names
    ['step-0000000004.safetensors', 'step-0000000006.safetensors']
    >>> restored.fit(x, y, batch_size=4, epochs=5, verbose=0, resume=True).epoch
    [0, 1, 2, 3, 4]
    """

    comes_last = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        keep: int = 3,
        monitor: str | None = None,
        mode: str = "auto",
        **not_taken: Any,
    ):
        refuse("ModelCheckpoint", not_taken)
        super().__init__(monitor or "loss", 0.0, mode)
        counts = {"every_steps": every_steps, "every_epochs": every_epochs, "keep": keep}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"ModelCheckpoint: {name} must be at least 1, received {count}")
        self.folder = Path(folder)
        if self.folder.suffix in FILE_ENDINGS:
            raise ValueError(
                f"ModelCheckpoint: expected a folder, received a file's name, {folder}; the files "
                f"in it have names of their own, as {BEST_FILE}"
            )
        self.every_steps = every_steps
        self.every_epochs = 1 if every_steps is every_epochs is None else every_epochs
        self.keep = keep
        self.keeps_best = monitor is not None
        self._lock: IO[str] | None = None

    def on_train_begin(self, logs: Logs) -> None:
        """Check the model, take the folder, and clear away what a killed run left half-written."""
        from minidl import checkpoint

        super().on_train_begin(logs)
        checkpoint.describe(self.model)
        for _, value in self.past():
            self.improves(value)
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as refused:
            lock = refused.enter_context(lock_folder(self.folder))
            self._check_folder()
            refused.pop_all()
        self._lock = lock
        for path in self.folder.glob(TEMPORARY):
            path.unlink(missing_ok=True)

    def _check_folder(self) -> None:
        """Raise where files are in the folder that would count as newer than those to come."""
        *_, newest = ["", *(path.name for path in step_files(self.folder))]
        if newest > self._step_file().name:
            raise FileExistsError(
                f"{self.folder}: has checkpoints of another run, {newest} the latest, and this one "
                f"begins at step {self.model.step}; resume it, or give another folder"
            )

    def on_train_end(self, logs: Logs) -> None:
        """Give the folder back."""
        assert self._lock is not None, "taken when training began"
        self._lock.close()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Save after every so many steps, counted over the model's life, and where it stops."""
        is_due = self.every_steps and self.model.step % self.every_steps == 0
        is_last = self.model.stop_training and self.model.position.batch < self.params["steps"]
        if is_due or is_last:
            self.save()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Save after every so many epochs, after the last one, and where it is the best."""
        # The best goes first: a run that is killed in between takes this epoch again.
        if self.keeps_best and self.improves(logs[self.monitor]):
            self._write(self.folder / BEST_FILE)
        is_last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        if is_last or (self.every_epochs and (epoch + 1) % self.every_epochs == 0):
            self.save()

    def save(self) -> None:
        """Save now, and delete the oldest files beyond those to keep."""
        written = self._step_file()
        self._write(written)
        # A guard against NaN may have gone back: the file of this step need not be the newest.
        others = [path for path in step_files(self.folder) if path != written]
        for path in others[: max(0, len(others) - (self.keep - 1))]:
            path.unlink(missing_ok=True)

    def _step_file(self) -> Path:
        return self.folder / STEP_FILE.format(self.model.step)

    def _write(self, path: Path) -> None:
        if failing_weight(self.model) is None:
            self.model.save(path)
        else:
            log.warning("%s not written: weights of the model are not finite", path)
