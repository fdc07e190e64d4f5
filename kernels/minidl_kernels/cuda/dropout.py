"""Dropout on CuPy arrays."""

from typing import Any

import numpy as np
from numba import cuda
from numpy import uint32, uint64

from minidl_kernels import formulas, mask_contract, philox
from minidl_kernels.cuda import jit, launch, scalars
from minidl_kernels.cuda.scalars import number

_at_least = jit.inline(formulas.at_least)
_drop_element = jit.inline(formulas.drop)
_philox = jit.inline(philox.philox4x32_10)


def dropout(x: Any, out: Any, address: mask_contract.PackedAddress, scale: Any) -> None:
    """Write `x` to `out` with elements dropped.

    Results have the bits of `cpu.dropout`.

    Parameters
    ----------
    x, out : cupy.ndarray
        Of one shape and dtype, float32 or float64, C-contiguous and not empty; they may be the same
        array.
    address : PackedAddress
        Which elements are dropped; the grid has no influence. Step, row offset and threshold
        may be placed.
    scale : numpy scalar
        Factor of the kept elements, of the dtype of `x`. It may be placed.
    """
    rows, columns = mask_contract.rows_and_columns(x.shape)
    launch.launch_tiles(
        _dropout,
        rows,
        columns,
        x.reshape(-1),
        out.reshape(-1),
        uint64(rows),
        uint64(columns),
        scalars.words(address),
        scalars.argument(scale, x.dtype.type),
    )


@cuda.jit
def _dropout(x: Any, out: Any, rows: Any, columns: Any, address: Any, scale: Any) -> None:
    """Drop from flat arrays of `rows` times `columns` elements."""
    drop_tiles(x, None, None, out, rows, columns, address, scale)


@cuda.jit(device=True)
def drop_tiles(
    x: Any,
    bias: Any,
    floor: Any,
    out: Any,
    rows: Any,
    columns: Any,
    address: Any,
    scale: Any,
) -> None:
    """Drop from flat `x`, or, if there is a bias, from the larger of `x + bias` and `floor`.

    `bias` is None or has an element for each column; `address` is a tuple or an array of six words.
    Of a tuple, step, row offset and threshold may be arrays of one word; so may `scale`.
    A thread is one lane of a tile: it computes one Philox block and uses its words for four
    columns, 16 apart, so that neighbouring threads load and store neighbours. Indices into the
    arrays have 64 bits; numbers that are known to be small have 32, which a GPU computes faster.
    """
    key0, key1, stream, step = address[0], address[1], address[2], number(address[3])
    row_offset, threshold = number(address[4]), number(address[5])
    factor = number(scale)
    thread_x, thread_y = cuda.grid(2)  # type: ignore[call-arg, var-annotated]
    threads_x, threads_y = cuda.gridsize(2)
    # All constants are typed: a bare 16 would make the arithmetic int64.
    first_tile = uint32(uint32(thread_x) >> uint32(4))
    tile_stride = uint32(uint32(threads_x) >> uint32(4))
    lane0 = uint32(uint32(thread_x) & uint32(15))
    lane1 = uint32(lane0 + uint32(16))
    lane2 = uint32(lane0 + uint32(32))
    lane3 = uint32(lane0 + uint32(48))
    tiles = uint32((columns + uint64(63)) >> uint64(6))
    whole_tiles = uint32(columns >> uint64(6))
    rest = uint32(uint32(columns) & uint32(63))
    row = uint64(thread_y)
    while row < rows:
        row_start = uint64(row * columns + uint64(lane0))
        tile = first_tile
        while tile < tiles:
            width = uint32(64) if tile < whole_tiles else rest
            i = uint64(row_start + uint64(tile) * uint64(64))
            # The loads come first, so that the generator runs while they are under way.
            x0, x1, x2, x3 = load_lanes(x, i, lane0, width)
            if bias is not None:  # decided by Numba's compiler
                column = uint64(uint64(tile) * uint64(64) + uint64(lane0))
                b0, b1, b2, b3 = load_lanes(bias, column, lane0, width)
            w0, w1, w2, w3 = _philox(
                uint32(uint32(tile * uint32(16)) + lane0),
                uint32(row_offset + uint32(row)),
                stream,
                step,
                key0,
                key1,
            )
            # Only the stores are guarded: arithmetic under a guard becomes a branch on some GPUs.
            if bias is not None:
                x0 = _at_least(floor, x0 + b0)
                x1 = _at_least(floor, x1 + b1)
                x2 = _at_least(floor, x2 + b2)
                x3 = _at_least(floor, x3 + b3)
            y0 = _drop_element(x0, w0, threshold, factor)
            y1 = _drop_element(x1, w1, threshold, factor)
            y2 = _drop_element(x2, w2, threshold, factor)
            y3 = _drop_element(x3, w3, threshold, factor)
            if lane0 < width:
                out[i] = y0
            if lane1 < width:
                out[uint64(i + uint64(16))] = y1
            if lane2 < width:
                out[uint64(i + uint64(32))] = y2
            if lane3 < width:
                out[uint64(i + uint64(48))] = y3
            tile = uint32(tile + tile_stride)
        row = uint64(row + uint64(threads_y))


@cuda.jit(device=True)
def load_lanes(array: Any, i: Any, lane: Any, width: Any) -> tuple[Any, ...]:
    """Return four elements, 16 apart, and zero for those beyond the width of the tile."""
    a0 = a1 = a2 = a3 = np.float32(0)
    if lane < width:
        a0 = array[i]
    if uint32(lane + uint32(16)) < width:
        a1 = array[uint64(i + uint64(16))]
    if uint32(lane + uint32(32)) < width:
        a2 = array[uint64(i + uint64(32))]
    if uint32(lane + uint32(48)) < width:
        a3 = array[uint64(i + uint64(48))]
    return a0, a1, a2, a3
