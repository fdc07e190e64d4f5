"""The one place where a CUDA kernel is launched, and the usual grids."""

import functools
import warnings
from typing import Any

from numba import cuda

THREADS = 256  # in a block
MAX_BLOCKS = 2**13  # threads loop over what is beyond


def launch(
    kernel: Any, grid: tuple[int, ...], block: tuple[int, ...], stream: int, *arguments: Any
) -> None:
    """Launch a Numba-CUDA kernel and return at once; nothing is synchronised.

    Parameters
    ----------
    kernel : Numba-CUDA dispatcher
        What `cuda.jit` made; it is compiled at its first launch for these types.
    grid, block : tuple of int
        Blocks in the grid and threads in a block.
    stream : int
        Pointer of the CUDA stream, such as `cupy.cuda.get_current_stream().ptr`.
    *arguments
        Device arrays, and NumPy scalars of the types that the kernel expects.
    """
    _configured(kernel, grid, block, stream)(*arguments)


@functools.lru_cache(maxsize=1024)
def _configured(kernel: Any, grid: tuple[int, ...], block: tuple[int, ...], stream: int) -> Any:
    """Return the kernel with its grid; Numba takes its time over each one that is new."""
    with warnings.catch_warnings():
        # Numba warns of fewer than 128 blocks, and a small array has no work for as many.
        warnings.filterwarnings("ignore", "Grid size .* low occupancy")
        return kernel[grid, block, cuda.external_stream(stream)]


def launch_flat(kernel: Any, size: int, stream: int, *arguments: Any) -> None:
    """Launch a kernel whose threads stand in one row and loop over `size` elements."""
    blocks = min(_next_power_of_two(-(-size // THREADS)), MAX_BLOCKS)
    launch(kernel, (blocks,), (THREADS,), stream, *arguments)


def grid_and_block(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a grid and a block with a thread for each element, up to a maximum of blocks.

    Axis x goes along a row, axis y down the rows. A block is as wide as a row, up to all its
    threads, and as high as its threads allow; the grid likewise. All four numbers are powers of
    two, so that few different ones are seen.

    Examples
    --------
    >>> grid_and_block(128, 784)
    ((4, 128), (256, 1))
    """
    width = min(THREADS, _next_power_of_two(columns))
    height = THREADS // width
    across = min(_next_power_of_two(-(-columns // width)), MAX_BLOCKS)
    down = min(_next_power_of_two(-(-rows // height)), MAX_BLOCKS // across)
    return (across, down), (width, height)


def _next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
