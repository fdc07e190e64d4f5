"""Uniform and normal numbers, and noise of them, on NumPy arrays."""

import math
import operator
from typing import Any

import numpy as np
from numba import types
from numpy import uint32

from minidl_kernels import normal as numbers
from minidl_kernels.cpu import dropout, jit, launch, pool
from minidl_kernels.mask_contract import LANES, TILE, PackedAddress

# What the kernel writes.
UNIFORM, NORMAL, SUM, PRODUCT = range(4)


def uniform(out: Any, address: PackedAddress) -> None:
    """Write uniform numbers in (0, 1) to `out`.

    Parameters
    ----------
    out : numpy.ndarray
        float32 or float64, C-contiguous and not empty.
    address : PackedAddress
        Its threshold is not used; the number of threads has no influence.

    Examples
    --------
    >>> from minidl_kernels.mask_contract import Address, pack
    >>> out = np.empty((2, 2))
    >>> uniform(out, pack(Address(seed=3, stream=0, step=0), 0.0))
    >>> out.round(3)
    array([[0.817, 0.268],
           [0.419, 0.76 ]])
    """
    launch.launch_rows(_noise, out, out, address, 0.0, UNIFORM)


def normal(out: Any, address: PackedAddress) -> None:
    """Write normal numbers to `out`; parameters as of `uniform`.

    Examples
    --------
    >>> from minidl_kernels.mask_contract import Address, pack
    >>> out = np.empty((2, 2))
    >>> normal(out, pack(Address(seed=3, stream=0, step=0), 0.0))
    >>> out.round(3)
    array([[ 0.473, -1.538],
           [-0.031, -0.669]])
    """
    launch.launch_rows(_noise, out, out, address, 0.0, NORMAL)


def noise(x: Any, out: Any, sigma: float, address: PackedAddress, *, is_factor: bool) -> None:
    """Write x + sigma n, or x (1 + sigma n), to `out`, where n are normal numbers.

    Parameters
    ----------
    x, out : numpy.ndarray
        Of one shape and dtype, float32 or float64, C-contiguous and not empty; they may be the same
        array.
    sigma : float
        Rounded to that dtype; it may be placed.
    address : PackedAddress
        Its threshold is not used; the number of threads has no influence.
    is_factor : bool
        Whether to write x (1 + sigma n).

    Examples
    --------
    >>> from minidl_kernels.mask_contract import Address, pack
    >>> x = np.full((2, 2), 10.0)
    >>> address = pack(Address(seed=3, stream=0, step=0), 0.0)
    >>> noise(x, x, 0.1, address, is_factor=False)
    >>> x.round(3)
    array([[10.047,  9.846],
           [ 9.997,  9.933]])
    """
    launch.launch_rows(_noise, x, out, address, sigma, PRODUCT if is_factor else SUM)


def _bitcast(source: Any, target: Any) -> Any:
    """Return the function that keeps the bits of a number and changes their type.

    Numba's ``view`` of a scalar fails in functions that it inlines.
    """

    def cast(_: Any, value: Any) -> Any:
        def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
            return build.bitcast(values[0], context.get_value_type(target))

        return target(source), generate

    return jit.intrinsic(cast)


_bits = _bitcast(types.float32, types.int32)
_number = _bitcast(types.int32, types.float32)
_pair = jit.inline(numbers.pair_for(operator.add, math.sqrt, _bits, _number))
_noisy = jit.inline(numbers.noisy_for(operator.add))
_uniform_of = jit.inline(numbers.uniform_of)


@jit.inline
def _normal_tile(words: Any, drawn: Any) -> None:
    """Write the normal numbers of the words of a tile."""
    for first in range(0, TILE, 2 * LANES):
        v, n = words[first : first + 2 * LANES], drawn[first : first + 2 * LANES]
        for lane in range(LANES):
            n[lane], n[lane + LANES] = _pair(v[lane], v[lane + LANES])


@jit.kernel
def _noise(
    piece: Any,
    pieces: Any,
    x: Any,
    out: Any,
    rows: Any,
    columns: Any,
    words: Any,
    step: Any,
    row_offset: Any,
    threshold: Any,
    sigma: Any,
    kind: Any,
) -> None:
    """Compute tiles, which are numbered through the array."""
    address = dropout.unpack(words, step, row_offset, threshold)
    key0, key1, stream, step, row_offset, _ = address
    sigma = sigma[0]
    words, drawn = np.empty(TILE, np.uint32), np.empty(TILE, np.float32)
    tiles = (columns + TILE - 1) // TILE
    start, stop = pool.share(piece, pieces, rows * tiles, 1)
    row = start // tiles
    tile = start - row * tiles
    for _ in range(start, stop):
        counter0, counter1 = uint32(LANES * tile), uint32(row_offset + uint32(row))
        dropout.draw_tile(words, counter0, counter1, stream, step, key0, key1)
        # Slices make indices start at 0; possibly negative indices would prevent vectorisation.
        first = row * columns + TILE * tile
        end = first + min(TILE, columns - TILE * tile)
        source, target = x[first:end], out[first:end]
        if kind == UNIFORM:
            for i in range(target.size):
                target[i] = _uniform_of(words[i])
        else:
            _normal_tile(words, drawn)
            if kind == NORMAL:
                for i in range(target.size):
                    target[i] = drawn[i]
            else:
                for i in range(target.size):
                    target[i] = _noisy(source[i], drawn[i], sigma, kind == PRODUCT)
        tile += 1
        if tile == tiles:
            row, tile = row + 1, 0
