"""The contract of numbers: addresses, frozen vectors, exactness and moments."""

import hashlib
import math
import statistics
import subprocess
import sys

import numba
import numpy as np
import pytest
import reference
from minidl_kernels import number_contract
from minidl_kernels.cpu import noise

DRAWS = {"uniform": number_contract.uniform, "normal": number_contract.normal}
EACH_DRAW = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
ADDRESS = {"seed": 2**40 + 17, "stream": 3, "step": 2**32 - 1, "row_offset": 2**31}


def pair_in_float64(word0, word1):
    """Return Box and Muller's two numbers, from the words alone."""
    u = ((int(word0) >> 1) + 0.5) / 2**31
    radius, angle = math.sqrt(-2 * math.log(u)), 2 * math.pi * int(word1) / 2**32
    return radius * math.cos(angle), radius * math.sin(angle)


# ------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize("column", [0, 15, 16, 31, 48, 63, 64, 100, 2**34 - 1])
def test_word_is_that_of_the_mask_contract(column):
    for address in ((0, 0, 0, 0), (2**64 - 1, 2**32 - 1, 2**32 - 1, 2**32 - 1), (2**40, 1, 2, 3)):
        assert number_contract.word(*address, column) == reference.word(*address, column)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 25), (2, 130)], ids=str)
def test_uniform_number_has_the_upper_bits_of_its_word(shape):
    words = reference.words(shape, **ADDRESS).astype(int)
    expected = ((words >> 9) + 0.5) / 2**23  # exact in float64
    received = number_contract.uniform(shape, **ADDRESS)
    assert received.dtype == np.float32
    np.testing.assert_array_equal(received.astype(float), expected, strict=True)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 25), (2, 130)], ids=str)
def test_normal_number_is_made_of_two_words_of_its_block(shape):
    received = number_contract.normal(shape, **ADDRESS)
    assert received.dtype == np.float32
    rows, columns = (shape[0] if len(shape) > 1 else 1), math.prod(shape[1 if shape[1:] else 0 :])
    address = ADDRESS["seed"], ADDRESS["stream"], ADDRESS["step"]
    for row in range(rows):
        for column in range(columns):
            place = ADDRESS["row_offset"] + row
            first = reference.word(*address, place, column & ~16)
            second = reference.word(*address, place, column | 16)
            expected = pair_in_float64(first, second)[column // 16 % 2]
            number = received.reshape(rows, columns)[row, column]
            assert math.isclose(number, expected, rel_tol=4e-7, abs_tol=1e-8)


@EACH_DRAW
def test_number_does_not_depend_on_the_size_of_the_array(draw):
    whole = draw((8, 100), **ADDRESS)
    for start, stop in ((0, 3), (3, 4), (4, 8)):
        part = draw((stop - start, 77), **ADDRESS | {"row_offset": ADDRESS["row_offset"] + start})
        np.testing.assert_array_equal(part, whole[start:stop, :77], strict=True)


@EACH_DRAW
@pytest.mark.parametrize("part", ADDRESS)
def test_number_depends_on_each_part_of_its_address(part, draw):
    other = draw((2, 9), **ADDRESS | {part: ADDRESS[part] - 1})
    assert not np.array_equal(draw((2, 9), **ADDRESS), other)


@EACH_DRAW
@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)])
def test_empty_array_is_empty(shape, draw):
    assert draw(shape, **ADDRESS).shape == shape


# ------------------------------------------------------------------------------ frozen vectors


FIRST_UNIFORM = [
    "3f51104d",
    "3e8954aa",
    "3f44b04f",
    "3e0de79c",
    "3ed68572",
    "3f4283cb",
    "3f7ef453",
    "3f0822f3",
]


def test_first_numbers_never_change():
    normal = number_contract.normal((2, 4), seed=3, stream=0, step=0)
    assert [f"{bits:08x}" for bits in normal.view("uint32").ravel()] == [
        "3ef1f29b",
        "bfc4dd35",
        "3e23c59d",
        "3f8e4de1",
        "bcfc8d16",
        "bf2b5951",
        "3cda92ef",
        "bf8644bd",
    ]
    uniform = number_contract.uniform((2, 4), seed=3, stream=0, step=0)
    assert [f"{bits:08x}" for bits in uniform.view("uint32").ravel()] == FIRST_UNIFORM


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("uniform", "b23dd9979031213c5fcc97e46f3390c1c11ebcf98636ebc6d1058ca675e63b81"),
        ("normal", "a1eeae8d54aba239d257250fe7b7ebd8de8443138033fd925115ba255096b5e2"),
    ],
)
def test_many_numbers_never_change(name, digest):
    numbers = DRAWS[name]((40, 3, 257), seed=2**63 + 5, stream=2**30 + 1, step=9, row_offset=2**20)
    assert hashlib.sha256(numbers.astype("<f4").tobytes()).hexdigest() == digest


# ------------------------------------------------------------------------------ exactness


def test_uniform_number_is_never_0_or_1():
    extremes = number_contract.uniform_of(np.array([0, 511, 512, 2**32 - 1], "uint32"))
    assert extremes.dtype == np.float32
    assert extremes.tolist() == [2.0**-24, 2.0**-24, 1.5 * 2**-23, 1 - 2.0**-24]


def test_largest_and_smallest_normal_numbers():
    words = np.array([0, 1, 2, 2**32 - 1], "uint32")
    x, y = number_contract._pair(words, np.zeros(4, "uint32"))
    largest = math.sqrt(64 * math.log(2))
    np.testing.assert_allclose(x[:2], [largest, largest], rtol=3e-7)  # the lowest bit is not used
    assert 6.66 < x[0] < 6.67
    assert x[2] < x[0]
    np.testing.assert_allclose(x[3], 2.0**-15.5, rtol=3e-7)
    np.testing.assert_array_equal(y, np.zeros(4, "float32"))


def test_quarters_of_a_turn_are_exact_rotations():
    angles = np.random.default_rng(0).integers(0, 2**32, 4096, "uint32")
    angles[:8] = np.arange(8, dtype="uint32") * 2**29
    words = np.full(4096, 12345, "uint32")
    x, y = number_contract._pair(words, angles)
    turned_x, turned_y = number_contract._pair(words, angles + np.uint32(2**30))
    np.testing.assert_array_equal(turned_x, -y)
    np.testing.assert_array_equal(turned_y, x)


def unit_root(x):
    """Stand in for the root, so that the radius is 1."""
    return np.float32(1)


UNIT_PAIR = numba.njit(error_model="numpy")(
    number_contract.pair_for(
        numba.njit(lambda a, b: a + b), numba.njit(unit_root), noise._bits, noise._number
    )
)


@numba.njit(error_model="numpy")
def errors_of_radii(step, powers):
    """Return the largest relative error of the radii; add up their even powers."""
    worst = 0.0
    for k in range(step // 2, 2**31, step):
        x, _ = noise._pair(np.uint32(k << 1), np.uint32(0))  # at angle 0 the cosine is 1
        square = -2 * math.log((k + 0.5) / 2147483648.0)
        worst = max(worst, abs(x / math.sqrt(square) - 1))
        square = np.float64(x) * np.float64(x)
        power = 1.0
        for j in range(powers.size):
            power *= square
            powers[j] += power
    return worst


@numba.njit(error_model="numpy")
def errors_of_angles(step, powers):
    """Return the largest relative errors of cosine and sine in the quarter of a turn around 0."""
    worst_cosine = worst_sine = 0.0
    for k in range(step // 2 - 2**29, 2**29, step):
        x, y = UNIT_PAIR(np.uint32(0), np.uint32(k & 0xFFFFFFFF))
        angle = k * (2 * math.pi / 2**32)
        worst_cosine = max(worst_cosine, abs(x / math.cos(angle) - 1))
        if k:
            worst_sine = max(worst_sine, abs(y / math.sin(angle) - 1))
        for square in (np.float64(x) * np.float64(x), np.float64(y) * np.float64(y)):
            power = 0.5
            for j in range(powers.size):
                power *= square
                powers[j] += power
    return worst_cosine, worst_sine


@pytest.mark.parametrize(
    "step",
    [
        997,
        pytest.param(31, marks=pytest.mark.slow),
        pytest.param(1, marks=pytest.mark.exhaustive),
    ],
)
def test_every_radius_and_angle_has_a_small_error(step):
    radii, turns = np.zeros(4), np.zeros(4)
    assert errors_of_radii(step, radii) <= 2.2e-7
    cosine, sine = errors_of_angles(step, turns)
    assert cosine <= 1.7e-7
    assert sine <= 1.8e-7
    # Radius and angle are independent: their mean powers multiply to the moments 2, 4, 6 and 8.
    number_of_radii, number_of_angles = (len(range(step // 2, 2**n, step)) for n in (31, 30))
    moments = radii / number_of_radii * turns / number_of_angles
    tolerance = 1.5e-7 if step == 1 else 1e-3  # the largest radii are sparse
    np.testing.assert_allclose(moments, [1, 3, 15, 105], rtol=tolerance)


# ------------------------------------------------------------------------------ distribution


def test_a_million_numbers_are_normal():
    numbers = number_contract.normal((1000, 1000), seed=1, stream=2, step=3).astype(float).ravel()
    # Five standard deviations of each mean power: of x^k it is sqrt(m(2k) - m(k)^2).
    for power, moment, deviation in [(1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)]:
        assert abs((numbers**power).mean() - moment) < 5 * deviation / 1000
    # Kolmogorov and Smirnov's largest distance: the probability to exceed this is 1e-4.
    cdf = np.array([statistics.NormalDist().cdf(x) for x in np.sort(numbers[:100_000])])
    distance = np.abs(cdf - (np.arange(100_000) + 0.5) / 100_000).max()
    assert distance < 2.23 / 100_000**0.5


def test_neighbours_and_partners_are_not_correlated():
    numbers = number_contract.normal((1000, 1024), seed=5, stream=0, step=0).astype(float)
    for distance in (1, 2, 16, 17, 32, 64):
        for power in (1, 2):
            x = numbers**power - (power == 2)
            products = x[:, distance:] * x[:, :-distance]
            # Variances of x and of x^2 - 1 are 1 and 2.
            assert abs(products.mean()) < 5 * power / products.size**0.5
    assert abs((numbers[1:] * numbers[:-1]).mean()) < 5 / 1000


# ------------------------------------------------------------------------------ errors


@EACH_DRAW
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"seed": -1}, ValueError, "seed: expected an integer in"),
        ({"stream": 2**32}, ValueError, "stream: expected an integer in"),
        ({"step": 1.5}, TypeError, "step: expected an integer in"),
        ({"row_offset": 2**32 - 1}, ValueError, "expected row_offset [+] rows"),
        ({"shape": 3}, TypeError, "shape: expected a tuple"),
        ({"shape": (2, -1)}, ValueError, "length: expected an integer in"),
        ({"shape": (2, 2**34 + 1)}, ValueError, "expected at most 2[*][*]34 columns"),
    ],
)
def test_draw_rejects_an_address_out_of_range(change, error, match, draw):
    with pytest.raises(error, match=rf"^{draw.__name__}: {match}"):
        draw(**{"shape": (2, 3)} | ADDRESS | change)


@pytest.mark.parametrize(
    ("address", "error", "match"),
    [
        ((-1, 0, 0, 0, 0), ValueError, "seed"),
        ((0, 0, 0, 2**32, 0), ValueError, "row"),
        ((0, 0, 0, 0, 2**34), ValueError, "column"),
        ((0, 0, 0, 0, 0.5), TypeError, "column"),
    ],
)
def test_word_rejects_an_address_out_of_range(address, error, match):
    with pytest.raises(error, match=rf"^word: {match}: expected an integer"):
        number_contract.word(*address)


def test_specification_does_not_import_numba():
    program = "import sys, minidl_kernels.number_contract; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
