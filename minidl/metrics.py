"""Metrics: means over the samples, kept on the device until read, and metrics with own state."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from minidl.alternatives import keras_defaults
from minidl.arguments import choose, undefined
from minidl.backend import Array
from minidl.engine.tensor import Tensor
from minidl.losses import aligned, check_whole, shapes_agree

__all__ = ["Accuracy", "CategoricalAccuracy", "Metric", "SparseCategoricalAccuracy", "get"]


class Metric:
    """Mean of one value for each sample; a subclass defines `per_sample`.

    A metric that is not such a mean defines `update_state`, `result` and `reset_state` instead, as
    in Keras. `fit` and `evaluate` work on copies of it, one for each epoch and each validation.
    Each copy begins with `reset_state`. In training, it sees a batch after the weights are updated.

    Parameters
    ----------
    name : str, optional
        The name in logs and history.

    Examples
    --------
    >>> accuracy = SparseCategoricalAccuracy()
    >>> accuracy.update_state(Tensor([0, 1]), Tensor([[0.9, 0.1], [0.8, 0.2]]))
    >>> accuracy.result()
    0.5

    A metric that keeps numbers of its own:

    >>> class Largest(Metric):
    ...     def reset_state(self):
    ...         self.largest = 0.0
    ...
    ...     def update_state(self, y_true, y_pred, sample_weight=None):
    ...         self.largest = max(self.largest, float(y_pred.max()))
    ...
    ...     def result(self):
    ...         return self.largest
    """

    name = "metric"
    is_mean = True  # whether `batch_sum` defines the metric, and not methods of its class
    _total: Array = None
    _count = 0

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        has_own = cls.update_state is not Metric.update_state or cls.result is not Metric.result
        cls.is_mean = not has_own

    @keras_defaults(dtype=(None, "float32"))
    def __init__(self, name: str | None = None):
        if not isinstance(name, str | None):
            raise TypeError(f"{type(self).__name__}: expected name to be a string, got {name!r}.")
        self.name = name or self.name
        self.reset_state()

    def reset_state(self) -> None:
        """Forget all samples."""
        self._total = None
        self._count = 0

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the value of each sample: a tensor or an array of shape (batch,) or (batch, ...).

        Targets have the shape of the outputs if the two differ only by a last axis of length 1.
        """
        undefined(self, "per_sample(self, y_true, y_pred)")

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError if `y_true` and outputs of `output_shape` cannot be compared."""

    def batch_sum(self, y_true: Tensor, y_pred: Tensor) -> tuple[Array, int]:
        """Return the float64 sum of a batch's values, on the device, and their number."""
        self.check(y_true, y_pred.shape)
        with y_pred.backend.active:
            returned: Any = self.per_sample(aligned(y_true, y_pred), y_pred)
            is_tensor = isinstance(returned, Tensor)
            values = returned.data if is_tensor else y_pred.backend.asarray(returned)
            if values.shape[:1] != y_pred.shape[:1]:
                raise ValueError(
                    f"{type(self).__name__}.per_sample: expected one value for each of the "
                    f"{len(y_pred)} samples, got shape {values.shape}. Leave out the mean, or "
                    "define update_state and result."
                )
            return values.sum(dtype="float64"), values.size

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Any = None) -> None:
        """Add a batch; `fit` passes no weights, as with Keras' ``metrics=``."""
        total, count = self.batch_sum(y_true, y_pred)
        self._total = total if self._total is None else self._total + total
        self._count += count

    def result(self) -> float:
        """Return the mean, or NaN without samples; this waits for the device."""
        return float(self._total) / self._count if self._count else float("nan")

    def fresh(self) -> Self:
        """Return a copy that has seen no samples."""
        metric = copy.deepcopy(self)
        metric.reset_state()
        return metric

    def state(self) -> dict[str, Any]:
        """Return what the metric knows of the samples seen, for checkpoints and rollbacks.

        It is all attributes but functions: numbers, strings, arrays and tensors, and lists, tuples
        and dictionaries of them. A metric with others defines this method and `load_state`.
        """
        return {name: value for name, value in vars(self).items() if not callable(value)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        vars(self).update(state)


class SparseCategoricalAccuracy(Metric):
    """Share of the samples whose largest output is that of the right class, given by its number."""

    name = "sparse_categorical_accuracy"

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless there is one class number for each sample."""
        one_each = output_shape[:-1]
        if not (shapes_agree(y_true.shape, one_each) or shapes_agree(y_true.shape, (*one_each, 1))):
            raise ValueError(
                f"{self.name}: expected one class number for each of the outputs of shape "
                f"{output_shape}, got y of shape {y_true.shape}. Use accuracy, which accepts "
                "one-hot targets, too."
            )
        if not isinstance(y_true, Tensor):
            check_whole(self.name, y_true)

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return True for each correct sample; a sample with NaN is not correct."""
        return _correct(y_true.data.reshape(y_pred.shape[:-1]), y_pred)


class CategoricalAccuracy(Metric):
    """Share of the samples whose largest output is where the largest target is."""

    name = "categorical_accuracy"

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape."""
        if not shapes_agree(y_true.shape, output_shape):
            raise ValueError(
                f"{self.name}: expected y of the outputs' shape {output_shape}, got "
                f"{y_true.shape}. Use accuracy, which accepts class numbers, too."
            )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return True for each correct sample; a sample with NaN is not correct."""
        return _correct(y_true.data.argmax(axis=-1), y_pred)


def _correct(labels: Array, y_pred: Tensor) -> Tensor:
    """Return for each sample whether its largest output is that of its label, and none is NaN."""
    # Different logits may round to equal probabilities.
    scores = (y_pred if y_pred.logits is None else y_pred.logits).data
    is_nan = y_pred.backend.xp.isnan(scores.max(axis=-1))
    return y_pred.like((scores.argmax(axis=-1) == labels) & ~is_nan)


class Accuracy(Metric):
    """Share of the samples whose largest output is that of the right class.

    Targets are class numbers or, in the outputs' shape, distributions over the classes.
    """

    name = "accuracy"

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError if outputs or targets do not stand for classes."""
        if len(output_shape) < 2 or output_shape[-1] == 1:
            raise ValueError(
                f"{self.name}: expected one output for each class, got outputs of shape "
                f"{output_shape}. Leave the metric out, or subclass metrics.Metric."
            )
        self._for_targets(y_true.shape, output_shape).check(y_true, output_shape)

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return True for each correct sample."""
        return self._for_targets(y_true.shape, y_pred.shape).per_sample(y_true, y_pred)

    def _for_targets(
        self, shape: tuple[int, ...], output_shape: tuple[int | None, ...]
    ) -> SparseCategoricalAccuracy | CategoricalAccuracy:
        """Return the metric for targets of `shape`."""
        if shapes_agree(shape, output_shape):
            return CategoricalAccuracy(self.name)
        return SparseCategoricalAccuracy(self.name)


_BY_NAME: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy,
    "acc": lambda: Accuracy("acc"),
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
}


def get(metric: str | Metric) -> Metric:
    """Return the metric of that name, or the given one.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the names.
    """
    return choose("metric", metric, Metric, _BY_NAME)
