"""Callbacks that change the learning rate between epochs."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from minidl.callbacks.base import Callback, Logs, Model, Monitor
from minidl.optimizers.schedules import LearningRateSchedule, returned_rate


def learning_rate(who: str, model: Model) -> float:
    """Return the optimizer's learning rate.

    Raises
    ------
    TypeError
        If the optimizer follows a schedule.
    """
    assert model.optimizer is not None, "checked by fit"
    rate = model.optimizer.learning_rate
    if isinstance(rate, LearningRateSchedule):
        raise TypeError(
            f"{who}: expected the optimizer's learning rate to be a number, got a "
            f"{type(rate).__name__}. Pass learning_rate=0.001, or leave {who} out."
        )
    return rate


def set_learning_rate(model: Model, rate: float) -> None:
    """Set the optimizer's learning rate."""
    assert model.optimizer is not None, "checked by fit"
    model.optimizer.learning_rate = float(rate)


class LearningRateScheduler(Callback):
    """Learning rate that is set at the beginning of each epoch.

    Parameters
    ----------
    schedule : callable
        Takes the epoch, from 0, and, if it has a second argument, the current learning rate.
        Returns the new one, 0 or above.

    Raises
    ------
    TypeError
        If `schedule` does not take these arguments. When training begins, if the optimizer follows
        a schedule of its own.
    ValueError
        When an epoch begins, if `schedule` returned an invalid learning rate.

    Examples
    --------
    >>> halve_from_3 = LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch >= 3 else rate)
    """

    def __init__(self, schedule: Callable[[int, float], float] | Callable[[int], float]):
        self.schedule: Callable[..., float] = schedule
        self._arguments = _number_of_arguments(schedule)

    def on_train_begin(self, logs: Logs) -> None:
        """Check that the learning rate is a number."""
        learning_rate("LearningRateScheduler", self.model)

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Set the learning rate."""
        known = (epoch, learning_rate("LearningRateScheduler", self.model))
        returned = self.schedule(*known[: self._arguments])
        who = "LearningRateScheduler: schedule"
        set_learning_rate(self.model, returned_rate(who, returned, f"epoch {epoch}"))


def _number_of_arguments(schedule: Callable[..., float]) -> int:
    """Return 2 if a schedule takes epoch and learning rate, 1 if it takes the epoch only."""
    for number in (2, 1):
        with suppress(TypeError, ValueError):  # ValueError: a function without a signature
            inspect.signature(schedule).bind(*range(number))
            return number
    raise TypeError(
        "LearningRateScheduler: expected schedule to be a function of the epoch, or of the epoch "
        f"and the learning rate, got {schedule!r}."
    )


class ReduceLROnPlateau(Monitor):
    """Learning rate that is multiplied by `factor` when a value has not improved for a while.

    A wait also ends, and the cooldown begins, if the learning rate is at `min_lr` already; in Keras
    such a wait goes on. The learning rates are those of Keras, unless something else raises them.

    Parameters
    ----------
    monitor, min_delta, mode
        As in `EarlyStopping`.
    factor : float
        In (0, 1).
    patience : int
        The number of epochs without improvement before a reduction.
    cooldown : int
        The number of epochs after a reduction that do not count.
    min_lr : float
        The lower bound of the learning rate.

    Raises
    ------
    ValueError
        When training begins, if no value of the name is logged.
    TypeError
        When training begins, if the optimizer follows a schedule.

    Examples
    --------
    >>> reduce = ReduceLROnPlateau("val_loss", factor=0.5, patience=3, min_lr=1e-5)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        *,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ):
        super().__init__(monitor, min_delta, mode)
        if not 0 < factor < 1:
            raise ValueError(f"ReduceLROnPlateau: expected factor in (0, 1), got {factor}.")
        self.factor = factor
        self.patience = patience
        self.cooldown = cooldown
        self.min_lr = min_lr

    def on_train_begin(self, logs: Logs) -> None:
        """Check that the learning rate is a number, and begin to wait."""
        super().on_train_begin(logs)
        learning_rate("ReduceLROnPlateau", self.model)
        self._wait = 0
        self._cooling = 0

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Compare with the best epoch so far."""
        if self._is_due(logs[self.monitor]):
            rate = learning_rate("ReduceLROnPlateau", self.model)
            if rate > self.min_lr:
                set_learning_rate(self.model, max(rate * self.factor, self.min_lr))

    def _is_due(self, value: float) -> bool:
        """Count an epoch, and return whether the wait is over."""
        if self._cooling:
            self._cooling -= 1
            self._wait = 0
        if self.improves(value):
            self._wait = 0
        elif not self._cooling:
            self._wait += 1
            if self._wait >= self.patience:
                self._cooling = self.cooldown
                self._wait = 0
                return True
        return False

    def state(self) -> dict[str, Any]:
        """Return the best value, the wait and the cooldown."""
        return super().state() | {"wait": self._wait, "cooling": self._cooling}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        super().load_state(state)
        self._wait, self._cooling = state["wait"], state["cooling"]
