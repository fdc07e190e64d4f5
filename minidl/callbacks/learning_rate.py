"""Callbacks that change the learning rate between epochs."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any

from minidl.arguments import count, number
from minidl.callbacks.base import Callback, Logs
from minidl.callbacks.monitor import Monitor
from minidl.optimizers.schedules import name_of, returned_rate


def learning_rate(callback: Callback) -> float:
    """Return the optimizer's learning rate.

    Raises
    ------
    TypeError
        If the optimizer follows a schedule.
    """
    optimizer = callback.model.optimizer
    assert optimizer is not None, "checked by fit"
    rate = optimizer.learning_rate
    if callable(rate):
        raise TypeError(
            f"{type(callback).__name__}: expected the optimizer's learning rate to be a number, "
            f"got the schedule {name_of(rate)}. Pass learning_rate=0.001 to the optimizer, "
            "or leave the callback out."
        )
    return rate


class LearningRateScheduler(Callback):
    """Learning rate that is set at the beginning of each epoch, and logged at its end.

    Parameters
    ----------
    schedule : callable
        Takes the epoch, from 0, and, if it has a second argument, the current learning rate.
        Returns the new one, 0 or above.
    verbose : int
        Whether a line is printed for each epoch.

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

    def __init__(
        self, schedule: Callable[[int, float], float] | Callable[[int], float], verbose: int = 0
    ):
        self.schedule: Callable[..., float] = schedule
        self.verbose = verbose
        self._arguments = _number_of_arguments(schedule)

    def on_train_begin(self, logs: Logs) -> None:
        """Check that the learning rate is a number."""
        learning_rate(self)

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Set the learning rate."""
        known = (epoch, learning_rate(self))
        returned = self.schedule(*known[: self._arguments])
        rate = returned_rate("LearningRateScheduler: schedule", returned, f"epoch {epoch}")
        self.model.train_state.learning_rate = rate
        self.announce(f"Epoch {epoch + 1}: LearningRateScheduler setting learning rate to {rate}.")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Add the learning rate of the epoch to its logs."""
        logs.setdefault("learning_rate", learning_rate(self))


def _number_of_arguments(schedule: Callable[..., float]) -> int:
    """Return 2 if a schedule takes epoch and learning rate, 1 if it takes the epoch only."""
    for arguments in (2, 1):
        with suppress(TypeError, ValueError):  # ValueError: a function without a signature
            inspect.signature(schedule).bind(*range(arguments))
            return arguments
    raise TypeError(
        "LearningRateScheduler: expected schedule to take (epoch) or (epoch, learning_rate), "
        f"got {schedule!r}. Pass a function of one or two arguments."
    )


@dataclass(eq=False, repr=False)
class ReduceLROnPlateau(Monitor):
    """Learning rate that is multiplied by `factor` when a value has not improved for a while.

    The learning rate of each epoch is logged. A wait also ends, and the cooldown begins, if the
    learning rate is at `min_lr` already; in Keras such a wait goes on. The learning rates are those
    of Keras, unless something else raises them.

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
    verbose : int
        Whether a line is printed for each reduction.

    Raises
    ------
    TypeError, ValueError
        As in `EarlyStopping`; also when training begins, if the optimizer follows a schedule.

    Examples
    --------
    >>> reduce = ReduceLROnPlateau("val_loss", factor=0.5, patience=3, min_lr=1e-5)
    """

    remembered = ("best", "wait", "cooling")

    monitor: str = "val_loss"
    factor: float = 0.1
    patience: int = 10
    _: KW_ONLY
    mode: str = "auto"
    min_delta: float = 1e-4
    cooldown: int = 0
    min_lr: float = 0.0
    verbose: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        who = "ReduceLROnPlateau"
        self.factor = number(who, "factor", self.factor, "(0, 1)")
        self.patience = count(f"{who}: patience", self.patience)
        self.cooldown = count(f"{who}: cooldown", self.cooldown)
        self.min_lr = number(who, "min_lr", self.min_lr, "[0, inf)")

    def on_train_begin(self, logs: Logs) -> None:
        """Check that the learning rate is a number, and begin to wait."""
        super().on_train_begin(logs)
        learning_rate(self)
        self.wait = 0
        self.cooling = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Log the learning rate of the epoch, and compare with the best epoch so far."""
        rate = learning_rate(self)
        logs.setdefault("learning_rate", rate)
        value = self.value(logs)
        if value is not None and self._is_due(value) and rate > self.min_lr:
            reduced = max(rate * self.factor, self.min_lr)
            self.model.train_state.learning_rate = reduced
            self.announce(
                f"Epoch {epoch + 1}: ReduceLROnPlateau reducing learning rate to {reduced}."
            )

    def _is_due(self, value: float) -> bool:
        """Count an epoch, and return whether the wait is over."""
        if self.cooling:
            self.cooling -= 1
            self.wait = 0
        if self.improves(value):
            self.wait = 0
        elif not self.cooling:
            self.wait += 1
            if self.wait >= self.patience:
                self.cooling = self.cooldown
                self.wait = 0
                return True
        return False
