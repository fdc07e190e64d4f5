"""Losses of regression: means of a function of the difference."""

from typing import Any

from minidl.alternatives import keras_defaults
from minidl.arguments import Number
from minidl.engine.tensor import Tensor
from minidl.losses.base import MEANS, Loss, SameShape, mean_of_sample

KERAS_LOSS = {"dtype": (None, "float32")}


class _Regression(SameShape, Loss):
    """Mean over the last axis of a function of the difference, `of`.

    As in Keras, outputs of shape (batch, steps, features) have a loss for each step, and
    `sample_weight` may have shape (batch, steps).
    """

    def __init__(self, reduction: str | None = MEANS[0]):
        super().__init__(reduction=reduction)

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample, and of each time step: the mean over the last axis."""
        difference = y_pred - y_true.astype(y_pred.dtype).reshape(y_pred.shape)
        return mean_of_sample(self.of(difference))

    def of(self, difference: Tensor) -> Tensor:
        """Return the loss of each difference."""
        raise NotImplementedError


@keras_defaults(name="mean_squared_error", **KERAS_LOSS)
class MeanSquaredError(_Regression):
    """Mean of the squared differences.

    The loss of a sample is the mean over the last axis, as in Keras. So outputs of shape (batch,
    steps, features) have a loss for each step, and `sample_weight` may have shape (batch, steps).

    Parameters
    ----------
    reduction
        As in `Loss`.

    Examples
    --------
    >>> MeanSquaredError()([0.0, 2.0], Tensor([[1.0], [2.0]])).item()
    0.5
    """

    name = "mean_squared_error"

    def of(self, difference: Tensor) -> Tensor:
        """Return the squares."""
        return difference * difference


@keras_defaults(name="mean_absolute_error", **KERAS_LOSS)
class MeanAbsoluteError(_Regression):
    """Mean of the absolute differences; the gradient at 0 is 0.

    Parameters
    ----------
    reduction
        As in `Loss`.

    Examples
    --------
    >>> MeanAbsoluteError()([0.0, 2.0], Tensor([[1.0], [-1.0]])).item()
    2.0
    """

    name = "mean_absolute_error"

    def of(self, difference: Tensor) -> Tensor:
        """Return the absolute values."""
        return difference.relu() + (-difference).relu()


@keras_defaults(name="huber_loss", **KERAS_LOSS)
class Huber(_Regression):
    """Mean of d²/2 where the difference d is at most `delta`, else of delta (abs(d) - delta/2).

    Huber, Annals of Mathematical Statistics 35, 1964. Large errors count less than when squared.

    Parameters
    ----------
    delta : float
        Above 0: where the square ends.
    reduction
        As in `Loss`.

    Examples
    --------
    >>> Huber(delta=2.0)([0.0, 0.0], Tensor([[1.0], [-4.0]])).item()
    3.25
    """

    name = "huber_loss"
    delta: Any = Number("(0, inf)")

    def __init__(self, delta: float = 1.0, reduction: str | None = MEANS[0]):
        super().__init__(reduction)
        self.delta = delta

    def of(self, difference: Tensor) -> Tensor:
        """Return the square, or beyond `delta` its tangent."""
        limited = difference.clip(-self.delta, self.delta)
        return limited * (difference - 0.5 * limited)
