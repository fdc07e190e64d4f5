"""Checks of arguments, made once in the backend before any kernel runs.

A kernel does not check its arguments: with a wrong shape, it could read or write outside of an
array. Arrays are NumPy's or CuPy's. The checks read their dtype, shape, strides and flags only, so
none waits for a device. The exception is `check_classes`, which reads the values of a host array.
"""

import math
import operator
from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

import numpy as np

from minidl_kernels.placed import MovingRate, PlacedInt

# The dtypes of the kernels.
KERNEL_TYPES = frozenset({np.dtype("float32"), np.dtype("float64")})


def checked_integer(name: str, value: Any, stop: int) -> int:
    """Return `value` as a Python int; a `PlacedInt` stays one.

    Parameters
    ----------
    name : str
        The start of an error's message, as ``"mask: seed"``.
    value : int
        In [0, stop). NumPy's integers are integers, a bool is not.

    Raises
    ------
    ValueError
        If it is out of range.
    TypeError
        If it is not an integer.

    Examples
    --------
    >>> checked_integer("mask: step", -1, 2**32)
    Traceback (most recent call last):
    ValueError: mask: step: expected an integer in [0, 2**32), got -1. Choose one in this range.
    """
    if type(value) is int and 0 <= value < stop:  # the usual case, checked at each step
        return value
    expected = f"{name}: expected an integer in [0, 2**{stop.bit_length() - 1})"
    if isinstance(value, (bool, np.bool)) or not hasattr(value, "__index__"):
        raise TypeError(f"{expected}, got {value!r} of type {type(value).__name__}. Pass an int.")
    integer = value if isinstance(value, PlacedInt) else operator.index(value)
    if not 0 <= integer < stop:
        raise ValueError(f"{expected}, got {integer}. Choose one in this range.")
    return integer


def check_rate(rate: float) -> float:
    """Return `rate`, the probability of being dropped, as a Python float; a `MovingRate` stays one.

    Raises
    ------
    ValueError
        If it is outside [0, 1] or NaN.
    TypeError
        If it is not a real number; a bool is not.

    Examples
    --------
    >>> check_rate(1.5)
    Traceback (most recent call last):
    ValueError: dropout: expected a rate in [0, 1], got 1.5. Pass the probability of dropping.
    """
    if type(rate) is float and 0 <= rate <= 1:  # the usual case, checked at each step
        return rate
    if isinstance(rate, MovingRate):
        return rate
    expected = "dropout: expected a rate in [0, 1]"
    if isinstance(rate, (bool, np.bool)) or not isinstance(rate, Real):
        raise TypeError(f"{expected}, got {rate!r} of type {type(rate).__name__}. Pass a float.")
    if not 0 <= rate <= 1:
        raise ValueError(f"{expected}, got {rate}. Pass the probability of dropping.")
    return float(rate)


def check_dtype(who: str, name: str, array: Any, dtypes: Collection[Any]) -> None:
    """Raise TypeError unless the dtype of an array is one of `dtypes`."""
    if array.dtype not in dtypes:
        names = ", ".join(sorted(map(str, dtypes)))
        raise TypeError(
            f"{who}: expected {name} of a dtype among {names}, got {array.dtype}. Cast it first."
        )


def check_deviation(who: str, sigma: Any) -> None:
    """Raise TypeError or ValueError unless `sigma` is a finite number of at least 0."""
    if isinstance(sigma, (bool, np.bool)) or not isinstance(sigma, Real):
        raise TypeError(
            f"{who}: expected sigma to be a number, got {sigma!r} of type {type(sigma).__name__}. "
            "Pass a float."
        )
    if not 0 <= float(sigma) < math.inf:
        raise ValueError(f"{who}: expected sigma in [0, inf), got {sigma}. Pass a deviation.")


def check_integers(who: str, name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Raise TypeError unless an array holds integers, ValueError unless it has this shape."""
    if array.dtype.kind not in "iu":
        raise TypeError(f"{who}: expected integers as {name}, got {array.dtype}. Cast it first.")
    check_shape(who, name, array, shape)


def check_like(who: str, name: str, array: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Raise TypeError unless an array has this dtype, ValueError unless it has this shape."""
    if array.dtype != dtype:
        raise TypeError(
            f"{who}: expected {name} of dtype {dtype}, got {array.dtype}. Use one dtype for all."
        )
    check_shape(who, name, array, shape)


def check_shape(who: str, name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an array has this shape."""
    if array.shape != shape:
        raise ValueError(
            f"{who}: expected {name} of shape {shape}, got {array.shape}. Reshape or slice it."
        )


def check_matrix(who: str, name: str, array: Any, axes: str, dtypes: Collection[Any]) -> None:
    """Raise TypeError as `check_dtype`; ValueError unless an array has two axes, named `axes`."""
    check_dtype(who, name, array, dtypes)
    if array.ndim != 2:
        raise ValueError(
            f"{who}: expected {name} of shape ({axes}), got {array.shape}. Reshape it first."
        )


def check_output(who: str, name: str, array: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Raise unless a kernel can write into an array: C-contiguous, of this dtype and shape."""
    check_like(who, name, array, dtype, shape)
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{who}: expected {name} in C order, got strides {array.strides}. Pass a contiguous "
            "array."
        )


def check_not_empty(who: str, name: str, array: Any) -> None:
    """Raise ValueError if an array has no elements."""
    if array.size == 0:
        raise ValueError(
            f"{who}: expected {name} with elements, got shape {array.shape}. Pass at least one row."
        )


def check_update(who: str, weights: Any, *others: Any | None, **numbers: float) -> bool:
    """Check the arguments of an optimizer's rule; return whether there are any weights.

    Raises
    ------
    TypeError
        If the arrays are not of one dtype, float32 or float64.
    ValueError
        If they are not flat and contiguous, of one size; or if there is a momentum, and None for
        the velocity.
    """
    check_dtype(who, "weights", weights, KERNEL_TYPES)
    for array in (weights, *others):
        if array is not None:
            check_output(who, "flat arrays", array, weights.dtype, (weights.size,))
    if others[-1] is None and numbers["momentum"] != 0:
        raise ValueError(
            f"{who}: expected a velocity for momentum {numbers['momentum']}, got None. "
            "Pass an array."
        )
    return weights.size > 0


def check_product(a: Any, b: Any, transpose_a: bool, transpose_b: bool, out: Any | None) -> None:
    """Raise ValueError unless the shapes of two factors and of their product `out` agree."""
    left, right = a.shape, b.shape
    if transpose_a:
        left = (*left[:-2], *left[:-3:-1])
    if transpose_b:
        right = (*right[:-2], *right[:-3:-1])
    if not left or not right or left[-1] != right[-2 if len(right) > 1 else 0]:
        raise ValueError(
            f"matmul: expected operands whose inner sizes agree, got shapes {left} and {right}. "
            "Transpose or reshape one."
        )
    if out is not None and len(left) == len(right) == 2:
        check_shape("matmul", "out", out, (left[0], right[1]))


def check_choice(who: str, name: str, value: Any, table: Mapping[str, Any]) -> Any:
    """Return the entry of a table, or raise ValueError."""
    if value not in table:
        raise ValueError(
            f"{who}: expected {name} among {', '.join(table)}, got {value!r}. Choose one of them."
        )
    return table[value]


def check_classes(who: str, labels: np.ndarray, classes: int) -> None:
    """Raise ValueError unless all labels on the host are in [0, classes)."""
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{who}: expected labels in [0, {classes}), got {labels.min()} to {labels.max()}. "
            "Number the classes from 0."
        )
