"""Training state: everything that a step changes and a checkpoint keeps.

`TrainState.state` and `TrainState.load_state` are the only enumeration of this state. Saving,
resuming, the rollback after a NaN and the restoring of best weights all use them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minidl.batches import Samples
from minidl.layers.base import Layer
from minidl.optimizers import Optimizer
from minidl.trainer.totals import Totals

Entries = Mapping[str, Any]


class Position(NamedTuple):
    """Progress of a `fit` run, and the data and arguments that it was begun with.

    Attributes
    ----------
    epoch : int
        The epoch in progress, or the next one, as `fit` counts them.
    batch : int
        The number of its batches that are done.
    batch_size, samples, shuffle : int
        Arguments of the run; 0 before the first.
    data_checksum, validation_checksum : int
        `Samples.checksum` of the training and validation samples; 0 without any.
    """

    epoch: int = 0
    batch: int = 0
    batch_size: int = 0
    samples: int = 0
    shuffle: int = 0
    data_checksum: int = 0
    validation_checksum: int = 0

    def differences(self, arguments: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
        """Yield name, old and new value of each of `run_arguments` that is not the run's."""
        for name, value in arguments.items():
            if self.batch_size and getattr(self, name) != value:
                yield name, getattr(self, name), value


def run_arguments(
    samples: Samples, held_out: Samples | None, *, batch_size: int, shuffle: bool
) -> dict[str, int]:
    """Return the data and arguments that a resumed run must share, as fields of `Position`."""
    return {
        "batch_size": batch_size,
        "samples": len(samples),
        "shuffle": int(shuffle),
        "data_checksum": samples.checksum(),
        "validation_checksum": 0 if held_out is None else held_out.checksum(),
    }


class Moment(NamedTuple):
    """A moment of a run, such as the end of an epoch, and the callbacks that have acted on it.

    Attributes
    ----------
    name : str
        The callback method: ``"on_epoch_end"``.
    number : int
        The number of the epoch or of the batch.
    step : int
        The model's step at that moment.
    told : tuple of str
        The keys of the callbacks that have acted on it.
    is_over : bool
        Whether all callbacks have acted on it.
    """

    name: str
    number: int
    step: int
    told: tuple[str, ...] = ()
    is_over: bool = False


class History:
    """Logs of each epoch of a run; `fit` returns one.

    Attributes
    ----------
    epoch : list of int
        The epochs' numbers.
    logs : list of dict
        The logs of each epoch: values by name.

    Examples
    --------
    >>> History([(0, {"loss": 0.5}), (1, {"loss": 0.25})]).history
    {'loss': [0.5, 0.25]}
    """

    def __init__(self, rows: Iterable[tuple[int, Any]] = ()):
        self.epoch: list[int] = []
        self.logs: list[Any] = []
        for epoch, logs in rows:
            self.epoch.append(epoch)
            self.logs.append(logs)

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Yield number and logs of each epoch."""
        return zip(self.epoch, self.logs, strict=True)

    @property
    def history(self) -> dict[str, list[float]]:
        """One list of values for each name."""
        names = dict.fromkeys(name for logs in self.logs for name in logs)
        return {name: [logs[name] for logs in self.logs if name in logs] for name in names}


class Progress(NamedTuple):
    """Everything about a run that changes together; each change replaces it as a whole.

    A run can be broken off between any two instructions, so there must be no half of a change.

    Attributes
    ----------
    position : Position
        Where the run is.
    history : History
        The logs of each completed epoch; it is replaced, never changed.
    moment : Moment or None
        The latest moment that callbacks were told of.
    callbacks : tuple of str
        The keys of the run's callbacks.
    memories : mapping of str to mapping
        What each stateful callback remembered after it last acted, by key.
    learning_rate : float or None
        The learning rate after the last callback acted; None if it follows a schedule. A callback
        that is broken off is told again, so its own change does not count.
    """

    position: Position = Position()
    history: History = History()
    moment: Moment | None = None
    callbacks: tuple[str, ...] = ()
    memories: Mapping[str, Mapping[str, Any]] = {}
    learning_rate: float | None = None


class TrainState:
    """Weights, optimizer, counters, random streams and the run in progress of one model.

    Attributes
    ----------
    step : int
        The number of optimizer updates the model has had.
    epoch : int
        The number of epochs it has begun, each with its own order of the samples.
    progress : Progress
        The run in progress, or the last one.
    optimizer : Optimizer or None
        The optimizer that `compile` chose.
    logged : tuple of str
        The names of the loss and of the metrics that `compile` chose.
    totals : Totals or None
        The running means of the epoch in progress.
    is_torn : bool
        Whether an update has begun to change weights, and was broken off.
    obstacle : str
        Why the run cannot be resumed; empty if it can.
    """

    def __init__(self, model: Layer):
        self.model = model
        self.step = 0
        self.epoch = 0
        self.progress = Progress()
        self.optimizer: Optimizer | None = None
        self.logged: tuple[str, ...] = ("loss",)
        self.totals: Totals | None = None
        self.is_torn = False
        self.obstacle = ""
        self._saved_totals: Mapping[str, tuple[float, int]] = {}

    # -------------------------------------------------------------------- the run

    def begin_run(self, arguments: Mapping[str, int], first_epoch: int) -> None:
        """Forget the last run and begin a new one, with the data and arguments of `fit`."""
        position = Position(first_epoch, 0, **arguments)
        self.progress = Progress(position, History())
        self.totals, self._saved_totals = None, {}
        self.obstacle = ""

    def check_resume(self, arguments: Mapping[str, int]) -> None:
        """Raise ValueError if the run cannot be resumed with the data and arguments of `fit`."""
        for name, old, new in self.progress.position.differences(arguments):
            raise ValueError(
                f"fit: expected {name} {old} to resume the run, got {new}. Pass the same, or leave "
                "resume out."
            )
        # A callback may put other weights into the model when training ends; no step follows then.
        moment = self.unfinished_moment
        is_ending = moment is not None and moment.name == "on_train_end"
        reason = "" if is_ending else self.why_not_resumable()
        if reason:
            raise ValueError(
                f"fit: expected a run that can be resumed, but {reason}. Load its last checkpoint, "
                "or leave resume out."
            )

    def why_not_resumable(self) -> str:
        """Return why the run cannot be resumed, or an empty string if it can."""
        if self.is_torn:
            return "an update was broken off while it changed the weights"
        if not self.progress.position.batch_size:
            return ""
        optimizer = self.optimizer
        if not self.obstacle and optimizer and not optimizer.is_for(self.model.parameters()):
            return "weights were frozen, unfrozen or added since its last update"
        return self.obstacle

    def totals_of_epoch(self) -> Mapping[str, tuple[float, int]]:
        """Return `Totals.state` of the epoch in progress; empty before its first batch."""
        if not self.progress.position.batch:
            return {}
        return self._saved_totals if self.totals is None else self.totals.state()

    def count_step(self) -> None:
        """Count an update; the end of its batch is the moment to tell next."""
        position = self.progress.position
        self.step += 1
        if position.batch == 0:  # an epoch has begun with its first update
            self.epoch += 1
        self.progress = self.progress._replace(
            position=position._replace(batch=position.batch + 1),
            moment=Moment("on_train_batch_end", position.batch, self.step),
        )

    def end_epoch(self, logs: dict[str, float]) -> None:
        """Add the logs to the history, and begin the next epoch; its end is to be told next."""
        position, rows = self.progress.position, self.progress.history.rows()
        self.progress = self.progress._replace(
            position=position._replace(epoch=position.epoch + 1, batch=0),
            history=History([*rows, (position.epoch, logs)]),
            moment=Moment("on_epoch_end", position.epoch, self.step),
        )

    @property
    def unfinished_moment(self) -> Moment | None:
        """The latest moment if some callbacks have yet to act on it, else None."""
        moment = self.progress.moment
        return None if moment is None or moment.is_over else moment

    @property
    def learning_rate(self) -> float | None:
        """The optimizer's learning rate; None if it follows a schedule."""
        rate = None if self.optimizer is None else self.optimizer.learning_rate
        return rate if isinstance(rate, float) else None

    def undo_broken_callback(self) -> None:
        """Undo what a callback that was broken off did to the learning rate."""
        rate = self.progress.learning_rate
        if self.unfinished_moment and self.optimizer is not None and rate is not None:
            self.optimizer.learning_rate = rate

    # -------------------------------------------------------------------- enumeration

    def state(self, *sections: str) -> dict[str, Any]:
        """Return the state by name: arrays, and values that JSON can hold.

        Parameters
        ----------
        *sections : str
            Of ``"weights"``, ``"optimizer"``, ``"model"``, ``"random"``, ``"position"`` and
            ``"run"``; without any, all of them. Names begin with the section: ``"model/step"``.

        Returns
        -------
        dict
            Weights and optimizer state are the live arrays of the device, not copies.
        """
        return {
            f"{section}/{name}": value
            for section in sections or tuple(_SECTIONS)
            for name, value in _SECTIONS[section].state(self).items()
        }

    def snapshot(self, *sections: str) -> dict[str, Any]:
        """Return a copy of `state` on the device."""
        backend = self.model.parameters()[0].backend
        with backend.active:
            return {
                name: value.copy() if backend.is_array(value) else value
                for name, value in self.state(*sections).items()
            }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned, or a part of it; arrays may be of the host or the device.

        What `state` does not name stays as it is.
        """
        for section, (_, load) in _SECTIONS.items():
            prefix = f"{section}/"
            entries = {
                name.removeprefix(prefix): value
                for name, value in state.items()
                if name.startswith(prefix)
            }
            if entries:
                load(self, entries)

    def _weights(self) -> Entries:
        """Return the weights; names that occur twice are numbered."""
        entries: dict[str, Any] = {}
        for parameter in self.model.parameters():
            name = parameter.name
            while name in entries:
                name += "'"
            entries[name] = parameter
        return entries

    def _weight_state(self) -> Entries:
        return {name: parameter.data for name, parameter in self._weights().items()}

    def _load_weights(self, entries: Entries) -> None:
        for name, parameter in self._weights().items():
            if name in entries:
                parameter.assign(parameter.backend.asarray(entries[name]))

    def _optimizer_state(self) -> Entries:
        optimizer = self.optimizer
        if optimizer is None:
            return {}
        entries: dict[str, Any] = {"iterations": np.array(0, "int64")}
        if optimizer.is_for(self.model.parameters()):  # else its state is that of other weights
            entries["iterations"] = np.array(optimizer.iterations, "int64")
            # SGD's momentum may have been set to 0.
            names = [name for name in optimizer.state if name in optimizer.state_names]
            entries |= {name: optimizer.state[name] for name in names}
        rate = self.progress.learning_rate if self.unfinished_moment else self.learning_rate
        if rate is not None:
            entries["learning_rate"] = np.array(rate, "float64")
        return entries

    def _load_optimizer(self, entries: Entries) -> None:
        optimizer = self.optimizer
        assert optimizer is not None, "its state is loaded after compile"
        parameters = self.model.parameters()
        if parameters:
            backend = parameters[0].backend
            with backend.active:
                arrays = {
                    name: backend.xp.array(backend.asarray(entries[name]))
                    for name in optimizer.state_names
                    if name in entries
                }
            optimizer.restore(parameters, int(entries["iterations"]), arrays)
        if "learning_rate" in entries:
            optimizer.learning_rate = float(entries["learning_rate"])

    def _model_state(self) -> Entries:
        return {"step": np.array(self.step, "int64"), "epoch": np.array(self.epoch, "int64")}

    def _load_model(self, entries: Entries) -> None:
        self.step, self.epoch = int(entries["step"]), int(entries["epoch"])

    def _random_state(self) -> Entries:
        streams = self.model.streams()
        return {
            "step": np.array([stream.step for stream in streams], "int64"),
            "is_fixed": np.array([stream.is_fixed for stream in streams], "bool"),
            "seed": [stream.seed for stream in streams],
            "stream": [stream.number for stream in streams],
        }

    def _load_random(self, entries: Entries) -> None:
        for index, stream in enumerate(self.model.streams()):
            stream.step = int(entries["step"][index])
            stream.restore(
                seed=entries["seed"][index],
                number=entries["stream"][index],
                is_fixed=bool(entries["is_fixed"][index]),
            )

    def _position_state(self) -> Entries:
        if self.optimizer is None:
            return {}
        position = self.progress.position._asdict()
        known = self.totals_of_epoch()
        totals = [known.get(name, (0.0, 0)) for name in self.logged]
        return {name: np.array(value, "int64") for name, value in position.items()} | {
            "totals": np.array([total for total, _ in totals], "float64"),
            "counts": np.array([count for _, count in totals], "int64"),
        }

    def _load_position(self, entries: Entries) -> None:
        fields = {name: int(entries[name]) for name in Position._fields}
        self.progress = self.progress._replace(position=Position(**fields))
        totals = zip(entries["totals"].tolist(), entries["counts"].tolist(), strict=True)
        self._saved_totals = dict(zip(self.logged, totals, strict=True))
        if self.totals is not None:
            self.totals.load_state(self._saved_totals)

    def _run_state(self) -> Entries:
        progress = self.progress
        entries: dict[str, Any] = {
            "history": list(progress.history.rows()),
            "moment": progress.moment,
            "callbacks": list(progress.callbacks),
            "obstacle": self.why_not_resumable(),
        }
        for key, memory in progress.memories.items():
            entries |= {f"memory/{key}/{name}": value for name, value in memory.items()}
        return entries

    def _load_run(self, entries: Entries) -> None:
        memories: dict[str, dict[str, Any]] = {}
        for name, value in entries.items():
            if name.startswith("memory/"):
                _, key, part = name.split("/", 2)
                memories.setdefault(key, {})[part] = value
        moment = entries["moment"]
        self.progress = self.progress._replace(
            history=History(entries["history"]),
            moment=None if moment is None else Moment(*moment)._replace(told=tuple(moment[3])),
            callbacks=tuple(entries["callbacks"]),
            memories=memories,
            learning_rate=self.learning_rate,
        )
        self.obstacle = entries["obstacle"]


class _Section(NamedTuple):
    """How a section of the state is read and loaded."""

    state: Callable[[TrainState], Entries]
    load: Callable[[TrainState, Entries], None]


_SECTIONS = {
    "weights": _Section(TrainState._weight_state, TrainState._load_weights),
    "optimizer": _Section(TrainState._optimizer_state, TrainState._load_optimizer),
    "model": _Section(TrainState._model_state, TrainState._load_model),
    "random": _Section(TrainState._random_state, TrainState._load_random),
    "position": _Section(TrainState._position_state, TrainState._load_position),
    "run": _Section(TrainState._run_state, TrainState._load_run),
}
