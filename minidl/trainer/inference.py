"""Work on batches in inference mode: evaluation and prediction."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minidl import rng
from minidl.batches import Batch
from minidl.engine.backward import no_grad
from minidl.trainer.fusion import Plan
from minidl.trainer.recorder import (
    NOT_WANTED,
    Done,
    Numbers,
    Recorder,
    Recording,
    Work,
    attributes,
    obstacle_of,
)


class Evaluation(Work):
    """Means of loss and metrics over the batches of a plan.

    Parameters
    ----------
    model : Model
        The model.
    plan : Plan
        The execution plan for the samples.
    record : bool
        Whether batches are recorded.
    """

    who = "evaluate"

    def __init__(self, model: Any, plan: Plan, record: bool):
        self.feed, self._plan, self._model = plan.feed, plan, model
        reason = obstacle_of(model, plan) if record else NOT_WANTED
        self._recorder = Recorder(model.backend, model.dtype, self, reason)

    @property
    def report(self) -> Recording:
        """What became of the recordings."""
        return self._recorder.report

    def means(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the means of loss and metrics over batches of the feed, in inference mode."""
        self._totals = self._plan.new_totals()
        self._attributes = attributes(self._model)
        backend = self._model.backend
        with backend.active, backend.stream(), rng.inference(), no_grad():
            for batch in batches:
                self._recorder(batch)
        return dict(self._totals)

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Add a batch to the totals."""
        _, sums, counts, compared = self._plan.compare(batch)
        self._totals.add(sums, counts)
        if compared is not None:
            self._totals.update_metrics(*compared)
        return Done([self._totals.sums], counts)

    def replay(self, recording: Any, counted: Sequence[int]) -> None:
        """Add a batch by a recording of `run`."""
        recording.replay()
        self._totals.count(counted)

    def watched(self) -> list[Any]:
        """Return what a recording relies on."""
        plan = self._plan
        watched = [getattr(thing, name, None) for thing, name in self._attributes]
        return [*watched, self._totals.sums, plan.loss, plan.metrics]


class Prediction(Work):
    """Outputs for the batches of a plan; parameters as in `Evaluation`."""

    who = "predict"

    def __init__(self, model: Any, plan: Plan, record: bool):
        self.feed, self._plan, self._model = plan.feed, plan, model
        reason = obstacle_of(model, plan) if record else NOT_WANTED
        self._recorder = Recorder(model.backend, model.dtype, self, reason)
        self._attributes = attributes(model)

    @property
    def report(self) -> Recording:
        """What became of the recordings."""
        return self._recorder.report

    def outputs(self, batches: Iterable[Batch]) -> np.ndarray:
        """Return the outputs for all samples, in inference mode."""
        backend = self._model.backend
        with backend.active, backend.stream(), rng.inference(), no_grad():
            parts = [backend.to_numpy(self._recorder(batch).results[0]) for batch in batches]
        return np.concatenate(parts)

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Return the outputs for a batch."""
        return Done([self._plan.outputs(batch).data])

    def watched(self) -> list[Any]:
        """Return what a recording relies on."""
        return [getattr(thing, name, None) for thing, name in self._attributes]
