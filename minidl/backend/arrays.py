"""Arrays of a device: the device itself, and copies between it and the host."""

import contextlib
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""An array of the backend's device: ``numpy.ndarray`` or its counterpart on a GPU."""

FLOAT_TYPES = ("float16", "float32", "float64")
FLOATS = frozenset(map(np.dtype, FLOAT_TYPES))
_FLOAT16 = np.dtype("float16")


class DeviceError(RuntimeError):
    """A requested device cannot be used; the message says why and what to do."""


class DeviceArrays:
    """The part of a backend that creates and copies arrays.

    Attributes
    ----------
    name : str
        The device as the user writes it: ``"cpu"``, ``"cuda:0"``.
    xp : module
        The array library: ``backend.xp.exp(x)``.
    kernels : str or None
        The package of the device's kernels.
    active : context manager
        Makes the device the current one; reusable.
    count : int
        The number of devices of this kind.
    """

    name: str
    xp: ModuleType
    kernels: str | None = None
    active: contextlib.AbstractContextManager = contextlib.nullcontext()
    count = 1

    def __init__(self) -> None:
        self._ones: dict[tuple[tuple[int, ...], np.dtype], Array] = {}

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    def is_array(self, value: object) -> bool:
        """Return whether `value` is an array of this library."""
        return isinstance(value, self.xp.ndarray)

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """Return `values` (array, list or number of the host) as an array of the device."""
        with self.active:
            return self.xp.asarray(values, dtype=dtype)

    def copied(self, values: Any, dtype: Any = None) -> Array:
        """Return a copy of `values` as an array of the device, which shares no memory with them."""
        with self.active:
            return self.xp.array(values, dtype=dtype)

    def widened(self, array: Array) -> Array:
        """Return a float16 array as float32, which its counts and sums need; others as they are.

        A count above 2,048 is not exact in float16, and one above 65,504 is infinite.
        """
        if array.dtype != _FLOAT16:
            return array
        self.not_recorded("float16 is cast")
        return array.astype("float32")

    def not_recorded(self, reason: str) -> None:
        """Note that something is computed in a way that cannot be recorded on this device."""

    def sum(self, array: Array, axis: Any = None, *, keepdims: bool = False) -> Array:
        """Return the sum over `axis`; float16 is summed in float32 and rounded once."""
        total = self.widened(array).sum(axis=axis, keepdims=keepdims)
        return total.astype(array.dtype) if array.dtype == _FLOAT16 else total

    def facts(self) -> dict[str, Any]:
        """Return what the bits of results depend on, besides the program."""
        return {}

    def ones(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return a small array of ones, made once and shared: do not modify it."""
        key = shape, np.dtype(dtype)
        if key not in self._ones:
            self._ones[key] = self.xp.ones(shape, dtype)
        return self._ones[key]

    def from_dlpack(self, source: Any) -> Array:
        """Return an array that shares the memory of `source`, any object with ``__dlpack__``."""
        with self.active:
            return self.xp.from_dlpack(source)

    def to_numpy(self, array: Array) -> np.ndarray:
        """Return a copy of `array` on the host, which the caller owns."""
        return np.array(array)

    def synchronize(self) -> None:
        """Wait until the device has finished all its work."""

    def dataset_array(self, values: np.ndarray) -> Array:
        """Return a data set, or its labels, where `gather` reads it best: on the device.

        An array that is too large for the device stays on the host.
        """
        return self.asarray(values)

    def _contiguous(self, array: Array) -> Array:
        """Return an array as the kernels take it: itself, or a C-contiguous copy."""
        return array if array.flags.c_contiguous else self.xp.array(array, order="C")
