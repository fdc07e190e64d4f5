"""Stop when training no longer helps."""

from typing import Any

import numpy as np

from minidl.callbacks.base import Logs, Watcher
from minidl.keras_gaps import refuse


class EarlyStopping(Watcher):
    """Stop when a number has not improved for `patience` epochs.

    A run that is resumed has waited as long as it had before, and one that was stopped stays so.

    Parameters
    ----------
    monitor : str
        The name of what is watched.
    min_delta : float
        The least change that counts as an improvement.
    patience : int
        The number of epochs without improvement that are waited for.
    mode : {"auto", "min", "max"}
        Whether less or more is better; auto takes more for names that hold ``acc``.
    baseline : float, optional
        What must be bettered for a start.
    restore_best_weights : bool
        Whether the weights of the best epoch come back at the end. They are kept in memory, so a
        run that has had an epoch cannot be resumed with it.

    Raises
    ------
    ValueError
        At the beginning of training, where nothing of the name is logged, or where the best weights
        of a run that is resumed are asked for.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        *,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        **not_taken: Any,
    ):
        refuse("EarlyStopping", not_taken)
        super().__init__(monitor, min_delta, mode)
        self.patience = patience
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights

    def on_train_begin(self, logs: Logs) -> None:
        """Check the name, and begin to wait, or go on with it."""
        super().on_train_begin(logs)
        self.best_epoch = 0
        self.stopped_epoch = 0
        self.wait = 0
        self._best_weights: list[np.ndarray] | None = None
        is_over = False
        for epoch, value in self.past():
            is_over = self._is_over(epoch, value)
        if is_over:
            self._stop(epoch)
        if self.restore_best_weights and self.model.history.epoch:
            raise ValueError(
                "EarlyStopping: restore_best_weights needs the weights of epoch "
                f"{self.best_epoch}, and a run that is resumed has those of its last step alone; "
                f"leave it out, and let ModelCheckpoint(folder, monitor={self.monitor!r}) keep them"
            )

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Compare with the best epoch so far."""
        is_over = self._is_over(epoch, logs[self.monitor])
        if self.restore_best_weights and (self.best_epoch == epoch or self._best_weights is None):
            self._best_weights = self.model.get_weights()
        if is_over:
            self._stop(epoch)

    def _is_over(self, epoch: int, value: float) -> bool:
        """Take in an epoch, and tell whether the wait has come to its end."""
        self.wait += 1
        if self.improves(value):
            self.best_epoch = epoch
            if self.baseline is None or self.best - self.min_delta > self.sign * self.baseline:
                self.wait = 0
            return False
        return self.wait >= self.patience and epoch > 0

    def _stop(self, epoch: int) -> None:
        self.stopped_epoch = epoch
        self.model.stop_training = True

    def on_train_end(self, logs: Logs) -> None:
        """Bring the best weights back, where that was asked for."""
        if self._best_weights is not None:
            self.model.set_weights(self._best_weights)
