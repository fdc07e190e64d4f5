"""Dropout on device arrays."""

from typing import Any

import numpy as np
from numba import cuda
from numpy import uint32, uint64

from minidl_kernels import mask_contract, philox
from minidl_kernels.cuda import launch

_philox = cuda.jit(device=True, inline="always")(philox.philox4x32_10)


def dropout(
    x: Any,
    out: Any,
    rate: float,
    *,
    seed: int,
    stream: int,
    step: int,
    row_offset: int = 0,
    rescale: bool = True,
    cuda_stream: int = 0,
) -> None:
    """Write a copy of `x` to `out` in which each element is dropped with probability `rate`.

    The elements dropped are those that `cpu.dropout` drops, and float32 and float64 results have
    the same bits. The kernel is queued on the stream; nothing waits for it.

    Parameters
    ----------
    x, out : device arrays
        Of one shape and dtype (float16, float32 or float64), C-contiguous, such as CuPy's; they may
        be the same array. float16 is multiplied in float32 and rounded once.
    rate : float
        In [0, 1]. At 0 the result is a copy, at 1 it is all zeros.
    seed, stream, step, row_offset : int
        The address of the mask; see `mask_contract.mask_address`.
    rescale : bool
        Whether to multiply what is kept; without, training needs `x * (1 - rate)` at inference.
    cuda_stream : int
        Pointer of the CUDA stream; it should be the current one of the library that owns `out`.

    Raises
    ------
    TypeError
        If the dtypes are others, or an integer of the address is none.
    ValueError
        If the arrays differ in shape or are not contiguous, or the rate or address is out of range.
    """
    if x.shape != out.shape or not (x.flags.c_contiguous and out.flags.c_contiguous):
        raise ValueError(
            f"dropout: x and out must be C-contiguous and of one shape, "
            f"received shapes {x.shape} and {out.shape}"
        )
    if x.dtype != out.dtype:
        raise TypeError(
            f"dropout: x and out must have one dtype, received {x.dtype} and {out.dtype}"
        )
    factor = mask_contract.factor(1, x.dtype)
    rate = mask_contract.check_rate(rate)
    address = mask_contract.mask_address(
        x.shape, seed=seed, stream=stream, step=step, row_offset=row_offset
    )
    if x.size == 0:
        return
    if rate == 1:
        out[...] = 0
        return
    if rescale:
        factor = mask_contract.scale(rate, x.dtype)
    launch_on_tiles(drop, address, rate, factor, cuda_stream, x.reshape(-1), out.reshape(-1))


def launch_on_tiles(
    kernel: Any,
    address: mask_contract.MaskAddress,
    rate: float,
    factor: Any,
    cuda_stream: int,
    *arguments: Any,
) -> None:
    """Launch a kernel that calls `drop_tiles`, with 16 threads for each tile.

    The kernel's own `arguments` come first, then the numbers that `drop_tiles` takes last.
    """
    tiles = -(-address.columns // mask_contract.TILE)
    grid, block = launch.grid_and_block(address.rows, tiles * mask_contract.LANES)
    launch.launch(
        kernel,
        grid,
        block,
        cuda_stream,
        *arguments,
        uint64(address.rows),
        uint64(address.columns),
        uint32(address.row_offset),
        uint32(address.stream),
        uint32(address.step),
        uint32(address.key0),
        uint32(address.key1),
        uint32(mask_contract.threshold(rate)),
        factor,
    )


@cuda.jit
def drop(
    x: Any,
    out: Any,
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
    """Drop from flat arrays of `rows` times `columns` elements."""
    drop_tiles(
        x,
        None,
        None,
        out,
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


@cuda.jit(device=True)
def drop_tiles(
    x: Any,
    bias: Any,
    floor: Any,
    out: Any,
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
    """Drop from flat `x`, or, where there is a bias, from the larger of `x + bias` and `floor`.

    `bias` is None or has an element for each column. A thread is one lane of a tile: it computes
    one Philox block and uses its words for four columns, 16 apart, so that neighbouring threads
    load and store neighbours. Indices into the arrays have 64 bits; whatever is known to be small
    has 32, which a GPU computes faster.
    """
    thread_x, thread_y = cuda.grid(2)  # type: ignore[call-arg, var-annotated]
    threads_x, threads_y = cuda.gridsize(2)
    # All constants are typed: a bare 0.0 would make the arithmetic float64, a bare 16 int64.
    zero = np.float32(0)
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
            x0, x1, x2, x3 = _load_lanes(x, i, lane0, width)
            if bias is not None:  # decided by Numba's compiler
                column = uint64(uint64(tile) * uint64(64) + uint64(lane0))
                b0, b1, b2, b3 = _load_lanes(bias, column, lane0, width)
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
            y0 = x0 * scale if w0 >= threshold else zero
            y1 = x1 * scale if w1 >= threshold else zero
            y2 = x2 * scale if w2 >= threshold else zero
            y3 = x3 * scale if w3 >= threshold else zero
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
def _load_lanes(array: Any, i: Any, lane: Any, width: Any) -> tuple[Any, ...]:
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


@cuda.jit(device=True)
def _at_least(floor: Any, x: Any) -> Any:
    """Return the larger one; NaN stays, and so does +0.0 where `x` is -0.0, as in NumPy."""
    return floor if x <= floor else x
