"""Weights of layers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.arguments import number, number_array
from minidl.backend import Array, Backend
from minidl.constraints import Constraint
from minidl.engine.backward import next_number
from minidl.engine.tensor import Tensor


class Parameter(Tensor):
    """A weight: a leaf tensor with a name, which the optimizer updates in place.

    Gradients depend on the values that results were computed from. So each change in place is
    recorded, and `backward` rejects results from before it.

    Attributes
    ----------
    name : str
        ``"LAYER/NAME"``.
    keras_name : str
        The same with the NAME that Keras has for it, such as ``"LAYER/kernel"``.
    stream : int
        The random stream of its initial values.
    constraint : Constraint or None
        Applied after each update.
    regularizer : Regularizer or None
        A function of the weight, whose result is a term of the loss.
    learning_rate_factor : float
        0 or above. Optimizers update this weight with their learning rate times this factor.
    """

    __slots__ = ("_factor", "changed_at", "constraint", "in_keras", "name", "regularizer", "stream")

    def __init__(self, values: np.ndarray, backend: Backend, name: str, stream: int):
        self._fill(backend.asarray(values), backend)
        self.requires_grad = True
        self.changed_at = -1
        self.name = name
        self.in_keras: str | None = None  # what Keras calls NAME, if it differs
        self.stream = stream
        self.constraint: Constraint | None = None
        self.regularizer: Callable[[Tensor], Tensor] | None = None
        self.learning_rate_factor = 1.0

    @property
    def keras_name(self) -> str:
        """The name, with the last part as Keras calls it."""
        layer, slash, name = self.name.rpartition("/")
        return f"{layer}{slash}{self.in_keras or name}"

    @property
    def learning_rate_factor(self) -> float:
        """The factor of the learning rate."""
        return self._factor

    @learning_rate_factor.setter
    def learning_rate_factor(self, factor: float) -> None:
        self._factor = number(self.name, "learning_rate_factor", factor, "[0, inf)")

    def __getstate__(self) -> Any:
        """Return the state of a copy: another process counts its changes anew."""
        state: Any = super().__getstate__()
        others, slots = state
        return others, slots | {"changed_at": -1}

    def note_change(self) -> None:
        """Record that the values change in place now."""
        self.changed_at = next_number()

    def assign(self, values: Array) -> None:
        """Copy `values`, an array of the device and of this shape, into the weight.

        Raises
        ------
        TypeError
            If `values` does not hold numbers. The weight is not changed then.
        """
        values = number_array("assign", self.name, values, self.backend.xp)
        self.note_change()
        self.data[...] = values
