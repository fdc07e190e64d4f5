"""Loss functions: one value for each sample, averaged over the batch."""

from typing import Any

import numpy as np

from minidl.alternatives import TWO_CLASSES, RefusesMethods, keras_defaults
from minidl.arguments import choose, number_array, undefined
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply, as_tensor

__all__ = [
    "CategoricalCrossentropy",
    "Loss",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "get",
]

EPSILON = 1e-7  # Keras' bound: the least distance of probabilities from 0 and 1


KERAS_LOSS = {"reduction": "sum_over_batch_size", "dtype": (None, "float32")}


class Loss(RefusesMethods):
    """Difference between targets and a model's outputs; a subclass defines `per_sample`.

    Examples
    --------
    >>> loss = MeanSquaredError()
    >>> loss([[1.0, 2.0]], Tensor([[1.0, 4.0]])).item()
    2.0
    """

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample, of shape (batch,) or (batch, ...).

        Targets have the shape of the outputs if the two differ only by a last axis of length 1.
        """
        undefined(self, "per_sample(self, y_true, y_pred)")

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError if `y_true` cannot be the targets of outputs of `output_shape`."""

    def targets(self, y_true: np.ndarray) -> np.ndarray:
        """Return checked targets of the host in the dtype that `per_sample` expects."""
        return y_true

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
            One number for each sample, or for each of its losses: the shape of what `per_sample`
            returns, in which the last axes may be missing or have length 1.

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
        if not isinstance(y_true, Tensor):
            y_true = number_array("loss", "y_true", y_true)
        self.check(y_true, y_pred.shape)
        if not isinstance(y_true, Tensor):
            y_true = self.targets(y_true)
        losses = self.per_sample(aligned(_beside(y_pred, "y_true", y_true), y_pred), y_pred)
        if not isinstance(losses, Tensor):
            raise TypeError(
                f"{type(self).__name__}.per_sample: expected it to return a Tensor, got a "
                f"{type(losses).__name__}. Compute it with operations of tensors, which have a "
                "gradient."
            )
        if sample_weight is not None:
            weight = _beside(y_pred, "sample_weight", sample_weight).astype(losses.dtype)
            weight = aligned(weight, losses)
            shape = (*weight.shape, *(1,) * (losses.ndim - weight.ndim))
            steps = zip(shape[1:], losses.shape[1:], strict=False)
            is_fitting = len(shape) == losses.ndim and shape[0] == losses.shape[0]
            if not is_fitting or any(length not in (1, wanted) for length, wanted in steps):
                raise ValueError(
                    f"loss: expected sample_weight for losses of shape {losses.shape}, got "
                    f"{weight.shape}. Pass one number for each sample, or for each of its losses."
                )
            losses = losses * weight.reshape(shape)
        return losses.mean()


def _beside(y_pred: Tensor, name: str, values: Any) -> Tensor:
    """Return `values` as a tensor on the device of the outputs; tensors are not moved."""
    if not isinstance(values, Tensor):
        return as_tensor("loss", name, values, y_pred.backend)
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


@keras_defaults(name="sparse_categorical_crossentropy", ignore_class=None, axis=-1, **KERAS_LOSS)
class SparseCategoricalCrossentropy(_Crossentropy):
    """Cross-entropy for class numbers: -log of the probability of the right class.

    Class numbers are integers from 0. Arrays of the host may also hold them as whole
    floating-point numbers or as booleans.

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


def check_whole(who: str, y_true: np.ndarray) -> None:
    """Raise ValueError if class numbers of the host are not whole."""
    if y_true.dtype.kind == "f":
        wrong = y_true[~(np.isfinite(y_true) & (y_true == np.trunc(y_true)))]
        if wrong.size:
            raise ValueError(
                f"{who}: expected class numbers (integers), got {wrong[0]} among {y_true.dtype}. "
                "Use mean_squared_error for other numbers."
            )


@keras_defaults(name="categorical_crossentropy", label_smoothing=0.0, axis=-1, **KERAS_LOSS)
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
        return -(y_true.astype(logits.dtype) * logits.log_softmax()).sum(axis=-1)


def expects_probabilities(loss: Loss) -> bool:
    """Return whether `loss` is one of minidl's cross-entropies of probabilities."""
    # Subclasses may expect something else.
    is_own = type(loss) in (SparseCategoricalCrossentropy, CategoricalCrossentropy)
    return is_own and isinstance(loss, _Crossentropy) and not loss.from_logits


@keras_defaults(name="mean_squared_error", **KERAS_LOSS)
class MeanSquaredError(Loss):
    """Mean of the squared differences.

    The loss of a sample is the mean over the last axis, as in Keras. So outputs of shape (batch,
    steps, features) have a loss for each step, and `sample_weight` may have shape (batch, steps).

    Examples
    --------
    >>> MeanSquaredError()([0.0, 2.0], Tensor([[1.0], [2.0]])).item()
    0.5
    """

    def __init__(self) -> None:
        super().__init__()

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape, up to an axis of length 1."""
        if not shapes_agree(_squeezed(y_true.shape), _squeezed(output_shape)):
            raise ValueError(
                f"mean_squared_error: expected y of the outputs' shape {output_shape}, got "
                f"{y_true.shape}. Reshape y, or change the units of the last layer."
            )

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample, and of each time step: the mean over the last axis."""
        difference = y_pred - y_true.astype(y_pred.dtype).reshape(y_pred.shape)
        square = difference * difference
        return square.mean(axis=-1) if square.ndim > 1 else square


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
