"""Dropout on NumPy arrays."""

from typing import Any

import numpy as np
from numpy import uint32

from minidl_kernels import formulas, mask_contract, philox
from minidl_kernels.cpu import jit, launch, pool
from minidl_kernels.mask_contract import LANES, TILE

# Number of columns in the parts of long rows that threads share, a multiple of a tile.
PART = 2**14

_drop_element = jit.inline(formulas.drop)
_philox = jit.inline(philox.philox4x32_10)


def dropout(x: Any, out: Any, address: mask_contract.PackedAddress, scale: Any) -> None:
    """Write `x` to `out` with elements dropped.

    Parameters
    ----------
    x, out : numpy.ndarray
        Of one shape and dtype, float32 or float64, C-contiguous and not empty; they may be the same
        array.
    address : PackedAddress
        Which elements are dropped; the number of threads has no influence.
    scale : numpy scalar
        Factor of the kept elements, of the dtype of `x`. It may be placed.

    Examples
    --------
    >>> x = np.ones((2, 4), np.float32)
    >>> address = mask_contract.pack(mask_contract.Address(seed=3, stream=0, step=0), 0.5)
    >>> dropout(x, x, address, np.float32(2))
    >>> x
    array([[2., 0., 2., 0.],
           [0., 2., 2., 2.]], dtype=float32)
    """
    launch.launch_rows(_dropout, x, out, address, scale)


@jit.inline
def unpack(words: Any, step: Any, row_offset: Any, threshold: Any) -> tuple[Any, ...]:
    """Return the words of an address, to be held in registers."""
    return words[0], words[1], words[2], step[0], row_offset[0], threshold[0]


@jit.inline
def draw_tile(
    words: Any, counter0: Any, counter1: Any, stream: Any, step: Any, key0: Any, key1: Any
) -> None:
    """Write the words of a tile, whose first one has the counter ``counter0``."""
    for lane in range(LANES):
        c0 = uint32(counter0 + uint32(lane))
        w0, w1, w2, w3 = _philox(c0, counter1, stream, step, key0, key1)
        words[lane] = w0
        words[lane + LANES] = w1
        words[lane + 2 * LANES] = w2
        words[lane + 3 * LANES] = w3


@jit.inline
def drop_row(x: Any, out: Any, row: Any, column: Any, address: Any, scale: Any, words: Any) -> None:
    """Drop from one row, or from a part of it.

    `row` and `column` are the place of the first element, `column` a multiple of a tile; `words`
    has room for those of a tile.
    """
    key0, key1, stream, step, row_offset, threshold = address
    counter0, counter1 = uint32(column // 4), uint32(row_offset + uint32(row))
    for start in range(0, x.size, TILE):
        c0 = uint32(counter0 + uint32(start // 4))
        draw_tile(words, c0, counter1, stream, step, key0, key1)
        # Slices make indices start at 0; possibly negative indices would prevent vectorisation.
        source = x[start : start + TILE]
        target = out[start : start + TILE]
        for i in range(source.size):
            target[i] = _drop_element(source[i], words[i], threshold, scale)


@jit.inline
def drop_column(x: Any, out: Any, row: Any, address: Any, scale: Any, words: Any) -> None:
    """Drop from rows of one element, as decisions for whole samples are; at most a tile of them.

    A tile for each row would compute 64 words and use one.
    """
    key0, key1, stream, step, row_offset, threshold = address
    counter1, zero = uint32(row_offset + uint32(row)), uint32(0)
    for i in range(x.size):
        words[i] = _philox(zero, uint32(counter1 + uint32(i)), stream, step, key0, key1)[0]
    for i in range(x.size):
        out[i] = _drop_element(x[i], words[i], threshold, scale)


@jit.kernel
def _dropout(
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
    scale: Any,
) -> None:
    """Drop from parts of rows, which are numbered through the array."""
    address, factor = unpack(words, step, row_offset, threshold), scale[0]
    drawn = np.empty(TILE, np.uint32)
    if columns == 1:
        start, stop = pool.share(piece, pieces, rows, TILE)
        for row in range(start, stop, TILE):
            end = min(row + TILE, stop)
            drop_column(x[row:end], out[row:end], row, address, factor, drawn)
        return
    parts = (columns + PART - 1) // PART
    start, stop = pool.share(piece, pieces, rows * parts, 1)
    row = start // parts
    column = (start - row * parts) * PART
    for _ in range(start, stop):
        first = row * columns + column
        end = first + min(PART, columns - column)
        drop_row(x[first:end], out[first:end], row, column, address, factor, drawn)
        column += PART
        if column >= columns:
            row, column = row + 1, 0
