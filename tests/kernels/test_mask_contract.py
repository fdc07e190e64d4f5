"""The mask contract against an implementation that shares no code with it."""

import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from minidl_kernels import mask_contract
from minidl_kernels.mask_contract import Address

WORDS = st.one_of(st.sampled_from([0, 1, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))
SEEDS = st.one_of(st.sampled_from([0, 2**32, 2**64 - 1]), st.integers(0, 2**64 - 1))
RATES = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 2.0**-32, 1e-300, np.nextafter(1, 0)]), st.floats(0, 1)
)
SHAPES = st.one_of(
    st.sampled_from([(), (0,), (0, 3), (3, 0), (1, 1), (2, 63), (2, 64), (2, 65), (1, 257)]),
    st.lists(st.integers(0, 90), min_size=1, max_size=1).map(tuple),
    st.tuples(st.integers(0, 5), st.integers(0, 90)),
    st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)),
)


@st.composite
def addressed_shapes(draw):
    shape = draw(SHAPES)
    rows = shape[0] if len(shape) > 1 else 1
    offset = draw(st.one_of(st.sampled_from([0, 2**32 - rows - 1]), st.integers(0, 2**31)))
    address = {
        "seed": draw(SEEDS),
        "stream": draw(WORDS),
        "step": draw(WORDS),
        "row_offset": offset,
    }
    return shape, address


@settings(max_examples=60, deadline=None)
@given(addressed_shapes(), RATES)
def test_keep_mask_equals_the_reference(addressed, rate):
    shape, address = addressed
    mask = mask_contract.keep_mask(shape, rate, **address)
    assert mask.dtype == np.bool
    np.testing.assert_array_equal(mask, reference.keep_mask(shape, rate, **address), strict=True)


@settings(max_examples=60, deadline=None)
@given(addressed_shapes())
def test_words_equal_the_reference(addressed):
    shape, address = addressed
    rows, columns = mask_contract.rows_and_columns(shape)
    words = mask_contract.words(rows, columns, **address)
    expected = reference.words((rows, columns), **address)
    np.testing.assert_array_equal(words, expected, strict=True)


def test_words_differ_from_another_layout():
    """The negative control: columns by fours."""
    address = {"seed": 1, "stream": 2, "step": 3}
    by_fours = [
        reference.philox_words((column // 4, 0, 2, 3), (1, 0))[column % 4] for column in range(64)
    ]
    assert not np.array_equal(mask_contract.words(1, 64, **address)[0], by_fours)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 150), st.data())
def test_words_of_a_part_are_rows_of_the_whole_batch(rows, columns, data):
    cut = data.draw(st.integers(0, rows))
    whole = mask_contract.words(rows, columns, seed=9, stream=8, step=7, row_offset=50)
    head = mask_contract.words(cut, columns, seed=9, stream=8, step=7, row_offset=50)
    tail = mask_contract.words(rows - cut, columns, seed=9, stream=8, step=7, row_offset=50 + cut)
    np.testing.assert_array_equal(np.concatenate([head, tail]), whole, strict=True)


@pytest.mark.parametrize("columns", [1, 4, 15, 16, 17, 63, 64, 65, 255, 256])
def test_words_of_the_first_columns_ignore_the_others(columns):
    narrow = mask_contract.words(3, columns, seed=9, stream=8, step=7)
    wide = mask_contract.words(3, 300, seed=9, stream=8, step=7)
    np.testing.assert_array_equal(narrow, wide[:, :columns], strict=True)


@pytest.mark.parametrize("shape", [(5, 2**15), (2**15, 5), (1, 2**20 + 3), (1100, 100)])
def test_words_computed_in_blocks_are_those_of_one_block(shape, monkeypatch):
    whole = mask_contract.words(*shape, seed=1, stream=2, step=3)
    monkeypatch.setattr(mask_contract, "_BLOCKS_AT_ONCE", 2**11 - 16)
    np.testing.assert_array_equal(whole, mask_contract.words(*shape, seed=1, stream=2, step=3))


def test_words_of_the_last_tile_equal_the_reference():
    last_tile = mask_contract.MAX_COLUMNS // 64 - 1
    address = mask_contract.pack(Address(5, 6, 7), 0.0)
    words = mask_contract.tile_words(address, np.array([0]), np.array([last_tile]), 16)
    expected = [reference.word(5, 6, 7, 0, 2**34 - 64 + i) for i in range(64)]
    np.testing.assert_array_equal(words.ravel(), expected)


# Computed once by reference.py and never changed: the masks of an old checkpoint must stay. Shape,
# rate, (seed, stream, step, row_offset), and the mask's bits in C order, packed by np.packbits: in
# hexadecimal, or their SHA-256 if there are more than 256.
FROZEN_MASKS = [
    ((), 0.5, (0, 0, 0, 0), "00"),
    ((64,), 0.5, (0, 0, 0, 0), "5b798aa5dfd388bc"),
    ((4, 10), 0.5, (1, 0, 0, 0), "d0bd4f27be"),
    ((3, 17), 0.3, (42, 1, 7, 0), "75f1ff74d7ace0"),
    ((2, 65), 0.1, (4294967301, 2, 1000, 64), "ffffedffff7dff93ff7ffffff7effffdc0"),
    ((3, 4, 5), 0.25, (9223372036854775819, 7, 4294967295, 2147483648), "deb7e5f7efff4b90"),
    (
        (2, 128),
        0.9,
        (18446744073709551615, 4294967295, 4294967295, 4294967294),
        "808800000100400010c1000010000301a400002005040200002800080040c058",
    ),
    ((1, 70), 2.3283064365386963e-10, (3, 1048576, 1, 0), "fffffffffffffffffc"),
    (
        (1, 256),
        0.9999999999999999,
        (3, 1073741824, 1, 0),
        "0000000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        (32, 512),
        0.5,
        (2026, 0, 1, 0),
        "sha256:627be8413c5a371ad186e6f96e7b0c6ecdaec4269763c3dea0a4d389ec9aaaff",
    ),
    (
        (7, 1000),
        0.2,
        (2026, 2147483648, 3, 60000),
        "sha256:8e33f1cdaf857e4fbc0305b1a3c375ab57ebbcec9fd8e6d3649f700f0bfb451f",
    ),
    (
        (5, 28, 28),
        0.1,
        (987654321987, 1073741827, 9, 4294967291),
        "sha256:6e3bc4084c10e0419fac36000158dc6658bda2559d0fb6ba6b5e88e592547c27",
    ),
]


def _frozen(mask):
    packed = np.packbits(mask).tobytes()
    return packed.hex() if mask.size <= 256 else "sha256:" + hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize(("shape", "rate", "address", "bits"), FROZEN_MASKS)
def test_mask_at_a_frozen_address_never_changes(shape, rate, address, bits):
    seed, stream, step, row_offset = address
    mask = mask_contract.keep_mask(
        shape, rate, seed=seed, stream=stream, step=step, row_offset=row_offset
    )
    assert _frozen(mask) == bits


def test_share_of_kept_elements_is_one_minus_the_rate():
    # 10**6 independent decisions: five standard deviations are 0.0023.
    mask = mask_contract.keep_mask((1000, 1000), 0.3, seed=1, stream=2, step=3)
    assert abs(mask.mean() - 0.7) < 0.0023


@pytest.mark.parametrize(
    ("rate", "threshold"),
    [(0, 0), (0.5, 2**31), (1, 2**32), (2.0**-33, 0), (np.nextafter(1, 0), 2**32 - 1)],
)
def test_threshold_counts_the_dropping_words(rate, threshold):
    assert mask_contract.threshold(rate) == threshold


@pytest.mark.parametrize("rate", [0, 0.1, 0.3, 0.5, 0.9, np.float32(0.1), np.nextafter(1, 0)])
def test_scale_is_rounded_once(rate):
    exact = 1 / (1 - float(rate))
    for dtype, kind in (("f2", np.float32), ("f4", np.float32), ("f8", np.float64)):
        scale = mask_contract.scale(rate, dtype)
        assert type(scale) is kind
        assert scale == kind(exact)
        assert mask_contract.scale(rate, dtype, False) == kind(1)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan"), float("inf"), -1, 2])
def test_keep_mask_rejects_a_rate_out_of_range(rate):
    with pytest.raises(ValueError, match=rf"^dropout: expected a rate in \[0, 1\], got {rate}"):
        mask_contract.keep_mask((2, 2), rate, seed=0, stream=0, step=0)


@pytest.mark.parametrize("rate", [True, "0.5", None, np.array([0.5])])
def test_threshold_rejects_a_rate_of_another_type(rate):
    with pytest.raises(TypeError, match=r"^dropout: expected a rate .* got .* of type"):
        mask_contract.threshold(rate)


def test_scale_rejects_rate_one_and_integer_arrays():
    with pytest.raises(ValueError, match=r"^dropout: expected a rate below 1"):
        mask_contract.scale(1, np.float32)
    with pytest.raises(TypeError, match=r"^dropout: expected float16, float32 or float64, got int"):
        mask_contract.scale(0.5, np.int64)


@pytest.mark.parametrize(
    ("part", "value", "stop"),
    [
        ("seed", 2**64, "2**64"),
        ("seed", -1, "2**64"),
        ("stream", 2**32, "2**32"),
        ("stream", -1, "2**32"),
        ("step", 2**32, "2**32"),
        ("step", np.int64(-1), "2**32"),
        ("row_offset", 2**32, "2**32"),
        ("row_offset", -1, "2**32"),
    ],
)
def test_address_with_an_integer_out_of_range_is_rejected(part, value, stop):
    address = Address(0, 0, 0)._replace(**{part: value})
    expected = rf"^mask: {part}: expected an integer in \[0, {re.escape(stop)}\), got {value}"
    with pytest.raises(ValueError, match=expected):
        mask_contract.check_address((1, 1), address)


@pytest.mark.parametrize("part", ["seed", "stream", "step", "row_offset"])
@pytest.mark.parametrize("value", [1.0, True, np.True_, "1", None, np.float32(1)])
def test_address_with_a_part_of_another_type_is_rejected(part, value):
    address = Address(0, 0, 0)._replace(**{part: value})
    with pytest.raises(TypeError, match=rf"^mask: {part}: expected an integer .* got .* of type"):
        mask_contract.check_address((1, 1), address)


def test_address_of_numpy_integers_becomes_one_of_python_integers():
    address = Address(np.uint64(2**64 - 1), np.int8(3), np.uint32(2), np.int64(1))
    checked = mask_contract.check_address((4, 5), address)
    assert checked == (2**64 - 1, 3, 2, 1)
    assert all(type(integer) is int for integer in checked)


def test_packed_address_has_the_words_of_the_seed_and_the_threshold():
    packed = mask_contract.pack(Address(2**40 + 17, 3, 2, 1), 0.25)
    assert packed == (17, 2**8, 3, 2, 1, 2**30)
    assert np.array(packed, "uint32").tolist() == list(packed)


def test_packed_address_that_keeps_all_drops_nothing():
    assert mask_contract.packed_mask((9, 70), mask_contract.KEEP_ALL).all()


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        (4, TypeError, "mask: shape: expected a tuple of lengths, got 4"),
        ((4, 2.0), TypeError, "mask: length: expected an integer .* got 2.0"),
        ((-1, 3), ValueError, "mask: length: expected an integer .* got -1"),
    ],
)
def test_keep_mask_rejects_a_shape_that_is_not_lengths(shape, error, message):
    with pytest.raises(error, match=message):
        mask_contract.keep_mask(shape, 0.5, seed=0, stream=0, step=0)


def test_address_of_too_many_rows_or_columns_is_rejected():
    last = Address(0, 0, 0, row_offset=2**32 - 5)
    mask_contract.check_address((5, 2**34), last)
    with pytest.raises(ValueError, match=r"^mask: expected row_offset \+ rows .* 4294967291 \+ 6"):
        mask_contract.check_address((6, 1), last)
    with pytest.raises(ValueError, match=r"^mask: expected at most .* columns, got 17179869185"):
        mask_contract.check_address((2**34 + 1,), Address(0, 0, 0))


def test_import_of_the_specification_loads_no_compiler():
    program = "import sys, minidl_kernels.mask_contract; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
