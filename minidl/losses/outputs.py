"""Losses of models with several outputs, and the arrays of their targets."""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minidl.arguments import by_name, number
from minidl.engine.tensor import Tensor
from minidl.losses.base import Loss


class OutputLosses(Loss):
    """Weighted sum of the losses of a model's outputs: ``compile(loss=[...])`` creates it.

    Logs also have the loss of each output, without its weight: ``NAME_loss``.

    Parameters
    ----------
    losses : list of Loss
        The loss of each output.
    names : list of str
        The names of the outputs.
    weights : list of float, optional
        The factor of each loss in the sum; None is 1 for each. The attribute is a tuple, which can
        be replaced during training.

    Raises
    ------
    TypeError, ValueError
        If a weight is not a finite number.

    Examples
    --------
    >>> from minidl.losses import MeanAbsoluteError, MeanSquaredError
    >>> loss = OutputLosses([MeanSquaredError(), MeanAbsoluteError()], ["a", "b"], [1, 0.5])
    >>> loss([[0.0], [0.0]], [Tensor([3.0]), Tensor([4.0])]).item()
    11.0
    """

    def __init__(
        self, losses: Sequence[Loss], names: Sequence[str], weights: Sequence[float] | None = None
    ):
        super().__init__()
        self.losses, self.names = tuple(losses), tuple(names)
        self.weights = tuple(
            number("compile", f"loss_weights[{name!r}]", weight, "(-inf, inf)")
            for name, weight in zip(names, weights or [1.0] * len(names), strict=True)
        )
        self.made_of, self.value_names = self.losses, [f"{name}_loss" for name in names]

    def check(self, y_true: Any, output_shape: Any) -> None:
        """Raise ValueError if `y_true` cannot be the targets of outputs of these shapes."""
        parts = zip(self.names, self.losses, fields(y_true), output_shape, strict=True)
        for name, loss, y, shape in parts:
            try:
                loss.check(y, shape)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def targets(self, y_true: np.ndarray) -> np.ndarray:
        """Return checked targets of the host in the dtypes that the losses expect."""
        parts = zip(self.losses, fields(y_true), strict=True)
        return joined(self.names, [loss.targets(y) for loss, y in parts])

    def with_parts(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> list[Tensor]:
        """Return the sum, and then the loss of each output.

        All arguments are lists; one `sample_weight` that is not holds for all outputs.
        """
        count = len(self.losses)
        weights = sample_weight if isinstance(sample_weight, list) else [sample_weight] * count
        parts = zip(self.losses, y_true, y_pred, weights, strict=True)
        found = [loss(*arguments) for loss, *arguments in parts]
        pairs = zip(found, self.weights, strict=True)
        return [functools.reduce(operator.add, (loss * weight for loss, weight in pairs)), *found]

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        """Return the weighted sum of the losses; the arguments are those of `with_parts`."""
        return self.with_parts(y_true, y_pred, sample_weight)[0]


def unwrapped(what: str, names: Sequence[str], given: Any) -> Any:
    """Return what ``compile`` received for one output in a list, or in a dictionary by its name.

    Other values stay as they are.

    Examples
    --------
    >>> unwrapped("a loss", ["a"], {"a": "mse"}), unwrapped("a loss", [], "mse")
    ('mse', 'mse')
    """
    if isinstance(given, Mapping) and names:
        given = [*by_name("compile", f"{what} for each of the outputs", names, given).values()]
    return given[0] if isinstance(given, list | tuple) and len(given) == 1 else given


def joined(names: Sequence[str], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return a structured array, with one field for each of the arrays, along axis 0.

    Examples
    --------
    >>> joined(["a", "b"], [np.array([1, 2]), np.zeros((2, 3))]).dtype["b"].shape
    (3,)
    """
    kinds = [(name, a.dtype, a.shape[1:]) for name, a in zip(names, arrays, strict=True)]
    found = np.empty(len(arrays[0]), kinds)
    for name, array in zip(names, arrays, strict=True):
        found[name] = array
    return found


def fields(values: Any) -> Any:
    """Return the arrays that `joined` joined, in a list; return other values as they are."""
    names = getattr(getattr(values, "dtype", None), "names", None)
    return values if names is None else [np.ascontiguousarray(values[name]) for name in names]
