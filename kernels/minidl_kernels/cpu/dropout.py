"""Dropout on NumPy arrays."""

from typing import Any

import numba
import numpy as np
from numpy import uint32

from minidl_kernels import mask_contract, philox
from minidl_kernels.cpu import jit, pool
from minidl_kernels.mask_contract import LANES, TILE

# A thread takes a long row in parts of so many columns, a multiple of a tile.
PART = 2**14

_philox = jit.inline(philox.philox4x32_10)


def dropout(
    x: np.ndarray,
    rate: float,
    *,
    seed: int,
    stream: int,
    step: int,
    row_offset: int = 0,
    rescale: bool = True,
) -> np.ndarray:
    """Return a copy of `x` in which each element is dropped with probability `rate`.

    A dropped element is +0.0, whatever it was; a kept one is multiplied by 1 / (1 - rate). Which
    ones are dropped is the mask contract's decision, the same for any number of threads.

    Parameters
    ----------
    x : numpy.ndarray
        float32 or float64, of any shape and strides; it is not modified.
    rate : float
        In [0, 1]. At 0 the result is a copy, at 1 it is all zeros.
    seed, stream, step, row_offset : int
        The address of the mask; see `mask_contract.mask_address`.
    rescale : bool
        Whether to multiply what is kept; without, training needs `x * (1 - rate)` at inference.

    Returns
    -------
    numpy.ndarray
        Shape and dtype of `x`, new and C-contiguous.

    Raises
    ------
    TypeError
        If the dtype is another one, or an integer of the address is none.
    ValueError
        If the rate or the address is out of range.

    Examples
    --------
    >>> dropout(np.ones((2, 4), np.float32), 0.5, seed=3, stream=0, step=0)
    array([[2., 0., 2., 0.],
           [0., 2., 2., 2.]], dtype=float32)
    """
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"dropout: dtype must be float32 or float64, received {x.dtype}")
    rate = mask_contract.check_rate(rate)
    address = mask_contract.mask_address(
        x.shape, seed=seed, stream=stream, step=step, row_offset=row_offset
    )
    if rate == 0 or x.size == 0:
        return np.array(x, order="C", subok=False)
    if rate == 1:
        return np.zeros(x.shape, x.dtype)
    scale = mask_contract.scale(rate, x.dtype) if rescale else x.dtype.type(1)
    out = np.empty(x.shape, x.dtype)
    # Numba compiles anew for a read-only or unaligned array: a copy is the smaller cost.
    source = x if x.flags.carray else np.array(x, order="C", subok=False)
    arguments = (
        source.reshape(-1),
        out.reshape(-1),
        address.columns,
        uint32(0),
        uint32(address.row_offset),
        uint32(address.stream),
        uint32(address.step),
        uint32(address.key0),
        uint32(address.key1),
        uint32(mask_contract.threshold(rate)),
        scale,
    )
    pieces = pool.pieces(x.size)
    if pieces == 1:
        _drop(*arguments)
    else:
        _drop_parallel(*arguments, pieces)
    return out


@jit.inline
def drop_row(
    x: Any,
    out: Any,
    words: Any,
    counter0: Any,
    counter1: Any,
    stream: Any,
    step: Any,
    key0: Any,
    key1: Any,
    threshold: Any,
    scale: Any,
) -> None:
    """Drop from one row, or from a piece of one that starts a tile.

    `counter0` and `counter1` are the first two words of the counter of the first element; `words`
    has room for those of a tile.
    """
    zero = np.float32(0)
    for start in range(0, x.size, TILE):
        c0 = uint32(counter0 + uint32(start // 4))
        for lane in range(LANES):
            w0, w1, w2, w3 = _philox(uint32(c0 + uint32(lane)), counter1, stream, step, key0, key1)
            words[lane] = w0
            words[lane + LANES] = w1
            words[lane + 2 * LANES] = w2
            words[lane + 3 * LANES] = w3
        # In slices that start at 0 no index can be negative, or the loop would not vectorise.
        source = x[start : start + TILE]
        target = out[start : start + TILE]
        for i in range(source.size):
            kept = source[i] * scale
            target[i] = kept if words[i] >= threshold else zero


@jit.kernel(announce="dropout for the CPU")
def _drop(
    x: Any,
    out: Any,
    columns: int,
    counter0: Any,
    counter1: Any,
    stream: Any,
    step: Any,
    key0: Any,
    key1: Any,
    threshold: Any,
    scale: Any,
) -> None:
    """Drop from whole rows, or from a piece of one that starts a tile."""
    words = np.empty(TILE, np.uint32)
    for row in range(x.size // columns):
        drop_row(
            x[row * columns : (row + 1) * columns],
            out[row * columns : (row + 1) * columns],
            words,
            counter0,
            uint32(counter1 + uint32(row)),
            stream,
            step,
            key0,
            key1,
            threshold,
            scale,
        )


@jit.kernel(announce="dropout for the CPU on several threads", parallel=True)
def _drop_parallel(
    x: Any,
    out: Any,
    columns: int,
    counter0: Any,
    counter1: Any,
    stream: Any,
    step: Any,
    key0: Any,
    key1: Any,
    threshold: Any,
    scale: Any,
    pieces: int,
) -> None:
    """Drop on several threads, which share the rows, and long rows part by part."""
    parts = (columns + PART - 1) // PART
    for piece in numba.prange(pieces):
        start, stop = pool.share(piece, pieces, x.size // columns * parts, 1)
        for i in range(start, stop):
            row = i // parts
            column = (i - row * parts) * PART
            width = min(PART, columns - column)
            first = row * columns + column
            # A call on slices: written out here, the loop over elements would not vectorise.
            _drop(
                x[first : first + width],
                out[first : first + width],
                width,
                uint32(counter0 + uint32(column // 4)),
                uint32(counter1 + uint32(row)),
                stream,
                step,
                key0,
                key1,
                threshold,
                scale,
            )
