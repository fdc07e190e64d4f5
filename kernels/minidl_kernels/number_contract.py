"""The contract of numbers: the address of each uniform and normal number.

A number at (seed, stream, step, row, column) is made of words of Philox4x32-10, which have the
addresses of `mask_contract`. Like the masks, the numbers never change: not with the device, the
machine, the number of threads or the split of a batch, and not with the version of minidl.

uniform
    Of the element's own word: ((word >> 9) + 1/2) / 2^23, a float32 in (0, 1). Neither 0 nor 1
    occurs, so logarithms of u and 1 - u are finite.
normal
    Two words of one Philox block make two numbers, by Box and Muller's method in `normal`. Word
    j = (column // 16) % 4 of its block belongs to a column. The words 0 and 1 make the numbers of
    the columns with j = 0 and 1; 2 and 3 likewise. So the partner of a column is column XOR 16. An
    even j has the number with the cosine, an odd j the one with the sine. The partner may lie
    beyond the end of the row: its word is drawn all the same.

The numbers are float32. For a float64 array they are widened: its noise has the same numbers. For a
float16 array, the arithmetic is float32 and its result is rounded once.

This file is the specification, in NumPy; the kernels of `cpu` and `cuda` return the same bits.
"""

import operator
from typing import Any

import numpy as np
from numpy import float32, int32, uint32

from minidl_kernels import mask_contract
from minidl_kernels.checks import checked_integer
from minidl_kernels.mask_contract import LANES, MAX_COLUMNS, TILE, WORDS, Address, PackedAddress
from minidl_kernels.normal import noisy_for, pair_for, uniform_of
from minidl_kernels.philox import philox4x32_10

_pair = pair_for(operator.add, np.sqrt, lambda x: x.view(int32), lambda x: x.view(float32))
_noisy = noisy_for(operator.add)


def word(seed: int, stream: int, step: int, row: int, column: int) -> int:
    """Return the random word that decides an element, in [0, 2**32).

    Parameters
    ----------
    seed : int
        In [0, 2**64).
    stream, step : int
        In [0, 2**32).
    row : int
        Position in the global batch, in [0, 2**32).
    column : int
        Index among all other axes, flattened: in [0, 2**34).

    Raises
    ------
    TypeError, ValueError
        If one is not an integer, or is out of range.

    Examples
    --------
    >>> f"{word(0, 0, 0, 0, 0):08x}"
    '6627e8d5'
    """
    row = checked_integer("word: row", row, WORDS)
    column = checked_integer("word: column", column, MAX_COLUMNS)
    address = mask_contract.check_address((1, 1), Address(seed, stream, step, row), "word")
    key0, key1, *_ = mask_contract.pack(address, 0.0)
    counter0 = LANES * (column // TILE) + column % LANES
    counter = counter0, row, address.stream, address.step
    block = philox4x32_10(*map(uint32, (*counter, key0, key1)))
    return int(block[column // LANES % 4])


def uniform(
    shape: tuple[int, ...], *, seed: int, stream: int, step: int, row_offset: int = 0
) -> np.ndarray:
    """Return uniform numbers in (0, 1).

    Parameters
    ----------
    shape : tuple of int
        Axis 0 is the batch; fewer than two axes are one row.
    seed : int
        In [0, 2**64).
    stream, step : int
        The numbers of the random layer and of the training step, in [0, 2**32).
    row_offset : int
        The row of the whole batch at which this array begins. It ends at row 2**32 at most.

    Returns
    -------
    numpy.ndarray
        float32, of this shape.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range or has the wrong type.

    Examples
    --------
    >>> uniform((2, 2), seed=3, stream=0, step=0).round(3)
    array([[0.817, 0.268],
           [0.419, 0.76 ]], dtype=float32)
    """
    return packed_uniform(*_checked("uniform", shape, Address(seed, stream, step, row_offset)))


def normal(
    shape: tuple[int, ...], *, seed: int, stream: int, step: int, row_offset: int = 0
) -> np.ndarray:
    """Return normal numbers with mean 0 and variance 1; arguments and errors as of `uniform`.

    Examples
    --------
    >>> normal((2, 2), seed=3, stream=0, step=0).round(3)
    array([[ 0.473, -1.538],
           [-0.031, -0.669]], dtype=float32)
    """
    return packed_normal(*_checked("normal", shape, Address(seed, stream, step, row_offset)))


def _checked(
    who: str, shape: tuple[int, ...], address: Address
) -> tuple[tuple[int, ...], PackedAddress]:
    shape = mask_contract.check_lengths(shape, who)
    return shape, mask_contract.pack(mask_contract.check_address(shape, address, who), 0.0)


def packed_uniform(shape: tuple[int, ...], address: PackedAddress) -> np.ndarray:
    """Return uniform numbers at a packed address, as `uniform` does."""
    words = _tiles(shape, address)
    return _cut(uniform_of(words), shape)


def packed_normal(shape: tuple[int, ...], address: PackedAddress) -> np.ndarray:
    """Return normal numbers at a packed address, as `normal` does."""
    words = _tiles(shape, address)
    numbers = np.empty(words.shape, float32)
    numbers[:, :, 0::2], numbers[:, :, 1::2] = _pair(words[:, :, 0::2], words[:, :, 1::2])
    return _cut(numbers, shape)


def add_noise(x: Any, n: Any, sigma: Any, *, is_factor: bool) -> Any:
    """Return x + sigma n, or x (1 + sigma n), in the dtype of `x` and `sigma`."""
    return _noisy(x, n, sigma, is_factor)


def _tiles(shape: tuple[int, ...], address: PackedAddress) -> np.ndarray:
    """Return the words of whole tiles: shape (rows, tiles, 4, LANES)."""
    rows, columns = mask_contract.rows_and_columns(shape)
    tiles = np.arange(-(-columns // TILE))
    return mask_contract.tile_words(address, np.arange(rows), tiles, LANES)


def _cut(numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the numbers of whole tiles without those beyond the end of a row."""
    rows, tiles, *_ = numbers.shape
    columns = mask_contract.rows_and_columns(shape)[1]
    return np.ascontiguousarray(numbers.reshape(rows, tiles * TILE)[:, :columns]).reshape(shape)
