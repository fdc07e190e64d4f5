"""Cross-entropies: losses of classes and of yes-or-no labels."""

from typing import Any

import numpy as np

from minidl.alternatives import TWO_CLASSES, keras_defaults
from minidl.arguments import Number
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply
from minidl.losses.base import MEANS, Loss, check_same_shape, mean_of_sample, shapes_agree

EPSILON = 1e-7  # Keras' bound: the least distance of probabilities from 0 and 1
KERAS_LOSS = {"axis": -1, "dtype": (None, "float32")}


class _Crossentropy(Loss):
    """Cross-entropy of outputs that are probabilities or logits."""

    activation = "softmax"  # makes probabilities of logits

    def __init__(self, from_logits: bool = False, *, reduction: str | None = MEANS[0]):
        super().__init__(reduction=reduction)
        self.from_logits = from_logits

    def _logits(self, y_pred: Tensor) -> Tensor:
        """Return logits whose `activation` is the prediction."""
        logits = y_pred.logits if self.activation == "softmax" else y_pred.log_odds
        if logits is not None:
            if self.from_logits:
                raise ValueError(
                    "loss: expected logits with from_logits=True, got the outputs of a "
                    f"{self.activation}. Leave one of them out."
                )
            return logits
        return y_pred if self.from_logits else self._logits_of_probabilities(y_pred)

    def _logits_of_probabilities(self, y_pred: Tensor) -> Tensor:
        probabilities = y_pred / y_pred.sum(axis=-1, keepdims=True)
        return probabilities.clip(EPSILON, 1 - EPSILON).log()


class _SmoothedCrossentropy(_Crossentropy):
    """Cross-entropy for probabilities as targets, which label smoothing moves from 0 and 1."""

    label_smoothing: Any = Number("[0, 1]")

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        *,
        reduction: str | None = MEANS[0],
    ):
        super().__init__(from_logits, reduction=reduction)
        self.label_smoothing = label_smoothing

    def _smoothed(self, y_true: Tensor, like: Tensor, classes: int) -> Tensor:
        """Return (1 - s) y + s / classes: Szegedy et al., CVPR 2016, section 7."""
        y_true, s = y_true.astype(like.dtype), self.label_smoothing
        return y_true * (1 - s) + s / classes if s else y_true


@keras_defaults(name="sparse_categorical_crossentropy", ignore_class=None, **KERAS_LOSS)
class SparseCategoricalCrossentropy(_Crossentropy):
    """Cross-entropy for class numbers: -log of the probability of the right class.

    Class numbers are integers from 0. Arrays of the host may also hold them as whole
    floating-point numbers or as booleans.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits. For the outputs of a softmax, its logits are used in either
        case, so that log(0) cannot occur.
    reduction
        As in `Loss`.

    Examples
    --------
    >>> loss = SparseCategoricalCrossentropy()
    >>> probabilities = Tensor([[0.0, -1000.0]]).softmax()
    >>> loss(np.array([1]), probabilities).item()
    1000.0
    """

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` holds one class number for each sample."""
        who, classes = "sparse_categorical_crossentropy", output_shape[-1]
        advice = "For one-hot targets use categorical_crossentropy."
        if y_true.shape[:-1] == output_shape:
            advice = "Call loss(y_true, y_pred) in this order."
        check_one_each(who, y_true, output_shape, advice)
        if isinstance(y_true, Tensor):
            if y_true.dtype.kind not in "iu":  # reading its values would wait for the device
                raise ValueError(
                    f"{who}: expected a tensor of class numbers to hold integers, got "
                    f'{y_true.dtype}. Use y.astype("int64").'
                )
            return
        check_whole(who, y_true)
        if y_true.size:
            low, high = y_true.min(), y_true.max()
            if not 0 <= low <= high < classes:
                advice = "Number the classes from 0, and use one output for each."
                if classes == 1:
                    advice = f"For two classes, {TWO_CLASSES}."
                raise ValueError(
                    f"{who}: expected class numbers in [0, {classes}), got {low} to {high}. "
                    f"{advice}"
                )

    def targets(self, y_true: np.ndarray) -> np.ndarray:
        """Return class numbers as integers."""
        return y_true if y_true.dtype.kind in "iu" else y_true.astype("int64")

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample."""
        labels = y_true.data.reshape(y_pred.shape[:-1])
        return apply(ops.sparse_cross_entropy, self._logits(y_pred), labels=labels)


def check_one_each(
    who: str, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...], advice: str
) -> None:
    """Raise ValueError unless there is one class number for each sample."""
    one_each = output_shape[:-1]
    if not (shapes_agree(y_true.shape, one_each) or shapes_agree(y_true.shape, (*one_each, 1))):
        raise ValueError(
            f"{who}: expected one class number for each of the outputs of shape {output_shape}, "
            f"got y of shape {y_true.shape}. {advice}"
        )


def check_whole(who: str, y_true: np.ndarray) -> None:
    """Raise ValueError if class numbers of the host are not whole."""
    if y_true.dtype.kind == "f":
        wrong = y_true[~(np.isfinite(y_true) & (y_true == np.trunc(y_true)))]
        if wrong.size:
            raise ValueError(
                f"{who}: expected class numbers (integers), got {wrong[0]} among {y_true.dtype}. "
                "Use mean_squared_error for other numbers."
            )


@keras_defaults(name="categorical_crossentropy", **KERAS_LOSS)
class CategoricalCrossentropy(_SmoothedCrossentropy):
    """Cross-entropy for distributions over the classes, such as one-hot targets.

    Parameters
    ----------
    from_logits : bool
        As in `SparseCategoricalCrossentropy`.
    label_smoothing : float
        In [0, 1]: the share s of each target that is spread evenly over all classes.
    reduction
        As in `Loss`.
    """

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape."""
        if not shapes_agree(y_true.shape, output_shape):
            advice = "For class numbers use sparse_categorical_crossentropy."
            if output_shape[-1] == 1:
                advice = f"For two classes, {TWO_CLASSES}."
            elif y_true.shape[1:] == output_shape[1:]:
                advice = "Pass as many targets as outputs."
            elif y_true.ndim == len(output_shape) and y_true.shape[-1] > 1:
                advice = "Use one unit of the last layer for each class of y."
            raise ValueError(
                f"categorical_crossentropy: expected y of the outputs' shape {output_shape}, got "
                f"{y_true.shape}. {advice}"
            )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample."""
        logits = self._logits(y_pred)
        targets = self._smoothed(y_true, logits, logits.shape[-1])
        return -(targets * logits.log_softmax()).sum(axis=-1)


@keras_defaults(name="binary_crossentropy", **KERAS_LOSS)
class BinaryCrossentropy(_SmoothedCrossentropy):
    """Cross-entropy for labels that are 0 or 1, or probabilities of 1: one output for each label.

    It is for two classes, with ``Dense(1, "sigmoid")``, and for several labels that may hold at the
    same time, with ``Dense(labels, "sigmoid")``. The loss of a sample is the mean over its labels.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits. For the outputs of a sigmoid, its input is used in either
        case, so that log(0) cannot occur.
    label_smoothing : float
        In [0, 1]: a label y becomes (1 - s) y + s / 2.
    reduction
        As in `Loss`.

    Examples
    --------
    >>> BinaryCrossentropy()([1, 0], Tensor([[-1000.0], [-1000.0]]).sigmoid()).item()
    500.0
    """

    activation = "sigmoid"

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape, and values in [0, 1]."""
        check_same_shape("binary_crossentropy", y_true, output_shape)
        if not isinstance(y_true, Tensor) and y_true.size:
            low, high = y_true.min(), y_true.max()
            if not 0 <= low <= high <= 1:
                raise ValueError(
                    f"binary_crossentropy: expected labels in [0, 1], got {low} to {high}. Number "
                    "the two classes 0 and 1. For more classes, use one output for each and "
                    "sparse_categorical_crossentropy."
                )

    def _logits_of_probabilities(self, y_pred: Tensor) -> Tensor:
        probabilities = y_pred.clip(EPSILON, 1 - EPSILON)
        return probabilities.log() - (1 - probabilities).log()

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample: the mean over the last axis."""
        logits = self._logits(y_pred)
        targets = self._smoothed(y_true.reshape(y_pred.shape), logits, 2)
        return mean_of_sample(apply(ops.binary_cross_entropy, logits, targets=targets.data))


def expects_probabilities(loss: Loss) -> bool:
    """Return whether `loss` is one of minidl's cross-entropies of probabilities."""
    # Subclasses may expect something else.
    own = SparseCategoricalCrossentropy, CategoricalCrossentropy, BinaryCrossentropy
    return type(loss) in own and isinstance(loss, _Crossentropy) and not loss.from_logits
