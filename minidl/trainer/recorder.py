"""Recorded work: ordinary code that runs once for a batch, and is then replayed without Python.

The first batch of a size is worked on eagerly, which compiles kernels and creates buffers. At the
second one, the launches are recorded. The third is a trial: replayed, undone and repeated eagerly,
and all bits are compared. From then on, batches of this size are replayed. What changes from batch
to batch lies at fixed places, which the recorded kernels read.
"""

import logging
import operator
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from minidl_kernels import threads
from minidl_kernels.placed import PlacedFloat, PlacedInt

from minidl.backend import Array, Backend
from minidl.batches import Batch, Feed
from minidl.engine.parameter import Parameter
from minidl.rng import RandomStream

log = logging.getLogger(__name__)
NOT_WANTED = "record=False"

_IN_MOTION = {"run", "stop_training", "recording"}  # attributes of models that no step reads


class Recording(NamedTuple):
    """What became of the recordings of one call of `fit`, `evaluate` or `predict`.

    Attributes
    ----------
    recordings : int
        The number of recordings made: one for each size of a batch, and new ones after changes.
    replays : int
        The number of batches, or of draws for a batch, that were replayed.
    launches : int
        The number of kernels in the last recording.
    reason : str
        Why batches were worked on eagerly; empty if they were recorded.
    """

    recordings: int = 0
    replays: int = 0
    launches: int = 0
    reason: str = ""


class Places:
    """Fixed places on the device for what changes from batch to batch."""

    def __init__(self, backend: Backend, dtype: np.dtype, size: int):
        with backend.active:
            self.rows = backend.xp.zeros(size, "int64")
            self._integers = {n: backend.xp.zeros(1, "uint32") for n in ("step", "row_offset")}
            self._floats = {n: backend.xp.zeros(1, dtype) for n in ("rate", "decay")}

    def integer(self, name: str, value: int) -> PlacedInt:
        """Put an integer, ``"step"`` or ``"row_offset"``, in its place, and return it."""
        self._integers[name][0] = value
        return PlacedInt(value, self._integers[name])

    def float(self, name: str, value: float) -> PlacedFloat:
        """Put a float, ``"rate"`` or ``"decay"``, in its place, and return it."""
        self._floats[name][0] = value
        return PlacedFloat(value, self._floats[name])


class Done(NamedTuple):
    """What was done for a batch.

    Attributes
    ----------
    results : sequence of array
        The arrays that hold the results.
    counted : any
        What `Work.replay` counts again.
    """

    results: Sequence[Array]
    counted: Any = None


class Work:
    """What is done for each batch; a subclass defines `run`, and what differs from here.

    Attributes
    ----------
    who : str
        The public method that does it, for messages.
    feed : Feed
        The source of the batches.
    """

    who: str
    feed: Feed

    def place(self, places: Places) -> Any:
        """Put the numbers of the next batch in their places, and return them for `run`."""

    def run(self, batch: Batch, numbers: Any = None) -> Done:
        """Work on a batch; `numbers` are what `place` returned, or None for plain ones."""
        raise NotImplementedError

    def replay(self, recording: Any, counted: Any) -> None:
        """Replay a recording of `run`, and count what it counted."""
        recording.replay()

    def watched(self) -> list[Any]:
        """Return objects by identity: a recording is valid as long as they are the same."""
        raise NotImplementedError

    def held(self) -> AbstractContextManager[Any]:
        """Return a context in which results are changed and restored, without interruption."""
        return nullcontext()


class _Kept:
    """A recording, or the intention to make one."""

    def __init__(self, places: Places, watched: list[Any]):
        self.places, self.watched = places, watched
        self.recording: Any = None
        self.done = Done(())
        self.is_proven = False


class Recorder:
    """Does some work on batches, and records it for each size of a batch.

    Parameters
    ----------
    backend : Backend
        The device.
    dtype : numpy.dtype
        The dtype of the weights.
    work : Work
        What is done for a batch.
    reason : str
        Why nothing is recorded, or an empty string.
    """

    def __init__(self, backend: Backend, dtype: np.dtype, work: Work, reason: str = ""):
        self._backend, self._dtype, self._work = backend, dtype, work
        self._kept: dict[int, _Kept] = {}
        self.report = Recording()
        if reason:
            self.give_up(reason)

    def __call__(self, batch: Batch) -> Done:
        """Work on a batch."""
        work = self._work
        if self.report.reason:
            return work.run(batch)
        size = len(batch)
        kept = self._kept.get(size)
        if kept is None or not _are_same(kept.watched, work.watched()):
            self._kept.pop(size, None)
            done = work.run(batch)
            self._kept[size] = _Kept(Places(self._backend, self._dtype, size), work.watched())
            return done
        kept.places.rows[...] = batch.rows
        numbers = work.place(kept.places)
        if kept.is_proven:
            work.replay(kept.recording, kept.done.counted)
            self.report = self.report._replace(replays=self.report.replays + 1)
            return kept.done
        return self._record(kept, numbers) if kept.recording is None else self._try(kept, batch)

    def _record(self, kept: _Kept, numbers: Any) -> Done:
        batch = Batch(self._work.feed, kept.places.rows)

        def run() -> None:
            kept.done = self._work.run(batch, numbers)

        kept.recording = recording = self._backend.record(run)
        if recording.obstacle:
            self.give_up(recording.obstacle)
        else:
            made, launches = self.report.recordings + 1, recording.launches
            self.report = self.report._replace(recordings=made, launches=launches)
        return kept.done

    def _try(self, kept: _Kept, batch: Batch) -> Done:
        """Work on a batch eagerly, and compare all bits of the results with those of a replay."""
        results = kept.done.results
        with self._work.held(), self._backend.active:
            before = [array.copy() for array in results]
            kept.recording.replay()
            replayed = [self._backend.to_numpy(array) for array in results]
            for array, values in zip(results, before, strict=True):
                array[...] = values
        done = self._work.run(batch)
        eager = [self._backend.to_numpy(array) for array in done.results]
        kept.is_proven = [a.tobytes() for a in replayed] == [a.tobytes() for a in eager]
        if not kept.is_proven:
            warnings.warn(
                f"{self._work.who}: expected the bits of an eager batch from its recording, got "
                "others. All batches are worked on eagerly. Please report it with your network.",
                stacklevel=2,
            )
            self.give_up("a replayed batch had other bits than an eager one")
        return done

    def give_up(self, reason: str) -> None:
        """Work on all further batches eagerly."""
        if self.report.reason:
            return
        self._kept.clear()
        self.report = self.report._replace(reason=reason)
        if reason != NOT_WANTED:
            log.info("%s: batches are not recorded: %s", self._work.who, reason)


def _are_same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(map(operator.is_, before, now))


def attributes(model: Any) -> list[tuple[Any, str]]:
    """Return objects and names of the attributes on which the work with a model depends."""
    found: list[tuple[Any, str]] = [(threads, "_chosen")]
    for layer in model.walk():
        found += [(layer, name) for name in vars(layer) if name not in _IN_MOTION]
        for stream in layer.held(RandomStream):
            found += [(stream, name) for name in ("own_seed", "model_seed", "number")]
        for parameter in layer.held(Parameter):
            found += [(parameter, name) for name in ("data", "_requires_grad", "constraint")]
    return found


def obstacle_of(model: Any, plan: Any, *others: Any) -> str:
    """Return why the work of a plan must not be recorded, or an empty string.

    A user's class promises by ``recordable = True`` that its results depend only on inputs, weights
    and constants, and that it computes them with operations of tensors, without reading values.
    """
    metrics = [metric for metric in plan.metrics if not metric.is_mean]
    if metrics:
        return f"the metric {metrics[0].name} keeps a state of its own"
    for part in (*plan.layers, *model.walk(), plan.loss, *plan.metrics, *others):
        kind = type(part)
        if not (kind.__module__.startswith("minidl.") or vars(kind).get("recordable", False)):
            return f"{kind.__name__} does not declare recordable = True"
    return ""
