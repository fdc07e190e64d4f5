"""Loss functions: one value for each sample, averaged over the batch."""

from typing import Any

import numpy as np

from minidl.arguments import choose, refuse_masked, refuse_names, undefined
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply

__all__ = [
    "CategoricalCrossentropy",
    "Loss",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "get",
]

EPSILON = 1e-7  # Keras' bound: the least distance of probabilities from 0 and 1


class Loss:
    """Difference between targets and a model's outputs; a subclass defines `per_sample`.

    Examples
    --------
    >>> loss = MeanSquaredError()
    >>> loss([[1.0, 2.0]], Tensor([[1.0, 4.0]])).item()
    2.0
    """

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        refuse_names("methods of Loss", dir(cls), who=cls.__name__)

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample, of shape (batch,) or (batch, ...).

        Targets have the shape of the outputs if the two differ only by a last axis of length 1.
        """
        undefined(self, "per_sample(self, y_true, y_pred)")

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError if `y_true` cannot be the targets of outputs of `output_shape`."""

    def __call__(self, y_true: Any, y_pred: Tensor, sample_weight: Any = None) -> Tensor:
        """Return the mean loss of the samples, each multiplied by its weight if there are weights.

        Shapes are checked, and so are the values of host arrays. The values of tensors are not
        checked, since reading them would wait for the device.

        Parameters
        ----------
        y_true : array_like or Tensor
            The targets.
        y_pred : Tensor
            The model's outputs.
        sample_weight : array_like or Tensor, optional
            Shape (batch,) or (batch, 1).

        Raises
        ------
        ValueError
            If `y_true` or `sample_weight` do not fit `y_pred`, or are on another device.
        TypeError
            If `y_pred` is not a Tensor.
        """
        if not isinstance(y_pred, Tensor):
            raise TypeError(
                f"{type(self).__name__}: expected y_pred to be a Tensor, the model's outputs, got "
                f"a {type(y_pred).__name__}. Call loss(y_true, y_pred) in this order."
            )
        refuse_masked("loss: y_true", y_true)
        refuse_masked("loss: sample_weight", sample_weight)
        y_true = y_true if isinstance(y_true, Tensor) else np.asarray(y_true)
        self.check(y_true, y_pred.shape)
        losses = self.per_sample(aligned(_beside(y_pred, y_true), y_pred), y_pred)
        if not isinstance(losses, Tensor):
            raise TypeError(
                f"{type(self).__name__}.per_sample: expected it to return a Tensor, got a "
                f"{type(losses).__name__}. Compute it with operations of tensors, which have a "
                "gradient."
            )
        if sample_weight is not None:
            weight = aligned(_beside(y_pred, sample_weight).astype(losses.dtype), losses)
            if weight.shape != losses.shape[: weight.ndim]:
                raise ValueError(
                    f"loss: expected sample_weight of shape {losses.shape[:1]}, got "
                    f"{weight.shape}. Pass one number for each sample."
                )
            losses = losses * weight.reshape(*weight.shape, *(1,) * (losses.ndim - weight.ndim))
        return losses.mean()


def _beside(y_pred: Tensor, values: Any) -> Tensor:
    """Return `values` as a tensor on the device of the outputs; tensors are not moved."""
    if not isinstance(values, Tensor):
        return Tensor.of(y_pred.backend.asarray(values), y_pred.backend)
    if values.backend is not y_pred.backend:
        raise ValueError(
            f"loss: expected targets and weights on {y_pred.device}, as the outputs, got "
            f'{values.device}. Move them with .to("{y_pred.device}").'
        )
    return values


def aligned(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` in the shape of `like` if the two differ only by a last axis of length 1.

    Without this, (batch,) and (batch, 1) would broadcast to (batch, batch).
    """
    if (*values.shape, 1) == like.shape or values.shape == (*like.shape, 1):
        return values.reshape(like.shape)
    return values


class _Crossentropy(Loss):
    """Cross-entropy of outputs that are probabilities or logits."""

    def __init__(self, from_logits: bool = False):
        self.from_logits = from_logits

    def _logits(self, y_pred: Tensor) -> Tensor:
        """Return logits whose softmax is the prediction."""
        if y_pred.logits is not None:
            if self.from_logits:
                raise ValueError(
                    "loss: expected logits with from_logits=True, got the outputs of a softmax. "
                    "Leave one of them out."
                )
            return y_pred.logits
        if self.from_logits:
            return y_pred
        probabilities = y_pred / y_pred.sum(axis=-1, keepdims=True)
        return probabilities.clip(EPSILON, 1 - EPSILON).log()


class SparseCategoricalCrossentropy(_Crossentropy):
    """Cross-entropy for class numbers: -log of the probability of the right class.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits. For the outputs of a softmax, its logits are used in either
        case, so that log(0) cannot occur.

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
        one_each = output_shape[:-1]
        if not (shapes_agree(y_true.shape, one_each) or shapes_agree(y_true.shape, (*one_each, 1))):
            advice = "For one-hot targets use categorical_crossentropy."
            if y_true.shape[:-1] == output_shape:
                advice = "Call loss(y_true, y_pred) in this order."
            raise ValueError(
                f"{who}: expected one class number for each of the outputs of shape "
                f"{output_shape}, got y of shape {y_true.shape}. {advice}"
            )
        if y_true.dtype.kind not in "iu":
            raise ValueError(
                f"{who}: expected y to hold class numbers (integers), got {y_true.dtype}. "
                "Use y.astype(int)."
            )
        if isinstance(y_true, np.ndarray) and y_true.size:
            low, high = y_true.min(), y_true.max()
            if not 0 <= low <= high < classes:
                raise ValueError(
                    f"{who}: expected class numbers in [0, {classes}), got {low} to {high}. Number "
                    "the classes from 0, and use one output for each."
                )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample."""
        labels = y_true.data.reshape(y_pred.shape[:-1])
        return apply(ops.sparse_cross_entropy, self._logits(y_pred), labels=labels)


class CategoricalCrossentropy(_Crossentropy):
    """Cross-entropy for distributions over the classes, such as one-hot targets.

    Parameters
    ----------
    from_logits : bool
        As in `SparseCategoricalCrossentropy`.
    """

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape."""
        if not shapes_agree(y_true.shape, output_shape):
            advice = "For class numbers use sparse_categorical_crossentropy."
            if y_true.shape[1:] == output_shape[1:]:
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
        return -(y_true.astype(logits.dtype) * logits.log_softmax()).sum(axis=-1)


def expects_probabilities(loss: Loss) -> bool:
    """Return whether `loss` is one of minidl's cross-entropies of probabilities."""
    # Subclasses may expect something else.
    is_own = type(loss) in (SparseCategoricalCrossentropy, CategoricalCrossentropy)
    return is_own and isinstance(loss, _Crossentropy) and not loss.from_logits


class MeanSquaredError(Loss):
    """Mean of the squared differences.

    Examples
    --------
    >>> MeanSquaredError()([0.0, 2.0], Tensor([[1.0], [2.0]])).item()
    0.5
    """

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape, up to an axis of length 1."""
        if not shapes_agree(_squeezed(y_true.shape), _squeezed(output_shape)):
            raise ValueError(
                f"mean_squared_error: expected y of the outputs' shape {output_shape}, got "
                f"{y_true.shape}. Reshape y, or change the units of the last layer."
            )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample: the mean over its outputs."""
        difference = y_pred - y_true.astype(y_pred.dtype).reshape(y_pred.shape)
        square = difference * difference
        return square.mean(axis=tuple(range(1, square.ndim))) if square.ndim > 1 else square


def _squeezed(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape


def shapes_agree(shape: tuple[int | None, ...], expected: tuple[int | None, ...]) -> bool:
    """Return whether two shapes agree; None, an unknown batch size, agrees with any length."""
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
    """Return the loss of that name, or the given one.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the names.
    """
    return choose("loss", loss, Loss, _BY_NAME)
