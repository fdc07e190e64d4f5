"""The CPU: NumPy arrays and Numba kernels."""

import functools
from types import ModuleType
from typing import Any

import numpy as np
from minidl_kernels import checks

from minidl.backend.base import Array, Backend


class NumpyBackend(Backend):
    """Computations on the CPU."""

    name = "cpu"
    xp = np
    kernels = "minidl_kernels.cpu"

    @functools.cached_property
    def _products(self) -> ModuleType:
        """The products, imported at the first one: Numba takes half a second to load."""
        from minidl_kernels.cpu import products

        return products

    def _matmul(
        self, a: Array, b: Array, transpose_a: bool, transpose_b: bool, out: Array | None
    ) -> Array:
        return self._products.matmul(a, b, transpose_a, transpose_b, out)

    def _dense(self, x: Array, weight: Array, bias: Array, y: Array, *finish: Any) -> None:
        self._products.matmul_bias_act_dropout(x, weight, bias, y, *finish)

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
        return array if array.flags.carray else np.array(array, order="C")
