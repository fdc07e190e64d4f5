"""What a host function demands of its arrays, before anything is launched."""

from typing import Any

import numpy as np


def check_float(who: str, name: str, array: Any) -> None:
    """Raise TypeError unless an array is float32 or float64."""
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{who}: {name} must be float32 or float64, received {array.dtype}")


def check_matrix(who: str, name: str, array: Any, axes: str) -> None:
    """Raise unless an array is float32 or float64, has two axes and is C-contiguous.

    Raises
    ------
    TypeError
        If the dtype is another one.
    ValueError
        If the array has not two axes, or is not contiguous.
    """
    check_float(who, name, array)
    if array.ndim != 2:
        raise ValueError(f"{who}: {name} must have shape ({axes}), received {array.shape}")
    check_array(who, name, array, array.dtype, array.shape)


def check_array(who: str, name: str, array: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    """Raise unless an array has this dtype and shape and is C-contiguous.

    Raises
    ------
    TypeError
        If the dtype is another one.
    ValueError
        If the shape is another one, or the array is not contiguous.
    """
    if array.dtype != dtype:
        raise TypeError(f"{who}: {name} must have dtype {dtype}, received {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{who}: {name} must have shape {shape}, received {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{who}: {name} must be C-contiguous; copy it with ascontiguousarray")


def check_labels(who: str, name: str, labels: Any, shape: tuple[int, ...]) -> None:
    """Raise unless labels are a contiguous array of integers of this shape.

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If the shape is another one, or they are not contiguous.
    """
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{who}: {name} must be integers, received {labels.dtype}")
    check_array(who, name, labels, labels.dtype, shape)
