"""Tensors that share memory with arrays of other libraries, by the DLPack protocol."""

from typing import Any

from minidl.backend import get_backend
from minidl.engine.tensor import Tensor

DLPACK_CPU, DLPACK_CUDA = 1, 2  # DLDeviceType of dlpack.h


def from_dlpack(source: Any) -> Tensor:
    """Return a tensor that shares the memory of `source`, an array of any library with DLPack.

    Raises
    ------
    ValueError
        If the array is neither on the CPU nor on a CUDA device.

    Examples
    --------
    >>> import numpy as np
    >>> array = np.zeros(3, "float32")
    >>> tensor = from_dlpack(array)
    >>> array[0] = 5
    >>> tensor
    Tensor([5., 0., 0.], dtype=float32)
    """
    kind, number = source.__dlpack_device__()
    if kind not in (DLPACK_CPU, DLPACK_CUDA):
        raise ValueError(
            f"from_dlpack: expected an array on the CPU or a CUDA device, got DLPack device type "
            f"{int(kind)}. Move the array first."
        )
    backend = get_backend("cpu" if kind == DLPACK_CPU else f"cuda:{number}")
    return Tensor.of(backend.from_dlpack(source), backend)
