"""Change the learning rate between epochs."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from minidl.callbacks.base import Callback, Logs, Watcher
from minidl.keras_gaps import refuse
from minidl.schedules import LearningRateSchedule, returned_rate

if TYPE_CHECKING:
    from minidl.models import Model


def learning_rate(who: str, model: "Model") -> float:
    """Return the optimizer's learning rate, or raise TypeError where it is a schedule."""
    assert model.optimizer is not None, "fit has checked it"
    rate = model.optimizer.learning_rate
    if isinstance(rate, LearningRateSchedule):
        raise TypeError(
            f"{who}: the optimizer follows {type(rate).__name__}; give it a number, "
            f"learning_rate=0.001, or leave {who} out"
        )
    return float(rate)


def set_learning_rate(model: "Model", rate: float) -> None:
    """Set the optimizer's learning rate, or raise ValueError where it is none."""
    assert model.optimizer is not None, "fit has checked it"
    model.optimizer.learning_rate = float(rate)


class LearningRateScheduler(Callback):
    """Set the learning rate at the beginning of each epoch.

    Parameters
    ----------
    schedule : callable
        Takes the epoch, from 0, and, where it has a second argument, the learning rate until now;
        returns the new one, 0 or above.

    Raises
    ------
    TypeError
        If `schedule` does not take these arguments; at the beginning of training, where the
        optimizer follows a schedule of its own.
    ValueError
        At the beginning of an epoch, where what `schedule` returned is no learning rate.

    Examples
    --------
    >>> halve_from_3 = LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch >= 3 else rate)
    """

    def __init__(
        self, schedule: Callable[[int, float], float] | Callable[[int], float], **not_taken: Any
    ):
        refuse("learning rate callback", not_taken, who="LearningRateScheduler")
        self.schedule: Callable[..., float] = schedule
        self._takes = _number_of_arguments(schedule)

    def on_train_begin(self, logs: Logs) -> None:
        """Check that there is a number to change."""
        learning_rate("LearningRateScheduler", self.model)

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Set the learning rate, unless a resumed run is in the middle of the epoch."""
        if self.model.position.batch == 0:
            told = (epoch, learning_rate("LearningRateScheduler", self.model))
            returned = self.schedule(*told[: self._takes])
            who = "LearningRateScheduler: schedule"
            set_learning_rate(self.model, returned_rate(who, returned, f"epoch {epoch}"))


def _number_of_arguments(schedule: Callable[..., float]) -> int:
    """Return whether a schedule takes epoch and learning rate, 2, or the epoch alone, 1."""
    for number in (2, 1):
        with suppress(TypeError, ValueError):  # ValueError of functions that tell no signature
            inspect.signature(schedule).bind(*range(number))
            return number
    raise TypeError(
        "LearningRateScheduler: schedule must be a function of the epoch, or of the epoch and the "
        f"learning rate, received {schedule!r}"
    )


class ReduceLROnPlateau(Watcher):
    """Multiply the learning rate by `factor` when a number has not improved for a while.

    A run that is resumed has waited as long as it had before, and has the learning rate it had.
    For that, a wait also ends, and the cooldown begins, where the learning rate is at `min_lr`
    already; in Keras such a wait goes on. The learning rates are Keras', unless something else
    raises them.

    Parameters
    ----------
    monitor, min_delta, mode
        As in `EarlyStopping`.
    factor : float
        In (0, 1).
    patience : int
        The number of epochs without improvement that are waited for.
    cooldown : int
        The number of epochs after a reduction that are not counted.
    min_lr : float
        The learning rate falls no lower.

    Raises
    ------
    ValueError
        At the beginning of training, where nothing of the name is logged.
    TypeError
        At the beginning of training, where the optimizer follows a schedule of its own.

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
        **not_taken: Any,
    ):
        refuse("learning rate callback", not_taken, who="ReduceLROnPlateau")
        super().__init__(monitor, min_delta, mode)
        if not 0 < factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor must be in (0, 1), received {factor}")
        self.factor = factor
        self.patience = patience
        self.cooldown = cooldown
        self.min_lr = min_lr

    def on_train_begin(self, logs: Logs) -> None:
        """Check that there is a number to change, and begin to wait, or go on with it."""
        super().on_train_begin(logs)
        learning_rate("ReduceLROnPlateau", self.model)
        self._wait = 0
        self._cooling = 0
        for _, value in self.past():
            self._is_over(value)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Compare with the best epoch so far."""
        if self._is_over(logs[self.monitor]):
            rate = learning_rate("ReduceLROnPlateau", self.model)
            if rate > self.min_lr:
                set_learning_rate(self.model, max(rate * self.factor, self.min_lr))

    def _is_over(self, value: float) -> bool:
        """Take in an epoch, and tell whether the wait has come to its end."""
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
