"""A CUDA device: CuPy arrays, Numba-CUDA kernels, all on CuPy's current stream."""

from typing import Any

import cupy
import numpy as np
from minidl_kernels.cuda import cross_entropy, dense, dropout, gather, optimizers

from minidl.backend.base import Array, Backend, DeviceError

KEPT_SHARE = 0.25  # of the device's free memory: a larger data set stays on the host


def _stream() -> int:
    return cupy.cuda.get_current_stream().ptr


class CupyBackend(Backend):
    """Compute on the CUDA device with number `index`.

    Raises
    ------
    DeviceError
        If the driver does not find that device; the message carries the driver's reason.
    """

    xp = cupy

    def __init__(self, index: int):
        super().__init__()
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(
                f"cuda: the driver gives no device: {error}; install a CUDA driver, "
                "or use the device cpu"
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

    def dataset_array(self, values: np.ndarray) -> Array:
        """Copy `values` to the device, unless they would take much of its free memory."""
        with self.active:
            free, _ = cupy.cuda.runtime.memGetInfo()
            return cupy.asarray(values, order="C") if values.nbytes <= KEPT_SHARE * free else values

    def _gather_kernel(
        self,
        source: Array,
        rows: Array,
        out: Array,
        scale: float,
        offset: float,
        labels: Array | None,
    ) -> Array | None:
        labels_out = None if labels is None else cupy.empty(len(rows), labels.dtype)
        gather.gather(
            source, rows, out, labels, labels_out, scale=scale, offset=offset, cuda_stream=_stream()
        )
        return labels_out

    def _dropout_kernel(
        self, x: Array, rate: float, address: dict[str, int], rescale: bool
    ) -> Array:
        out = cupy.empty(x.shape, dtype=x.dtype)
        # ascontiguousarray adds an axis where there is none
        x = cupy.asarray(x, order="C")
        dropout.dropout(x, out, rate, **address, rescale=rescale, cuda_stream=_stream())
        return out

    def dense(
        self, x: Array, weight: Array, bias: Array, *, address: Any = None, **options: Any
    ) -> Array:
        options |= {} if address is None else address._asdict()
        """Multiply, then add, activate and drop in one launch."""
        z = cupy.dot(x, weight)
        bias = cupy.ascontiguousarray(bias)
        dense.activate_and_drop(z, bias, **options, cuda_stream=_stream())
        return z

    def bias_act_dropout_vjp(
        self, g: Array, y: Array, factor: float, g_bias: Array | None = None
    ) -> tuple[Array, Array]:
        """Select and sum in one launch, which more than 256 rows follow with another."""
        g_z = cupy.empty_like(y)
        g_bias = cupy.empty(y.shape[1], y.dtype) if g_bias is None else g_bias
        parts = self._parts(y, g_bias)
        g = cupy.ascontiguousarray(g)
        dense.activate_vjp(g, y, factor, g_z, parts, cuda_stream=_stream())
        return g_z, self._added(parts, g_bias)

    def cross_entropy(self, z: Array, bias: Array, labels: Array, sums: Array) -> None:
        """Compute both sums in one launch, which more than 256 rows follow with another."""
        bias = cupy.ascontiguousarray(bias)
        parts = self._parts(z, sums)
        cross_entropy.cross_entropy(z, bias, labels, parts, cuda_stream=_stream())
        self._added(parts, sums)

    def cross_entropy_vjp(
        self, g: Array, z: Array, bias: Array, labels: Array, g_bias: Array | None = None
    ) -> tuple[Array, Array]:
        """Compute both gradients in one launch, which more than 256 rows follow with another."""
        g_z = cupy.empty_like(z)
        bias = cupy.ascontiguousarray(bias)
        g_bias = cupy.empty_like(bias) if g_bias is None else g_bias
        parts = self._parts(z, g_bias)
        cross_entropy.cross_entropy_vjp(g, z, bias, labels, g_z, parts, cuda_stream=_stream())
        return g_z, self._added(parts, g_bias)

    @staticmethod
    def _parts(rows: Array, total: Array) -> Array:
        """Return where the sums of each chunk of `rows` go; a single one's are the total."""
        chunks = dense.chunks(len(rows))
        return total[None] if chunks == 1 else cupy.empty((chunks, *total.shape), total.dtype)

    @staticmethod
    def _added(parts: Array, total: Array) -> Array:
        return total if len(parts) == 1 else parts.sum(axis=0, out=total)

    def sgd(self, *arrays: Array | None, **numbers: Any) -> None:
        """Update in one launch."""
        optimizers.sgd(*arrays, **numbers, cuda_stream=_stream())

    def rmsprop(self, *arrays: Array, **numbers: Any) -> None:
        """Update in one launch."""
        optimizers.rmsprop(*arrays, **numbers, cuda_stream=_stream())

    def adam(self, *arrays: Array, **numbers: Any) -> None:
        """Update in one launch."""
        optimizers.adam(*arrays, **numbers, cuda_stream=_stream())
