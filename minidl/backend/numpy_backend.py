"""The CPU: NumPy arrays, Numba kernels."""

import contextlib
import functools
from types import SimpleNamespace
from typing import Any

import numpy as np

from minidl.backend.base import Array, Backend


class NumpyBackend(Backend):
    """Compute on the CPU."""

    name = "cpu"
    xp = np

    @functools.cached_property
    def _kernels(self) -> Any:
        """The kernels, imported for the first of them: loading the compiler takes half a second."""
        from minidl_kernels.cpu import (
            blas,
            cross_entropy,
            dense,
            dropout,
            gather,
            optimizers,
            products,
        )

        return SimpleNamespace(
            blas=blas,
            cross_entropy=cross_entropy,
            dense=dense,
            dropout=dropout,
            gather=gather,
            optimizers=optimizers,
            products=products,
        )

    @property
    def working(self) -> contextlib.AbstractContextManager:
        """Hold NumPy's products to one thread: the kernels cut them for threads of their own."""
        return self._kernels.blas.one_thread

    def to_numpy(self, array: Array) -> np.ndarray:
        """Return a copy, so that it never changes under the caller's hands."""
        return np.array(array)

    def synchronize(self) -> None:
        """Do nothing: NumPy returns when the work is done."""

    def dataset_array(self, values: np.ndarray) -> Array:
        """Return `values`: they are where they should be."""
        return values

    def _gather_kernel(
        self,
        source: Array,
        rows: Array,
        out: Array,
        scale: float,
        offset: float,
        labels: Array | None,
    ) -> Array | None:
        self._kernels.gather.gather(source, rows, out, scale=scale, offset=offset)
        return None if labels is None else labels[rows]

    def matmul(
        self,
        a: Array,
        b: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        out: Array | None = None,
    ) -> Array:
        if a.ndim != 2 or b.ndim != 2:
            return a @ b
        return self._kernels.products.matmul(
            a, b, transpose_a=transpose_a, transpose_b=transpose_b, out=out
        )

    def _dropout_kernel(
        self, x: Array, rate: float, address: dict[str, int], rescale: bool
    ) -> Array:
        return self._kernels.dropout.dropout(x, rate, **address, rescale=rescale)

    def dense(
        self, x: Array, weight: Array, bias: Array, *, address: Any = None, **options: Any
    ) -> Array:
        options |= {} if address is None else address._asdict()
        """Multiply, add, activate and drop in one pass over the output."""
        return self._kernels.dense.dense(x, weight, np.ascontiguousarray(bias), **options)

    def bias_act_dropout_vjp(
        self, g: Array, y: Array, factor: float, g_bias: Array | None = None
    ) -> tuple[Array, Array]:
        """Select and sum in one pass."""
        g_z = np.empty_like(y)
        g_bias = np.empty(y.shape[1], y.dtype) if g_bias is None else g_bias
        self._kernels.dense.activate_vjp(np.ascontiguousarray(g), y, factor, g_z, g_bias)
        return g_z, g_bias

    def cross_entropy(self, z: Array, bias: Array, labels: Array, sums: Array) -> None:
        """Compute both sums in one pass."""
        bias = np.ascontiguousarray(bias)
        self._kernels.cross_entropy.cross_entropy(z, bias, labels, sums)

    def cross_entropy_vjp(
        self, g: Array, z: Array, bias: Array, labels: Array, g_bias: Array | None = None
    ) -> tuple[Array, Array]:
        """Compute both gradients in one pass."""
        g_z = np.empty_like(z)
        bias = np.ascontiguousarray(bias)
        g_bias = np.empty_like(bias) if g_bias is None else g_bias
        self._kernels.cross_entropy.cross_entropy_vjp(g, z, bias, labels, g_z, g_bias)
        return g_z, g_bias

    def sgd(self, *arrays: Array | None, **numbers: Any) -> None:
        """Update in one pass."""
        self._kernels.optimizers.sgd(*arrays, **numbers)

    def rmsprop(self, *arrays: Array, **numbers: Any) -> None:
        """Update in one pass."""
        self._kernels.optimizers.rmsprop(*arrays, **numbers)

    def adam(self, *arrays: Array, **numbers: Any) -> None:
        """Update in one pass."""
        self._kernels.optimizers.adam(*arrays, **numbers)

    def _add_repeated(self, shape: tuple[int, ...], index: Any, values: Array) -> Array:
        total = np.zeros(shape, dtype=values.dtype)
        np.add.at(total, index, values)
        return total
