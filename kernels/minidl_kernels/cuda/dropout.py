"""Dropout on device arrays."""

from typing import Any

import numpy as np
from numba import cuda
from numpy import uint32, uint64

from minidl_kernels import mask_contract, philox
from minidl_kernels.cuda import launch

THREADS = 256  # in a block
# Each thread loops, so the grid is capped. It is a power of two, for Numba takes longer over a
# launch with a grid it has not seen, and has 128 blocks at least, for Numba warns of fewer.
MIN_BLOCKS = 2**7
MAX_BLOCKS = 2**13

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
    grid, block = grid_and_block(address.rows, address.columns)
    launch.launch(
        drop,
        grid,
        block,
        cuda_stream,
        x.reshape(-1),
        out.reshape(-1),
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


def grid_and_block(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the grid and the block for an array: axis x goes along a row, axis y down the rows.

    16 threads fill a tile. A block is as wide as the tiles of a row, up to all its threads, and as
    high as its threads allow; the grid likewise. All four numbers are powers of two.

    Examples
    --------
    >>> grid_and_block(128, 512)
    ((1, 128), (128, 2))
    """
    tiles = -(-columns // mask_contract.TILE)
    width = min(THREADS, mask_contract.LANES * _next_power_of_two(tiles))
    height = THREADS // width
    across = _next_power_of_two(-(-tiles * mask_contract.LANES // width))
    across = min(across, MAX_BLOCKS)
    down = min(_next_power_of_two(-(-rows // height)), MAX_BLOCKS // across)
    down = max(down, MIN_BLOCKS // across)
    return (across, down), (width, height)


def _next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


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
    """Drop from flat arrays of `rows` times `columns` elements.

    A thread is one lane of a tile: it computes one Philox block and uses its words for four
    columns, 16 apart, so that neighbouring threads load and store neighbours. Indices into the
    arrays have 64 bits; whatever is known to be small has 32, which a GPU computes faster.
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
            x0 = x1 = x2 = x3 = zero
            if lane0 < width:
                x0 = x[i]
            if lane1 < width:
                x1 = x[uint64(i + uint64(16))]
            if lane2 < width:
                x2 = x[uint64(i + uint64(32))]
            if lane3 < width:
                x3 = x[uint64(i + uint64(48))]
            w0, w1, w2, w3 = _philox(
                uint32(uint32(tile * uint32(16)) + lane0),
                uint32(row_offset + uint32(row)),
                stream,
                step,
                key0,
                key1,
            )
            # Only the stores are guarded: arithmetic under a guard becomes a branch on some GPUs.
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
