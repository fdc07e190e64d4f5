"""Placement of layers: the device, dtype and seed that a model gives its layers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import rng
from minidl.backend import Backend, get_backend


@dataclass
class Placement:
    """Device, dtype and seed of a model's layers, and the weight streams in use.

    Attributes
    ----------
    owner : Layer or None
        The outermost model, which names and numbers the layers.
    weight_streams : set of int
        The streams that initial weights were drawn from.
    initial_values : callable or None
        Returns the initial values of the weight of a name and a shape. If None, they are drawn.
    """

    backend: Backend = field(default_factory=lambda: get_backend("cpu"))
    dtype: np.dtype = field(default_factory=lambda: np.dtype("float32"))
    seed: int | None = None
    owner: Any = None
    weight_streams: set[int] = field(default_factory=set)
    initial_values: Callable[[str, tuple[int, ...]], np.ndarray] | None = None

    def next_weight_stream(self) -> int:
        """Return the next free stream for a weight, and mark it as used."""
        stream = rng.WEIGHT_STREAMS
        while stream in self.weight_streams:
            stream += 1
        self.weight_streams.add(stream)
        return stream
