"""Recordings of the work on batches, which are replayed without Python.

A `Recorder` runs a `Work`, such as the training step, on one batch after the other. The batches of
one size go through four stages:

1. Eager: ordinary code works on the first batch. It compiles kernels and creates buffers.
2. Record: the same code works on the second batch, and its launches are recorded.
3. Trial: a replay works on the third batch and is undone. Ordinary code repeats the batch, and all
   bits of the results are compared.
4. Replay: from then on, replays work on the batches.

A recording repeats the launches with the same arrays and numbers. So what changes from batch to
batch lies at fixed places on the device, which the recorded kernels read. A `Table` fills these
places. A `Watch` notices other changes: the stages then begin again. What cannot be recorded runs
eagerly, with one line in the log.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from minidl_kernels import threads
from minidl_kernels.placed import NotRecorded

from minidl.backend import Array, Backend
from minidl.batches import Batch, Feed
from minidl.trainer.table import Numbers, Table

log = logging.getLogger(__name__)
NOT_WANTED, TOO_FEW = "record=False", "there are too few batches"  # not worth a message

PATIENCE = 4  # recordings in a row that a change made useless before their first replay

_UNREAD = {"run", "stop_training", "recording"}  # attributes of models that no step reads


class Recording(NamedTuple):
    """Report on the recordings of one call of `fit`, `evaluate` or `predict`.

    Attributes
    ----------
    recordings : int
        The number of recordings made: one for each size of a batch, and new ones after changes.
    replays : int
        The number of batches, or of draws for a batch, that were replayed.
    launches : int or None
        The number of kernels in the last recording; None if the device cannot tell.
    reason : str
        Why batches ran eagerly; empty if they were recorded.
    """

    recordings: int = 0
    replays: int = 0
    launches: int | None = 0
    reason: str = ""


class Done(NamedTuple):
    """Results of the work on a batch.

    Attributes
    ----------
    results : mapping of str to array
        The arrays that the work writes, by name. The trial compares all of them.
    counted : any
        What `run` counted on the host; `Work.replay` counts it again.
    """

    results: Mapping[str, Array]
    counted: Any = None


class Work:
    """Work on each batch, such as a training step.

    A subclass defines `run` and `watch`, and overrides what differs from here.

    Attributes
    ----------
    who : str
        The public method that does the work, for messages.
    feed : Feed
        The source of the batches.
    repeats : int
        The number of runs for each batch.
    """

    who: str
    feed: Feed
    repeats = 1

    def numbers(self, ahead: int = 0) -> Numbers:
        """Return the numbers of the next batch, or of a later one."""
        return Numbers()

    def upcoming(self, batch: Batch) -> Iterator[tuple[int, Numbers]]:
        """Yield start and numbers of this batch, and of the next batches of its size."""
        size = len(batch)
        for ahead, start in enumerate(range(batch.start, len(batch.order) - size + 1, size)):
            yield start, self.numbers(ahead)

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Work on a batch by ordinary code."""
        raise NotImplementedError

    def replay(self, recording: Any, counted: Any, times: int) -> None:
        """Replay a recording of `run` a number of times, and count on the host as `run` does."""
        recording.replay(times)

    def watch(self) -> "Watch":
        """Return a watch on everything that a recording of `run` relies on."""
        raise NotImplementedError

    def counters(self) -> list[tuple[Any, ...]]:
        """Return objects, each followed by the names of attributes that `run` changes."""
        return []

    def held(self) -> AbstractContextManager[Any]:
        """Return a context in which Ctrl-C waits."""
        return nullcontext()


class Watch:
    """Snapshot of everything that a recording relies on, which may change between batches.

    Parameters
    ----------
    model : Model
        The attributes of its layers, weights and random streams are watched.
    attributes : sequence of tuple
        Objects, each followed by the names of attributes that must keep their values.
    parts : sequence
        Objects whose attributes must all keep their values.
    arrays : callable
        ``arrays()`` must return the same arrays.
    """

    def __init__(
        self,
        model: Any,
        *attributes: tuple[Any, ...],
        parts: Sequence[Any] = (),
        arrays: Callable[[], Sequence[Array]] = tuple,
    ):
        layers = [layer for layer in model.walk() if layer is not model]
        of_weights = [part for p in model.parameters() for part in (p.constraint, p.regularizer)]
        owners = *layers, *(part for part in of_weights if part is not None), *parts
        self._dicts = [(vars(part), dict(vars(part))) for part in owners]
        self._arrays, self._arrays_before = arrays, arrays()
        self._ids = [*map(id, self._arrays_before)]
        self._weights = [(parameter, parameter.data) for parameter in model.parameters()]
        found = [(threads, "_chosen"), (model, *(n for n in vars(model) if n not in _UNREAD))]
        of_weight = "_requires_grad", "constraint", "regularizer", "_factor"
        found += [(parameter, *of_weight) for parameter in model.parameters()]
        found += [(stream, "own_seed", "model_seed", "number") for stream in model.streams()]
        # With two names or more, a getter returns a tuple: compared by identity first.
        getters = [(attrgetter(*names, names[0]), thing) for thing, *names in (*found, *attributes)]
        self._values = [(get, thing, get(thing)) for get, thing in getters]

    def holds(self) -> bool:
        """Return whether nothing has changed since."""
        try:
            for parameter, data in self._weights:
                if parameter.data is not data:
                    return False
            if [*map(id, self._arrays())] != self._ids:
                return False
            for values, before in self._dicts:
                if values != before:
                    return False
            for get, thing, value in self._values:
                if get(thing) != value:
                    return False
        except (AttributeError, TypeError, ValueError):  # as for arrays that are not the same
            return False
        return True


class _Kept:
    """Stage of the batches of one size: their table, and their recording if there is one yet."""

    def __init__(self, table: Table):
        self.table = table
        self.watch: Any = None
        self.recording: Any = None
        self.done = Done({})
        self.is_proven = False


class Recorder:
    """Runs a work on batches, with one recording for each size of a batch.

    Parameters
    ----------
    backend : Backend
        The device.
    dtype : numpy.dtype
        The dtype of the weights.
    work : Work
        The work on each batch.
    reason : str
        Why nothing is recorded, or an empty string.
    """

    def __init__(self, backend: Backend, dtype: np.dtype, work: Work, reason: str = ""):
        self._backend, self._dtype, self._work = backend, dtype, work
        self._kept: dict[int, _Kept] = {}
        self._recordings = self._replays = self._useless = 0
        self._launches: int | None = 0
        self._reason = ""
        if reason:
            self.give_up(reason)

    @property
    def report(self) -> Recording:
        """The report on the recordings so far."""
        return Recording(self._recordings, self._replays, self._launches, self._reason)

    def __call__(self, batch: Batch, times: int = 1) -> Done:
        """Work on a batch.

        In the last stage, the next batches or draws are replayed with it, `times` in all at most.
        """
        work = self._work
        if self._reason:
            return work.run(batch, work.numbers())
        size = len(batch)
        kept = self._kept.get(size)
        if kept is not None and not kept.watch.holds():
            self._useless += not kept.is_proven
            del self._kept[size]
            kept = None
        if self._useless == PATIENCE:
            self.give_up("layers, weights or settings change from batch to batch")
            return work.run(batch, work.numbers())
        if kept is None:
            sizes = len(work.feed), size, work.repeats
            kept = _Kept(Table(self._backend, self._dtype, *sizes, work.numbers()))
        kept.table.aim(batch, work.upcoming(batch))
        if kept.watch is None:
            self._run_placed(kept)  # compiles the kernels that read numbers from their places
            kept.watch = work.watch()
            self._kept[size] = kept
        elif kept.recording is None:
            self._record(kept, batch)
        elif not kept.is_proven:
            self._try(kept, batch)
        else:
            times = min(times, kept.table.left)
            work.replay(kept.recording, kept.done.counted, times)
            kept.table.advance(times)
            self._replays += times
        return kept.done

    def work_ahead(self, batch: Batch, most: int) -> int:
        """Work on a batch, and replay up to `most` with it; return the number of batches done."""
        before = self._replays
        self(batch, most)
        return max(1, self._replays - before)

    def _run_placed(self, kept: _Kept) -> None:
        """Run ordinary code whose kernels read the numbers of the batch from their places."""
        work, table = self._work, kept.table
        table.begin()
        kept.done = work.run(Batch(work.feed, table.rows), table.placed(work.numbers()))

    def _record(self, kept: _Kept, batch: Batch) -> None:
        """Work on a batch by ordinary code, and record it or give up."""
        work = self._work
        pairs = [(thing, name) for thing, *names in work.counters() for name in names]
        before = [(thing, name, getattr(thing, name)) for thing, name in pairs]
        try:
            with work.held():
                recording = self._backend.record(lambda: self._run_placed(kept))
        except NotRecorded as error:
            for thing, name, value in before:
                setattr(thing, name, value)
            self.give_up(str(error))
            kept.done = work.run(batch, work.numbers())
            return
        kept.recording = recording
        if recording.obstacle:
            self.give_up(recording.obstacle)
            return
        self._recordings += 1
        self._launches = recording.launches

    def _try(self, kept: _Kept, batch: Batch) -> None:
        """Work on a batch eagerly, and compare all bits of the results with those of a replay."""
        work, results = self._work, kept.done.results
        with work.held():
            before = {name: array.copy() for name, array in results.items()}
            kept.recording.replay()
            kept.table.advance(1)
            replayed = {name: array.copy() for name, array in results.items()}
            for name, array in results.items():
                array[...] = before[name]
        done = work.run(batch, work.numbers())
        differing = [name for name in results if _differ(replayed[name], done.results[name])]
        if differing:
            kept.done = done
            self.give_up("a replayed batch had other bits than an eager one")
            warnings.warn(
                f"{work.who}: expected the bits of an eager batch from its recording, got others "
                f"in {', '.join(differing)}. All batches are worked on eagerly. Please report it "
                "with your network.",
                stacklevel=2,
            )
            return
        kept.is_proven = True
        self._useless = 0
        for name, array in results.items():
            if array is not done.results[name]:
                array[...] = done.results[name]

    def give_up(self, reason: str) -> None:
        """Work on all further batches eagerly."""
        if self._reason:
            return
        self._kept.clear()
        self._reason = reason
        if reason not in (NOT_WANTED, TOO_FEW):
            log.info("%s: batches are not recorded: %s", self._work.who, reason)


def _differ(array: Array, other: Array) -> bool:
    """Return whether a bit differs: a NaN equals itself, and -0.0 is not 0.0."""
    bits = f"uint{8 * array.itemsize}"
    return bool((array.view(bits) != other.view(bits)).any())


def obstacle_of(model: Any, plan: Any, optimizer: Any = None) -> str:
    """Return why the work of a plan must not be recorded, or an empty string.

    A user's class, or the function of an activation, needs ``recordable = True``. `Layer` lists
    what this promises.
    """
    if plan.feed.obstacle:
        return plan.feed.obstacle
    metrics = [metric for metric in plan.metrics if not metric.is_mean]
    if metrics:
        return f"the metric {metrics[0].name} keeps a state of its own"
    compared_by = plan.compared_by()
    parts = [*plan.layers, *model.walk(), *compared_by]
    parts += [getattr(layer, "activation", None) for layer in model.walk()]
    parts += [getattr(part, "function", None) for part in compared_by]
    parts += [part for p in model.parameters() for part in (p.constraint, p.regularizer)]
    if optimizer is not None and not type(optimizer).rule.__module__.startswith("minidl."):
        # A rule that computes with the rate would keep its value.
        return f"the rule of {type(optimizer).__name__} is not one of minidl"
    if optimizer is not None and optimizer.gradient_accumulation_steps:
        return "gradients are accumulated"
    for part in parts:
        kind = part if isinstance(part, FunctionType) else type(part)
        is_ours = kind.__module__.startswith("minidl.")
        if not (part is None or is_ours or vars(kind).get("recordable", False)):
            return f"{kind.__name__} does not declare recordable = True"
    return ""
