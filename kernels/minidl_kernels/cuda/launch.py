"""The one place where a CUDA kernel is launched, and the usual grids.

Numba compiles a kernel and cuda.core launches it, since the Python of a launch by Numba took the
larger part of a training step: with it dropout of 65,536 elements took 202 us on an H100, now 41.
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from cuda import core
from numba import cuda

THREADS = 256  # in a block
MAX_BLOCKS = 2**13  # threads loop over what is beyond

Kind = tuple[np.dtype, int | None]
"""An argument's dtype, and the number of axes where it is an array."""


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
        C-contiguous CuPy arrays, and NumPy scalars of the types that the kernel expects.
    """
    if not _thread.has_context:  # a new thread has none until somebody asks for it
        cuda.current_context()
        _thread.has_context = True
    kinds, words = flatten(arguments)
    compiled = _compiled(kernel, kinds, core.Device().device_id)
    core.launch(_stream(stream), core.LaunchConfig(grid=grid, block=block), compiled, *words)


def flatten(arguments: Sequence[Any]) -> tuple[tuple[Kind, ...], list[Any]]:
    """Return the kinds of the arguments, and what the compiled kernel takes for them.

    That is a scalar as it is, and an array as Numba lays it out: two words of the host's, null on
    a device, then size, bytes of an element, address, shape and strides.
    """
    kinds: list[Kind] = []
    words: list[Any] = []
    for argument in arguments:
        if isinstance(argument, np.generic):
            kinds.append((argument.dtype, None))
            words.append(argument)
        else:
            shape = argument.shape
            kinds.append((argument.dtype, len(shape)))
            words += (0, 0, argument.size, argument.itemsize, argument.data.ptr)
            words += (*shape, *argument.strides)
    return tuple(kinds), words


def signature(kinds: Sequence[Kind]) -> tuple[numba.types.Type, ...]:
    """Return Numba's types of arguments."""
    numbers = [numba.from_dtype(dtype) for dtype, _ in kinds]
    return tuple(
        number if ndim is None else numba.types.Array(number, ndim, "C")
        for number, (_, ndim) in zip(numbers, kinds, strict=True)
    )


@functools.cache
def _compiled(kernel: Any, kinds: tuple[Kind, ...], device: int) -> core.Kernel:
    """Return the kernel for these kinds of arguments, as it is loaded on a device."""
    return kernel.compile(signature(kinds)).library.get_cufunc().kernel


_stream = functools.lru_cache(maxsize=64)(core.Stream.from_handle)


class _Thread(threading.local):
    has_context = False


_thread = _Thread()


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
