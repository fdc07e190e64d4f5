"""What is reported beside the loss: running means that stay on the device until they are read."""

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from minidl.autograd import Tensor
from minidl.backend import Array, Backend
from minidl.by_name import choose
from minidl.losses import aligned, shapes_agree

__all__ = [
    "Accuracy",
    "CategoricalAccuracy",
    "Mean",
    "Metric",
    "SparseCategoricalAccuracy",
    "get",
]


class Metric:
    """Average a number over the samples seen since `reset_state`.

    Subclass it and give `per_sample`.

    Examples
    --------
    >>> import numpy as np
    >>> accuracy = SparseCategoricalAccuracy()
    >>> accuracy.update_state(Tensor([0, 1]), Tensor([[0.9, 0.1], [0.8, 0.2]]))
    >>> accuracy.result()
    0.5
    """

    name = "metric"

    def __init__(self, name: str | None = None):
        if not isinstance(name, str | None):
            raise TypeError(f"{type(self).__name__}: name must be a string, received {name!r}")
        self.name = name or self.name
        self.reset_state()

    def reset_state(self) -> None:
        """Forget the samples seen."""
        self._total: Array = None
        self._count = 0

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the number of each sample, shape (batch,) or (batch, ...).

        Targets come in the outputs' shape where a last axis of length 1 alone tells them apart.
        """
        raise NotImplementedError

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError where `y_true` and outputs of that shape cannot be compared."""

    def update_state(self, y_true: Tensor, y_pred: Tensor) -> None:
        """Add a batch."""
        self.check(y_true, y_pred.shape)
        with y_pred.backend.active:
            values = self.per_sample(aligned(y_true, y_pred), y_pred).data
            self.add(values.sum(dtype="float64"), values.size)

    def add(self, total: Array, count: int) -> None:
        """Add `count` samples whose numbers sum up to `total`, an array of the device."""
        self._total = total if self._total is None else self._total + total
        self._count += count

    def result(self) -> float:
        """Return the mean; this waits for the device. Without samples it is NaN."""
        return float(self._total) / self._count if self._count else float("nan")

    def total(self) -> tuple[float, int]:
        """Return the sum of the numbers of all samples, and how many there are."""
        return (float(self._total) if self._count else 0.0), self._count


class Mean(Metric):
    """Average numbers given to `add`, such as the loss."""


class Running:
    """The mean of the loss, and metrics, over the batches seen; on the device until they are read.

    Parameters
    ----------
    metrics : sequence of Metric
        Each is copied, so that two of these can run beside each other, such as the epoch's and
        that of an `evaluate` in a callback.
    backend : Backend
        The device of the batches.
    """

    FOLD = 256  # batches whose sums are kept before they are added up

    def __init__(self, metrics: Sequence[Metric], backend: Backend):
        self._backend = backend
        self._metrics = [Mean("loss"), *map(copy.copy, metrics)]
        for metric in self._metrics:
            metric.reset_state()
        self._sums: list[Array] = []
        self._rows = 0

    def add(self, y_true: Tensor, y_pred: Tensor, loss: Tensor) -> None:
        """Add a batch."""
        with self._backend.active:
            self._metrics[0].add(loss.data.astype("float64") * len(y_true), len(y_true))
            for metric in self._metrics[1:]:
                metric.update_state(y_true, y_pred)

    def add_sums(self, sums: Array, rows: int) -> None:
        """Add a batch of so many rows by its mean loss and its number of right predictions.

        `sums` is read later, and must not change.
        """
        if rows != self._rows or len(self._sums) == self.FOLD:
            self._fold()
            self._rows = rows
        self._sums.append(sums)

    def _fold(self) -> None:
        if not self._sums:
            return
        with self._backend.active:
            loss, right = self._backend.xp.stack(self._sums).sum(axis=0, dtype="float64")
            count = len(self._sums) * self._rows
            self._metrics[0].add(loss * self._rows, count)
            for metric in self._metrics[1:]:
                metric.add(right, count)
        self._sums = []

    def readers(self) -> dict[str, Callable[[], float]]:
        """Return for each name the function that reads its value, which waits for the device."""

        def reader(metric: Metric) -> Callable[[], float]:
            def read() -> float:
                self._fold()
                return metric.result()

            return read

        return {metric.name: reader(metric) for metric in self._metrics}

    def totals(self) -> dict[str, tuple[float, int]]:
        """Return for each name the sum over the samples seen, and their number."""
        self._fold()
        return {metric.name: metric.total() for metric in self._metrics}

    def restore(self, totals: Mapping[str, tuple[float, int]]) -> None:
        """Add the samples that others saw: what `totals` returned."""
        for metric in self._metrics:
            if metric.name in totals:
                total, count = totals[metric.name]
                metric.add(self._backend.asarray(total, dtype="float64"), count)


class SparseCategoricalAccuracy(Metric):
    """Count how often the largest output is that of the right class, given by its number."""

    name = "sparse_categorical_accuracy"

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless there is one class number for each sample."""
        one_each = output_shape[:-1]
        if not (shapes_agree(y_true.shape, one_each) or shapes_agree(y_true.shape, (*one_each, 1))):
            raise ValueError(
                f"{self.name}: y has shape {y_true.shape}, and outputs of shape {output_shape} "
                "need one class number for each; use accuracy, which takes one-hot targets too"
            )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return True for each sample that was right; one with a NaN is not."""
        return _right(y_true.data.reshape(y_pred.shape[:-1]), y_pred)


class CategoricalAccuracy(Metric):
    """Count how often the largest output is where the largest target is."""

    name = "categorical_accuracy"

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape."""
        if not shapes_agree(y_true.shape, output_shape):
            raise ValueError(
                f"{self.name}: y has shape {y_true.shape} and the outputs {output_shape}; use "
                "accuracy, which takes class numbers too"
            )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return True for each sample that was right; one with a NaN is not."""
        return _right(y_true.data.argmax(axis=-1), y_pred)


def _right(labels: Array, y_pred: Tensor) -> Tensor:
    """Tell for each sample whether its largest output is that of its label, and none is NaN."""
    # Logits tell apart what rounds to one probability.
    scores = (y_pred if y_pred.logits is None else y_pred.logits).data
    is_nan = y_pred.backend.xp.isnan(scores.max(axis=-1))
    return Tensor.of((scores.argmax(axis=-1) == labels) & ~is_nan, y_pred.backend)


class Accuracy(Metric):
    """Count how often the largest output is that of the right class.

    Targets may be class numbers or, of the outputs' shape, distributions over the classes.
    """

    name = "accuracy"

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError where outputs or targets are not about classes."""
        if len(output_shape) < 2 or output_shape[-1] == 1:
            raise ValueError(
                f"accuracy: expected one output for each class, received outputs of shape "
                f"{output_shape}; leave the metric out, or give a Metric of your own"
            )
        self._fitting(y_true.shape, output_shape).check(y_true, output_shape)

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return True for each sample that was right."""
        return self._fitting(y_true.shape, y_pred.shape).per_sample(y_true, y_pred)

    def _fitting(
        self, shape: tuple[int, ...], output_shape: tuple[int | None, ...]
    ) -> SparseCategoricalAccuracy | CategoricalAccuracy:
        dense = shapes_agree(shape, output_shape)
        return CategoricalAccuracy(self.name) if dense else SparseCategoricalAccuracy(self.name)


_BY_NAME: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy,
    "acc": lambda: Accuracy("acc"),
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
}


def get(metric: str | Metric) -> Metric:
    """Return the metric of that name, or the one given.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.
    """
    return choose("metric", metric, Metric, _BY_NAME)
