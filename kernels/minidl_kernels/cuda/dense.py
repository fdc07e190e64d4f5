"""What a dense layer does besides its matrix products, on device arrays."""

from typing import Any

import numpy as np
from numba import cuda
from numpy import uint32, uint64

from minidl_kernels import mask_contract
from minidl_kernels.cuda import dropout, launch, reduction
from minidl_kernels.cuda.checks import check_array, check_matrix
from minidl_kernels.cuda.reduction import BLOCK, LANES, chunks

_FLOORS = {"linear": -np.inf, "relu": 0.0}


def activate_and_drop(
    z: Any,
    bias: Any,
    *,
    activation: str,
    rate: float = 0.0,
    rescale: bool = True,
    seed: int = 0,
    stream: int = 0,
    step: int = 0,
    row_offset: int = 0,
    cuda_stream: int = 0,
) -> None:
    """Replace `z` by dropout of activation(z + bias).

    The bits are those of the sum, the activation and `dropout.dropout`, one after the other.

    Parameters
    ----------
    z : device array
        float32 or float64, shape (rows, units), C-contiguous.
    bias : device array
        Of that dtype, shape (units,), contiguous.
    activation : str
        "linear" or "relu".
    rate, rescale, seed, stream, step, row_offset, cuda_stream
        As in `dropout.dropout`; at rate 0 nothing is dropped.

    Raises
    ------
    TypeError
        If the dtypes are others, or an integer of the address is none.
    ValueError
        If the shapes do not fit, an array is not contiguous, the activation is another one, or the
        rate or the address is out of range.
    """
    if activation not in _FLOORS:
        raise ValueError(
            f'activate_and_drop: activation must be "linear" or "relu", received {activation!r}'
        )
    check_matrix("activate_and_drop", "z", z, "rows, units")
    check_array("activate_and_drop", "bias", bias, z.dtype, z.shape[1:])
    rate = mask_contract.check_rate(rate)
    address = mask_contract.mask_address(
        z.shape, seed=seed, stream=stream, step=step, row_offset=row_offset
    )
    if z.size == 0:
        return
    if rate == 1:
        z[...] = 0
        return
    number = z.dtype.type
    scale = mask_contract.scale(rate, z.dtype) if rescale else number(1)
    floor = number(_FLOORS[activation])
    dropout.launch_on_tiles(
        end_layer, address, rate, scale, cuda_stream, z.reshape(-1), bias, floor
    )


def activate_vjp(
    g: Any, y: Any, factor: float, g_z: Any, g_bias: Any, *, cuda_stream: int = 0
) -> None:
    """Write the gradient before a relu and its dropout, and that of the bias.

    `y` is what `activate_and_drop` made: it is above 0 where an element was active and kept. There
    `g_z` is `g * factor`, elsewhere +0.0.

    Parameters
    ----------
    g, y, g_z : device arrays
        float32 or float64, shape (rows, units), C-contiguous; `g_z` may be `g`.
    factor : float
        By what dropout multiplied, or 1; rounded to that dtype.
    g_bias : device array
        Of that dtype, shape (chunks(rows), units): for each chunk of rows the sums of its columns.
    cuda_stream : int
        As in `dropout.dropout`.

    Raises
    ------
    TypeError
        If the dtypes are others.
    ValueError
        If the shapes do not fit, or an array is not contiguous.
    """
    check_matrix("activate_vjp", "y", y, "rows, units")
    rows, units = y.shape
    check_array("activate_vjp", "g", g, y.dtype, y.shape)
    check_array("activate_vjp", "g_z", g_z, y.dtype, y.shape)
    check_array("activate_vjp", "g_bias", g_bias, y.dtype, (chunks(rows), units))
    if units == 0:
        return
    launch.launch(
        gate_and_sum,
        (chunks(rows), -(-units // LANES)),
        BLOCK,
        cuda_stream,
        g.reshape(-1),
        y.reshape(-1),
        g_z.reshape(-1),
        g_bias.reshape(-1),
        uint64(rows),
        uint64(units),
        y.dtype.type(factor),
    )


@cuda.jit
def end_layer(
    z: Any,
    bias: Any,
    floor: Any,
    rows: Any,
    columns: Any,
    row_offset: Any,
    stream: Any,
    step: Any,
    key0: Any,
    key1: Any,
    threshold: Any,
    scale: Any,
) -> None:
    """Add the bias, raise to `floor` what is below, and drop, in place."""
    dropout.drop_tiles(
        z,
        bias,
        floor,
        z,
        rows,
        columns,
        row_offset,
        stream,
        step,
        key0,
        key1,
        threshold,
        scale,
    )


@cuda.jit
def gate_and_sum(
    g: Any, y: Any, g_z: Any, g_bias: Any, rows: Any, columns: Any, factor: Any
) -> None:
    """Pass the gradient where flat `y` is above 0, and sum its columns over a chunk of rows."""
    partial = cuda.shared.array(BLOCK, y.dtype)
    zero = np.float32(0)
    lane, warp = reduction.place()
    chunk = uint64(cuda.blockIdx.x)  # type: ignore[arg-type]
    tile = uint64(cuda.blockIdx.y)  # type: ignore[arg-type]
    column = uint64(tile * uint64(32) + uint64(lane))
    row, end = reduction.rows_of_warp(chunk, warp, rows)
    i = uint64(row * columns + column)
    total = zero
    if column < columns:
        while row < end:
            gradient = g[i]
            active = y[i] > zero
            gradient = gradient * factor if active else zero
            g_z[i] = gradient
            total += gradient
            row = uint64(row + uint64(32))
            i = uint64(i + uint64(columns * uint64(32)))
    total = reduction.add_warps(partial, total, lane, warp)
    if warp == uint32(0) and column < columns:
        g_bias[uint64(chunk * columns + column)] = total
