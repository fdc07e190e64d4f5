"""Sums over the rows of an array, in an order that never changes; there are no atomics.

A block of 32 warps takes a chunk of rows, warp w its rows w, w + 32, ...; the warps' sums are then
added in the order of the warps. What the chunks give is for the caller to add: with one chunk the
result is final.
"""

from typing import Any

from numba import cuda
from numpy import uint32, uint64

ROWS = 256  # in a chunk
LANES = WARPS = 32
BLOCK = (LANES, WARPS)

_ALL_LANES = uint32(0xFFFFFFFF)


def chunks(rows: int) -> int:
    """Return in how many chunks the rows are summed, at least one.

    Examples
    --------
    >>> chunks(0), chunks(256), chunks(257)
    (1, 1, 2)
    """
    return max(1, -(-rows // ROWS))


@cuda.jit(device=True)
def place() -> tuple[Any, Any]:
    """Return the lane and the warp of a thread in its block."""
    lane = uint32(cuda.threadIdx.x)  # type: ignore[arg-type]
    warp = uint32(cuda.threadIdx.y)  # type: ignore[arg-type]
    return lane, warp


@cuda.jit(device=True)
def rows_of_warp(chunk: Any, warp: Any, rows: Any) -> tuple[Any, Any]:
    """Return the first row of a warp, and the end of its chunk; its rows are 32 apart."""
    start = uint64(chunk * uint64(ROWS))
    return uint64(start + uint64(warp)), min(uint64(start + uint64(ROWS)), rows)


@cuda.jit(device=True)
def add_warps(partial: Any, value: Any, lane: Any, warp: Any) -> Any:
    """Return, in warp 0 only, what the 32 warps of the block have in this lane, added.

    All threads of the block must call it. `partial` is 32 x 32 numbers of shared memory, free again
    after the next barrier.
    """
    partial[warp, lane] = value
    cuda.syncthreads()  # type: ignore[call-arg]
    total = value
    if warp == uint32(0):
        other = uint32(1)
        while other < uint32(32):
            total += partial[other, lane]
            other = uint32(other + uint32(1))
    return total


@cuda.jit(device=True)
def add_lanes(value: Any) -> Any:
    """Return, in each lane, the sum over the warp; a + b being b + a, all lanes have its bits."""
    distance = uint32(16)
    while distance > uint32(0):
        value += cuda.shfl_xor_sync(_ALL_LANES, value, distance)
        distance = uint32(distance >> uint32(1))
    return value


@cuda.jit(device=True)
def largest_of_lanes(value: Any) -> Any:
    """Return, in each lane, the largest number of the warp; NaN is passed over where it can be."""
    distance = uint32(16)
    while distance > uint32(0):
        other = cuda.shfl_xor_sync(_ALL_LANES, value, distance)
        value = other if other > value else value
        distance = uint32(distance >> uint32(1))
    return value


@cuda.jit(device=True)
def all_lanes(condition: Any) -> Any:
    """Return, in each lane, whether the condition holds in all lanes of the warp."""
    return cuda.all_sync(_ALL_LANES, condition)
