"""Sums over the rows of an array in a fixed order, without atomics.

A block of 32 warps sums a chunk of rows: warp w its rows w, w + 32, ...; then the sums of the warps
are added in the order of the warps. More than one chunk needs a second launch, which adds the sums
of the chunks.
"""

from typing import Any

import cupy
from numba import cuda
from numpy import uint32, uint64

from minidl_kernels import formulas
from minidl_kernels.cuda import jit

ROWS = 256  # in a chunk
LANES = WARPS = 32
BLOCK = (LANES, WARPS)

_ALL_LANES = uint32(0xFFFFFFFF)

_larger = jit.inline(formulas.larger)


def chunks(rows: int) -> int:
    """Return the number of chunks that `rows` rows form, at least one.

    Examples
    --------
    >>> chunks(0), chunks(256), chunks(257)
    (1, 1, 2)
    """
    return max(1, -(-rows // ROWS))


def chunk_sums(rows: int, total: Any) -> Any:
    """Return an array for the sums of each chunk; those of a single chunk are the total."""
    count = chunks(rows)
    return total[None] if count == 1 else cupy.empty((count, *total.shape), total.dtype)


def add_chunks(sums: Any, total: Any) -> None:
    """Write the total of an array of `chunk_sums`; CuPy flushes float32 subnormals to zero."""
    if len(sums) > 1:
        sums.sum(axis=0, out=total)


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
    """Return, in warp 0 only, the sum over the 32 warps of the block in this lane.

    All threads of the block must call it. `partial` is 32 x 32 numbers of shared memory, which are
    free again after the next barrier.
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
    """Return, in each lane, the sum over the warp.

    Addition is commutative, so all lanes get the same bits.
    """
    distance = uint32(16)
    while distance > uint32(0):
        value += cuda.shfl_xor_sync(_ALL_LANES, value, distance)
        distance = uint32(distance >> uint32(1))
    return value


@cuda.jit(device=True)
def largest_of_lanes(value: Any) -> Any:
    """Return, in each lane, the largest number of the warp, which is NaN only if all are."""
    distance = uint32(16)
    while distance > uint32(0):
        value = _larger(cuda.shfl_xor_sync(_ALL_LANES, value, distance), value)
        distance = uint32(distance >> uint32(1))
    return value


@cuda.jit(device=True)
def all_lanes(condition: Any) -> Any:
    """Return, in each lane, whether the condition holds in all lanes of the warp."""
    return cuda.all_sync(_ALL_LANES, condition)
