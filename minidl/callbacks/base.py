"""Base class of callbacks, and the list that calls them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from minidl.arguments import refuse_names
from minidl.backend import Backend
from minidl.engine.parameter import Parameter
from minidl.optimizers import Optimizer
from minidl.storage.atomic import PathLike
from minidl.storage.tensor_file import as_json, check_dtype
from minidl.trainer.loop import Run
from minidl.trainer.state import History, Moment, Position, TrainState, copies

Logs = Mapping[str, float]


class Model(Protocol):
    """The model of a callback: what `Callback.model` can do.

    Attributes
    ----------
    stop_training : bool
        Set it to True to end `fit` after the current step. Checkpoints do not keep it. To stop a
        resumed run too, keep it in `Callback.state`, as `EarlyStopping` does.
    step, epoch : int
        The numbers of updates and of begun epochs over the model's life.
    position : Position
        The epoch, and the batches of it that are done.
    history : History
        The logs of the epochs so far.
    optimizer : Optimizer or None
        Its ``learning_rate`` can be set.
    train_state : TrainState
        All that a step changes, with `snapshot` and `load_state`.
    run : Run or None
        The `fit` call in progress.
    """

    stop_training: bool
    train_state: TrainState
    run: Run | None

    @property
    def step(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def position(self) -> Position: ...
    @property
    def history(self) -> History: ...
    @property
    def optimizer(self) -> Optimizer | None: ...

    @property
    def backend(self) -> Backend: ...

    def parameters(self) -> list[Parameter]: ...
    def get_weights(self) -> list[np.ndarray]: ...
    def set_weights(self, weights: Sequence[np.ndarray]) -> None: ...
    def evaluate(self, *arguments: Any, **options: Any) -> Any: ...
    def predict(self, *arguments: Any, **options: Any) -> Any: ...
    def save(self, path: PathLike) -> None: ...
    def check_savable(self, path: PathLike) -> None: ...


class Callback:
    """Actions at certain moments of `fit`; a subclass overrides the methods it needs.

    Each callback is called once for each moment, even if the run is interrupted and resumed. So
    after resuming, the first moment may be in the middle of an epoch: create what every method
    needs in `on_train_begin`. A method that was interrupted is called again. A callback that
    remembers something between moments defines `state` and `load_state`.

    Attributes
    ----------
    model : Model
        The model in training.
    params : dict
        ``epochs``, ``steps`` (in an epoch), ``verbose``, and ``metrics``: the names that epochs
        log.
    comes_last : bool
        Whether it is called after all callbacks for which this is False, to record what they did.

    Examples
    --------
    A callback that counts epochs, and goes on counting in a resumed run:

    >>> class Count(Callback):
    ...     count = 0
    ...
    ...     def on_epoch_end(self, epoch, logs):
    ...         self.count += 1
    ...
    ...     def state(self):
    ...         return {"count": self.count}
    ...
    ...     def load_state(self, state):
    ...         self.count = state["count"]
    """

    model: Model
    params: dict[str, Any]
    comes_last = False

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        refuse_names("Callback", dir(cls), who=cls.__name__)

    def on_train_begin(self, logs: Logs) -> None:
        """Run before training, also if it is resumed; an exception stops `fit` before training."""

    def on_train_end(self, logs: Logs) -> None:
        """Run after the last epoch, with its logs; not if training is interrupted."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Run before an epoch; the first is 0."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Run after an epoch and its validation, with loss, metrics and their ``val_`` twins."""

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Run before a training step; the first of an epoch is 0."""

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Run after a training step; reading a value of `logs` waits for the device."""

    def close(self) -> None:
        """Release files and locks; called however training ends, if it has begun."""

    def state(self) -> dict[str, Any]:
        """Return what the callback remembers: values that JSON can hold, and arrays, by name.

        Scalars of NumPy are kept as numbers. `fit` checks the values when it begins.
        """
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned, if anything; follows `on_train_begin` in a resumed run."""


class CallbackList:
    """The callbacks of one `fit` call, called for each moment in their order.

    Which callbacks have acted on a moment, and what they remember, is recorded in
    ``state.progress`` after each of them.
    """

    def __init__(self, callbacks: Sequence[Callback], model: Model):
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"fit: expected a list of Callbacks, got {callback!r} in it.")
        self._state = model.train_state
        self._callbacks: dict[str, Callback] = {}
        self._begun = ExitStack()  # closes the callbacks that have begun
        counts: Counter[str] = Counter()
        for callback in sorted(callbacks, key=lambda callback: callback.comes_last):
            name = type(callback).__name__
            key = f"{name}_{counts[name]}" if counts[name] else name
            counts[name] += 1
            self._callbacks[key] = callback
            callback.model = model

    def begin(self, params: dict[str, Any]) -> None:
        """Begin the run with each callback, and load what it remembered."""
        memories = self._state.progress.memories
        for key, callback in self._callbacks.items():
            callback.params = params
            callback.on_train_begin({})
            self._begun.callback(callback.close)
            if memories.get(key):
                callback.load_state(memories[key])
        # The callbacks that define a method: the others have nothing to do.
        self._acting = {
            name: [(key, c) for key, c in self._callbacks.items() if _defines(c, name)]
            for name in dir(Callback)
            if name.startswith("on_")
        }
        self._stateful = [key for key, c in self._callbacks.items() if _defines(c, "state")]
        self._earlier = self._state.progress.callbacks
        memories = {key: self._memory_of(key) for key in self._stateful}
        for key, memory in memories.items():
            self._check_memory(key, memory)
        self._state.progress = self._state.progress._replace(
            callbacks=tuple(self._callbacks), memories=memories
        )

    def _memory_of(self, key: str) -> dict[str, Any]:
        return copies(self._callbacks[key].state(), self._state.model.backend)

    def _check_memory(self, key: str, memory: Mapping[str, Any]) -> None:
        """Raise TypeError if checkpoints cannot hold what a callback remembers."""
        backend = self._state.model.backend
        for name, value in memory.items():
            try:
                if isinstance(value, np.ndarray) or backend.is_array(value):
                    check_dtype("expected it", value.dtype)
                else:
                    as_json(value)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"{key}: expected state() to return arrays of numbers and JSON values, got "
                    f"{value!r:.80} for {name!r} ({str(error).rstrip('.')}). Convert it in state()."
                ) from error

    def finish(self, logs: Logs) -> None:
        """After an interruption, call the remaining callbacks for the end of that batch or epoch.

        Callbacks that are new in the resumed run begin with the next moment.
        """
        moment = self._state.progress.moment
        if moment is not None and moment.name in ("on_train_batch_end", "on_epoch_end"):
            new = tuple(key for key in self._callbacks if key not in self._earlier)
            self._notify(moment._replace(acted=moment.acted + new), logs)

    def notify(self, name: str, number: int, logs: Logs) -> None:
        """Call the callbacks for a moment, except those that have acted on it."""
        moment, latest = Moment(name, number, self._state.step), self._state.progress.moment
        if latest is not None and latest.step == moment.step:
            if (latest.name, name) == ("on_train_batch_begin", "on_epoch_begin"):
                return  # the run was interrupted at the epoch's first batch
            if latest[:2] == moment[:2]:
                moment = latest
        self._notify(moment, logs)

    def _notify(self, moment: Moment, logs: Logs) -> None:
        """Call the moment's method of the callbacks that have not acted on it."""
        state, acting = self._state, self._acting[moment.name]
        if not acting:
            return
        state.progress = state.progress._replace(moment=moment, learning_rate=state.learning_rate)
        for key, callback in acting:
            if key in moment.acted:
                continue
            method = getattr(callback, moment.name)
            arguments = (logs,) if moment.name == "on_train_end" else (moment.number, logs)
            method(*arguments)
            moment = moment._replace(acted=(*moment.acted, key))
            memories = state.progress.memories
            if key in self._stateful:
                memories = {**memories, key: self._memory_of(key)}
            state.progress = state.progress._replace(
                moment=moment, memories=memories, learning_rate=state.learning_rate
            )
        state.progress = state.progress._replace(learning_rate=None)

    def close(self) -> None:
        """Close each callback that has begun, also if one of them raises."""
        self._begun.close()


def _defines(callback: Callback, name: str) -> bool:
    """Return whether a callback has a method of its own, in its class or in an attribute."""
    return getattr(getattr(callback, name), "__func__", None) is not getattr(Callback, name)


@dataclass(eq=False, repr=False)
class Monitor(Callback):
    """Base class of callbacks that act on the improvement of a logged value.

    Parameters
    ----------
    monitor : str
        The name of the value.
    min_delta : float
        The least change that counts as an improvement.
    mode : {"auto", "min", "max"}
        Whether less or more is better; auto is "max" for names with ``acc``.

    Attributes
    ----------
    best : float
        The best value so far, negated if less is better.
    remembered : tuple of str
        The attributes that the callback remembers.
    """

    monitor: str
    min_delta: float
    mode: str
    remembered: ClassVar[tuple[str, ...]] = ("best",)

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "min", "max"):
            raise ValueError(
                f'{type(self).__name__}: expected mode to be "auto", "min" or "max", got '
                f"{self.mode!r}."
            )
        is_auto_max = self.mode == "auto" and "acc" in self.monitor
        self.sign = 1 if self.mode == "max" or is_auto_max else -1
        self.min_delta = abs(self.min_delta)

    def on_train_begin(self, logs: Logs) -> None:
        """Check the name, and begin with the best value of the history.

        Raises
        ------
        ValueError
            If no value of the name is logged.
        """
        if self.monitor not in self.params["metrics"]:
            who, known = type(self).__name__, ", ".join(self.params["metrics"])
            raise ValueError(
                f"{who}: expected monitor to be one of {known}, got {self.monitor!r}. Choose "
                "one of them, or pass validation data for val_ names."
            )
        past = self.model.history.history.get(self.monitor, [])
        finite = [self.sign * value for value in past if not math.isnan(value)]
        self.best = max(finite, default=-math.inf)

    def improves(self, value: float) -> bool:
        """Return whether `value` is the best so far, and store it if so; NaN never is."""
        better = self.sign * value - self.min_delta > self.best
        if better:
            self.best = self.sign * value
        return better

    def state(self) -> dict[str, Any]:
        """Return what is remembered; JSON has no infinity, so None stands for no best value yet."""
        values = {name: getattr(self, name) for name in self.remembered}
        return values | {"best": None if self.best == -math.inf else self.best}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        for name in self.remembered:
            setattr(self, name, state[name])
        self.best = -math.inf if state["best"] is None else state["best"]
