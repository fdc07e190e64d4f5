"""What callbacks are, what tells them, and what is kept of each epoch."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from minidl.keras_gaps import refuse_definition

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
    comes_last : bool
        Whether it is told after all callbacks for which this is False: it records what they did.
    """

    model: "Model"
    params: dict[str, Any]
    comes_last = False

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        refuse_definition("Callback", dir(cls), who=cls.__name__)

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
        self._begun: list[Callback] = []
        self.params = params
        for callback in callbacks:
            callback.model = model
            callback.params = params

    def begin(self) -> None:
        """Begin training with each; the first that raises ends it."""
        for callback in self._callbacks:
            callback.on_train_begin({})
            self._begun.append(callback)

    def end(self, logs: Logs) -> None:
        """End training with each that has begun, also where one of them raises."""
        with ExitStack() as stack:
            for callback in reversed(self._begun):
                stack.callback(callback.on_train_end, logs)

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
    logs : list of mapping
        What each of them logged: names and numbers.

    Examples
    --------
    >>> history = History()
    >>> for epoch, loss in enumerate([0.5, 0.25]):
    ...     history.on_epoch_end(epoch, {"loss": loss})
    >>> history.history
    {'loss': [0.5, 0.25]}
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.logs: list[Logs] = []

    @property
    def history(self) -> dict[str, list[float]]:
        """One list for each name, one entry for each epoch that logged it."""
        names = dict.fromkeys(name for logs in self.logs for name in logs)
        return {name: [logs[name] for logs in self.logs if name in logs] for name in names}

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Keep the epoch's own logs, so that what others put into them later is there too."""
        self.epoch.append(epoch)
        self.logs.append(logs)


class Watcher(Callback):
    """Watch a number that epochs log; the base of what acts on its improvement.

    Parameters
    ----------
    monitor : str
        The name of what is watched.
    min_delta : float
        The least change that counts as an improvement.
    mode : {"auto", "min", "max"}
        Whether less or more is better; auto takes more for names that hold ``acc``.
    """

    def __init__(self, monitor: str, min_delta: float, mode: str):
        if mode not in ("auto", "min", "max"):
            raise ValueError(
                f'{type(self).__name__}: mode must be "auto", "min" or "max", received {mode!r}'
            )
        self.monitor = monitor
        self.min_delta = abs(min_delta)
        self.sign = 1 if mode == "max" or (mode == "auto" and "acc" in monitor) else -1

    def on_train_begin(self, logs: Logs) -> None:
        """Check the name, and forget earlier training.

        Raises
        ------
        ValueError
            If nothing of the name is logged.
        """
        if self.monitor not in self.params["metrics"]:
            raise ValueError(
                f"{type(self).__name__}: {self.monitor} is not logged; there are "
                f"{', '.join(self.params['metrics'])}; give validation data for val_ names"
            )
        self.best = -math.inf

    def past(self) -> Iterator[tuple[int, float]]:
        """Give the epochs of a run that is resumed, each with the number that is watched.

        What has taken them in, one by one, stands where it stood when the run was broken off.
        """
        history = self.model.history
        for epoch, logs in zip(history.epoch, history.logs, strict=True):
            if self.monitor in logs:
                yield epoch, logs[self.monitor]

    def improves(self, value: float) -> bool:
        """Tell whether an epoch's value is the best so far, and remember it if so; NaN never is."""
        better = self.sign * value - self.min_delta > self.best
        if better:
            self.best = self.sign * value
        return better
