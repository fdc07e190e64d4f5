"""Bias, activation and dropout of a dense layer in one launch, and the gradient of that pass."""

from typing import Any

import numpy as np
from numba import cuda
from numpy import uint32, uint64

from minidl_kernels import mask_contract
from minidl_kernels.cuda import dropout, launch, reduction, scalars
from minidl_kernels.cuda.reduction import BLOCK, LANES, chunks
from minidl_kernels.cuda.scalars import number


def bias_act_dropout(
    z: Any, bias: Any, floor: Any, address: mask_contract.PackedAddress, scale: Any
) -> None:
    """Replace `z` by dropout of max(z + bias, floor), in one launch.

    The bits are those of the three operations one after the other.

    Parameters
    ----------
    z : cupy.ndarray
        Shape (rows, units), float32 or float64, C-contiguous and not empty.
    bias : cupy.ndarray
        Shape (units,), of the dtype of `z`, contiguous.
    floor : numpy scalar
        0 for relu, -inf for a linear layer, of that dtype; NaN stays NaN.
    address, scale
        As in `dropout.dropout`; `mask_contract.KEEP_ALL` and 1 for no dropout.
    """
    rows, units = z.shape
    launch.launch_tiles(
        _bias_act_dropout,
        rows,
        units,
        z.reshape(-1),
        bias,
        floor,
        uint64(rows),
        uint64(units),
        scalars.words(address),
        scalars.argument(scale, z.dtype.type),
    )


def bias_act_dropout_vjp(g: Any, y: Any, factor: Any, g_z: Any, g_bias: Any) -> None:
    """Write the gradients of `bias_act_dropout` with relu.

    They take one launch, and a second one for more than 256 rows.

    The output is positive exactly where the element was kept and the slope of relu is 1. So neither
    the mask nor its address is needed.

    Parameters
    ----------
    g, y : cupy.ndarray
        Gradient of the output, and the output: shape (rows, units), float32 or float64,
        C-contiguous.
    factor : numpy scalar
        Factor of the kept elements, of that dtype. It may be placed.
    g_z : cupy.ndarray
        Output: g * factor if y > 0, else 0; it may be `g`.
    g_bias : cupy.ndarray
        Output: sums of the columns of `g_z`, shape (units,), in the order of `reduction`.
    """
    rows, units = y.shape
    parts = reduction.chunk_sums(rows, g_bias)
    launch.launch(
        _bias_act_dropout_vjp,
        (chunks(rows), -(-units // LANES)),
        BLOCK,
        g.reshape(-1),
        y.reshape(-1),
        g_z.reshape(-1),
        parts.reshape(-1),
        uint64(rows),
        uint64(units),
        scalars.argument(factor, y.dtype.type),
    )
    reduction.add_chunks(parts, g_bias)


@cuda.jit
def _bias_act_dropout(
    z: Any, bias: Any, floor: Any, rows: Any, columns: Any, address: Any, scale: Any
) -> None:
    """Finish a flat layer of `rows` times `columns` elements, in place."""
    dropout.drop_tiles(z, bias, floor, z, rows, columns, address, scale)


@cuda.jit
def _bias_act_dropout_vjp(
    g: Any, y: Any, g_z: Any, sums: Any, rows: Any, columns: Any, factor: Any
) -> None:
    """Write the gradient of a chunk of rows of flat arrays, and sum its columns."""
    partial = cuda.shared.array(BLOCK, y.dtype)
    zero, by = np.float32(0), number(factor)
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
            gradient = gradient * by if active else zero
            g_z[i] = gradient
            total += gradient
            row = uint64(row + uint64(32))
            i = uint64(i + uint64(columns * uint64(32)))
    total = reduction.add_warps(partial, total, lane, warp)
    if warp == uint32(0) and column < columns:
        sums[uint64(chunk * columns + column)] = total
