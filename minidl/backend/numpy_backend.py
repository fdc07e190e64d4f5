"""The CPU: NumPy arrays and Numba kernels."""

import importlib
from typing import Any

import numpy as np
from minidl_kernels import checks, cpu, threads
from minidl_kernels.cpu import current

from minidl.backend.arrays import Array
from minidl.backend.base import Backend
from minidl.backend.kernel import kernel


class NumpyBackend(Backend):
    """Computations on the CPU."""

    name = "cpu"
    xp = np
    kernels = "minidl_kernels.cpu"

    # The products have no counterpart among the kernels of other devices.
    _matmul = kernel("products")(Backend._matmul)
    _dense_layer = kernel("products")(Backend._dense_layer)

    def __init__(self) -> None:
        super().__init__()
        cpu.check_environment()  # here, and not in the first kernel, deep within training

    def facts(self) -> dict[str, Any]:
        """Return what the bits of results depend on, besides the program."""
        blas = importlib.import_module(f"{self.kernels}.blas")
        return {"the number of threads": threads.num_threads(), "OpenBLAS for": blas.core_name()}

    def cross_entropy(self, z: Array, bias: Array, labels: Array, sums: Array) -> None:
        """Write both sums; raise ValueError if a label is outside [0, classes)."""
        super().cross_entropy(z, bias, labels, sums)
        if sums[0] != sums[0]:  # NaN
            checks.check_classes("cross_entropy", labels, z.shape[1])

    def _add_repeated(self, shape: tuple[int, ...], index: Any, values: Array) -> Array:
        total = np.zeros(shape, dtype=values.dtype)
        np.add.at(total, index, values)
        return total

    def _contiguous(self, array: Array) -> Array:
        # Numba compiles anew for a read-only or unaligned array: a copy costs less.
        if array.flags.carray:
            return array
        self.not_recorded("an array is copied")
        return np.array(array, order="C")

    def not_recorded(self, reason: str) -> None:
        """Note that NumPy computes something, which only kernels can be recorded for."""
        current.not_recorded(reason)
