"""The one place where a CUDA kernel is launched."""

import functools
from typing import Any

from numba import cuda


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
    kernel[grid, block, _numba_stream(stream)](*arguments)


@functools.cache
def _numba_stream(pointer: int) -> Any:
    """Return Numba's object for a stream; always the same, so that Numba knows a launch again."""
    return cuda.external_stream(pointer)
