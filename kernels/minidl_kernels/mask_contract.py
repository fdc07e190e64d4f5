"""The mask contract: the address of each dropout decision.

One decision is one 32-bit word of Philox4x32-10; its address is (seed, stream, step, row, column):

=================  ==================================================================
key                the seed's low word, the seed's high word
counter[0]         16 * (column // 64) + column % 16
counter[1]         row: position in the global batch, `row_offset` + index along axis 0
counter[2]         stream: number of the random layer
counter[3]         step: number of the training step
word of the block  (column // 16) % 4
=================  ==================================================================

An element is dropped if `word < threshold(rate)`; a kept element is multiplied by `scale(rate)`.
So a row is cut into tiles of 64 columns. In a tile, 16 Philox blocks side by side (the lanes) fill
four runs of 16 neighbouring columns. A CPU computes the lanes in vector registers, a GPU in 16
threads. The number of rows, the number of columns and the dtype have no influence.

This file is the specification, in NumPy; the kernels of `cpu` and `cuda` return the same bits.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy import uint32

from minidl_kernels.checks import check_rate, checked_integer
from minidl_kernels.philox import philox4x32_10
from minidl_kernels.placed import MovingRate, place_of

LANES = 16
TILE = 4 * LANES

SEEDS = 2**64
WORDS = 2**32  # streams, steps and rows
MAX_COLUMNS = 2**34

# Philox blocks that NumPy computes at once: the temporaries stay in a core's cache.
_BLOCKS_AT_ONCE = 2**14


class Address(NamedTuple):
    """Address of the mask of one array.

    Parameters
    ----------
    seed : int
        In [0, 2**64).
    stream, step : int
        In [0, 2**32).
    row_offset : int
        Position of the first row in the global batch; `row_offset` + rows is at most 2**32.
    """

    seed: int
    stream: int
    step: int
    row_offset: int = 0


class PackedAddress(NamedTuple):
    """Address and threshold of a mask as a kernel takes them: six words of 32 bits."""

    key0: int
    key1: int
    stream: int
    step: int
    row_offset: int
    threshold: int


# Drops nothing: no word is below its threshold.
KEEP_ALL = PackedAddress(0, 0, 0, 0, 0, 0)


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the two lengths that the contract sees: axis 0, and all other axes flattened.

    An array with fewer than two axes is one row.

    Examples
    --------
    >>> rows_and_columns((32, 28, 28)), rows_and_columns((10,)), rows_and_columns(())
    ((32, 784), (1, 10), (1, 1))
    """
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def check_address(shape: tuple[int, ...], address: Address | None, who: str = "mask") -> Address:
    """Return the address of an array of this shape, in Python's integers.

    `who` begins the message of an error.

    Raises
    ------
    ValueError
        If an integer is out of its range, or the array has more than 2**34 columns.
    TypeError
        If `address` is not an `Address`, or holds something that is not an integer.

    Examples
    --------
    >>> check_address((32, 784), Address(seed=7, stream=np.int8(1), step=5))
    Address(seed=7, stream=1, step=5, row_offset=0)
    """
    if not isinstance(address, Address):
        raise TypeError(
            f"{who}: expected an Address, got {address!r} of type {type(address).__name__}. "
            "Pass Address(seed, stream, step, row_offset)."
        )
    seed, stream, step, row_offset = address
    checked = Address(
        checked_integer(f"{who}: seed", seed, SEEDS),
        checked_integer(f"{who}: stream", stream, WORDS),
        checked_integer(f"{who}: step", step, WORDS),
        checked_integer(f"{who}: row_offset", row_offset, WORDS),
    )
    rows, columns = rows_and_columns(shape)
    if checked.row_offset + rows > WORDS:
        raise ValueError(
            f"{who}: expected row_offset + rows to be at most 2**32, got {row_offset} + {rows}. "
            "Number the rows of the global batch from 0."
        )
    if columns > MAX_COLUMNS:
        raise ValueError(
            f"{who}: expected at most 2**34 columns, got {columns}. Split the array along an axis."
        )
    return checked


def check_lengths(shape: tuple[int, ...], who: str = "mask") -> tuple[int, ...]:
    """Return a shape in Python's integers, or raise TypeError or ValueError."""
    if not isinstance(shape, (tuple, list)):
        raise TypeError(
            f"{who}: shape: expected a tuple of lengths, got {shape!r}. Pass one like (32, 784)."
        )
    return tuple(checked_integer(f"{who}: length", length, 2**63) for length in shape)


def pack(address: Address, rate: float) -> PackedAddress:
    """Return a checked address and the threshold of a rate below 1, which may be placed.

    Examples
    --------
    >>> pack(Address(seed=2**32 + 7, stream=1, step=5, row_offset=64), 0.5)
    PackedAddress(key0=7, key1=1, stream=1, step=5, row_offset=64, threshold=2147483648)
    """
    seed, stream, step, row_offset = address
    return PackedAddress(seed % WORDS, seed >> 32, stream, step, row_offset, threshold(rate))


def threshold(rate: float) -> int:
    """Return the threshold of a rate: a random word below it drops the element.

    At rate 1 this is 2**32, which no 32-bit word holds: no kernel runs at rate 1.

    Examples
    --------
    >>> threshold(0.5) == 2**31
    True
    """
    rate = check_rate(rate)
    return rate.numbers[0] if isinstance(rate, MovingRate) else int(rate * WORDS)


def scale(rate: float, dtype: Any, rescale: bool = True) -> Any:
    """Return 1 / (1 - rate), the factor of a kept element, as a scalar for arrays of this dtype.

    It is computed in float64 and rounded once: to float64 for float64 arrays, to float32 for
    float32 and float16 arrays. A float16 product is computed in float32 and rounded once. The
    factor of a `MovingRate` may be placed.

    Parameters
    ----------
    rate : float
        In [0, 1).
    dtype : dtype
        float16, float32 or float64.
    rescale : bool
        If False, the factor is 1.

    Raises
    ------
    ValueError
        If the rate is outside [0, 1): at rate 1 nothing is kept.
    TypeError
        If the dtype is another one.

    Examples
    --------
    >>> scale(0.2, np.float32)
    np.float32(1.25)
    """
    if not (rescale and isinstance(rate, MovingRate)):
        return _scale(rate, dtype, rescale)
    factor = rate.numbers[1]
    return _rounded(factor, np.dtype(dtype)) if place_of(factor) is None else factor


@functools.lru_cache(typed=True)  # called at each step
def _scale(rate: float, dtype: Any, rescale: bool) -> Any:
    rate = check_rate(rate)
    if rate == 1:
        raise ValueError("dropout: expected a rate below 1, got 1. At rate 1, use zeros.")
    return _rounded(1 / (1 - rate) if rescale else 1, np.dtype(dtype))


def _rounded(factor: float, dtype: np.dtype) -> Any:
    if dtype == np.float64:
        return np.float64(factor)
    if dtype in (np.float16, np.float32):
        return np.float32(factor)
    raise TypeError(f"dropout: expected float16, float32 or float64, got {dtype}. Cast it first.")


def words(
    rows: int, columns: int, *, seed: int, stream: int, step: int, row_offset: int = 0
) -> np.ndarray:
    """Return the random words of an array of `rows` times `columns`.

    Parameters and errors are those of `Address` and `check_address`.

    Returns
    -------
    numpy.ndarray
        uint32, shape (rows, columns).

    Examples
    --------
    >>> words(2, 3, seed=0, stream=0, step=0).shape
    (2, 3)
    >>> f"{int(words(1, 1, seed=0, stream=0, step=0)[0, 0]):08x}"
    '6627e8d5'
    """
    address = check_address((rows, columns), Address(seed, stream, step, row_offset))
    result = np.empty((rows, columns), np.uint32)
    for place, block in _blocks(rows, columns, pack(address, 0.0)):
        result[place] = block
    return result


def keep_mask(
    shape: tuple[int, ...],
    rate: float,
    *,
    seed: int,
    stream: int,
    step: int,
    row_offset: int = 0,
) -> np.ndarray:
    """Return the mask of dropout: True where an element is kept.

    Parameters
    ----------
    shape : tuple of int
        Axis 0 is the batch; fewer than two axes are one row.
    rate : float
        In [0, 1]. All elements are True at rate 0, all False at rate 1.
    seed : int
        In [0, 2**64).
    stream, step : int
        The numbers of the random layer and of the training step, in [0, 2**32).
    row_offset : int
        The row of the whole batch at which this array begins. It ends at row 2**32 at most.

    Returns
    -------
    numpy.ndarray
        bool, of this shape.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or has the wrong type, or there are more than 2**34 columns.

    Examples
    --------
    >>> keep_mask((2, 4), 0.5, seed=3, stream=0, step=0)
    array([[ True, False,  True, False],
           [False,  True,  True,  True]])
    """
    shape = check_lengths(shape)
    rate = check_rate(rate)
    address = check_address(shape, Address(seed, stream, step, row_offset))
    return np.zeros(shape, np.bool) if rate == 1 else packed_mask(shape, pack(address, rate))


def packed_mask(shape: tuple[int, ...], address: PackedAddress) -> np.ndarray:
    """Return the mask at a packed address, as `keep_mask` does."""
    if address.threshold == 0:
        return np.ones(shape, np.bool)
    rows, columns = rows_and_columns(shape)
    mask = np.empty((rows, columns), np.bool)
    for place, block in _blocks(rows, columns, address):
        mask[place] = block >= address.threshold
    return mask.reshape(shape)


def _blocks(
    rows: int, columns: int, address: PackedAddress
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield the words of an array block by block, each with its place."""
    lanes = min(LANES, columns)  # a row of fewer than 16 columns needs no further lanes
    tiles = -(-columns // TILE)
    tiles_at_once = max(1, min(tiles, _BLOCKS_AT_ONCE // LANES))
    rows_at_once = max(1, _BLOCKS_AT_ONCE // (LANES * tiles_at_once))
    for row in range(0, rows, rows_at_once):
        row_end = min(row + rows_at_once, rows)
        for tile in range(0, tiles, tiles_at_once):
            tile_end = min(tile + tiles_at_once, tiles)
            column, column_end = TILE * tile, min(TILE * tile_end, columns)
            block = tile_words(address, np.arange(row, row_end), np.arange(tile, tile_end), lanes)
            block = block.reshape(row_end - row, -1)[:, : column_end - column]
            yield (slice(row, row_end), slice(column, column_end)), block


def tile_words(
    address: PackedAddress, rows: np.ndarray, tiles: np.ndarray, lanes: int
) -> np.ndarray:
    """Return the words of whole tiles: uint32, shape (rows, tiles, 4, lanes)."""
    counter0 = LANES * tiles[:, np.newaxis] + np.arange(lanes)
    counter1 = (address.row_offset + rows)[:, np.newaxis, np.newaxis]
    block = philox4x32_10(
        counter0.astype(np.uint32),
        counter1.astype(np.uint32),
        uint32(address.stream),
        uint32(address.step),
        uint32(address.key0),
        uint32(address.key1),
    )
    return np.stack(block, axis=2)
