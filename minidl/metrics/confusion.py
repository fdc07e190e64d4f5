"""Metrics of the counts of true and false positives and negatives."""

from typing import Any

import numpy as np

from minidl.alternatives import keras_defaults
from minidl.arguments import Number, count, integer, one_of, optional, positive_integer
from minidl.backend import Array
from minidl.engine.tensor import Tensor
from minidl.losses.base import SameShape, fitted
from minidl.metrics.base import Metric, as_tensors

EPSILON = 1e-7  # Keras' bound: the first and last threshold of AUC are so far outside of [0, 1]


class _Counts(SameShape, Metric):
    """A number made of counts, which stay on the device until the result is read.

    Outputs are probabilities of 1, and targets other than 0 count as 1. With weights, a sample
    counts as many times as its weight.
    """

    _counts: Tensor | None = None

    def reset_state(self) -> None:
        """Forget all samples."""
        self._counts = None

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch of tensors or arrays."""
        y_true, y_pred, sample_weight = as_tensors(self.name, y_true, y_pred, sample_weight)
        self.check(y_true, y_pred.shape)
        shape, xp = y_pred.shape, y_pred.backend.xp
        columns = (-1, shape[-1] if len(shape) > 1 else 1)
        with y_pred.backend.active:
            p = y_pred.like(y_pred.data.astype("float64"))
            weight = xp.ones(shape)
            if sample_weight is not None:
                weight = weight * fitted(self.name, sample_weight, p).data
            y, p, weight = (a.reshape(columns) for a in (y_true.data != 0, p.data, weight))
            counts = self.counted(xp, y, p, weight)
            before = 0 if self._counts is None else self._counts.data
            self._counts = y_pred.like(counts + before)

    def counted(self, xp: Any, y: Array, p: Array, weight: Array) -> Array:
        """Return the counts of a batch: labels y, outputs p and weights of shape (n, outputs)."""
        is_positive = self.positive(xp, p)
        kinds = y & is_positive, ~y & is_positive, y & ~is_positive
        return xp.stack([(weight * kind).sum(axis=0) for kind in kinds])

    def positive(self, xp: Any, p: Array) -> Array:
        """Return which outputs stand for 1."""
        raise NotImplementedError

    def result(self) -> float:
        """Return the number, or NaN without samples; this waits for the device."""
        if self._counts is None:
            return float("nan")
        return float(self.of(self._counts.numpy()))

    def of(self, counts: np.ndarray) -> Any:
        """Return the number that is made of the counts."""
        raise NotImplementedError


def _ratio(a: Any, b: Any) -> np.ndarray:
    """Return a / b, or 0 where b is 0."""
    a, b = np.broadcast_arrays(np.asarray(a, "float64"), b)
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)


@keras_defaults(dtype=(None, "float32"))
class _Share(_Counts):
    """Share of the true positives among others; a subclass names the row of the others."""

    thresholds: Any = Number("[0, 1]", or_none=True)
    _others: int

    def __init__(
        self,
        thresholds: float | None = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
    ):
        super().__init__(name)
        self.thresholds = 0.5 if thresholds is None and top_k is None else thresholds
        who = type(self).__name__
        self.top_k = optional(positive_integer, f"{who}: top_k", top_k)
        self.class_id = optional(count, f"{who}: class_id", class_id)

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` fits the outputs, and there are enough of these."""
        super().check(y_true, output_shape)
        outputs = (output_shape[-1] or 1) if len(output_shape) > 1 else 1
        if max(self.top_k or 0, (self.class_id or 0) + 1) > outputs:
            raise ValueError(
                f"{self.name}: expected top_k of at most {outputs} and class_id below it, got "
                f"top_k={self.top_k} and class_id={self.class_id}."
            )

    def positive(self, xp: Any, p: Array) -> Array:
        """Return which outputs are above the threshold, and among the largest of their sample."""
        is_positive = p > (-np.inf if self.thresholds is None else self.thresholds)
        if self.top_k is None:
            return is_positive
        return is_positive & (p >= xp.sort(p, axis=-1)[:, -self.top_k][:, None])

    def of(self, counts: np.ndarray) -> Any:
        """Return the share, or 0 without any."""
        kinds = counts.sum(axis=1) if self.class_id is None else counts[:, self.class_id]
        return _ratio(kinds[0], kinds[0] + kinds[self._others])


class Precision(_Share):
    """Share of the labels that are 1 among those whose output is above a threshold.

    Without outputs above it, the result is 0.

    Parameters
    ----------
    thresholds : float, optional
        In [0, 1]: outputs above it stand for 1; None is 0.5. Several thresholds need a metric each.
    top_k : int, optional
        Only the `top_k` largest outputs of each sample stand for 1; the threshold is then optional.
        Outputs that are equal at the limit all do.
    class_id : int, optional
        The index of the output that counts; None is all.
    name : str, optional
        The name in logs.

    Examples
    --------
    >>> metric = Precision()
    >>> metric.update_state(Tensor([1, 0, 0, 1]), Tensor([[0.9], [0.6], [0.1], [0.7]]))
    >>> round(metric.result(), 3)
    0.667
    """

    name = "precision"
    _others = 1  # false positives


class Recall(_Share):
    """Share of the outputs above a threshold among the labels that are 1.

    Without such labels, the result is 0.

    Parameters
    ----------
    thresholds, top_k, class_id, name
        As in `Precision`.

    Examples
    --------
    >>> metric = Recall()
    >>> metric.update_state(Tensor([1, 0, 0, 1]), Tensor([[0.9], [0.6], [0.1], [0.2]]))
    >>> metric.result()
    0.5
    """

    name = "recall"
    _others = 2  # false negatives


@keras_defaults(dtype=(None, "float32"))
class F1Score(_Counts):
    """Harmonic mean of precision and recall: 2 tp / (2 tp + fp + fn).

    Parameters
    ----------
    average : {"micro", "macro", "weighted"}, optional
        How the scores of several outputs become one number: the score of all their counts, the
        mean of their scores, or that mean weighted by the numbers of their labels that are 1. None
        is for one output.
    threshold : float, optional
        In (0, 1]: outputs above it stand for 1. None means that the largest output of each sample
        does, if it is not 0.
    name : str, optional
        The name in logs.

    Examples
    --------
    >>> metric = F1Score(threshold=0.5)
    >>> metric.update_state(Tensor([1, 0, 0, 1]), Tensor([[0.9], [0.6], [0.1], [0.7]]))
    >>> metric.result()
    0.8
    """

    name = "f1_score"
    threshold: Any = Number("(0, 1]", or_none=True)

    def __init__(
        self, average: str | None = None, threshold: float | None = None, name: str | None = None
    ):
        super().__init__(name)
        self.average = one_of("F1Score", "average", average, ("micro", "macro", "weighted", None))
        self.threshold = threshold

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape, and the result is a number."""
        super().check(y_true, output_shape)
        if self.average is None and len(output_shape) > 1 and output_shape[-1] != 1:
            raise ValueError(
                f"{self.name}: expected one output for each sample if average=None, got shape "
                f'{output_shape}. Pass average="macro", "micro" or "weighted".'
            )

    def positive(self, xp: Any, p: Array) -> Array:
        """Return which outputs stand for 1."""
        if self.threshold is not None:
            return p > self.threshold
        return (p >= p.max(axis=-1, keepdims=True)) & (xp.abs(p) > 1e-9)

    def of(self, counts: np.ndarray) -> Any:
        """Return the score, or 0 without any labels and outputs of 1."""
        if self.average == "micro":
            counts = counts.sum(axis=1, keepdims=True)
        true, wrong, missed = counts
        scores = _ratio(2 * true, 2 * true + wrong + missed)
        if self.average != "weighted":
            return scores.mean()
        return _ratio((scores * (true + missed)).sum(), (true + missed).sum())


@keras_defaults(
    summation_method="interpolation",
    multi_label=False,
    from_logits=False,
    **dict.fromkeys(("thresholds", "num_labels", "label_weights")),
    dtype=(None, "float32"),
)
class AUC(_Counts):
    """Area under the ROC curve, or under the precision-recall curve, of Keras' thresholds.

    All outputs count alike. The area is exact up to the distance of the thresholds.

    Parameters
    ----------
    num_thresholds : int
        At least 2. The thresholds lie at equal distances, from just below 0 to just above 1.
    curve : {"ROC", "PR"}
        The curve. The area under the second is interpolated as in Davis and Goadrich, ICML 2006.
    name : str, optional
        The name in logs.

    Examples
    --------
    >>> metric = AUC()
    >>> metric.update_state(Tensor([1, 0, 0, 1]), Tensor([[0.9], [0.6], [0.1], [0.2]]))
    >>> metric.result()
    0.75
    """

    name = "auc"

    def __init__(self, num_thresholds: int = 200, curve: str = "ROC", *, name: str | None = None):
        super().__init__(name)
        low = "an integer, 2 or above"
        self.num_thresholds = integer("AUC: num_thresholds", num_thresholds, 2, low)
        self.curve = one_of("AUC", "curve", curve, ("ROC", "PR"))

    def counted(self, xp: Any, y: Array, p: Array, weight: Array) -> Array:
        """Return for labels of 0 and of 1 how many outputs exceed 0, 1, 2, ... thresholds."""
        inner = np.linspace(0, 1, self.num_thresholds)[1:-1]
        limits = xp.asarray(np.concatenate([[-EPSILON], inner, [1 + EPSILON]]))
        below = xp.searchsorted(limits, xp.where(xp.isnan(p), -1.0, p).ravel())
        parts = (weight * ~y).ravel(), (weight * y).ravel()
        size = self.num_thresholds + 1
        return xp.stack([xp.bincount(below, part, minlength=size) for part in parts])

    def of(self, counts: np.ndarray) -> Any:
        """Return the area, or 0 if all labels are the same."""
        # Labels whose output is above a threshold, for each threshold.
        negative, positive = np.cumsum(counts[:, ::-1], axis=1)[:, -2::-1]
        negatives, positives = counts.sum(axis=1)
        if self.curve == "PR":
            return _area_under_precision(positive, positive + negative, positives)
        x, y = _ratio(negative, negatives), _ratio(positive, positives)
        return ((x[:-1] - x[1:]) * (y[:-1] + y[1:]) / 2).sum()


def _area_under_precision(true: np.ndarray, found: np.ndarray, positives: float) -> np.ndarray:
    """Return the area under precision over recall, which between two thresholds is curved.

    There, the true positives are linear in the positives found: t = slope f + start. So the
    integral of t / f over recall is slope (dt + start log(f1 / f0)) / positives.
    """
    slope = _ratio(true[:-1] - true[1:], found[:-1] - found[1:])
    start = true[1:] - slope * found[1:]
    both = (found[:-1] > 0) & (found[1:] > 0)
    growth = np.where(both, _ratio(found[:-1], found[1:]), 1.0)
    return _ratio((slope * (true[:-1] - true[1:] + start * np.log(growth))).sum(), positives)
