"""Stop when training no longer helps."""

from typing import Any

import numpy as np

from minidl.callbacks.base import Logs, Watcher
from minidl.keras_gaps import refuse


class EarlyStopping(Watcher):
    """Stop when a number has not improved for `patience` epochs.

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
        Whether the weights of the best epoch come back at the end.

    Raises
    ------
    ValueError
        At the beginning of training, where nothing of the name is logged.
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
        """Check the name, and begin to wait."""
        super().on_train_begin(logs)
        self.best_epoch = 0
        self.stopped_epoch = 0
        self.wait = 0
        self._best_weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Compare with the best epoch so far."""
        self.wait += 1
        better = self.improves(logs)
        if self.restore_best_weights and (better or self._best_weights is None):
            self._best_weights = self.model.get_weights()
        if better:
            self.best_epoch = epoch
            if self.baseline is None or self.best - self.min_delta > self.sign * self.baseline:
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs) -> None:
        """Bring the best weights back, where that was asked for."""
        if self._best_weights is not None:
            self.model.set_weights(self._best_weights)
