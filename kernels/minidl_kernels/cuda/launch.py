"""Launches of CUDA kernels: `launch`, the only function that launches them, and usual grids.

Numba compiles a kernel and cuda.core launches it. The Python code of a launch by Numba took most of
the time of a training step. On an H100, dropout of 65,536 elements took 202 us with Numba's launch,
and takes 41 us with this one.
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import cupy
import numba
import numpy as np
from cuda import core
from numba import cuda

from minidl_kernels.mask_contract import LANES, TILE

THREADS = 256  # in a block
MAX_BLOCKS = 2**13  # threads loop over the elements beyond

Grid = tuple[int, ...]


def launch(kernel: Any, grid: Grid, block: Grid, *arguments: Any) -> None:
    """Queue a Numba-CUDA kernel on CuPy's current stream; nothing waits for it.

    Host code calls it as ``launch.launch``, so that tests can replace it.

    Parameters
    ----------
    kernel : Numba-CUDA dispatcher
        From `cuda.jit`; it is compiled at its first launch for these types.
    grid, block : tuple of int
        Blocks in the grid, and threads in a block.
    *arguments
        C-contiguous CuPy arrays, NumPy scalars of the types that the kernel expects, and tuples of
        such scalars.
    """
    if not _thread.has_context:  # a new thread has none before the first request
        cuda.current_context()
        _thread.has_context = True
    kinds, words = flatten(arguments)
    compiled = _compiled(kernel, kinds, core.Device().device_id)
    stream = _stream(cupy.cuda.get_current_stream().ptr)
    core.launch(stream, core.LaunchConfig(grid=grid, block=block), compiled, *words)


def flatten(arguments: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]]:
    """Return the kinds of the arguments, and the words that the compiled kernel takes for them.

    The kind of a scalar is its dtype; an array also has its number of axes, a tuple the kinds of
    its parts. The words of an array are those of Numba's layout: two words of the host, null on a
    device; then size, bytes of an element, address, shape and strides.
    """
    kinds: list[Any] = []
    words: list[Any] = []
    for argument in arguments:
        if isinstance(argument, np.generic):
            kinds.append(argument.dtype)
            words.append(argument)
        elif isinstance(argument, tuple):
            part_kinds, part_words = flatten(argument)
            kinds.append(("tuple", part_kinds))
            words += part_words
        else:
            shape = argument.shape
            kinds.append((argument.dtype, len(shape)))
            words += (0, 0, argument.size, argument.itemsize, argument.data.ptr)
            words += (*shape, *argument.strides)
    return tuple(kinds), words


def signature(kinds: Sequence[Any]) -> tuple[numba.types.Type, ...]:
    """Return Numba's types of arguments of these kinds."""
    return tuple(map(_type, kinds))


def _type(kind: Any) -> numba.types.Type:
    match kind:
        case ("tuple", parts):
            return numba.types.BaseTuple.from_types(signature(parts))
        case (dtype, ndim):
            return numba.types.Array(numba.from_dtype(dtype), ndim, "C")
    return numba.from_dtype(kind)


@functools.cache
def _compiled(kernel: Any, kinds: tuple[Any, ...], device: int) -> core.Kernel:
    """Return the kernel for arguments of these kinds, loaded on a device."""
    return kernel.compile(signature(kinds)).library.get_cufunc().kernel


_stream = functools.lru_cache(maxsize=64)(core.Stream.from_handle)


class _Thread(threading.local):
    has_context = False


_thread = _Thread()


def launch_flat(kernel: Any, size: int, *arguments: Any) -> None:
    """Launch a kernel whose threads form one row and loop over `size` elements."""
    blocks = min(_next_power_of_two(-(-size // THREADS)), MAX_BLOCKS)
    launch(kernel, (blocks,), (THREADS,), *arguments)


def launch_tiles(kernel: Any, rows: int, columns: int, *arguments: Any) -> None:
    """Launch a kernel with 16 threads, one for each lane, for each tile of the mask contract."""
    grid, block = grid_and_block(rows, -(-columns // TILE) * LANES)
    launch(kernel, grid, block, *arguments)


def grid_and_block(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a grid and a block with a thread for each element, up to a maximum of blocks.

    Axis x runs along a row, axis y down the rows. A block is as wide as a row, up to all its
    threads, and as high as the other threads allow; the grid likewise. All four numbers are powers
    of two, so that few different ones occur.

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
