"""What happens around training: history, early stopping, the progress bar, and your own."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.keras_gaps import refuse

if TYPE_CHECKING:
    from minidl.models import Model

Logs = Mapping[str, float]


class LazyLogs(Mapping[str, float]):
    """The loss and metrics so far, computed when one is looked up.

    Reading them waits for the device, so they are read no more often than they are shown.
    """

    def __init__(self, read: Mapping[str, Callable[[], float]]):
        self._read = read

    def __getitem__(self, name: str) -> float:
        return self._read[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


class Callback:
    """Do something at certain moments of `fit`; subclass it and override what you need.

    Attributes
    ----------
    model : Model
        The model in training; ``model.stop_training = True`` ends it after the current step.
    params : dict
        ``epochs``, ``steps`` (an epoch), ``verbose``, ``metrics`` (the names that epochs log).
    """

    model: "Model"
    params: dict[str, Any]

    def on_train_begin(self, logs: Logs) -> None:
        """Run before the first epoch."""

    def on_train_end(self, logs: Logs) -> None:
        """Run after the last epoch, with its logs."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Run before an epoch; the first is 0."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Run after an epoch and its validation, with loss, metrics and their ``val_`` twins."""

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Run before a training step; the first of an epoch is 0."""

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Run after a training step; looking into `logs` waits for the device."""


class CallbackList:
    """The callbacks of one `fit`, told of each moment in their order."""

    def __init__(self, callbacks: Sequence[Callback], model: "Model", params: dict[str, Any]):
        self._callbacks = callbacks
        for callback in callbacks:
            callback.model = model
            callback.params = params

    def tell(self, moment: str, *arguments: Any) -> None:
        """Call the method `moment` of each."""
        for callback in self._callbacks:
            getattr(callback, moment)(*arguments)


class History(Callback):
    """Keep what each epoch logged; `fit` returns one.

    Attributes
    ----------
    epoch : list of int
        The epochs' numbers.
    history : dict of str to list of float
        One list for each name, one entry for each epoch.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Append the epoch."""
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


class EarlyStopping(Callback):
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
        if mode not in ("auto", "min", "max"):
            raise ValueError(
                f'EarlyStopping: mode must be "auto", "min" or "max", received {mode!r}'
            )
        self.monitor = monitor
        self.min_delta = abs(min_delta)
        self.patience = patience
        self.sign = 1 if mode == "max" or (mode == "auto" and "acc" in monitor) else -1
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights

    def on_train_begin(self, logs: Logs) -> None:
        """Check the name and forget earlier training."""
        if self.monitor not in self.params["metrics"]:
            raise ValueError(
                f"EarlyStopping: {self.monitor} is not logged; there are "
                f"{', '.join(self.params['metrics'])}; give validation data for val_ names"
            )
        self.best = -math.inf
        self.best_epoch = 0
        self.stopped_epoch = 0
        self.wait = 0
        self._best_weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Compare with the best epoch so far."""
        value = self.sign * logs[self.monitor]
        self.wait += 1
        better = value - self.min_delta > self.best
        if self.restore_best_weights and (better or self._best_weights is None):
            self._best_weights = self.model.get_weights()
        if better:
            self.best, self.best_epoch = value, epoch
            if self.baseline is None or value - self.min_delta > self.sign * self.baseline:
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs) -> None:
        """Bring the best weights back, where that was asked for."""
        if self._best_weights is not None:
            self.model.set_weights(self._best_weights)
