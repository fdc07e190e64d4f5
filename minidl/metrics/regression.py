"""Metrics of regression."""

import numpy as np

from minidl import losses
from minidl.engine.tensor import Tensor
from minidl.losses import Loss
from minidl.metrics.base import Metric


class _MeanLoss(Metric):
    """Mean of what a loss returns for each sample."""

    loss: Loss

    def check(self, y_true: np.ndarray | Tensor, output_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless `y_true` has the outputs' shape, up to an axis of length 1."""
        self.loss.check(y_true, output_shape)

    def per_sample(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each sample: the mean over the last axis."""
        return self.loss.per_sample(y_true, y_pred.detach())


class MeanAbsoluteError(_MeanLoss):
    """Mean of the absolute differences.

    Examples
    --------
    >>> metric = MeanAbsoluteError()
    >>> metric.update_state(Tensor([0.0, 1.0]), Tensor([3.0, 0.0]))
    >>> metric.result()
    2.0
    """

    name = "mean_absolute_error"
    loss = losses.MeanAbsoluteError()


class MeanSquaredError(_MeanLoss):
    """Mean of the squared differences.

    Examples
    --------
    >>> metric = MeanSquaredError()
    >>> metric.update_state(Tensor([0.0, 1.0]), Tensor([3.0, 0.0]))
    >>> metric.result()
    5.0
    """

    name = "mean_squared_error"
    loss = losses.MeanSquaredError()


class RootMeanSquaredError(MeanSquaredError):
    """Root of the mean of the squared differences of all samples.

    Examples
    --------
    >>> metric = RootMeanSquaredError()
    >>> metric.update_state(Tensor([0.0, 1.0]), Tensor([7.0, 0.0]))
    >>> metric.result()
    5.0
    """

    name = "root_mean_squared_error"

    def result(self) -> float:
        """Return the root, or NaN without samples; this waits for the device."""
        return super().result() ** 0.5
