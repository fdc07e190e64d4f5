"""Philox4x32-10 against the known answers of its authors."""

import numba
import numpy as np
import pytest
from minidl_kernels.philox import philox4x32_10

# Random123 1.x, tests/kat_vectors, the lines "philox4x32 10": counter, key, result.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def _words(text):
    return [np.uint32(int(word, 16)) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_of_scalars_gives_the_known_answers(counter, key, answer):
    result = philox4x32_10(*_words(counter), *_words(key))
    assert list(result) == _words(answer)
    assert all(type(word) is np.uint32 for word in result)


def test_philox_of_arrays_gives_the_known_answers():
    columns = [
        np.array(column, np.uint32)
        for column in zip(*(_words(f"{c} {k}") for c, k, _ in KNOWN_ANSWERS), strict=True)
    ]
    result = philox4x32_10(*columns)
    assert all(word.dtype == np.uint32 for word in result)
    np.testing.assert_array_equal(np.stack(result, axis=1), [_words(a) for *_, a in KNOWN_ANSWERS])


def test_philox_compiled_for_the_cpu_gives_the_known_answers():
    from minidl_kernels.cpu import dropout

    philox = dropout._philox

    @numba.njit
    def caller(c0, c1, c2, c3, key0, key1):
        return philox(c0, c1, c2, c3, key0, key1)

    for counter, key, answer in KNOWN_ANSWERS:
        assert list(caller(*_words(counter), *_words(key))) == _words(answer)
    (signature,) = caller.nopython_signatures
    assert signature.return_type == numba.types.UniTuple(numba.uint32, 4)
