"""What training makes small: one number for each sample, averaged over the batch."""

from typing import Any

import numpy as np

from minidl import ops
from minidl.autograd import Tensor, apply, refuse_masked
from minidl.by_name import choose

__all__ = [
    "CategoricalCrossentropy",
    "Loss",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "get",
]

EPSILON = 1e-7  # Keras' bound: probabilities are held this far from 0 and 1


class Loss:
    """Compare targets with a model's outputs; subclass it and give `per_sample`.

    Examples
    --------
    >>> loss = MeanSquaredError()
    >>> loss([[1.0, 2.0]], Tensor([[1.0, 4.0]])).item()
    2.0
    """

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample, shape (batch,) or (batch, ...).

        Targets come in the outputs' shape where a last axis of length 1 alone tells them apart.
        """
        raise NotImplementedError

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError where `y_true` cannot be the targets of outputs of that shape."""

    def __call__(self, y_true: Any, y_pred: Tensor, sample_weight: Any = None) -> Tensor:
        """Return the mean over the samples, each times its weight where weights are given.

        Shapes are checked, and the values of targets of the host; a tensor's values are not,
        since looking at them would wait for the device.

        Raises
        ------
        ValueError
            If `y_true` or `sample_weight` do not fit `y_pred`, or are on another device.
        TypeError
            If `y_pred` is no tensor.
        """
        if not isinstance(y_pred, Tensor):
            raise TypeError(
                f"{type(self).__name__}: y_pred must be a Tensor, the model's outputs, received "
                f"{type(y_pred).__name__}; the order is loss(y_true, y_pred)"
            )
        refuse_masked("loss: y_true", y_true)
        refuse_masked("loss: sample_weight", sample_weight)
        y_true = y_true if isinstance(y_true, Tensor) else np.asarray(y_true)
        self.check(y_true, y_pred.shape)
        losses = self.per_sample(aligned(_beside(y_pred, y_true), y_pred), y_pred)
        if sample_weight is not None:
            weight = aligned(_beside(y_pred, sample_weight).astype(losses.dtype), losses)
            if weight.shape != losses.shape[: weight.ndim]:
                raise ValueError(
                    f"loss: sample_weight must have the shape {losses.shape[:1]} of the samples, "
                    f"received {weight.shape}"
                )
            losses = losses * weight.reshape(*weight.shape, *(1,) * (losses.ndim - weight.ndim))
        return losses.mean()


def _beside(y_pred: Tensor, values: Any) -> Tensor:
    """Return `values` as a tensor on the device of the outputs; a tensor must be there already."""
    if not isinstance(values, Tensor):
        return Tensor.of(y_pred.backend.asarray(values), y_pred.backend)
    if values.backend is not y_pred.backend:
        raise ValueError(
            f"loss: the outputs are on {y_pred.device} and targets or weights on {values.device}; "
            f'move these with .to("{y_pred.device}")'
        )
    return values


def aligned(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` in the shape of `like` where a last axis of length 1 tells them apart.

    Left as they are, (batch,) and (batch, 1) would be compared each with each.
    """
    if (*values.shape, 1) == like.shape or values.shape == (*like.shape, 1):
        return values.reshape(like.shape)
    return values


class SparseCategoricalCrossentropy(Loss):
    """Take -log of the probability of the right class, which is given by its number.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits. Where they are probabilities that a softmax made, its
        logits are used all the same, so that no logarithm of 0 is taken.

    Examples
    --------
    >>> loss = SparseCategoricalCrossentropy()
    >>> probabilities = Tensor([[0.0, -1000.0]]).softmax()
    >>> loss(np.array([1]), probabilities).item()
    1000.0
    """

    def __init__(self, from_logits: bool = False):
        self.from_logits = from_logits

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` holds class numbers below the last axis of outputs."""
        who, classes = "sparse_categorical_crossentropy", output_shape[-1]
        one_each = output_shape[:-1]
        if not (shapes_agree(y_true.shape, one_each) or shapes_agree(y_true.shape, (*one_each, 1))):
            remedy = "for one-hot targets use categorical_crossentropy"
            if y_true.shape[:-1] == output_shape:
                remedy = "the order is loss(y_true, y_pred)"
            raise ValueError(
                f"{who}: y has shape {y_true.shape}, and outputs of shape {output_shape} need one "
                f"class number for each; {remedy}"
            )
        if y_true.dtype.kind not in "iu":
            raise ValueError(
                f"{who}: y must hold class numbers (integers), received {y_true.dtype}; "
                "use y.astype(int)"
            )
        if isinstance(y_true, np.ndarray) and y_true.size:
            low, high = y_true.min(), y_true.max()
            if not 0 <= low <= high < classes:
                raise ValueError(
                    f"{who}: class numbers must be in [0, {classes}), received {low} to {high}"
                )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample."""
        labels = y_true.data.reshape(y_pred.shape[:-1])
        logits = _logits(y_pred, self.from_logits)
        return apply(ops.sparse_cross_entropy, logits, labels=labels)


class CategoricalCrossentropy(Loss):
    """Take the cross-entropy to a distribution over the classes, one-hot or any other.

    Parameters
    ----------
    from_logits : bool
        As in `SparseCategoricalCrossentropy`.
    """

    def __init__(self, from_logits: bool = False):
        self.from_logits = from_logits

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape."""
        if not shapes_agree(y_true.shape, output_shape):
            remedy = "for class numbers use sparse_categorical_crossentropy"
            if y_true.shape[1:] == output_shape[1:]:
                remedy = "give as many targets as outputs"
            elif y_true.ndim == len(output_shape) and y_true.shape[-1] > 1:
                remedy = "give the last layer one unit for each class of y"
            raise ValueError(
                f"categorical_crossentropy: y has shape {y_true.shape} and the outputs "
                f"{output_shape}; {remedy}"
            )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample."""
        logits = _logits(y_pred, self.from_logits)
        return -(y_true.astype(logits.dtype) * logits.log_softmax()).sum(axis=-1)


def expects_probabilities(loss: Loss) -> bool:
    """Tell whether a loss takes a logarithm of the outputs; of a subclass that is not known."""
    return (
        type(loss) is SparseCategoricalCrossentropy or type(loss) is CategoricalCrossentropy
    ) and not loss.from_logits


def _logits(y_pred: Tensor, from_logits: bool) -> Tensor:
    """Return logits whose softmax is the prediction."""
    if from_logits:
        if y_pred.logits is not None:
            raise ValueError(
                "loss: from_logits=True, but the outputs went through a softmax; leave one out"
            )
        return y_pred
    if y_pred.logits is not None:
        return y_pred.logits
    probabilities = y_pred / y_pred.sum(axis=-1, keepdims=True)
    return probabilities.clip(EPSILON, 1 - EPSILON).log()


class MeanSquaredError(Loss):
    """Take the mean of the squared differences."""

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape, an axis of length 1 aside."""
        if not shapes_agree(_squeezed(y_true.shape), _squeezed(output_shape)):
            raise ValueError(
                f"mean_squared_error: y has shape {y_true.shape} and the outputs {output_shape}; "
                "they must agree"
            )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample, the mean over its outputs."""
        difference = y_pred - y_true.astype(y_pred.dtype).reshape(y_pred.shape)
        square = difference * difference
        return square.mean(axis=tuple(range(1, square.ndim))) if square.ndim > 1 else square


def _squeezed(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape


def shapes_agree(shape: tuple[int | None, ...], expected: tuple[int | None, ...]) -> bool:
    """Tell whether shapes agree; None, the length of a batch that is not known, fits any."""
    return len(shape) == len(expected) and all(
        wanted is None or length == wanted for length, wanted in zip(shape, expected, strict=True)
    )


_BY_NAME: dict[str, type[Loss]] = {
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
}


def get(loss: str | Loss | None) -> Loss:
    """Return the loss of that name, or the one given.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.
    """
    return choose("loss", loss, Loss, _BY_NAME)
