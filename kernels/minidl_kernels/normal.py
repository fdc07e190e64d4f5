"""Uniform and normal numbers from random words, with the same bits on every device.

They use correctly rounded operations only: sums, products, square roots and operations on integers.
A device's own logarithm and cosine would differ in their last bits. A fused multiply-add would
round once where NumPy rounds twice, so each sum that follows a product is the function `add`, by
which a device rounds it alone.

The functions are plain Python on typed NumPy constants. They run on NumPy arrays, and the same
source is compiled for the CPU and for CUDA. Numba gives integers of 32 bits 64 bits in arithmetic:
the casts cut them.
"""

from collections.abc import Callable
from typing import Any

from numpy import float32, int32, uint32

HALF, ONE, TWO = float32(0.5), float32(1), float32(2)

# Of uniform numbers: 23 bits, so that the half below is exact.
DROPPED_BITS, STEP = uint32(9), float32(2.0**-23)

# Of normal numbers: unit of the radius' u, and of the angle in quarters of a turn.
UNIT, QUARTER_UNIT = float32(2.0**-31), float32(2.0**-32)
EIGHTH_OF_A_TURN = uint32(2**29)
SIGN, ALL_BUT_SIGN = int32(-(2**31)), int32(2**31 - 1)
ONE_BIT, TWO_BITS, SIGN_BIT, MANTISSA_BITS = uint32(1), uint32(2), int32(31), int32(23)
ROOT_OF_HALF = int32(0x3F3504F3)  # the bits of sqrt(1/2)
LN_2 = float32(0.6931471805599453)

# Minimax polynomials, lowest power first. -log(1 + f) / f for f in [sqrt(1/2) - 1, sqrt(2) - 1],
# relative error 1.7e-7:
L0, L1, L2, L3 = map(float32, (-0.99999994, 0.50000364, -0.3333506, 0.24969909))
L4, L5, L6, L7 = map(float32, (-0.19900161, 0.17250828, -0.1622262, 0.1010695))
# sin(pi a / 2) / a and cos(pi a / 2) in powers of a^2, for a in [-1/2, 1/2]; relative errors 3.2e-9
# and 2.8e-8, before the coefficients are rounded:
S0, S1, S2, S3 = map(float32, (1.5707964, -0.6459635, 0.07968003, -0.0046016583))
C0, C1, C2, C3 = map(float32, (1.0, -1.233697, 0.25359863, -0.020408353))


def uniform_of(word: Any) -> Any:
    """Return a uniform number in (0, 1) from a word: ((word >> 9) + 1/2) / 2^23, exact.

    Parameters
    ----------
    word : uint32
        A scalar or an array.

    Returns
    -------
    float32
        At least 2^-24 and at most 1 - 2^-24. With a bit more, the largest would round to 1.
    """
    return (float32(int32(word >> DROPPED_BITS)) + HALF) * STEP


def pair_for(add: Any, root: Any, bits: Any, number: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return the function of two words that returns two normal numbers.

    G. E. P. Box, M. E. Muller: "A note on the generation of random normal deviates", Annals of
    Mathematical Statistics 29 (1958) 610-611: sqrt(-2 ln u) times the cosine and the sine of a
    random angle. u is ((word0 >> 1) + 1/2) / 2^31, the angle word1 / 2^32 of a turn. The relative
    error is at most 4e-7, the largest number 6.66.

    Parameters
    ----------
    add, root : callable
        Sum and square root of float32, each rounded once by itself.
    bits, number : callable
        The bits of a float32 as an int32, and the float32 of such bits.
    """

    def pair(word0: Any, word1: Any) -> tuple[Any, Any]:
        # The logarithm. u = (1 + f) * 2^e, and 1 + f lies around 1, between roots of 1/2 and 2.
        k = int32(word0 >> ONE_BIT)
        u = bits(add(float32(k), HALF) * UNIT)
        e = int32(int32(u - ROOT_OF_HALF) >> MANTISSA_BITS)
        f = bits(add(number(int32(u - int32(e << MANTISSA_BITS))), -ONE))
        # For e = 0 the result is near 0, and f needs all bits of word0: it is -(1 - u), exact
        # but for one rounding. `e >> 31` is all ones for a negative e and else 0.
        near = bits(add(float32(int32(k ^ ALL_BUT_SIGN)), HALF) * -UNIT)
        f = number(int32(near ^ int32(int32(f ^ near) & int32(e >> SIGN_BIT))))
        p = add(L7 * f, L6)
        p = add(p * f, L5)
        p = add(p * f, L4)
        p = add(p * f, L3)
        p = add(p * f, L2)
        p = add(p * f, L1)
        p = add(p * f, L0)
        radius = root(add(p * f, -(float32(e) * LN_2)) * TWO)

        # Sine and cosine of the angle a from the nearest quarter of a turn, in quarters.
        a = float32(int32(uint32(word1 << TWO_BITS))) * QUARTER_UNIT
        z = a * a
        s = add(S3 * z, S2)
        s = add(s * z, S1)
        s = add(s * z, S0)
        sine = bits(s * a)
        c = add(C3 * z, C2)
        c = add(c * z, C1)
        cosine = bits(add(c * z, C0))

        # Turn them by that quarter: swap them in the quarters 1 and 3; the cosine is negative in 1
        # and 2, the sine in 2 and 3. The two highest bits of `turn` are the quarter.
        turn = uint32(word1 + EIGHTH_OF_A_TURN)
        odd = int32(int32(uint32(turn << ONE_BIT)) >> SIGN_BIT)
        swap = int32(int32(sine ^ cosine) & odd)
        left = int32(int32(uint32(turn ^ uint32(turn << ONE_BIT))) & SIGN)
        down = int32(int32(turn) & SIGN)
        x = number(int32(int32(cosine ^ swap) ^ left))
        y = number(int32(int32(sine ^ swap) ^ down))
        return x * radius, y * radius

    return pair


def noisy_for(add: Any) -> Callable[..., Any]:
    """Return the function that adds noise to a number, or multiplies it by noise around 1.

    Parameters
    ----------
    add : callable
        Sum, rounded by itself.
    """

    def noisy(x: Any, n: Any, sigma: Any, is_factor: Any) -> Any:
        """Return x + sigma n, or x (1 + sigma n): `sigma` of the dtype of `x`, `n` float32."""
        y = add(ONE if is_factor else x, sigma * n)
        return y * x if is_factor else y

    return noisy
