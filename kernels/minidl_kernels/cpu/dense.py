"""A dense layer with its activation and dropout in one pass, and the gradient of that pass."""

import math
from typing import Any

import numba
import numpy as np
from numpy import uint32

from minidl_kernels import mask_contract
from minidl_kernels.cpu import blas, dropout, jit, products

# By the value that replaces all below it; NaN stays.
ACTIVATIONS = {"linear": -math.inf, "relu": 0.0}


def dense(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    *,
    activation: str,
    rate: float = 0.0,
    rescale: bool = True,
    seed: int = 0,
    stream: int = 0,
    step: int = 0,
    row_offset: int = 0,
) -> np.ndarray:
    """Return drop(activation(x @ weight + bias)).

    Each thread computes a block of the product and finishes it while it is in its cache. Other
    arguments and errors are those of `activate_and_drop`.

    Parameters
    ----------
    x : numpy.ndarray
        Shape (rows, inputs), float32 or float64; copied if it is not C-contiguous or read-only.
    weight : numpy.ndarray
        Shape (inputs, units); likewise.
    bias : numpy.ndarray
        Shape (units,).

    Returns
    -------
    numpy.ndarray
        Shape (rows, units).

    Raises
    ------
    ValueError
        If the shapes do not fit.
    TypeError
        If the dtypes differ or are not float32 or float64.

    Examples
    --------
    >>> x, weight, bias = np.ones((1, 2)), np.array([[1.0, -1.0], [1.0, -1.0]]), np.zeros(2)
    >>> dense(x, weight, bias, activation="relu")
    array([[2., 0.]])
    """
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[0]:
        raise ValueError(
            "dense: expected x of shape (rows, inputs) and weight of shape (inputs, units), "
            f"received {x.shape} and {weight.shape}"
        )
    if x.dtype != weight.dtype:
        raise TypeError(f"dense: expected one dtype, received {x.dtype} and {weight.dtype}")
    address = {"seed": seed, "stream": stream, "step": step, "row_offset": row_offset}
    (rows, inputs), units = x.shape, weight.shape[1]
    y = np.empty((rows, units), x.dtype)
    numbers = _numbers("dense", y, bias, activation, rate, rescale, address)
    pieces = products.pieces_of_product(rows, units, inputs)
    if rate == 1:
        y.fill(0)
    elif pieces == 1:
        products.matmul(x, weight, out=y)
        _activate_and_drop(y, bias, 0, rows, 0, *numbers)
    else:
        with blas.one_thread:
            _dense_parallel(_plain(x), _plain(weight), y, bias, *numbers, pieces)
    return y


def activate_and_drop(
    z: np.ndarray,
    bias: np.ndarray,
    *,
    activation: str,
    rate: float = 0.0,
    rescale: bool = True,
    seed: int = 0,
    stream: int = 0,
    step: int = 0,
    row_offset: int = 0,
) -> None:
    """Change `z` into drop(activation(z + bias)), in place.

    The bits are those of the three operations one after the other, dropout as in the mask contract.

    Parameters
    ----------
    z : numpy.ndarray
        Shape (rows, units), float32 or float64, C-contiguous.
    bias : numpy.ndarray
        Shape (units,), of the dtype of `z`.
    activation : str
        "linear" or "relu"; relu keeps NaN.
    rate : float
        In [0, 1]. At 0 nothing is dropped and no mask drawn, at 1 all of `z` becomes 0.
    rescale : bool
        Whether to multiply what is kept by 1 / (1 - rate).
    seed, stream, step, row_offset : int
        The address of the mask; see `mask_contract.mask_address`.

    Raises
    ------
    ValueError
        If the shapes do not fit, `z` is not C-contiguous, or a number is out of range.
    TypeError
        If the dtypes differ or are not float32 or float64.

    Examples
    --------
    >>> z = np.array([[1.0, -3.0]])
    >>> activate_and_drop(z, np.array([1.0, 2.0]), activation="relu")
    >>> z
    array([[2., 0.]])
    """
    address = {"seed": seed, "stream": stream, "step": step, "row_offset": row_offset}
    numbers = _numbers("activate_and_drop", z, bias, activation, rate, rescale, address)
    if rate == 1:
        z.fill(0)
        return
    _activate_and_drop(z, bias, 0, z.shape[0], 0, *numbers)


def _plain(array: np.ndarray) -> np.ndarray:
    """Return the array itself, or a copy where the compiled product could not take it."""
    return array if array.flags.carray else np.array(array, order="C")


def _numbers(
    who: str,
    z: np.ndarray,
    bias: np.ndarray,
    activation: str,
    rate: float,
    rescale: bool,
    address: dict[str, int],
) -> tuple[Any, ...]:
    """Check the arguments and return what the kernel takes after the arrays."""
    dtype = z.dtype
    if dtype not in jit.FLOATS or bias.dtype != dtype:
        raise TypeError(
            f"{who}: expected z and bias of one dtype, float32 or float64, "
            f"received {dtype} and {bias.dtype}"
        )
    if z.ndim != 2 or bias.shape != z.shape[1:] or not (z.flags.carray and bias.flags.c_contiguous):
        raise ValueError(
            f"{who}: expected z of shape (rows, units) and bias of shape (units,), "
            f"C-contiguous and z writeable, received shapes {z.shape} and {bias.shape}, "
            f"strides {z.strides} and {bias.strides}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{who}: activation must be one of {', '.join(ACTIVATIONS)}, received {activation!r}"
        )
    floor = dtype.type(ACTIVATIONS[activation])
    rate = mask_contract.check_rate(rate)
    if rate == 0:
        return floor, False, 0, 0, 0, 0, 0, 0, dtype.type(1)
    place = mask_contract.mask_address(z.shape, **address)
    return (
        floor,
        True,
        place.row_offset,
        place.stream,
        place.step,
        place.key0,
        place.key1,
        mask_contract.threshold(rate),
        mask_contract.scale(rate, dtype) if rescale and rate < 1 else dtype.type(1),
    )


@jit.kernel(announce="activation and dropout for the CPU")
def _activate_and_drop(
    z: Any,
    bias: Any,
    row: Any,
    rows: Any,
    column: Any,
    floor: Any,
    drops: Any,
    row_offset: Any,
    stream: Any,
    step: Any,
    key0: Any,
    key1: Any,
    threshold: Any,
    scale: Any,
) -> None:
    """Finish a block of `z` that starts a tile; `bias` is its columns' part."""
    words = np.empty(mask_contract.TILE, np.uint32)
    for i in range(row, row + rows):
        part = z[i, column : column + bias.size]
        for j in range(bias.size):
            value = part[j] + bias[j]
            part[j] = floor if value <= floor else value
        if drops:
            dropout.drop_row(
                part,
                part,
                words,
                uint32(column // 4),
                uint32(row_offset + i),
                uint32(stream),
                uint32(step),
                uint32(key0),
                uint32(key1),
                uint32(threshold),
                scale,
            )


@jit.kernel(announce="dense layers for the CPU on several threads", parallel=True)
def _dense_parallel(
    x: Any,
    weight: Any,
    y: Any,
    bias: Any,
    floor: Any,
    drops: Any,
    row_offset: Any,
    stream: Any,
    step: Any,
    key0: Any,
    key1: Any,
    threshold: Any,
    scale: Any,
    pieces: Any,
) -> None:
    """Compute a dense layer, each thread one block of it."""
    no = np.bool_(False)  # for a plain False, a literal type, `multiply` would be compiled anew
    for piece in numba.prange(pieces):
        row, rows, column, columns = products.block(piece, pieces, y.shape[0], y.shape[1])
        products.multiply(x, weight, y, no, no, row, rows, column, columns)
        _activate_and_drop(
            y,
            bias[column : column + columns],
            row,
            rows,
            column,
            floor,
            drops,
            row_offset,
            stream,
            step,
            key0,
            key1,
            threshold,
            scale,
        )


def activate_vjp(
    g: np.ndarray, y: np.ndarray, factor: float, g_z: np.ndarray, g_bias: np.ndarray
) -> None:
    """Write the gradients of `activate_and_drop` with relu.

    What is positive in the output was active and kept, so neither the mask nor its address is
    needed.

    Parameters
    ----------
    g : numpy.ndarray
        Gradient of the output, shape (rows, units), C-contiguous.
    y : numpy.ndarray
        The output, likewise.
    factor : float
        What kept elements were multiplied by; rounded to the dtype.
    g_z : numpy.ndarray
        Where to write g * factor where y > 0, else 0; it may be `g`.
    g_bias : numpy.ndarray
        Where to write the sums of the columns of `g_z`, shape (units,), row by row from the first.

    Raises
    ------
    ValueError
        If the arrays are not C-contiguous or their shapes do not fit.
    TypeError
        If the dtypes differ or are not float32 or float64.

    Examples
    --------
    >>> g, y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 0.0], [6.0, 7.0]])
    >>> g_bias = np.empty(2)
    >>> activate_vjp(g, y, 2.0, g, g_bias)
    >>> g, g_bias
    (array([[2., 0.],
           [6., 8.]]), array([8., 8.]))
    """
    dtype = g.dtype
    if dtype not in jit.FLOATS or not (y.dtype == dtype == g_z.dtype == g_bias.dtype):
        raise TypeError(
            "activate_vjp: expected arrays of one dtype, float32 or float64, received "
            f"{dtype}, {y.dtype}, {g_z.dtype}, {g_bias.dtype}"
        )
    if (
        g.ndim != 2
        or not (g.shape == y.shape == g_z.shape)
        or g_bias.shape != g.shape[1:]
        or not all(array.flags.c_contiguous for array in (g, y, g_z, g_bias))
    ):
        raise ValueError(
            "activate_vjp: expected g, y and g_z of one shape (rows, units) and g_bias of shape "
            f"(units,), C-contiguous, received shapes {g.shape}, {y.shape}, {g_z.shape} and "
            f"{g_bias.shape}"
        )
    _activate_vjp(g, y, dtype.type(factor), g_z, g_bias)


@jit.kernel(announce="gradients of activations for the CPU")
def _activate_vjp(g: Any, y: Any, factor: Any, g_z: Any, g_bias: Any) -> None:
    zero = g.dtype.type(0)
    units = g_bias.size
    # In a buffer of its own, lest the compiler find g and g_z the same and vectorise nothing.
    passed = np.empty(units, g.dtype)
    for i in range(units):
        g_bias[i] = zero
    for row in range(g.shape[0]):
        for i in range(units):
            passed[i] = g[row, i] * factor if y[row, i] > zero else zero
        for i in range(units):
            g_z[row, i] = passed[i]
            g_bias[i] += passed[i]
