"""Uniform and normal numbers, and noise of them, on CuPy arrays."""

from typing import Any

from numba import cuda
from numba.cuda import libdevice
from numpy import uint32, uint64

from minidl_kernels import mask_contract, philox
from minidl_kernels import normal as numbers
from minidl_kernels.cuda import dropout, jit, launch, scalars
from minidl_kernels.cuda.scalars import number
from minidl_kernels.mask_contract import PackedAddress

_noisy = jit.inline(numbers.noisy_for(scalars.add))
_pair = jit.inline(
    numbers.pair_for(
        libdevice.fadd_rn, libdevice.fsqrt_rn, libdevice.float_as_int, libdevice.int_as_float
    )
)
_philox = jit.inline(philox.philox4x32_10)
_uniform_of = jit.inline(numbers.uniform_of)


def uniform(out: Any, address: PackedAddress) -> None:
    """Write uniform numbers in (0, 1) to `out`, with the bits of `cpu.noise.uniform`.

    Parameters
    ----------
    out : cupy.ndarray
        float32 or float64, C-contiguous and not empty.
    address : PackedAddress
        Its threshold is not used. Step and row offset may be placed.
    """
    _launch(_uniform, out, (), address)


def normal(out: Any, address: PackedAddress) -> None:
    """Write normal numbers to `out`; parameters as of `uniform`."""
    _launch(_normal, out, (), address)


def noise(x: Any, out: Any, sigma: float, address: PackedAddress, *, is_factor: bool) -> None:
    """Write x + sigma n, or x (1 + sigma n), to `out`, where n are normal numbers.

    Parameters
    ----------
    x, out : cupy.ndarray
        Of one shape and dtype, float32 or float64, C-contiguous and not empty; they may be the same
        array.
    sigma : float
        Rounded to that dtype; it may be placed.
    address : PackedAddress
        As in `uniform`.
    is_factor : bool
        Whether to write x (1 + sigma n).
    """
    sigma = scalars.argument(sigma, x.dtype.type)
    _launch(_noise, out, (x.reshape(-1), sigma, uint32(is_factor)), address)


def _launch(kernel: Any, out: Any, inputs: tuple[Any, ...], address: PackedAddress) -> None:
    rows, columns = mask_contract.rows_and_columns(out.shape)
    sizes = uint64(rows), uint64(columns)
    launch.launch_tiles(
        kernel, rows, columns, *inputs, out.reshape(-1), *sizes, scalars.words(address)
    )


@cuda.jit
def _uniform(out: Any, rows: Any, columns: Any, address: Any) -> None:
    _draw_tiles(None, None, None, False, out, rows, columns, address)


@cuda.jit
def _normal(out: Any, rows: Any, columns: Any, address: Any) -> None:
    _draw_tiles(None, None, None, True, out, rows, columns, address)


@cuda.jit
def _noise(
    x: Any, sigma: Any, is_factor: Any, out: Any, rows: Any, columns: Any, address: Any
) -> None:
    _draw_tiles(x, number(sigma), is_factor != 0, True, out, rows, columns, address)


@cuda.jit(device=True)
def _draw_tiles(
    x: Any,
    sigma: Any,
    is_factor: Any,
    is_normal: Any,
    out: Any,
    rows: Any,
    columns: Any,
    address: Any,
) -> None:
    """Write numbers to flat `out`, or, if there is an `x`, noise of normal numbers.

    The threads walk as in `dropout.drop_tiles`. A thread's Philox block makes two pairs of numbers.
    """
    key0, key1, stream = address[0], address[1], address[2]
    step, row_offset = number(address[3]), number(address[4])
    thread_x, thread_y = cuda.grid(2)  # type: ignore[call-arg, var-annotated]
    threads_x, threads_y = cuda.gridsize(2)
    first_tile = uint32(uint32(thread_x) >> uint32(4))
    tile_stride = uint32(uint32(threads_x) >> uint32(4))
    lane = uint32(uint32(thread_x) & uint32(15))
    tiles = uint32((columns + uint64(63)) >> uint64(6))
    whole_tiles = uint32(columns >> uint64(6))
    rest = uint32(uint32(columns) & uint32(63))
    row = uint64(thread_y)
    while row < rows:
        row_start = uint64(row * columns + uint64(lane))
        tile = first_tile
        while tile < tiles:
            width = uint32(64) if tile < whole_tiles else rest
            i = uint64(row_start + uint64(tile) * uint64(64))
            if x is not None:  # decided by Numba's compiler
                x0, x1, x2, x3 = dropout.load_lanes(x, i, lane, width)
            w0, w1, w2, w3 = _philox(
                uint32(uint32(tile * uint32(16)) + lane),
                uint32(row_offset + uint32(row)),
                stream,
                step,
                key0,
                key1,
            )
            if is_normal:  # decided by LLVM, which gets a constant
                y0, y1 = _pair(w0, w1)
                y2, y3 = _pair(w2, w3)
            else:
                y0, y1, y2, y3 = _uniform_of(w0), _uniform_of(w1), _uniform_of(w2), _uniform_of(w3)
            if x is not None:
                y0 = _noisy(x0, y0, sigma, is_factor)
                y1 = _noisy(x1, y1, sigma, is_factor)
                y2 = _noisy(x2, y2, sigma, is_factor)
                y3 = _noisy(x3, y3, sigma, is_factor)
            # Only the stores are guarded: arithmetic under a guard becomes a branch on some GPUs.
            if lane < width:
                out[i] = y0
            if uint32(lane + uint32(16)) < width:
                out[uint64(i + uint64(16))] = y1
            if uint32(lane + uint32(32)) < width:
                out[uint64(i + uint64(32))] = y2
            if uint32(lane + uint32(48)) < width:
                out[uint64(i + uint64(48))] = y3
            tile = uint32(tile + tile_stride)
        row = uint64(row + uint64(threads_y))
