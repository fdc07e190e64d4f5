"""A weight."""

from typing import Any

import numpy as np

from minidl.autograd import Tensor, next_number
from minidl.backend import Array, Backend
from minidl.constraints import MaxNorm


class Parameter(Tensor):
    """A weight: a leaf tensor with a name, which the optimizer updates in place.

    Gradients need the values that results were computed from, so each change in place is noted,
    and `backward` refuses results from before it.
    """

    __slots__ = ("changed_at", "constraint", "name", "stream")

    def __init__(self, values: np.ndarray, backend: Backend, name: str, stream: int):
        self._fill(backend.asarray(values), backend)
        self.requires_grad = True
        self.changed_at = -1
        self.name = name
        self.stream = stream
        self.constraint: MaxNorm | None = None

    def __getstate__(self) -> Any:
        """Leave out when it was changed: another process counts anew, and has no older results."""
        state: Any = super().__getstate__()
        others, slots = state
        return others, slots | {"changed_at": -1}

    def note_change(self) -> None:
        """Say that the values change in place now."""
        self.changed_at = next_number()

    def assign(self, values: Array) -> None:
        """Take over values of its shape, an array of the device, in place."""
        self.note_change()
        self.data[...] = values
