"""Loss functions, and `Loss`, the base class of your own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minidl.arguments import by_name, choose
from minidl.losses.base import FunctionLoss, Loss
from minidl.losses.crossentropies import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)
from minidl.losses.outputs import OutputLosses
from minidl.losses.regression import Huber, MeanAbsoluteError, MeanSquaredError

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "FunctionLoss",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "OutputLosses",
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


def of_outputs(names: Sequence[str], loss: Any, weights: Any = None) -> OutputLosses:
    """Return the loss of a model with several outputs; all arguments are those of ``compile``.

    A loss that is neither a list nor a dictionary by name holds for each output.

    Examples
    --------
    >>> of_outputs(["a", "b"], {"b": "mse", "a": "mae"}, {"a": 2, "b": 1}).weights
    (2.0, 1.0)
    """
    if isinstance(loss, OutputLosses):
        loss, weights = loss.losses, loss.weights if weights is None else weights
    if not isinstance(loss, list | tuple | Mapping):
        loss = [loss] * len(names)
    given = by_name("compile", "a loss for each of the outputs", names, loss)
    if weights is not None:
        what = "one of loss_weights for each of the outputs"
        weights = [*by_name("compile", what, names, weights).values()]
    return OutputLosses([get(one) for one in given.values()], names, weights)
