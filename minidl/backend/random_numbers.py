"""Random numbers with addresses, and noise of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from minidl_kernels import checks, mask_contract, number_contract
from minidl_kernels.mask_contract import Address, PackedAddress

from minidl.backend.arrays import FLOATS, Array, DeviceArrays
from minidl.backend.kernel import kernel


class RandomNumbers(DeviceArrays):
    """The part of a backend that draws numbers; `minidl_kernels.number_contract` defines them."""

    def uniform(self, shape: tuple[int, ...], address: Address, dtype: Any = "float32") -> Array:
        """Return uniform numbers in (0, 1), each decided by its address.

        Parameters
        ----------
        shape : tuple of int
            Axis 0 is the batch; fewer than two axes are one row.
        address : Address
            As in `Backend.dropout`.
        dtype : dtype
            float16, float32 or float64. The numbers are float32 ones, rounded to float16, where
            some are 0 and 1.
        """
        return self._numbers("uniform", self._uniform, shape, address, dtype)

    def normal(self, shape: tuple[int, ...], address: Address, dtype: Any = "float32") -> Array:
        """Return normal numbers with mean 0 and variance 1; parameters as of `uniform`."""
        return self._numbers("normal", self._normal, shape, address, dtype)

    def _numbers(
        self, who: str, write: Callable[..., None], shape: Any, address: Address, dtype: Any
    ) -> Array:
        dtype = np.dtype(dtype)
        checks.check_dtype(who, "numbers", np.empty(0, dtype), FLOATS)
        shape = mask_contract.check_lengths(shape, who)
        address = mask_contract.check_address(shape, address, who)
        with self.active:
            out = self.widened(self.xp.empty(shape, dtype))
            if out.size:
                write(out, mask_contract.pack(address, 0.0))
            return out.astype(dtype, copy=False)

    @kernel("noise")
    def _uniform(self, out: Array, address: PackedAddress) -> None:
        out[...] = self.xp.asarray(number_contract.packed_uniform(out.shape, address))

    @kernel("noise")
    def _normal(self, out: Array, address: PackedAddress) -> None:
        out[...] = self.xp.asarray(number_contract.packed_normal(out.shape, address))

    def noise(self, x: Array, sigma: float, address: Address, *, is_factor: bool = False) -> Array:
        """Return x + sigma n, or x (1 + sigma n), where n are the numbers of `normal`.

        The gradient of the second is the same call on the gradient.

        Parameters
        ----------
        x : array
            float16, float32 or float64. Axis 0 is the batch; fewer than two axes are one row.
        sigma : float
            At least 0. It may be placed, in float64 for float64 arrays and else in float32.
        address : Address
            As in `Backend.dropout`.
        is_factor : bool
            Whether to return x (1 + sigma n).

        Returns
        -------
        array
            New and C-contiguous, of the shape and dtype of `x`; float16 is computed in float32 and
            rounded once.

        Raises
        ------
        TypeError
            If `x` has another dtype, or sigma or address hold something else than numbers.
        ValueError
            If sigma or a part of the address is out of range.
        """
        checks.check_dtype("noise", "x", x, FLOATS)
        checks.check_deviation("noise", sigma)
        address = mask_contract.check_address(x.shape, address, "noise")
        with self.active:
            wide = self._contiguous(self.widened(x))
            out = self.xp.empty(x.shape, wide.dtype)
            if x.size:
                packed = mask_contract.pack(address, 0.0)
                self._noise(wide, out, sigma, packed, is_factor=is_factor)
            return out.astype(x.dtype, copy=False)

    @kernel("noise")
    def _noise(
        self, x: Array, out: Array, sigma: float, address: PackedAddress, *, is_factor: bool
    ) -> None:
        n = self.xp.asarray(number_contract.packed_normal(x.shape, address))
        out[...] = number_contract.add_noise(x, n, x.dtype.type(sigma), is_factor=is_factor)
