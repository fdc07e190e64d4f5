"""Philox4x32-10, the counter-based random generator behind every mask.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: "Parallel random numbers: as easy as 1, 2, 3",
SC '11. A 128-bit counter and a 64-bit key give 128 random bits; there is no state.

The function is plain Python on typed NumPy constants. It runs on NumPy scalars and arrays, and the
same source is compiled for the CPU and for CUDA. Each cast has a reason:

- Compiled by Numba, `uint32 op uint32` has 64 bits and does not wrap; in NumPy it has 32 bits and
  warns if a scalar wraps. Here all arithmetic has 64 bits, in which nothing overflows. The result
  is cut to 32 bits where the algorithm requires it. Both then agree.
- On a CPU, the words that are not multiplied next stay in 64 bits. LLVM then keeps them in vector
  lanes of 64 bits, as `vpmuludq` needs them. Held in 32 bits, they would be packed and unpacked in
  each round, and the loop would run at half the speed.
- On a GPU, the words that are multiplied next are cut to 32 bits: the code has `mul.wide.u32`.
"""

from typing import Any

from numpy import uint32, uint64

MULTIPLIER_0 = uint64(0xD2511F53)
MULTIPLIER_1 = uint64(0xCD9E8D57)
WEYL_0 = uint64(0x9E3779B9)  # the golden ratio
WEYL_1 = uint64(0xBB67AE85)  # sqrt(3) - 1
LOW_WORD = uint64(0xFFFFFFFF)
WORD_BITS = uint64(32)


def philox4x32_10(c0: Any, c1: Any, c2: Any, c3: Any, key0: Any, key1: Any) -> tuple[Any, ...]:
    """Return the four random words of one counter.

    Parameters
    ----------
    c0, c1, c2, c3 : uint32
        Words of the counter, lowest first: scalars, or arrays that broadcast.
    key0, key1 : uint32
        Words of the key, lowest first.

    Returns
    -------
    tuple of four uint32
        The words, lowest first; arrays if an argument is an array.

    Examples
    --------
    >>> zero = uint32(0)
    >>> [f"{int(word):08x}" for word in philox4x32_10(zero, zero, zero, zero, zero, zero)]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0 = uint32(c0)
    c1 = uint64(c1)
    c2 = uint32(c2)
    c3 = uint64(c3)
    for _ in range(10):
        product0 = uint64(c0) * MULTIPLIER_0
        product1 = uint64(c2) * MULTIPLIER_1
        c0 = uint32(c1 ^ uint64(key0) ^ (product1 >> WORD_BITS))
        c1 = product1 & LOW_WORD
        c2 = uint32(c3 ^ uint64(key1) ^ (product0 >> WORD_BITS))
        c3 = product0 & LOW_WORD
        key0 = uint32(uint64(key0) + WEYL_0)
        key1 = uint32(uint64(key1) + WEYL_1)
    return c0, uint32(c1), c2, uint32(c3)
