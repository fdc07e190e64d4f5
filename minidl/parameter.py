"""A weight."""

import numpy as np

from minidl.autograd import Tensor
from minidl.backend import Backend
from minidl.constraints import MaxNorm


class Parameter(Tensor):
    """A weight: a leaf tensor with a name, which the optimizer updates in place."""

    __slots__ = ("constraint", "name", "stream")

    def __init__(self, values: np.ndarray, backend: Backend, name: str, stream: int):
        self._fill(backend.asarray(values), backend)
        self.requires_grad = True
        self.name = name
        self.stream = stream
        self.constraint: MaxNorm | None = None
