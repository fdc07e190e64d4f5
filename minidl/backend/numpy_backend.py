"""The CPU: NumPy arrays, Numba kernels."""

from typing import Any

import numpy as np

from minidl.backend.base import Array, Backend


class NumpyBackend(Backend):
    """Compute on the CPU."""

    name = "cpu"
    xp = np

    def to_numpy(self, array: Array) -> np.ndarray:
        """Return a copy, so that it never changes under the caller's hands."""
        return np.array(array)

    def synchronize(self) -> None:
        """Do nothing: NumPy returns when the work is done."""

    def _dropout_kernel(
        self, x: Array, rate: float, address: dict[str, int], rescale: bool
    ) -> Array:
        # Imported with the first mask that is drawn: loading the compiler takes half a second.
        from minidl_kernels.cpu.dropout import dropout

        return dropout(x, rate, **address, rescale=rescale)

    def adam(
        self,
        weights: Array,
        gradients: Array,
        mean: Array,
        square: Array,
        *,
        rate: float,
        beta_1: float,
        beta_2: float,
        epsilon: float,
    ) -> None:
        """Update in one compiled pass."""
        from minidl_kernels.cpu import adam  # loads the compiler, see above

        adam.update(
            weights,
            gradients,
            mean,
            square,
            rate=rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
        )

    def _add_repeated(self, shape: tuple[int, ...], index: Any, values: Array) -> Array:
        total = np.zeros(shape, dtype=values.dtype)
        np.add.at(total, index, values)
        return total
