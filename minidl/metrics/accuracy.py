"""Accuracies: shares of correct predictions."""

from typing import Any

import numpy as np

from minidl.alternatives import keras_defaults
from minidl.arguments import Number, positive_integer
from minidl.backend import Array
from minidl.engine.tensor import Tensor
from minidl.losses.base import SameShape, mean_of_sample, shapes_agree
from minidl.losses.crossentropies import check_one_each, check_whole
from minidl.metrics.base import Metric


class SparseCategoricalAccuracy(Metric):
    """Share of the samples whose largest output is that of the right class, given by its number."""

    name = "sparse_categorical_accuracy"

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless there is one class number for each sample."""
        advice = "Use accuracy, which accepts one-hot targets, too."
        check_one_each(self.name, y_true, output_shape, advice)
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
    scores = _scores(y_pred)
    is_nan = y_pred.backend.xp.isnan(scores.max(axis=-1))
    return y_pred.like((scores.argmax(axis=-1) == labels) & ~is_nan)


@keras_defaults(dtype=(None, "float32"))
class _TopK(Metric):
    """Metric with a number of the largest outputs, `k`."""

    def __init__(self, k: int = 5, name: str | None = None):
        super().__init__(name)
        self.k = positive_integer(f"{type(self).__name__}: k", k)


class SparseTopKCategoricalAccuracy(_TopK, SparseCategoricalAccuracy):
    """Share of the samples whose class, given by its number, has one of the `k` largest outputs.

    Classes whose outputs are equal at the limit all count as among the largest.

    Parameters
    ----------
    k : int
        At least 1.
    name : str, optional
        The name in logs.

    Examples
    --------
    >>> metric = SparseTopKCategoricalAccuracy(k=2)
    >>> metric.update_state(Tensor([0, 2]), Tensor([[0.3, 0.5, 0.2], [0.3, 0.5, 0.2]]))
    >>> metric.result()
    0.5
    """

    name = "sparse_top_k_categorical_accuracy"

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return True for each correct sample; a sample with NaN is not correct."""
        return _among_largest(self.k, y_true.data.reshape(y_pred.shape[:-1]), y_pred)


class TopKCategoricalAccuracy(_TopK, CategoricalAccuracy):
    """Share of the samples whose largest target is where one of the `k` largest outputs is.

    Parameters
    ----------
    k, name
        As in `SparseTopKCategoricalAccuracy`.
    """

    name = "top_k_categorical_accuracy"

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return True for each correct sample; a sample with NaN is not correct."""
        return _among_largest(self.k, y_true.data.argmax(axis=-1), y_pred)


def _among_largest(k: int, labels: Array, y_pred: Tensor) -> Tensor:
    """Return for each sample whether fewer than `k` outputs exceed that of its label."""
    scores, xp = _scores(y_pred), y_pred.backend.xp
    own = xp.take_along_axis(scores, labels.astype("int64")[..., None], axis=-1)
    is_nan = xp.isnan(scores.max(axis=-1))
    return y_pred.like(((scores > own).sum(axis=-1) < k) & ~is_nan)


@keras_defaults(dtype=(None, "float32"))
class BinaryAccuracy(SameShape, Metric):
    """Share of the labels, 0 or 1, whose output is on their side of a threshold.

    The value of a sample is the mean over its labels, the last axis. NaN is not correct.

    Parameters
    ----------
    name : str, optional
        The name in logs.
    threshold : float
        In [0, 1]: outputs above it stand for 1.

    Examples
    --------
    >>> metric = BinaryAccuracy()
    >>> metric.update_state(Tensor([1, 0, 0, 1]), Tensor([[0.9], [0.6], [0.1], [0.7]]))
    >>> metric.result()
    0.75
    """

    name = "binary_accuracy"
    threshold: Any = Number("[0, 1]")

    def __init__(self, name: str | None = None, *, threshold: float = 0.5):
        super().__init__(name)
        self.threshold = threshold

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the share of correct labels of each sample."""
        y, p = y_true.data.reshape(y_pred.shape), y_pred.data
        is_correct = ((y == 1) & (p > self.threshold)) | ((y == 0) & (p <= self.threshold))
        return mean_of_sample(y_pred.like(is_correct))


def _scores(y_pred: Tensor) -> Array:
    """Return the numbers whose order decides: different logits may round to equal probabilities."""
    return (y_pred if y_pred.logits is None else y_pred.logits).data


class Accuracy(Metric):
    """Share of correct predictions: the metric that Keras chooses for ``"accuracy"``.

    For one output, it is `BinaryAccuracy`. For several, targets of the outputs' shape are
    distributions over classes (`CategoricalAccuracy`), others are class numbers
    (`SparseCategoricalAccuracy`). So models with several labels for each sample need
    ``"binary_accuracy"``.
    """

    name = "accuracy"

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError if outputs or targets do not stand for classes."""
        if len(output_shape) < 2:
            raise ValueError(
                f"{self.name}: expected one output for each class, got outputs of shape "
                f"{output_shape}. Leave the metric out, or subclass metrics.Metric."
            )
        self._for_targets(y_true.shape, output_shape).check(y_true, output_shape)

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return True for each correct sample."""
        return self._for_targets(y_true.shape, y_pred.shape).per_sample(y_true, y_pred)

    def _for_targets(self, shape: tuple[int, ...], output_shape: tuple[int | None, ...]) -> Metric:
        """Return the metric for targets of `shape`."""
        if output_shape[-1] == 1:
            return BinaryAccuracy(self.name)
        if shapes_agree(shape, output_shape):
            return CategoricalAccuracy(self.name)
        return SparseCategoricalAccuracy(self.name)
