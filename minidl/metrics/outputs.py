"""Metrics of models with several outputs."""

from typing import Any

from minidl.arguments import count
from minidl.backend import Array
from minidl.losses.outputs import fields
from minidl.metrics.base import Metric, Weighted


class OutputMetric(Weighted):
    """A metric of one of a model's outputs: ``compile(metrics=[[...], [...]])`` creates it.

    Parameters
    ----------
    metric : Metric
        The metric.
    output : int
        The index of the output among all of them.
    name : str
        The name in logs.

    Raises
    ------
    ValueError
        If `output` is not an integer, 0 or above.

    Examples
    --------
    >>> from minidl import Tensor
    >>> from minidl.metrics import MeanSquaredError
    >>> metric = OutputMetric(MeanSquaredError(), 1, "b_mse")
    >>> metric.update_state([Tensor([0.0]), Tensor([0.0])], [Tensor([9.0]), Tensor([2.0])])
    >>> metric.result()
    4.0
    """

    def __init__(self, metric: Metric, output: int, name: str):
        super().__init__(metric)
        self.output = count("OutputMetric: output", output)
        self.name, self.is_mean = name, metric.is_mean

    def check(self, y_true: Any, output_shape: Any) -> None:
        """Raise ValueError if targets and outputs of these shapes cannot be compared."""
        super().check(fields(y_true)[self.output], output_shape[self.output])

    def batch_sum(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[Array, Any]:
        """Return what the metric does for its output."""
        return self.metric.batch_sum(*self._own(y_true, y_pred, sample_weight))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch, of which all arguments are lists; only a `Weighted` metric gets weights."""
        self.metric.update_state(*self._own(y_true, y_pred, sample_weight))

    def _own(self, y_true: Any, y_pred: Any, weight: Any) -> tuple[Any, ...]:
        """Return the arguments of the metric."""
        own = weight[self.output] if isinstance(weight, list) else weight
        weights = (own,) if isinstance(self.metric, Weighted) else ()
        return y_true[self.output], y_pred[self.output], *weights
