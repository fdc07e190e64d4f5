"""Running means of loss and metrics."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidl.backend import Array, Backend
from minidl.engine.backward import no_grad
from minidl.engine.tensor import Tensor
from minidl.losses import aligned
from minidl.metrics import Metric

Sums = Mapping[str, tuple[float, int]]  # the sum over the samples seen, and their number, by name
MetricStates = Mapping[str, Mapping[str, Any]]  # `Metric.state` by name
PENDING = 1024  # batches whose sums are kept on the device before they are added up


class Totals(Mapping[str, float]):
    """Means of the loss and the metrics over the samples seen, by name.

    The sums of the batches stay on the device until a mean is looked up, which waits for it. They
    are added up on the host, in their order. A device may use another order, which depends on their
    number, and so on where a run was interrupted.

    Parameters
    ----------
    columns : mapping of str to int
        The names, each with its column in the sums of a batch. Names may share a column.
    backend : Backend
        The device of the batches.
    before : mapping, optional
        `state` of the batches that were seen before; names that it lacks begin at zero.
    metrics : sequence of Metric
        The metrics that are not means, fresh ones.
    states : mapping, optional
        `metric_states` of the batches that were seen before.

    Examples
    --------
    >>> from minidl.backend import get_backend
    >>> totals = Totals({"loss": 0, "accuracy": 1}, get_backend("cpu"))
    >>> totals.add(np.array([0.5, 3.0]), counts=(4, 4))
    >>> totals.add(np.array([2.0, 0.0]), counts=(2, 2))
    >>> dict(totals)
    {'loss': 1.0, 'accuracy': 0.5}
    """

    def __init__(
        self,
        columns: Mapping[str, int],
        backend: Backend,
        before: Sums | None = None,
        metrics: Sequence[Metric] = (),
        states: MetricStates | None = None,
    ):
        before = before or {}
        self._metrics = {metric.name: metric for metric in metrics}
        self._states = states or {}
        for name in self._metrics.keys() & self._states.keys():
            self._metrics[name].load_state(copy.deepcopy(self._states[name]))
        self._columns = dict(columns)
        self._backend = backend
        self._counts = [0] * (max(columns.values()) + 1)
        self._sums = np.zeros(len(self._counts))
        for name, column in columns.items():
            self._sums[column], self._counts[column] = before.get(name, (0.0, 0))
        self._pending: list[Array] = []
        self._rows: list[int] = []  # of each pending batch

    def __getitem__(self, name: str) -> float:
        if name in self._metrics:
            return self._result(self._metrics[name])
        column = self._columns[name]
        self._fold()
        count = self._counts[column]
        return float(self._sums[column]) / count if count else float("nan")

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def add(self, sums: Array, counts: Sequence[int]) -> None:
        """Add a batch.

        Parameters
        ----------
        sums : array
            On the device: the mean loss, then the sum of each metric. It is read later and must
            not change.
        counts : sequence of int
            The number of values in each column.
        """
        if len(self._pending) == PENDING:
            self._fold()
        self._pending.append(sums)
        self._rows.append(counts[0])
        for column, count in enumerate(counts):
            self._counts[column] += count

    def update_metrics(self, y_true: Tensor, y_pred: Tensor) -> None:
        """Add a batch to the metrics that are not means."""
        with self._backend.active, no_grad():
            for metric in self._metrics.values():
                metric.update_state(aligned(y_true, y_pred), y_pred)

    @staticmethod
    def _result(metric: Metric) -> float:
        result = metric.result()
        try:
            return float(result)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{type(metric).__name__}: expected result() to return a number, got "
                f"{result!r:.80}. Use a metric for each number."
            ) from error

    def _fold(self) -> None:
        """Add up the pending batches, one after the other."""
        if not self._pending:
            return
        with self._backend.active:
            batches = self._backend.to_numpy(self._backend.xp.stack(self._pending, dtype="float64"))
        batches[:, 0] *= self._rows  # the mean loss becomes a sum
        self._sums = np.cumsum([self._sums, *batches], axis=0)[-1]
        self._pending, self._rows = [], []

    def state(self) -> Sums:
        """Return for each name the sum over the samples seen, and their number."""
        self._fold()
        return {
            name: (float(self._sums[column]) if self._counts[column] else 0.0, self._counts[column])
            for name, column in self._columns.items()
        }

    def metric_states(self) -> MetricStates:
        """Return the states of the metrics that are not means; without metrics, the given ones."""
        return {name: metric.state() for name, metric in self._metrics.items()} or self._states
