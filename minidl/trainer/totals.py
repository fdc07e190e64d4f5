"""Running means of loss and metrics."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidl.backend import Array, Backend
from minidl.engine.backward import no_grad
from minidl.losses.base import aligned
from minidl.metrics import Metric, Weighted

Sums = Mapping[str, tuple[float, int]]  # the sum over the samples seen, and their number, by name
MetricStates = Mapping[str, Mapping[str, Any]]  # `Metric.state` by name


class Totals(Mapping[str, float]):
    """Means of the loss and the metrics over the samples seen, by name.

    The sums stay on the device until a mean is looked up, which waits for it. Each batch is added
    in its turn, so that the totals do not depend on where a run was interrupted.

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
    sums : array, optional
        Where the totals are kept: float64, of as many elements as there are columns.

    Attributes
    ----------
    sums : array
        The totals of the columns, on the device.

    Examples
    --------
    >>> from minidl.backend import get_backend
    >>> totals = Totals({"loss": 0, "accuracy": 1}, get_backend("cpu"))
    >>> totals.add(np.array([0.5, 3.0]), counts=(4, 4))
    >>> totals.add(np.array([2.0, 0.0]), counts=(2, 2))
    >>> totals
    {'loss': 1.0, 'accuracy': 0.5}
    """

    def __init__(
        self,
        columns: Mapping[str, int],
        backend: Backend,
        before: Sums | None = None,
        metrics: Sequence[Metric] = (),
        states: MetricStates | None = None,
        sums: Array | None = None,
    ):
        before = before or {}
        self._metrics = {metric.name: metric for metric in metrics}
        self._states = states or {}
        for name in self._metrics.keys() & self._states.keys():
            self._metrics[name].load_state(copy.deepcopy(self._states[name]))
        self._columns = dict(columns)
        self._backend = backend
        self._host: list[float] | None = None  # the sums that were looked up last
        size = max(columns.values()) + 1
        begun, counts = np.zeros(size), [0] * size
        for name, column in columns.items():
            begun[column], counts[column] = before.get(name, (0.0, 0))
        self._counts = tuple(counts)
        with backend.active:
            self.sums = backend.xp.empty(size) if sums is None else sums
            self.sums[...] = backend.asarray(begun) if begun.any() else 0

    def __repr__(self) -> str:
        return repr(dict(self))

    def __getitem__(self, name: str) -> float:
        if name in self._metrics:
            return self._result(self._metrics[name])
        column = self._columns[name]
        count = self._counts[column]
        return self._host_sums()[column] / count if count else float("nan")

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def add(self, sums: Array, counts: Sequence[int]) -> None:
        """Add a batch.

        Parameters
        ----------
        sums : array
            On the device: the mean loss, then the sum of each metric.
        counts : sequence of int
            The number of values in each column.
        """
        with self._backend.active:
            self._backend.add_sums(self.sums, sums, rows=counts[0])
        self.count(counts)

    def count(self, counts: Sequence[int], times: int = 1) -> None:
        """Count the values of a batch, or of `times` such batches, that are added already."""
        pairs = zip(self._counts, counts, strict=True)
        self._counts = tuple(before + times * count for before, count in pairs)
        self._host = None

    def update_metrics(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch to the metrics that are not means; the weights are for `Weighted` ones."""
        with self._backend.active, no_grad():
            for metric in self._metrics.values():
                weights = (sample_weight,) if isinstance(metric, Weighted) else ()
                metric.update_state(aligned(y_true, y_pred), y_pred, *weights)

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

    def _host_sums(self) -> list[float]:
        if self._host is None:
            self._host = self._backend.to_numpy(self.sums).tolist()
        return self._host

    def state(self) -> Sums:
        """Return for each name the sum over the samples seen, and their number."""
        sums = self._host_sums()
        return {
            name: (sums[column] if self._counts[column] else 0.0, self._counts[column])
            for name, column in self._columns.items()
        }

    def metric_states(self) -> MetricStates:
        """Return the states of the metrics that are not means; without metrics, the given ones."""
        return {name: metric.state() for name, metric in self._metrics.items()} or self._states
