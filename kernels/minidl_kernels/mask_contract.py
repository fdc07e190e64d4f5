"""The mask contract: every dropout decision has an address.

One decision is one 32-bit word of Philox4x32-10; its address is (seed, stream, step, row, column):

=================  ==================================================================
key                the seed's low word, the seed's high word
counter[0]         16 * (column // 64) + column % 16
counter[1]         row: position in the global batch, `row_offset` + index along axis 0
counter[2]         stream: which random layer
counter[3]         step: which training step
word of the block  (column // 16) % 4
=================  ==================================================================

An element is dropped where `word < threshold(rate)`; what is kept is multiplied by `scale(rate)`.
So a row is cut into tiles of 64 columns, and 16 Philox blocks side by side (the lanes) fill a tile
with four runs of 16 neighbouring columns: a CPU computes the lanes in vector registers, a GPU in 16
threads. Neither the number of rows or columns nor the dtype has any part in it.

This file is the specification, in NumPy; the kernels of `cpu` and `cuda` must give the same bits.
"""

import functools
import math
import operator
from collections.abc import Iterator
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy import uint32

from minidl_kernels.philox import philox4x32_10

LANES = 16
TILE = 4 * LANES

SEEDS = 2**64
WORDS = 2**32  # streams, steps and rows
MAX_COLUMNS = 2**34

# How many Philox blocks NumPy computes at once: the temporaries stay in a core's cache.
_BLOCKS_AT_ONCE = 2**14


class MaskAddress(NamedTuple):
    """Where the mask of one array lies: the contract's integers, checked."""

    rows: int
    columns: int
    row_offset: int
    stream: int
    step: int
    key0: int
    key1: int


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape that the contract sees: axis 0, and all other axes flattened in C order.

    An array with fewer than two axes is one row.

    Examples
    --------
    >>> rows_and_columns((32, 28, 28)), rows_and_columns((10,)), rows_and_columns(())
    ((32, 784), (1, 10), (1, 1))
    """
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def mask_address(
    shape: tuple[int, ...], *, seed: int, stream: int, step: int, row_offset: int = 0
) -> MaskAddress:
    """Return the address of the mask of an array of this shape.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    seed : int
        In [0, 2**64).
    stream, step : int
        In [0, 2**32).
    row_offset : int
        Global index of the first row; `row_offset + rows` is at most 2**32.

    Raises
    ------
    ValueError
        If an integer is out of its range, or the array has more than 2**34 columns.
    TypeError
        If one is not an integer; NumPy's integers are, a bool is not.

    Examples
    --------
    >>> mask_address((32, 784), seed=2**32 + 7, stream=1, step=5, row_offset=64)
    MaskAddress(rows=32, columns=784, row_offset=64, stream=1, step=5, key0=7, key1=1)
    """
    seed = checked_integer("mask: seed", seed, SEEDS)
    stream = checked_integer("mask: stream", stream, WORDS)
    step = checked_integer("mask: step", step, WORDS)
    row_offset = checked_integer("mask: row_offset", row_offset, WORDS)
    rows, columns = rows_and_columns(shape)
    if row_offset + rows > WORDS:
        raise ValueError(
            f"mask: row_offset + rows must be at most 2**32, received {row_offset} + {rows}"
        )
    if columns > MAX_COLUMNS:
        raise ValueError(f"mask: an array may have at most 2**34 columns, received {columns}")
    return MaskAddress(rows, columns, row_offset, stream, step, seed % 2**32, seed >> 32)


def checked_integer(name: str, value: Any, stop: int) -> int:
    """Return `value` as a Python int.

    Raises
    ------
    ValueError
        If it is not in [0, stop).
    TypeError
        If it is not an integer; NumPy's integers are, a bool is not.
    """
    if type(value) is int and 0 <= value < stop:  # nearly always; it is asked in each step
        return value
    if isinstance(value, (bool, np.bool)) or not hasattr(value, "__index__"):
        raise TypeError(
            f"{name} must be an integer, received {value!r} of type {type(value).__name__}"
        )
    integer = operator.index(value)
    if not 0 <= integer < stop:
        raise ValueError(f"{name} must be in [0, 2**{stop.bit_length() - 1}), received {integer}")
    return integer


def check_rate(rate: float) -> float:
    """Return `rate`, the probability of being dropped, as a Python float.

    Raises
    ------
    ValueError
        If it is outside [0, 1] or NaN.
    TypeError
        If it is not a real number; a bool is not.

    Examples
    --------
    >>> check_rate(1.5)
    Traceback (most recent call last):
    ValueError: dropout: rate must be in [0, 1], received 1.5
    """
    if type(rate) is float and 0 <= rate <= 1:  # nearly always; it is asked in each step
        return rate
    if isinstance(rate, (bool, np.bool)) or not isinstance(rate, Real):
        raise TypeError(
            f"dropout: rate must be a number in [0, 1], "
            f"received {rate!r} of type {type(rate).__name__}"
        )
    if not 0 <= rate <= 1:
        raise ValueError(f"dropout: rate must be in [0, 1], received {rate}")
    return float(rate)


def threshold(rate: float) -> int:
    """Return how many of the 2**32 words drop an element: those below it do.

    At rate 1 this is 2**32, which no 32-bit integer holds: a kernel treats rate 1 apart.

    Examples
    --------
    >>> threshold(0.5) == 2**31
    True
    """
    return int(check_rate(rate) * WORDS)


@functools.lru_cache(typed=True)  # it is asked in each step
def scale(rate: float, dtype: Any) -> Any:
    """Return 1 / (1 - rate), the factor of a kept element, for arrays of this dtype.

    It is computed in float64 and rounded once: to float64 for float64 arrays, to float32 for
    float32 and for float16 (whose product is made in float32 and rounded to float16 once).

    Raises
    ------
    ValueError
        If the rate is outside [0, 1): at rate 1 nothing is kept.

    Examples
    --------
    >>> scale(0.2, np.float32)
    np.float32(1.25)
    """
    rate = check_rate(rate)
    if rate == 1:
        raise ValueError("dropout: there is no scale at rate 1, where nothing is kept")
    return factor(1 / (1 - rate), dtype)


def factor(value: float, dtype: Any) -> Any:
    """Return a factor as the scalar that multiplies arrays of this dtype.

    Raises
    ------
    TypeError
        If the dtype is not float16, float32 or float64.
    """
    dtype = np.dtype(dtype)
    if dtype == np.float64:
        return np.float64(value)
    if dtype in (np.float16, np.float32):
        return np.float32(value)
    raise TypeError(f"dropout: dtype must be float16, float32 or float64, received {dtype}")


def words(
    rows: int, columns: int, *, seed: int, stream: int, step: int, row_offset: int = 0
) -> np.ndarray:
    """Return the random words of an array of `rows` times `columns`.

    The arguments and errors are those of `mask_address`.

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
    address = mask_address(
        (rows, columns), seed=seed, stream=stream, step=step, row_offset=row_offset
    )
    result = np.empty((rows, columns), np.uint32)
    for place, block in _blocks(address):
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

    The arguments and errors are those of `mask_address` and `check_rate`; a shape that is not a
    tuple or list of lengths is a TypeError.

    Returns
    -------
    numpy.ndarray
        bool, of the given shape; all True at rate 0, all False at rate 1.

    Examples
    --------
    >>> keep_mask((2, 4), 0.5, seed=3, stream=0, step=0)
    array([[ True, False,  True, False],
           [False,  True,  True,  True]])
    """
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"mask: shape must be a tuple of lengths, as (32, 784), received {shape!r}")
    shape = tuple(checked_integer("mask: a length", length, 2**63) for length in shape)
    dropped = threshold(rate)
    address = mask_address(shape, seed=seed, stream=stream, step=step, row_offset=row_offset)
    mask = np.empty((address.rows, address.columns), np.bool)
    for place, block in _blocks(address):
        mask[place] = block >= dropped
    return mask.reshape(shape)


def _blocks(address: MaskAddress) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield the words of an array piece by piece, each with its place."""
    rows, columns = address.rows, address.columns
    lanes = min(LANES, columns)  # a row of fewer than 16 columns needs no further lanes
    tiles = -(-columns // TILE)
    tiles_at_once = max(1, min(tiles, _BLOCKS_AT_ONCE // LANES))
    rows_at_once = max(1, _BLOCKS_AT_ONCE // (LANES * tiles_at_once))
    for row in range(0, rows, rows_at_once):
        row_end = min(row + rows_at_once, rows)
        for tile in range(0, tiles, tiles_at_once):
            tile_end = min(tile + tiles_at_once, tiles)
            column, column_end = TILE * tile, min(TILE * tile_end, columns)
            block = _tile_words(address, np.arange(row, row_end), np.arange(tile, tile_end), lanes)
            block = block.reshape(row_end - row, -1)[:, : column_end - column]
            yield (slice(row, row_end), slice(column, column_end)), block


def _tile_words(
    address: MaskAddress, rows: np.ndarray, tiles: np.ndarray, lanes: int
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
