"""Training state: everything that a step changes and a checkpoint keeps.

`TrainState.state` and `TrainState.load_state` are the only enumeration of this state. Saving,
resuming, the rollback after a NaN and the restoring of best weights all use them.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import numpy as np

from minidl import notebooks
from minidl.backend import Backend
from minidl.engine.parameter import Parameter
from minidl.optimizers import Optimizer
from minidl.trainer.fingerprint import Fingerprint, changed, fingerprint_of
from minidl.trainer.position import Position
from minidl.trainer.totals import MetricStates, Sums, Totals

COMPILED_WITHIN_EPOCH = "compile was called within the epoch in progress"  # an obstacle


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
    acted : tuple of str
        The keys of the callbacks that have acted on it.
    """

    name: str
    number: int
    step: int
    acted: tuple[str, ...] = ()


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
        pairs = list(rows)
        self.epoch = [epoch for epoch, _ in pairs]
        self.logs = [logs for _, logs in pairs]

    def __repr__(self) -> str:
        plural = "" if len(self.epoch) == 1 else "s"
        return f"<History of {len(self.epoch)} epoch{plural}: {', '.join(self.history)}>"

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Yield number and logs of each epoch."""
        return zip(self.epoch, self.logs, strict=True)

    @property
    def history(self) -> dict[str, list[float]]:
        """One list of values for each name."""
        names = dict.fromkeys(name for logs in self.logs for name in logs)
        return {name: [logs[name] for logs in self.logs if name in logs] for name in names}

    def _repr_html_(self) -> str:
        """Return the curves of loss and metrics, each with that of the validation, in HTML."""
        points: dict[str, list[tuple[float, float]]] = {}
        for epoch, logs in self.rows():
            for name, value in logs.items():
                with suppress(TypeError, ValueError):  # callbacks may log other things
                    points.setdefault(name, []).append((epoch + 1, float(value)))
        names = dict.fromkeys(name.removeprefix("val_") for name in points)
        pairs = ({n: points.get(n, []), f"val_{n}": points.get(f"val_{n}", [])} for n in names)
        return "".join(map(notebooks.curves, pairs))


class Progress(NamedTuple):
    """Everything about a run that changes together; each change replaces it as a whole.

    A run can be interrupted between any two instructions, so a change is made as a whole.

    Attributes
    ----------
    position : Position
        Where the run is.
    history : History
        The logs of each completed epoch; it is replaced, never changed.
    moment : Moment or None
        The latest moment of the run; None before the first one, and when the run is complete.
    callbacks : tuple of str
        The keys of the run's callbacks.
    memories : mapping of str to mapping
        What each stateful callback remembered after it last acted, by key.
    learning_rate : float or None
        While callbacks act on a moment, the learning rate after the last of them; else None. A
        callback that is interrupted is called again, so its own change does not count.
    """

    position: Position = Position()
    history: History = History()
    moment: Moment | None = None
    callbacks: tuple[str, ...] = ()
    memories: Mapping[str, Mapping[str, Any]] = {}
    learning_rate: float | None = None


def copies(values: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    """Return copies of arrays and of other values, which may change in place."""
    with backend.active:
        return {
            name: value.copy() if backend.is_array(value) else copy.deepcopy(value)
            for name, value in values.items()
        }


class TrainState:
    """Weights, optimizer, counters, random streams and the run in progress of one model.

    Attributes
    ----------
    step : int
        The number of optimizer updates the model has had.
    epoch : int
        Number of epochs begun so far. Each epoch has its own order of the samples.
    progress : Progress
        The run in progress, or the last one.
    optimizer : Optimizer or None
        The optimizer that `compile` chose.
    logged : tuple of str
        The names of the loss and of the metrics that `compile` chose.
    totals : Totals
        The running means of the epoch in progress, once it has begun.
    is_torn : bool
        Whether an update has begun to change weights, and was interrupted.
    obstacle : str
        Why the run cannot be resumed; empty if it can.
    left : list or None
        The `fingerprint` that the last run or loading left; None before and in a run.
    """

    def __init__(self, model: Any):
        self.model = model  # a Network
        self.step = 0
        self.epoch = 0
        self.progress = Progress(history=History())
        self.optimizer: Optimizer | None = None
        self.logged: tuple[str, ...] = ("loss",)
        self.totals = Totals({"loss": 0}, model.backend)
        self.is_torn = False
        self.obstacle = ""
        self.left: Fingerprint | None = None

    # -------------------------------------------------------------------- the run

    def begin_run(self, arguments: Mapping[str, int], first_epoch: int) -> None:
        """Forget the last run and begin a new one, with the data and arguments of `fit`."""
        position = Position(first_epoch, 0, **arguments)
        self.progress = Progress(position, History())
        self.obstacle = ""
        self.left = None

    def check_resume(self, arguments: Mapping[str, int]) -> None:
        """Raise ValueError if the run cannot be resumed with the data and arguments of `fit`."""
        for name, old, new in self.progress.position.differences(arguments):
            raise ValueError(
                f"fit: expected {name} {old} to resume the run, got {new}. Pass the data and "
                "arguments of that run, or leave out resume=True."
            )
        # A callback may put other weights into the model when training ends; no step follows then.
        moment = self.progress.moment
        is_ending = moment is not None and moment.name == "on_train_end"
        reason = "" if is_ending else self.why_not_resumable()
        if reason:
            raise ValueError(
                f"fit: expected a run that can be resumed, but {reason}. Leave resume out."
            )

    def why_not_resumable(self) -> str:
        """Return why the run cannot be resumed, or an empty string if it can."""
        if self.is_torn:
            return "an update was interrupted while it changed the weights"
        if not self.progress.position.batch_size:
            return ""
        if not self.progress.position.is_known:
            return "it stopped within an epoch, and the position of its iterable is unknown"
        optimizer = self.optimizer
        if not self.obstacle and optimizer and not optimizer.is_for(self.model.parameters()):
            return "weights were frozen, unfrozen or added since its last update"
        if not self.obstacle and self.left is not None:
            name = changed(self.left, self.fingerprint())
            return f"{name} was changed since it ended" if name else ""
        return self.obstacle

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of everything that a resumed run relies on."""
        assert self.optimizer is not None, "compiled for the run"
        weights = {name: weight.data for name, weight in self._weights().items()}
        counters = {"model/step": np.array(self.step), "model/epoch": np.array(self.epoch)}
        arrays = weights | self._optimizer_state(self.optimizer) | counters
        return fingerprint_of(self.model, arrays)

    def totals_of_epoch(self) -> Sums:
        """Return `Totals.state` of the epoch in progress; empty before its first batch."""
        return self.totals.state() if self.progress.position.batch else {}

    def metrics_of_epoch(self) -> MetricStates:
        """Return `Totals.metric_states` of the epoch in progress, as `totals_of_epoch`."""
        return self.totals.metric_states() if self.progress.position.batch else {}

    def count_steps(self, times: int = 1) -> None:
        """Count updates; the next moment for callbacks is the end of the last one's batch."""
        position, history, _, callbacks, memories, rate = self.progress
        epoch, batch, *arguments = position
        self.step += times
        if batch == 0:  # an epoch has begun with its first update
            self.epoch += 1
        # Not by _replace, which takes most of the time of this method.
        moment = Moment("on_train_batch_end", batch + times - 1, self.step)
        position = Position(epoch, batch + times, *arguments)
        self.progress = Progress(position, history, moment, callbacks, memories, rate)

    def end_epoch(
        self, logs: dict[str, float], memories: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """Add the logs to the history, and begin the next epoch.

        The next moment for callbacks is the end of the epoch. `memories` is what they remember of
        its validation.
        """
        position = self.progress.position
        self.progress = self.progress._replace(
            position=position._replace(epoch=position.epoch + 1, batch=0),
            history=self._history_with(logs),
            moment=Moment("on_epoch_end", position.epoch, self.step),
            memories={**self.progress.memories, **(memories or {})},
        )
        if self.obstacle == COMPILED_WITHIN_EPOCH:
            self.obstacle = ""

    def record_divergence(self, logs: dict[str, float]) -> None:
        """Add the logs of an epoch that diverged; the epoch, if it is repeated, replaces them."""
        self.progress = self.progress._replace(history=self._history_with(logs))

    def _history_with(self, logs: dict[str, float]) -> History:
        epoch, rows = self.progress.position.epoch, self.progress.history.rows()
        return History([*(row for row in rows if row[0] != epoch), (epoch, logs)])

    @property
    def learning_rate(self) -> float | None:
        """The optimizer's learning rate; None if it follows a schedule."""
        rate = None if self.optimizer is None else self.optimizer.learning_rate
        return rate if isinstance(rate, float) else None

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        assert self.optimizer is not None, "set in fit, which checks it"
        self.optimizer.learning_rate = rate

    def undo_broken_callback(self) -> None:
        """Undo the change of the learning rate by an interrupted callback."""
        if self.progress.learning_rate is not None:
            self.learning_rate = self.progress.learning_rate
            self.progress = self.progress._replace(learning_rate=None)

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
        progress, streams = self.progress, self.model.streams()
        state: dict[str, Any] = {name: weight.data for name, weight in self._weights().items()}
        state |= {
            "model/step": np.array(self.step, "int64"),
            "model/epoch": np.array(self.epoch, "int64"),
            "random/step": np.array([stream.step for stream in streams], "int64"),
            "random/is_fixed": np.array([stream.is_fixed for stream in streams], "bool"),
            "random/seed": [stream.own_seed for stream in streams],
            "random/stream": [stream.number for stream in streams],
            "run/history": list(progress.history.rows()),
            "run/moment": progress.moment,
            "run/callbacks": list(progress.callbacks),
            "run/obstacle": self.why_not_resumable(),
        }
        for key, memory in progress.memories.items():
            state |= {f"run/memory/{key}/{name}": value for name, value in memory.items()}
        if self.optimizer is not None:
            state |= self._optimizer_state(self.optimizer) | self._position_state()
        if not sections:
            return state
        return {name: value for name, value in state.items() if name.split("/")[0] in sections}

    def _weights(self) -> dict[str, Parameter]:
        """Return the weights by name; a name that occurs again gets an apostrophe."""
        weights: dict[str, Parameter] = {}
        for parameter in self.model.parameters():
            name = f"weights/{parameter.name}"
            while name in weights:
                name += "'"
            weights[name] = parameter
        return weights

    def _optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        is_known = optimizer.is_for(self.model.parameters())  # else its state is of other weights
        calls = optimizer.calls if is_known else 0
        state: dict[str, Any] = {"optimizer/iterations": np.array(calls, "int64")}
        for name, values in optimizer.state.items():
            if is_known and name in optimizer.buffer_names:  # SGD's momentum may be 0 by now
                state[f"optimizer/{name}"] = values
        during_callbacks = self.progress.learning_rate
        rate = self.learning_rate if during_callbacks is None else during_callbacks
        if rate is not None:
            state["optimizer/learning_rate"] = np.array(rate, "float64")
        return state

    def _position_state(self) -> dict[str, Any]:
        known = self.totals_of_epoch()
        totals = [known.get(name, (0.0, 0)) for name in self.logged]
        metrics, position = self.metrics_of_epoch(), self.progress.position._asdict().items()
        # Older versions knew no shards.
        fields = {name: value for name, value in position if (name, value) != ("shards", 1)}
        return {f"position/{name}": np.array(value, "int64") for name, value in fields.items()} | {
            "position/totals": np.array([total for total, _ in totals], "float64"),
            "position/counts": np.array([count for _, count in totals], "int64"),
            **({"position/metrics": metrics} if metrics else {}),
        }

    def snapshot(self, *sections: str) -> dict[str, Any]:
        """Return a copy of `state` on the device."""
        return copies(self.state(*sections), self.model.backend)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load a result of `state`, or some of its sections; the others stay.

        Arrays may be those of the host or of the device. In `fit`, Ctrl-C waits until
        loading is complete.
        """
        run = self.model.run
        with nullcontext() if run is None else run.interrupts.held():
            self._load(state)

    def _load(self, state: Mapping[str, Any]) -> None:
        for name, parameter in self._weights().items():
            if name in state:
                parameter.assign(parameter.backend.asarray(state[name]))
        if "optimizer/iterations" in state:
            self._load_optimizer(state)
        if "model/step" in state:
            self.step, self.epoch = int(state["model/step"]), int(state["model/epoch"])
        if "random/step" in state:
            for index, stream in enumerate(self.model.streams()):
                stream.step = int(state["random/step"][index])
                stream.restore(
                    seed=state["random/seed"][index],
                    number=state["random/stream"][index],
                    is_fixed=bool(state["random/is_fixed"][index]),
                )
        if "position/epoch" in state:
            known = {name: f"position/{name}" for name in Position._fields}
            fields = {name: int(state[key]) for name, key in known.items() if key in state}
            self.progress = self.progress._replace(position=Position(**fields))
            sums, counts = state["position/totals"].tolist(), state["position/counts"].tolist()
            columns = {name: column for column, name in enumerate(self.logged)}
            before = dict(zip(self.logged, zip(sums, counts, strict=True), strict=True))
            metrics = state.get("position/metrics", {})
            self.totals = Totals(columns, self.model.backend, before, states=metrics)
        if "run/history" in state:
            self._load_run(state)

    def _load_optimizer(self, state: Mapping[str, Any]) -> None:
        optimizer, backend = self.optimizer, self.model.backend
        assert optimizer is not None, "its state is loaded after compile"
        with backend.active:
            arrays = {
                name: backend.xp.array(backend.asarray(state[f"optimizer/{name}"]))
                for name in optimizer.buffer_names
                if f"optimizer/{name}" in state
            }
        calls = int(state["optimizer/iterations"])
        optimizer.restore(self.model.parameters(), calls, arrays)
        if "optimizer/learning_rate" in state:
            optimizer.learning_rate = float(state["optimizer/learning_rate"])

    def _load_run(self, state: Mapping[str, Any]) -> None:
        memories: dict[str, dict[str, Any]] = {}
        for name, value in state.items():
            if name.startswith("run/memory/"):
                _, _, key, part = name.split("/", 3)
                memories.setdefault(key, {})[part] = value
        moment = state["run/moment"]
        self.progress = self.progress._replace(
            history=History(state["run/history"]),
            moment=None if moment is None else Moment(*moment)._replace(acted=tuple(moment[3])),
            callbacks=tuple(state["run/callbacks"]),
            memories=memories,
        )
        self.obstacle = state["run/obstacle"]
        if self.model.run is None and self.progress.position.batch_size:
            self.left = self.fingerprint()
