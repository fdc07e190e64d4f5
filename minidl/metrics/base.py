"""Metrics: means over the samples, kept on the device until read, and metrics with own state."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from minidl.alternatives import keras_defaults, missing_attribute
from minidl.arguments import Shown, two_argument_function, undefined
from minidl.backend import Array
from minidl.engine.tensor import Tensor
from minidl.losses.base import aligned, beside, fitted, source_of


class Metric(Shown):
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
    >>> from minidl.metrics import SparseCategoricalAccuracy
    >>> accuracy = SparseCategoricalAccuracy()
    >>> accuracy.update_state([0, 1], [[0.9, 0.1], [0.8, 0.2]])
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
    made_of: Sequence["Metric"] = ()  # the metrics inside it
    is_mean = True  # whether `batch_sum` defines the metric, and not methods of its class
    _total: Array = None
    _count: Any = 0

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

    if not TYPE_CHECKING:  # type checkers would accept every attribute

        def __getattr__(self, name: str) -> Any:
            return missing_attribute(self, "Metric", name)

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

    def batch_sum(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> tuple[Array, Any]:
        """Return the float64 sum of a batch's values, on the device, and their number.

        With weights, each value is multiplied by its weight, and the sum of the weights replaces
        the number. It is on the device, too.
        """
        self.check(y_true, y_pred.shape)
        with y_pred.backend.active:
            returned: Any = self.per_sample(aligned(y_true, y_pred), y_pred)
            is_tensor = isinstance(returned, Tensor)
            values = returned.data if is_tensor else y_pred.backend.asarray(returned)
            if values.shape[:1] != y_pred.shape[:1]:
                raise ValueError(
                    f"{source_of(self)}: expected one value for each of the "
                    f"{len(y_pred)} samples, got shape {values.shape}. Leave out the mean, or "
                    "define update_state and result."
                )
            if sample_weight is None:
                return values.sum(dtype="float64"), values.size
            wide = y_pred.like(values.astype("float64"))
            weight = fitted(self.name, sample_weight, wide).data
            weight = y_pred.backend.xp.broadcast_to(weight, values.shape)
            return (wide.data * weight).sum(), weight.sum()

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch of tensors or arrays, with the weights of the samples if there are some.

        `fit` passes weights to ``weighted_metrics=`` only, as Keras.
        """
        total, count = self.batch_sum(*as_tensors(self.name, y_true, y_pred, sample_weight))
        self._total = total if self._total is None else self._total + total
        self._count += count

    def result(self) -> float:
        """Return the mean, 0 if all weights are 0, or NaN without samples; waits for the device."""
        if self._total is None:
            return float("nan")
        count = float(self._count)
        return float(self._total) / count if count else 0.0

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


def as_tensors(
    who: str, y_true: Any, y_pred: Any, sample_weight: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the arguments of `Metric.update_state`, with tensors for arrays of the host."""
    y_pred = y_pred if isinstance(y_pred, Tensor) else Tensor(y_pred)
    if sample_weight is not None:
        sample_weight = beside(who, y_pred, "sample_weight", sample_weight)
    return beside(who, y_pred, "y_true", y_true), y_pred, sample_weight


class FunctionMetric(Metric):
    """Mean of what a function returns for each sample: ``compile(metrics=[function])`` creates it.

    Parameters
    ----------
    function : callable
        Takes targets and outputs as tensors of one dtype, and returns a number for each sample.
    name : str, optional
        The name in logs; without it, that of the function.

    Raises
    ------
    TypeError
        If the function does not take (y_true, y_pred).

    Examples
    --------
    >>> def bias(y_true, y_pred):
    ...     return (y_pred - y_true).mean(axis=-1)
    >>> metric = FunctionMetric(bias)
    >>> metric.update_state(Tensor([[1.0], [2.0]]), Tensor([[2.0], [4.0]]))
    >>> metric.name, metric.result()
    ('bias', 1.5)
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Any], name: str | None = None):
        self.function = two_argument_function("metric", function)
        super().__init__(name or getattr(function, "__name__", type(function).__name__))

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return what the function returns."""
        return self.function(y_true.astype(y_pred.dtype), y_pred)


class Weighted(Metric):
    """A metric that gets the weights of the samples: one of ``compile(weighted_metrics=)``.

    A mean is then the sum of the weighted values, divided by the sum of the weights.

    Parameters
    ----------
    metric : Metric
        The metric; its ``update_state`` gets ``sample_weight``.

    Examples
    --------
    >>> from minidl.metrics import MeanSquaredError
    >>> metric = Weighted(MeanSquaredError())
    >>> metric.update_state(Tensor([0.0, 0.0]), Tensor([1.0, 2.0]), Tensor([3.0, 1.0]))
    >>> metric.result()
    1.75
    """

    def __init__(self, metric: Metric):
        self.metric, self.made_of = metric, (metric, *metric.made_of)
        super().__init__(metric.name)

    def reset_state(self) -> None:
        """Forget all samples."""
        self.metric.reset_state()

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError if `y_true` and outputs of `output_shape` cannot be compared."""
        self.metric.check(y_true, output_shape)

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Any = None) -> None:
        """Add a batch."""
        self.metric.update_state(y_true, y_pred, sample_weight)

    def result(self) -> float:
        """Return the metric's result."""
        return self.metric.result()

    def state(self) -> dict[str, Any]:
        """Return what the metric knows of the samples seen."""
        return self.metric.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        self.metric.load_state(state)
