"""Base class of callbacks, and the list that calls them."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Protocol

import numpy as np

from minidl import console
from minidl.alternatives import refuse_names
from minidl.arguments import Shown, as_list
from minidl.backend import Backend
from minidl.batches import Batch
from minidl.engine.parameter import Parameter
from minidl.optimizers import Optimizer
from minidl.storage.atomic import PathLike
from minidl.storage.tensor_file import as_json, check_dtype
from minidl.trainer.loop import Run
from minidl.trainer.position import Position
from minidl.trainer.state import History, Moment, TrainState, copies

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
    def optimizer(self) -> Optimizer | Any: ...

    @property
    def backend(self) -> Backend: ...

    def parameters(self) -> list[Parameter]: ...
    def get_weights(self) -> list[np.ndarray]: ...
    def set_weights(self, weights: Iterable[np.ndarray]) -> None: ...
    def evaluate(self, *arguments: Any, **options: Any) -> Any: ...
    def predict(self, *arguments: Any, **options: Any) -> Any: ...
    def save(self, path: PathLike) -> None: ...
    def save_weights(self, path: PathLike) -> None: ...
    def check_savable(self, path: PathLike) -> None: ...


class Callback(Shown):
    """Actions at certain moments of training; a subclass overrides the methods it needs.

    Each callback is called once for each moment, even if the run is interrupted and resumed. So
    after resuming, the first moment may be in the middle of an epoch: create what every method
    needs in `on_train_begin`. A method that was interrupted is called again. A callback that
    remembers something between moments defines `state` and `load_state`.

    `evaluate` and `predict` call the callbacks that they are given, and the validation in `fit`
    those of `fit`. A validation that was interrupted is repeated, with its moments. So a callback
    must not change training there; what it remembers counts from the end of the validation.

    Attributes
    ----------
    model : Model
        The model in training.
    params : dict
        ``epochs``, ``steps`` (in an epoch; None if unknown), ``verbose``, and ``metrics``: the
        names that epochs log, without those that callbacks add. ``may_log_more`` is whether one of
        your callbacks defines `on_epoch_end`.
    comes_last : bool
        Whether it is called after all callbacks for which this is False, to record what they did.
    writes : bool
        Whether it prints, or writes files. Of several workers, only the first calls it then. A
        callback that adds to logs, or changes training, must be called by all.

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
    writes = False

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        refuse_names("Callback", dir(cls), who=cls.__name__)

    def on_train_begin(self, logs: Logs) -> None:
        """Run before training, also if it is resumed; an exception stops `fit` before training."""

    def on_train_end(self, logs: Logs) -> None:
        """Run after the last epoch, with its logs; not if training is interrupted."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Run before an epoch; the first is 0."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Run after an epoch and its validation, with loss, metrics and their ``val_`` twins.

        Values that it adds to `logs` are logged like others: by later callbacks, in the history and
        in checkpoints. Numbers, 0-d arrays and 0-d tensors become floats. Other values stay in the
        history and in CSV files only.
        """

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Run before a training step; the first of an epoch is 0."""

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Run after a training step; reading a value of `logs` waits for the device."""

    def on_test_begin(self, logs: Logs) -> None:
        """Run before an evaluation or a validation."""

    def on_test_end(self, logs: Logs) -> None:
        """Run after an evaluation or a validation, with loss and metrics."""

    def on_test_batch_begin(self, batch: int, logs: Logs) -> None:
        """Run before a batch of an evaluation or a validation."""

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        """Run after such a batch; `logs` are the means so far, or NaN in a shared run."""

    def on_predict_begin(self, logs: Logs) -> None:
        """Run before a prediction."""

    def on_predict_end(self, logs: Logs) -> None:
        """Run after a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs) -> None:
        """Run before a batch of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:
        """Run after such a batch; ``logs["outputs"]`` are the predictions for it."""

    def restore(self, model: Any, arguments: Mapping[str, int]) -> bool:
        """Load a run that this callback has saved, if any; return whether `fit` resumes it.

        All workers call it. `arguments` are those of `TrainState.check_resume`.
        """
        return False

    def announce(self, text: str) -> None:
        """Print a line if the attribute ``verbose`` is set; of several workers, on the first."""
        run = self.model.run
        if getattr(self, "verbose", 0) and (run is None or run.distribution.rank == 0):
            # A progress bar may be in the line.
            start = "\n" if console.is_terminal(sys.stdout) else ""
            console.write(start + text, sys.stdout)

    def close(self) -> None:
        """Release files and locks; called however training ends, if it has begun."""

    def state(self) -> dict[str, Any]:
        """Return what the callback remembers: values that JSON can hold, and arrays, by name.

        Scalars of NumPy are kept as numbers. `fit` checks the values when it begins.
        """
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned, if anything; follows `on_train_begin` in a resumed run."""


class Observers:
    """Callbacks that are called in an evaluation, a validation or a prediction.

    Parameters
    ----------
    kind : {"test", "predict"}
        The word in the names of the methods.
    callbacks : iterable of Callback
        The callbacks, in the order of their calls.
    """

    def __init__(self, kind: str, callbacks: Iterable[Callback]):
        self._kind, self._callbacks = kind, list(callbacks)

    def begin(self, model: Any, params: dict[str, Any]) -> None:
        """Set the attributes of the callbacks, unless these are in `fit`."""
        for callback in self._callbacks if model.run is None else ():
            callback.model, callback.params = model, params

    def _call(self, moment: str, *arguments: Any) -> None:
        name = f"on_{self._kind}_{moment}"
        for callback in self._callbacks:
            if _defines(callback, name):
                getattr(callback, name)(*arguments)

    def watching(
        self, batches: Iterable[Batch], logs: Callable[[], Mapping[str, Any]]
    ) -> Iterator[Batch]:
        """Yield the batches, and call the callbacks around each."""
        self._call("begin", {})
        for number, batch in enumerate(batches):
            self._call("batch_begin", number, {})
            yield batch
            self._call("batch_end", number, logs())

    def end(self, logs: Mapping[str, Any]) -> None:
        """Call the callbacks for the end."""
        self._call("end", logs)


class CallbackList:
    """The callbacks of one `fit` call, called for each moment in their order.

    Which callbacks have acted on a moment, and what they remember, is recorded in
    ``state.progress`` after each of them.

    Attributes
    ----------
    observers : Observers
        The same callbacks, in a validation.
    """

    def __init__(self, callbacks: Sequence[Callback], model: Model, rank: int = 0):
        self._state = model.train_state
        self._callbacks: dict[str, Callback] = {}
        self._begun = ExitStack()  # closes the callbacks that have begun
        counts: Counter[str] = Counter()
        for callback in sorted(callbacks, key=lambda callback: callback.comes_last):
            name = type(callback).__name__
            key = f"{name}_{counts[name]}" if counts[name] else name
            counts[name] += 1
            if rank == 0 or not callback.writes:
                self._callbacks[key] = callback
            callback.model = model
        self.observers = Observers("test", self._callbacks.values())

    def begin(self, params: dict[str, Any]) -> None:
        """Begin the run with each callback, and load what it remembered."""
        memories = self._state.progress.memories
        params = params | {"may_log_more": any(map(_may_log, self._callbacks.values()))}
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

    @property
    def names(self) -> list[str]:
        """The names of the callbacks that all workers call."""
        return [name for name, callback in self._callbacks.items() if not callback.writes]

    def memories(self) -> dict[str, dict[str, Any]]:
        """Return what the callbacks remember that may have acted in a validation."""
        names = [name for name in self._acting if name.startswith("on_test_")]
        acting = {key for name in names for key, _ in self._acting[name]}
        return {key: self._memory_of(key) for key in self._stateful if key in acting}

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

    @property
    def act_on_batches(self) -> bool:
        """Whether a callback acts on the beginning or the end of a batch."""
        return any(self._acting[name] for name in ("on_train_batch_begin", "on_train_batch_end"))

    def notify(self, name: str, number: int, logs: Logs) -> None:
        """Call the callbacks for a moment, except those that have acted on it."""
        if not self._acting[name]:
            return
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
            if moment.name == "on_epoch_end":
                assert isinstance(logs, dict), "a row of the history, which callbacks change"
                logs |= numbers(logs)
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


def checked_callbacks(
    callbacks: Callback | Iterable[Callback] | None, who: str = "fit"
) -> list[Callback]:
    """Return the callbacks that `who` was given as a list, or raise TypeError."""
    if callbacks is None or isinstance(callbacks, Callback):
        return [] if callbacks is None else [callbacks]
    listed = as_list(who, "callbacks", callbacks)
    for callback in listed:
        if not isinstance(callback, Callback):
            advice = f" Use {callback.__name__}()." if isinstance(callback, type) else ""
            raise TypeError(
                f"{who}: expected callbacks to be a list of Callbacks, got {callback!r:.80} in it."
                f"{advice}"
            )
    return listed


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among the logs of an epoch as floats; callbacks may add anything.

    Examples
    --------
    >>> numbers({"loss": np.array(0.5), "note": "0.5", "rates": [0.1, 0.2]})
    {'loss': 0.5}
    """
    found = {}
    for name, value in logs.items():
        with suppress(TypeError, ValueError, OverflowError):
            if isinstance(name, str) and not isinstance(value, str) and np.ndim(value) == 0:
                found[name] = float(value)
    return found


def _may_log(callback: Callback) -> bool:
    """Return whether a callback may add values to logs; minidl's own add the learning rate only."""
    owner = getattr(callback.on_epoch_end, "__module__", None) or ""
    return not owner.startswith("minidl.")


def _defines(callback: Callback, name: str) -> bool:
    """Return whether a callback has a method of its own, in its class or in an attribute."""
    return getattr(getattr(callback, name), "__func__", None) is not getattr(Callback, name)
