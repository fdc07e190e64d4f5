"""Base class of loss functions: one value for each sample, and their reduction to a number."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.alternatives import RefusesMethods
from minidl.arguments import Shown, number_array, one_of, two_argument_function, undefined
from minidl.engine.tensor import Tensor, as_tensor

MEANS = ("sum_over_batch_size", "mean")  # two names of Keras for one reduction


class Loss(Shown, RefusesMethods):
    """Difference between targets and a model's outputs; a subclass defines `per_sample`.

    Parameters
    ----------
    name : str, optional
        A name; logs call every loss "loss".
    reduction : {"sum_over_batch_size", "sum", None}
        What a call returns: the mean of the losses, their sum, or the losses themselves. As in
        Keras, "mean" is also the first, and "none" the last. `fit` needs one of the first two, and
        runs with ``distribution=`` the first.

    Raises
    ------
    ValueError
        If `reduction` is unknown.

    Examples
    --------
    >>> from minidl.losses import MeanSquaredError
    >>> y_pred = Tensor([[1.0, 4.0], [0.0, 0.0]])
    >>> MeanSquaredError()([[1.0, 2.0], [2.0, 0.0]], y_pred).item()
    2.0
    >>> MeanSquaredError(reduction="sum")([[1.0, 2.0], [2.0, 0.0]], y_pred).item()
    4.0
    """

    name: Any = None
    made_of: Sequence["Loss"] = ()  # the losses of several outputs
    value_names: Sequence[str] = ()  # of what `with_parts` returns after the loss itself
    reduction: str | None = MEANS[0]  # of subclasses whose constructor sets none

    def __init__(self, name: str | None = None, reduction: str | None = MEANS[0]):
        self.name = name or self.name
        allowed = (*MEANS, "sum", "none", None)
        self.reduction = one_of(type(self).__name__, "reduction", reduction, allowed)

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
        """Return the reduction of the losses, each multiplied by its weight if there are weights.

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
            returns, in which the last axes may be missing or have length 1. A mean is divided by
            the number of losses, not by the sum of their weights.

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
        losses = self.per_sample(aligned(beside("loss", y_pred, "y_true", y_true), y_pred), y_pred)
        if not isinstance(losses, Tensor):
            raise TypeError(
                f"{source_of(self)}: expected it to return a Tensor, got a "
                f"{type(losses).__name__}. Compute it with operations of tensors, which have a "
                "gradient."
            )
        if sample_weight is not None:
            weight = beside("loss", y_pred, "sample_weight", sample_weight)
            losses = losses * fitted("loss", weight, losses)
        if self.reduction in (None, "none"):
            return losses
        return losses.sum() if self.reduction == "sum" else losses.mean()

    def with_parts(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> list[Tensor]:
        """Return the result of a call, and then the other values that logs show."""
        return [self(y_true, y_pred, sample_weight)]


class FunctionLoss(Loss):
    """Loss that a function computes: ``compile(loss=function)`` creates it.

    Parameters
    ----------
    function : callable
        Takes targets and outputs as tensors of one dtype, and returns the loss of each sample, or
        one number for the batch. A run with ``distribution=`` needs the loss of each sample.
    reduction
        As in `Loss`.

    Raises
    ------
    TypeError
        If the function does not take (y_true, y_pred).

    Examples
    --------
    >>> loss = FunctionLoss(lambda y_true, y_pred: (y_pred - y_true) ** 4)
    >>> loss([[1.0], [2.0]], Tensor([[1.0], [4.0]])).item()
    8.0
    """

    def __init__(self, function: Callable[..., Tensor], reduction: str | None = MEANS[0]):
        super().__init__(reduction=reduction)
        self.function = two_argument_function("loss", function)

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return what the function returns."""
        return self.function(y_true.astype(y_pred.dtype), y_pred)


def source_of(thing: Any) -> str:
    """Return what computes the values of the samples of a loss or metric, for errors."""
    own = f"{type(thing).__name__}.per_sample"
    return getattr(getattr(thing, "function", None), "__name__", own)


def beside(who: str, y_pred: Tensor, name: str, values: Any) -> Tensor:
    """Return `values` as a tensor on the device of the outputs; tensors are not moved."""
    if not isinstance(values, Tensor):
        return as_tensor(who, name, values, y_pred.backend)
    if values.backend is not y_pred.backend:
        raise ValueError(
            f"{who}: expected targets and weights on {y_pred.device}, as the outputs, got "
            f'{values.device}. Move them with .to("{y_pred.device}").'
        )
    return values


def fitted(who: str, weight: Tensor, values: Tensor) -> Tensor:
    """Return weights in the dtype of `values`, and in a shape that broadcasts to theirs."""
    weight = aligned(weight.astype(values.dtype), values)
    shape = (*weight.shape, *(1,) * (values.ndim - weight.ndim))
    steps = zip(shape[1:], values.shape[1:], strict=False)
    is_fitting = len(shape) == values.ndim and shape[:1] == values.shape[:1]
    if not is_fitting or any(length not in (1, wanted) for length, wanted in steps):
        raise ValueError(
            f"{who}: expected sample_weight for losses of shape {values.shape}, got "
            f"{weight.shape}. Pass one number for each sample, or for each of its losses."
        )
    return weight.reshape(shape)


def aligned(values: Any, like: Any) -> Any:
    """Return `values` in the shape of `like` if the two differ only by a last axis of length 1.

    Without this, (batch,) and (batch, 1) would broadcast to (batch, batch). Both may be lists.
    """
    if isinstance(like, list):
        return list(map(aligned, values, like))
    if (*values.shape, 1) == like.shape or values.shape == (*like.shape, 1):
        return values.reshape(like.shape)
    return values


def shapes_agree(shape: tuple[int | None, ...], expected: tuple[int | None, ...]) -> bool:
    """Return whether two shapes agree; None, an unknown batch size, agrees with any length."""
    return len(shape) == len(expected) and all(
        wanted is None or length == wanted for length, wanted in zip(shape, expected, strict=True)
    )


def check_same_shape(
    who: str, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]
) -> None:
    """Raise ValueError unless `y_true` has the outputs' shape, up to a last axis of length 1."""
    if not shapes_agree(_squeezed(y_true.shape), _squeezed(output_shape)):
        raise ValueError(
            f"{who}: expected y of the outputs' shape {output_shape}, got {y_true.shape}. Reshape "
            "y, or change the units of the last layer."
        )


class SameShape:
    """Part of losses and metrics whose targets have the shape of the outputs."""

    name: Any

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape, up to an axis of length 1."""
        check_same_shape(self.name, y_true, output_shape)


def _squeezed(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape


def mean_of_sample(values: Tensor) -> Tensor:
    """Return the mean over the last axis, if there is one beside the batch axis."""
    return values.mean(axis=-1) if values.ndim > 1 else values
