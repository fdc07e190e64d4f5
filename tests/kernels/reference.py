"""The mask contract in plain Python integers, written from the design alone.

It shares no code with `minidl_kernels`, so that both would have to be wrong in the same way.
"""

import itertools

import numpy as np


def philox_words(counter, key):
    """Return the four words of a counter; the state is two Feistel pairs, as in the paper."""
    (r0, l0), (r1, l1) = counter[:2], counter[2:]
    for turn in range(10):
        bump0 = (key[0] + turn * 0x9E3779B9) % 2**32
        bump1 = (key[1] + turn * 0xBB67AE85) % 2**32
        high0, low0 = divmod(r0 * 0xD2511F53, 2**32)
        high1, low1 = divmod(r1 * 0xCD9E8D57, 2**32)
        (r0, l0), (r1, l1) = (high1 ^ l0 ^ bump0, low1), (high0 ^ l1 ^ bump1, low0)
    return r0, l0, r1, l1


def word(seed, stream, step, row, column):
    """Return the random word of one element; `row` is the row in the global batch."""
    run, lane = divmod(column, 16)
    tile, which = divmod(run, 4)
    high, low = divmod(seed, 2**32)
    return philox_words((16 * tile + lane, row, stream, step), (low, high))[which]


def words(shape, *, seed, stream, step, row_offset=0):
    """Return the words of an array, element by element."""
    per_row = 1
    for extent in shape[1:] if len(shape) > 1 else shape:
        per_row *= extent
    rows = shape[0] if len(shape) > 1 else 1
    flat = [
        word(seed, stream, step, row_offset + row, column)
        for row, column in itertools.product(range(rows), range(per_row))
    ]
    return np.array(flat, np.uint32).reshape(shape)


def keep_mask(shape, rate, **address):
    """Return the mask of an array."""
    limit = int(rate * 2**32)
    return np.array([int(w) >= limit for w in words(shape, **address).flat], bool).reshape(shape)
