"""What training makes small: one number for each sample, averaged over the batch."""

from typing import Any

import numpy as np

from minidl import ops
from minidl.autograd import Tensor, apply

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
        """Return the loss of each sample, shape (batch,) or (batch, ...)."""
        raise NotImplementedError

    def check(self, y_true: np.ndarray, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError where `y_true` cannot be the targets of outputs of that shape."""

    def __call__(self, y_true: Any, y_pred: Tensor, sample_weight: Any = None) -> Tensor:
        """Return the mean over the samples, each times its weight where weights are given.

        Targets of the host are checked; those that are on the device are taken as they are.

        Raises
        ------
        ValueError
            If `y_true` cannot be the targets, or the operands are on different devices.
        """
        if not isinstance(y_true, Tensor):
            y_true = np.asarray(y_true)
            self.check(y_true, y_pred.shape)
        losses = self.per_sample(_beside(y_pred, y_true), y_pred)
        if sample_weight is not None:
            weight = _beside(y_pred, sample_weight).astype(losses.dtype)
            spread = (*weight.shape, *(1,) * (losses.ndim - weight.ndim))
            losses = losses * weight.reshape(spread)
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

    def check(self, y_true: np.ndarray, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` holds class numbers below the last axis of outputs."""
        classes = output_shape[-1]
        if y_true.dtype.kind not in "iu":
            raise ValueError(
                f"sparse_categorical_crossentropy: y must hold class numbers (integers), received "
                f"{y_true.dtype}; for one-hot targets use categorical_crossentropy"
            )
        if y_true.shape[1:] not in (tuple(output_shape[1:-1]), (*output_shape[1:-1], 1)):
            raise ValueError(
                f"sparse_categorical_crossentropy: y has shape {y_true.shape}, and outputs of "
                f"shape {output_shape} need one class number for each; for one-hot targets use "
                "categorical_crossentropy"
            )
        if y_true.size and not 0 <= y_true.min() <= y_true.max() < classes:
            raise ValueError(
                f"sparse_categorical_crossentropy: class numbers must be in [0, {classes}), "
                f"received {y_true.min()} to {y_true.max()}"
            )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample."""
        labels = y_true.data.reshape(y_pred.shape[:-1])
        logits = y_pred if self.from_logits else y_pred.logits
        if logits is None:
            logits = _log_of_probabilities(y_pred)
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

    def check(self, y_true: np.ndarray, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape."""
        if y_true.shape[1:] != tuple(output_shape[1:]):
            raise ValueError(
                f"categorical_crossentropy: y has shape {y_true.shape} and the outputs "
                f"{output_shape}; for class numbers use sparse_categorical_crossentropy"
            )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample."""
        logits = y_pred if self.from_logits else y_pred.logits
        if logits is None:
            logits = _log_of_probabilities(y_pred)
        return -(y_true.astype(logits.dtype) * logits.log_softmax()).sum(axis=-1)


def _log_of_probabilities(y_pred: Tensor) -> Tensor:
    """Return logits whose softmax is `y_pred`, which is scaled to sum 1 and held off 0 and 1."""
    probabilities = y_pred / y_pred.sum(axis=-1, keepdims=True)
    return probabilities.clip(EPSILON, 1 - EPSILON).log()


class MeanSquaredError(Loss):
    """Take the mean of the squared differences."""

    def check(self, y_true: np.ndarray, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape, an axis of length 1 aside."""
        if _squeezed(y_true.shape[1:]) != _squeezed(tuple(output_shape[1:])):
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
    return shape[:-1] if shape and shape[-1] == 1 else shape


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
    if isinstance(loss, Loss):
        return loss
    if loss is not None and loss in _BY_NAME:
        return _BY_NAME[loss]()
    raise ValueError(f"loss: expected a Loss or one of {', '.join(_BY_NAME)}; received {loss!r}")
