"""Loss functions, and `Loss`, the base class of your own."""

from collections.abc import Callable
from typing import Any

from minidl.arguments import choose
from minidl.losses.base import FunctionLoss, Loss
from minidl.losses.crossentropies import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)
from minidl.losses.regression import Huber, MeanAbsoluteError, MeanSquaredError

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "FunctionLoss",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "get",
]

_BY_NAME: dict[str, Callable[[], Loss]] = {
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
    "bce": BinaryCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "huber": Huber,
}


def get(loss: str | Loss | Callable[..., Any] | None) -> Loss:
    """Return the loss of that name or function, or the given one.

    Names are those of the classes, or the same in snake case.

    Raises
    ------
    TypeError
        If a function does not take (y_true, y_pred).
    ValueError
        If the name is unknown. The message lists the names.

    Examples
    --------
    >>> get(lambda y_true, y_pred: (y_true - y_pred) ** 2).per_sample.__name__
    'per_sample'
    """
    if callable(loss) and not isinstance(loss, type | Loss):
        return FunctionLoss(loss)
    return choose("loss", loss, Loss, _BY_NAME)
