"""Checkpoints during training."""

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from minidl.arguments import Number, optional, positive_integer
from minidl.callbacks.base import Callback, Logs
from minidl.callbacks.monitor import Monitor
from minidl.storage import registry
from minidl.storage.atomic import PathLike, check_writable
from minidl.storage.folders import BEST_FILE, STEP_FILE, lock_folder, step_files, temporary_files
from minidl.trainer.diagnosis import non_finite_weight

FILE_ENDINGS = (".keras", ".h5", ".safetensors")  # of checkpoints of Keras and minidl

log = logging.getLogger(__name__)


class ModelCheckpoint(Monitor):
    """Checkpoints in ``step-NNNNNNNNNN.safetensors`` files, from which training can be resumed.

    Each file is complete or absent, whenever the process or the machine stops; older files are
    deleted afterwards. A model with weights that are not finite is not saved, with a warning: it
    would replace usable files. All other callbacks act first, so that their changes are saved. If
    training is stopped within an epoch, or interrupted by an exception or Ctrl-C, the model is
    saved at that step.

    A name that ends in ``.safetensors`` or ``.weights.h5`` stands for single files, as in Keras:
    the model is saved after each epoch in the file of that name, and nowhere else. The name may
    hold ``{epoch:02d}``, from 1, and logged values, as ``{val_loss:.2f}``. Files of whole models
    end in ``.safetensors``, and training can be resumed from them.

    Parameters
    ----------
    filepath : path
        A folder, which is created if it does not exist, and which only one run at a time may use;
        or the name of files.
    monitor : str, optional
        The name of a logged value. In a folder, the best epoch is also kept in
        ``best.safetensors``. For files it is ``"val_loss"`` by default, and `save_best_only` uses
        it.
    verbose : int
        Whether a line is printed for each file, and for each epoch that is not the best.
    save_best_only, save_weights_only : bool
        For files: whether only epochs that improve the value are saved, and whether files hold
        the weights only, as `Model.save_weights` writes them. As in Keras, a callback that is
        used again goes on with its best value.
    mode : {"auto", "min", "max"}
        As in `EarlyStopping`.
    save_freq : "epoch" or int
        As in Keras: save after each epoch, or after this number of steps.
    every_steps, every_epochs : int, optional
        For a folder: save after this number of steps or epochs. By default, save after each epoch.
        The model is always saved after the last epoch.
    keep : int
        For a folder: the number of files to keep.
    initial_value_threshold : float, optional
        The first epoch that counts as the best must improve on this value of `monitor`.

    Raises
    ------
    TypeError, ValueError
        If an argument for folders is passed with the name of files, or the reverse; if a number is
        not a positive integer; if the ending of the name is not supported; or if `monitor` or
        `mode` is invalid, as in `EarlyStopping`.
    TypeError, ValueError
        When training begins, if ``Model.save`` cannot save the model.
    BlockingIOError
        When training begins, if another run uses the folder.
    FileExistsError
        When training begins, if the folder has checkpoints of later steps: those of another run, or
        of this run before it was resumed from an earlier file.
    OSError
        If a file cannot be written; the older files stay.

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
    >>> best = ModelCheckpoint("best.weights.h5", save_best_only=True, save_weights_only=True)
    """

    comes_last = True
    writes = True
    save_weights_only = False
    initial_value_threshold: Any = Number("(-inf, inf)", or_none=True)

    def __new__(cls, filepath: PathLike = "", *arguments: Any, **options: Any) -> "ModelCheckpoint":
        """Return a callback of the form that the name stands for."""
        is_file = cls is ModelCheckpoint and os.fspath(filepath).endswith(FILE_ENDINGS)
        return super().__new__(_ModelFiles if is_file else cls)

    def __init__(
        self,
        filepath: PathLike,
        monitor: str | None = None,
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        keep: int = 3,
    ):
        super().__init__("loss" if monitor is None else monitor, 0.0, mode)
        if save_best_only or save_weights_only:
            raise TypeError(
                "ModelCheckpoint: expected a file name for save_best_only and save_weights_only, "
                f"got the folder {filepath}. Use best.safetensors, or monitor= for the folder."
            )
        if save_freq != "epoch":
            every_steps = positive_integer("ModelCheckpoint: save_freq", save_freq)
        self.verbose = verbose
        self.filepath = os.fspath(filepath)
        self.folder = Path(filepath)
        if self.folder.suffix in FILE_ENDINGS:
            raise ValueError(
                f"{type(self).__name__}: expected a folder, got the file name {filepath}. Pass a "
                f"name without {self.folder.suffix}."
            )
        every_epochs = 1 if every_steps is every_epochs is None else every_epochs
        who = "ModelCheckpoint"
        self.every_steps = optional(positive_integer, f"{who}: every_steps", every_steps)
        self.every_epochs = optional(positive_integer, f"{who}: every_epochs", every_epochs)
        self.keep = positive_integer(f"{who}: keep", keep)
        self.keeps_best = monitor is not None
        self.initial_value_threshold = initial_value_threshold
        self._lock: IO[str] | None = None
        self._saved_step = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'filepath', None)!r})"

    def on_train_begin(self, logs: Logs) -> None:
        """Check the model, lock the folder, and delete the temporary files of a killed run."""
        self._begin(logs)
        self.model.check_savable(self._step_file())
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as on_error:
            lock = on_error.enter_context(lock_folder(self.folder))
            self._check_folder()
            for path in (self._step_file(), self.folder / BEST_FILE):
                check_writable(path)
            for path in temporary_files(self.folder):
                path.unlink(missing_ok=True)
            self._lock, self._saved_step = lock, self.model.step
            on_error.pop_all()

    def _begin(self, logs: Logs) -> None:
        """Check the name of the value, and begin with its best one: also of earlier runs."""
        earlier = vars(self).get("best")
        Monitor.on_train_begin(self, logs)
        for known in (self.initial_value_threshold, earlier):
            if known is not None and self.is_better(known, self.best):
                self.best = known

    def _check_folder(self) -> None:
        """Raise FileExistsError if the folder has files that would count as newer."""
        *_, newest = ["", *(path.name for path in step_files(self.folder))]
        if newest > self._step_file().name:
            raise FileExistsError(
                f"{self.folder}: expected no checkpoint later than step {self.model.step}, where "
                f"this run begins, got {newest}. Resume from that file, or use another folder."
            )

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Save if the number of steps is a multiple of `every_steps`, and when training stops."""
        is_due = self.every_steps and self.model.step % self.every_steps == 0
        run = self.model.run
        assert run is not None, "called within fit"
        is_last = self.model.stop_training and self.model.position.batch < run.steps
        if is_due or is_last:
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Save every `every_epochs` epochs, after the last one, and after the best one."""
        # The best file first: if the run is killed in between, it repeats this epoch.
        if self.keeps_best:
            self._save_best(self.folder / BEST_FILE, logs, f"Epoch {epoch + 1}")
        is_last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        if is_last or (self.every_epochs and (epoch + 1) % self.every_epochs == 0):
            self.save()

    def close(self) -> None:
        """Save a run that was interrupted or stopped by another worker, and unlock the folder."""
        try:
            self.save_broken_run()
        finally:
            assert self._lock is not None, "locked when training began"
            self._lock.close()

    def save_broken_run(self) -> None:
        """Save the last step if it is not saved yet; an error is only logged."""
        # An interruption can come before this callback is called for the step, and another worker
        # can stop the run afterwards.
        state = self.model.train_state
        is_complete = state.progress.moment is None and not self.model.position.batch
        if is_complete or state.step == self._saved_step or state.is_torn:
            return
        try:
            self.save()
        except (OSError, TypeError, ValueError) as error:
            # Training ends with the exception that interrupted it.
            log.warning("%s: not saved: %s", self._step_file(), error)

    def save(self) -> None:
        """Save now, and delete the oldest files beyond those to keep.

        If weights are not finite, no file is written or deleted.
        """
        written = self._step_file()
        if not self._write(written):
            return
        self._saved_step = self.model.step
        # After a rollback the file of this step need not be the newest.
        others = [path for path in step_files(self.folder) if path != written]
        for path in others[: max(0, len(others) - (self.keep - 1))]:
            path.unlink(missing_ok=True)

    def _step_file(self) -> Path:
        return self.folder / STEP_FILE.format(self.model.step)

    def _save_best(self, path: Path, logs: Logs, moment: str) -> None:
        """Save the model if these logs have the best value so far."""
        value = self.value(logs)
        if value is None:
            return
        before = "" if self.best is None else f" from {self.best:.5g}"
        if not self.is_better(value, self.best):
            self.announce(f"{moment}: {self.monitor} did not improve{before}")
        elif self._write(path, f"{moment}: {self.monitor} improved{before} to {value:.5g},"):
            self.best = value

    def _write(self, path: Path, reason: str | None = None) -> bool:
        """Return whether the model was saved: only finite weights are."""
        if non_finite_weight(self.model.parameters()) is not None:
            log.warning("%s: not saved: weights of the model are not finite", path)
            return False
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)
        self.announce(f"{reason or f'Step {self.model.step}:'} saved {path}")
        return True

    def state(self) -> dict[str, Any]:
        """Return the best value."""
        return super().state() if self.keeps_best else {}


class _ModelFiles(ModelCheckpoint):
    """The form of `ModelCheckpoint` for the names of files."""

    on_train_batch_end = Callback.on_train_batch_end

    def __init__(
        self,
        filepath: PathLike,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ):
        Monitor.__init__(self, monitor if save_best_only else "loss", 0.0, mode)
        self.filepath = os.fspath(filepath)
        self.keeps_best, self.save_weights_only = save_best_only, save_weights_only
        registry.find("weights" if save_weights_only else "model", self.filepath)
        self.initial_value_threshold = initial_value_threshold
        self.verbose, self.save_freq = verbose, save_freq
        if save_freq != "epoch":
            self.save_freq = positive_integer("ModelCheckpoint: save_freq", save_freq)
            if self.monitor.startswith("val_"):
                raise ValueError(
                    f"ModelCheckpoint: expected a monitor that steps have, got {self.monitor!r} "
                    f'with save_freq={save_freq}. Use "loss", or save_freq="epoch".'
                )
            vars(self)["on_train_batch_end"] = self._save_step

    def on_train_begin(self, logs: Logs) -> None:
        """Check the model and the name."""
        self._begin(logs)
        if not self.save_weights_only:
            self.model.check_savable(self.filepath)
        if not self.params["may_log_more"]:
            steps = self.save_freq != "epoch"
            names = [n for n in self.params["metrics"] if not (steps and n.startswith("val_"))]
            self._path(dict.fromkeys(names, 0.0), **({"batch": 1} if steps else {}))

    def _save_step(self, batch: int, logs: Logs) -> None:
        """Save if the number of steps is a multiple of `save_freq`."""
        if self.model.step % int(self.save_freq) == 0:
            moment = f"Step {self.model.step}"
            self._save(logs, moment, epoch=self.model.position.epoch + 1, batch=batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Save after an epoch, or after one that is the best."""
        if self.save_freq == "epoch":
            self._save(logs, f"Epoch {epoch + 1}", epoch=epoch + 1)

    def _save(self, logs: Logs, moment: str, **numbers: int) -> None:
        path = Path(self._path(logs, **numbers))
        if self.keeps_best:
            self._save_best(path, logs, moment)
        else:
            self._write(path, f"{moment}:")

    def _write(self, path: Path, reason: str | None = None) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        return super()._write(path, reason)

    def _path(self, logs: Mapping[str, Any], epoch: int = 1, **numbers: int) -> str:
        """Return the name of a file, or raise ValueError if a name in it is unknown."""
        known = {"epoch": epoch, **numbers, **logs}
        try:
            return self.filepath.format(**known)
        except (LookupError, ValueError, TypeError) as error:
            raise ValueError(
                f"ModelCheckpoint: expected names of {', '.join(known)} in filepath, got "
                f"{self.filepath!r}. Correct the part in braces."
            ) from error

    def close(self) -> None:
        """Do nothing: an interrupted run is not saved."""


_ModelFiles.__name__ = ModelCheckpoint.__name__  # in messages
