"""A CUDA device: CuPy arrays, Numba-CUDA kernels, all on CuPy's current stream."""

import cupy
import numpy as np
from minidl_kernels.cuda import dropout

from minidl.backend.base import Array, Backend, DeviceError


class CupyBackend(Backend):
    """Compute on the CUDA device with number `index`.

    Raises
    ------
    DeviceError
        If the driver does not find that device; the message carries the driver's reason.
    """

    xp = cupy

    def __init__(self, index: int):
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(
                f"cuda: the driver gives no device: {error}; install a CUDA driver, "
                'or use device="cpu"'
            ) from error
        if index >= count:
            raise DeviceError(
                f"cuda:{index}: the driver finds {count} device(s), numbered from 0; "
                "use one of them"
            )
        self.name = f"cuda:{index}"
        self.active = cupy.cuda.Device(index)

    def to_numpy(self, array: Array) -> np.ndarray:
        """Copy to the host; this waits for the device."""
        with self.active:
            return cupy.asnumpy(array)

    def synchronize(self) -> None:
        """Wait until the current stream has finished."""
        with self.active:
            cupy.cuda.get_current_stream().synchronize()

    def _dropout_kernel(
        self, x: Array, rate: float, address: dict[str, int], rescale: bool
    ) -> Array:
        out = cupy.empty(x.shape, dtype=x.dtype)
        dropout.dropout(
            cupy.asarray(x, order="C"),  # ascontiguousarray adds an axis where there is none
            out,
            rate,
            **address,
            rescale=rescale,
            cuda_stream=cupy.cuda.get_current_stream().ptr,
        )
        return out
