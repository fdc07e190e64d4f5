"""Metrics that `fit` and `evaluate` report, and `Metric`, the base class of your own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minidl.arguments import as_list, by_name, choose
from minidl.losses.outputs import unwrapped
from minidl.metrics.accuracy import (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
)
from minidl.metrics.base import FunctionMetric, Metric, Weighted
from minidl.metrics.confusion import AUC, F1Score, Precision, Recall
from minidl.metrics.outputs import OutputMetric
from minidl.metrics.regression import MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError

__all__ = [
    "AUC",
    "Accuracy",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "F1Score",
    "FunctionMetric",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "OutputMetric",
    "Precision",
    "Recall",
    "RootMeanSquaredError",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "Weighted",
    "get",
]

_KINDS: tuple[type[Metric], ...] = (
    *(Accuracy, BinaryAccuracy, CategoricalAccuracy, SparseCategoricalAccuracy),
    *(TopKCategoricalAccuracy, SparseTopKCategoricalAccuracy, Precision, Recall, F1Score, AUC),
    *(MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError),
)
_BY_NAME = {kind.name: kind for kind in _KINDS}
_BY_NAME |= {"acc": Accuracy, "mae": MeanAbsoluteError, "mse": MeanSquaredError}


def get(metric: str | Metric | Callable[..., Any]) -> Metric:
    """Return the metric of that name or function, or the given one.

    Names are those of the classes, or the same in snake case. As in Keras, the metric has the given
    name in logs.

    Raises
    ------
    TypeError
        If a function does not take (y_true, y_pred).
    ValueError
        If the name is unknown. The message lists the names.

    Examples
    --------
    >>> get("mae").name, get("MeanAbsoluteError").name, get(max).name
    ('mae', 'MeanAbsoluteError', 'max')
    """
    if callable(metric) and not isinstance(metric, type | Metric):
        return FunctionMetric(metric)
    found = choose("metric", metric, Metric, _BY_NAME)
    if isinstance(metric, str):
        found.name = metric
    return found


def with_weighted(metrics: list[Any], weighted: list[Any]) -> list[Metric]:
    """Return the metrics of ``metrics=`` and of ``weighted_metrics=``, with Keras' names.

    A weighted metric with the name of another one gets ``weighted_`` before its name.

    Examples
    --------
    >>> [metric.name for metric in with_weighted(["mae", "mse"], ["mae", "acc"])]
    ['mae', 'mse', 'weighted_mae', 'acc']
    """
    found = [get(metric) for metric in metrics]
    found += [Weighted(get(metric)) for metric in weighted]
    taken = {metric.name for metric in found if not isinstance(metric, Weighted)}
    for metric in found:
        if isinstance(metric, Weighted) and metric.name in taken:
            metric.name = f"weighted_{metric.name}"
    return found


def of_outputs(names: Sequence[str], metrics: Any, weighted: Any) -> list[Metric]:
    """Return the metrics of a model with several outputs; all arguments are those of ``compile``.

    Examples
    --------
    >>> [metric.name for metric in of_outputs(["a", "b"], {"b": "mae"}, [None, ["mae"]])]
    ['b_mae', 'b_weighted_mae']
    """
    known = isinstance(metrics, list) and all(isinstance(m, OutputMetric) for m in metrics)
    if known and weighted is None and all(m.output < len(names) for m in metrics):
        return [*metrics]
    pairs = zip(_by_output(names, metrics), _by_output(names, weighted), strict=True)
    return [
        OutputMetric(metric, output, f"{names[output]}_{metric.name}")
        for output, pair in enumerate(pairs)
        for metric in with_weighted(*pair)
    ]


def of_one_output(names: Sequence[str], metrics: Any, weighted: Any) -> list[Metric]:
    """Return the metrics of a model with one output; all arguments are those of ``compile``.

    Examples
    --------
    >>> [metric.name for metric in of_one_output(["a"], {"a": "mae"}, [["mae", "mse"]])]
    ['mae', 'weighted_mae', 'mse']
    """
    own = _of_output("metrics", names, metrics)
    return with_weighted(own, _of_output("weighted_metrics", names, weighted))


def _of_output(name: str, names: Sequence[str], given: Any) -> list[Any]:
    """Return the list of metrics for the only output."""
    own = unwrapped(name, names, given)
    is_one = own is not given and not isinstance(own, list | tuple)
    return [] if own is None else as_list("compile", name, [own] if is_one else own)


def _by_output(names: Sequence[str], metrics: Any) -> list[list[Any]]:
    """Return a list of metrics for each output; outputs without metrics may be left out."""
    if not metrics or isinstance(metrics, Mapping):
        metrics = dict.fromkeys(names) | dict(metrics or {})
    given = by_name("compile", "metrics for each of the outputs", names, metrics).values()
    lists = [[] if each is None else each for each in given]
    return [list(each) if isinstance(each, list | tuple) else [each] for each in lists]
