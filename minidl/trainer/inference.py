"""Evaluation and prediction, also by Monte-Carlo dropout: works that a `Recorder` records."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidl import rng
from minidl.backend import Array
from minidl.batches import Batch
from minidl.engine.backward import no_grad
from minidl.engine.tensor import Tensor
from minidl.layers.random_layer import scheduled
from minidl.trainer.fusion import Plan
from minidl.trainer.recorder import (
    NOT_WANTED,
    TOO_FEW,
    Done,
    Recorder,
    Recording,
    Watch,
    Work,
    obstacle_of,
)
from minidl.trainer.table import Numbers
from minidl.trainer.totals import Totals
from minidl.trainer.uncertainty import joined, of_moments

WORTHWHILE = 8  # batches; a recording and its trial take the time of about four


class _Inference(Work):
    """Work on the batches of a plan in inference mode.

    Parameters
    ----------
    model : Model
        The model.
    plan : Plan
        The execution plan for the samples.
    record : bool
        Whether batches are recorded.
    runs : float
        The number of runs that are to come; a few are not recorded.
    """

    def __init__(self, model: Any, plan: Plan, record: bool, runs: float):
        self.feed, self._plan, self._model = plan.feed, plan, model
        if not record:
            reason = NOT_WANTED
        else:
            reason = TOO_FEW if runs < WORTHWHILE else obstacle_of(model, plan)
        self._recorder = Recorder(model.backend, model.dtype, self, reason)

    @property
    def report(self) -> Recording:
        """The report on the recordings."""
        return self._recorder.report

    @contextmanager
    def _mode(self) -> Iterator[None]:
        """Open a context of the device, in inference mode and without a graph."""
        backend = self._model.backend
        with backend.active, backend.stream(), rng.inference(), no_grad():
            yield

    def _steps(self) -> list[tuple[Any, str]]:
        """Return the training steps that decide rates, as arguments of a `Watch`."""
        return [(layer.random_stream, "step") for layer in scheduled(self._model)]


class Evaluation(_Inference):
    """Means of loss and metrics over the batches of a plan.

    Attributes
    ----------
    totals : Totals
        The means over the batches so far.
    """

    totals: Totals
    who = "evaluate"

    def means(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the means of loss and metrics over batches of the feed, in inference mode."""
        self.totals = self._plan.new_totals()
        with self._mode():
            for batch in batches:
                self._recorder(batch)
        return dict(self.totals)

    def counters(self) -> list[tuple[Any, ...]]:
        """Return the attributes that `run` counts in."""
        return [(self.totals, "_counts")]

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Add a batch to the totals."""
        _, sums, counts, compared = self._plan.compare(batch)
        self.totals.add(sums, counts)
        if compared is not None:
            self.totals.update_metrics(*compared)
        return Done({"totals": self.totals.sums}, counts)

    def replay(self, recording: Any, counted: Sequence[int], times: int) -> None:
        """Add batches by a recording of `run`."""
        recording.replay(times)
        self.totals.count(counted, times)

    def watch(self) -> Watch:
        """Return a watch on everything that a recording relies on."""
        plan = self._plan
        attributes = (self, "totals.sums"), (plan, "loss", "metrics")
        parts = plan.compared_by()
        return Watch(self._model, *attributes, *self._steps(), parts=parts)


class Prediction(_Inference):
    """Outputs for the batches of a plan.

    Attributes
    ----------
    latest : numpy.ndarray, list of numpy.ndarray, or Uncertainty
        The outputs for the last batch.
    """

    latest: Any = None
    who = "predict"

    def of(self, batches: Iterable[Batch]) -> Any:
        """Return the outputs for all samples on the host."""
        parts = []
        with self._mode():
            for batch in batches:
                self.latest = self._outputs_of(batch)
                parts.append(self.latest)
        return self._joined(parts)

    def _outputs_of(self, batch: Batch) -> Any:
        results = self._recorder(batch).results.values()
        found = [self._model.backend.to_numpy(array) for array in results]
        return found if isinstance(self._model.output_shape, list) else found[0]

    def _joined(self, parts: Sequence[Any]) -> Any:
        if isinstance(self._model.output_shape, list):
            return [np.concatenate(column) for column in zip(*parts, strict=True)]
        return np.concatenate(parts)

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Return the outputs for a batch."""
        outputs: Any = self._plan.outputs(batch)
        several = outputs if isinstance(outputs, list) else [outputs]
        return Done({f"output {number}": y.data for number, y in enumerate(several)})

    def watch(self) -> Watch:
        """Return a watch on everything that a recording relies on."""
        return Watch(self._model, *self._steps())


class MonteCarlo(Prediction):
    """Moments of many outputs with dropout for the batches of a plan.

    A sample's row among all of them is its address in each draw.

    Parameters
    ----------
    draws : int
        The number of outputs to draw for each sample.
    """

    def __init__(self, model: Any, plan: Plan, record: bool, runs: float, draws: int):
        if isinstance(model.output_shape, list):
            raise ValueError(
                f"predict: expected a model with one output to draw samples, got {model.label} "
                f"with {len(model.output_shape)}. Make a model of one of them."
            )
        self.repeats = draws
        self._first_row = self._draw = 0
        self._is_distribution = True
        self._moments: dict[int, tuple[Array, Array, Array]] = {}  # by the size of a batch
        super().__init__(model, plan, record, runs * draws)

    def _outputs_of(self, batch: Batch) -> Any:
        self._first_row, self._draw = batch.first_row, 0
        while self._draw < self.repeats:
            done = self._recorder(batch, self.repeats - self._draw)
        shape, results = done.counted, done.results.values()
        mean, squares, entropy = (self._model.backend.to_numpy(array) for array in results)
        sums = entropy.reshape(shape[:-1]) if self._is_distribution else None
        moments = mean.reshape(shape), squares.reshape(shape), sums
        return of_moments(*moments, self.repeats, self._model.dtype)

    def _joined(self, parts: Sequence[Any]) -> Any:
        return joined(parts)

    def numbers(self, ahead: int = 0) -> Numbers:
        """Return the number of the draw, and the first row of the batch."""
        return Numbers(self._draw + ahead, self._first_row)

    def upcoming(self, batch: Batch) -> Iterator[tuple[int, Numbers]]:
        """Yield the start of the batch, and the numbers of each draw that it has left."""
        for ahead in range(self.repeats - self._draw):
            yield batch.start, self.numbers(ahead)

    def counters(self) -> list[tuple[Any, ...]]:
        """Return the attributes that `run` counts in."""
        return [(self, "_draw")]

    def _drawn(self, batch: Batch, numbers: Numbers) -> Tensor:
        """Return the outputs of the next draw."""
        with rng.monte_carlo(sample=numbers.step, row_offset=numbers.row_offset):
            outputs = self._plan.outputs(batch)
        self._draw += 1
        return outputs

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Add the outputs of a draw to the moments of the batch."""
        backend, outputs = self._model.backend, self._drawn(batch, numbers)
        self._is_distribution = outputs.logits is not None
        y = backend.widened(outputs.data)
        y = y.reshape(-1, y.shape[-1])
        if len(batch) not in self._moments:
            self._moments[len(batch)] = (
                *(backend.xp.empty(y.shape, "float64") for _ in range(2)),
                backend.xp.empty(len(y), "float64"),
            )
        moments = self._moments[len(batch)]
        backend.add_moments(y, numbers.step, *moments)
        names = "mean", "squares", "entropy"
        return Done(dict(zip(names, moments, strict=True)), outputs.shape)

    def replay(self, recording: Any, counted: Any, times: int) -> None:
        """Add the outputs of the next draws by a recording of `run`."""
        recording.replay(times)
        self._draw += times


class Draws(MonteCarlo):
    """Outputs of many draws, of shape (draws, samples, ...): those that `MonteCarlo` adds up."""

    def _outputs_of(self, batch: Batch) -> Any:
        self._first_row, self._draw = batch.first_row, 0
        results = (self._recorder(batch).results["outputs"] for _ in range(self.repeats))
        return np.stack([self._model.backend.to_numpy(array) for array in results])

    def _joined(self, parts: Sequence[Any]) -> Any:
        return np.concatenate(parts, axis=1)

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Return the outputs of a draw."""
        return Done({"outputs": self._drawn(batch, numbers).data})
