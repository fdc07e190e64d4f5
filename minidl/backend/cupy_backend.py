"""A CUDA device: CuPy arrays and Numba-CUDA kernels, all on CuPy's current stream."""

from contextlib import AbstractContextManager
from typing import Any

import cupy
import minidl_kernels.cuda.launch  # noqa: F401, for the reason if the kernels cannot be used
import numpy as np
from minidl_kernels.cuda import blas, recording

from minidl.backend.arrays import Array, DeviceError
from minidl.backend.base import Backend

DATASET_SHARE = 0.25  # of the device's free memory: a larger data set stays on the host


class CupyBackend(Backend):
    """Computations on the CUDA device with number `index`.

    Raises
    ------
    DeviceError
        If the driver does not find that device; the message contains the driver's reason.
    """

    xp = cupy
    kernels = "minidl_kernels.cuda"

    def __init__(self, index: int):
        super().__init__()
        try:
            self.count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(
                f"cuda: expected a device, got an error of the driver: {error}. "
                "Install a CUDA driver, or use the device cpu."
            ) from error
        if index >= self.count:
            raise DeviceError(
                f"cuda:{index}: expected a number below {self.count}, the number of devices that "
                f"the driver finds, got {index}. Use one of them."
            )
        self.name, self._index = f"cuda:{index}", index
        self.active = cupy.cuda.Device(index)

    def to_numpy(self, array: Array) -> np.ndarray:
        """Return a copy on the host; this waits for the device."""
        with self.active:
            return cupy.asnumpy(array)

    def facts(self) -> dict[str, Any]:
        """Return what the bits of results depend on, besides the program."""
        name = cupy.cuda.runtime.getDeviceProperties(self._index)["name"].decode()
        return {"the kind of GPU": name, "the version of CuPy": cupy.__version__}

    def synchronize(self) -> None:
        """Wait until the current stream has finished."""
        with self.active:
            cupy.cuda.get_current_stream().synchronize()

    def stream(self) -> AbstractContextManager[Any]:
        """Return the context of the stream on which work can be recorded."""
        return recording.stream()

    def dataset_array(self, values: np.ndarray) -> Array:
        """Return a copy on the device, or `values` if they would take much of its free memory."""
        with self.active:
            free, _ = cupy.cuda.runtime.memGetInfo()
            is_small = values.nbytes <= DATASET_SHARE * free
            return cupy.asarray(values, order="C") if is_small else values

    def _matmul(
        self, a: Array, b: Array, transpose_a: bool, transpose_b: bool, out: Array | None
    ) -> Array:
        if blas.fits(a, b, out):
            return blas.multiply(a, b, transpose_a, transpose_b, out)
        if a.ndim == b.ndim == 2:  # `dot` writes to `out` without a copy
            return cupy.dot(a.T if transpose_a else a, b.T if transpose_b else b, out=out)
        return super()._matmul(a, b, transpose_a, transpose_b, out)
