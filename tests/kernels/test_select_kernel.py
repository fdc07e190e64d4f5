"""Selection by shared decisions on each device: the bits of NumPy's broadcasting."""

import itertools

import numpy as np
import pytest
from backends import assert_same_bits, host, special_numbers
from kernel_table import FLOATS
from minidl_kernels.cpu import pool
from minidl_kernels.mask_contract import Address, keep_mask
from minidl_kernels.placed import PlacedFloat

from minidl import get_backend

NUMBERS = (1 / 0.7, 0.1, -0.7)  # scale, shift and what stands for dropped elements
ADDRESS = Address(seed=5, stream=1, step=2)
CPU = get_backend("cpu")


def decisions(shape, dtype="float32"):
    """Return numbers of which some are 0; the others count as kept, whatever they are."""
    values = np.array([0.0, 1.0, -0.0, np.nan, 2.0, -1e-30, np.inf], dtype)
    return np.random.default_rng(7).choice(values, shape)


def expected(x, keep, scale, shift, dropped):
    """Return the selection in NumPy, where the product is rounded before the sum."""
    wide = x.astype("float32") if x.dtype == "float16" else x
    scale, shift, dropped = (wide.dtype.type(number) for number in (scale, shift, dropped))
    with np.errstate(over="ignore"):
        return np.where(keep != 0, wide * scale + shift, dropped).astype(x.dtype)


def check(backend, x, keep, numbers=NUMBERS):
    with np.errstate(over="ignore"):
        (out,) = host(backend, backend.select(backend.asarray(x), backend.asarray(keep), *numbers))
    assert_same_bits(out, expected(x, keep, *numbers))


SHAPES = [
    ((), ()),
    ((7,), (1,)),
    ((5,), (5,)),
    ((4, 70), (4, 1)),
    ((4, 70), (1, 70)),
    ((4, 70), (1, 1)),
    ((4, 70), (4, 70)),
    ((4, 70), (70,)),
    ((1, 70), (1, 1)),
    ((3, 5, 33), (3, 1, 33)),
    ((3, 5, 3), (3, 1, 3)),
    ((3, 500, 3), (3, 1, 3)),
    ((3, 500, 3), (3, 500, 1)),
    ((30, 2), (30, 1)),
    ((2, 3, 4, 5, 6), (2, 1, 4, 1, 6)),
    ((2, 3, 4, 5, 6), (1, 3, 1, 5, 1)),
    ((2, 3, 1, 5, 6), (2, 3, 1, 1, 1)),
    ((2, 1, 3, 4, 2, 20), (2, 1, 1, 4, 2, 1)),
    ((2, 3, 2, 3, 2, 3), (2, 1, 2, 1, 2, 1)),  # six groups of axes
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "keep"), SHAPES, ids=str)
def test_select_has_the_bits_of_broadcasting(shape, keep, dtype, backend):
    check(backend, special_numbers(shape, dtype), decisions(keep, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 3, 17])
def test_select_shares_any_axes(length, backend):
    shape = (2, 3, 1, 2, length)
    for keep in itertools.product(*((1, n) for n in shape)):
        check(backend, special_numbers(shape, "float32"), decisions(keep))


@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
@pytest.mark.parametrize(("shape", "keep"), SHAPES, ids=str)
def test_select_in_pieces_has_the_bits_of_broadcasting(shape, keep, pieces, monkeypatch):
    if pieces > 1 and not pool.has_tbb():
        pytest.skip("Numba's threads are not those of TBB")
    monkeypatch.setattr(pool, "pieces", lambda size: pieces)
    check(CPU, special_numbers(shape, "float32"), decisions(keep))


def test_select_of_float16_is_rounded_once(backend):
    x = special_numbers((4, 70), "float32").astype("float16")
    check(backend, x, decisions((4, 1)))
    check(backend, np.array([[60000.0, -60000.0]], "float16"), np.ones((1, 1), "float32"))


@pytest.mark.parametrize(("shape", "keep"), [((0, 5), (1, 5)), ((0, 5), (0, 1)), ((3, 0), (3, 1))])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_select_of_empty_array_is_empty(shape, keep, dtype, backend):
    check(backend, np.ones(shape, dtype), decisions(keep))


@pytest.mark.parametrize("dtype", FLOATS)
def test_shift_of_negative_zero_changes_no_bit(dtype, backend):
    x = special_numbers((4, 70), dtype)
    keep = decisions((4, 1), dtype)
    (out,) = host(backend, backend.select(backend.asarray(x), backend.asarray(keep), 1.5))
    zero = x.dtype.type(0)
    assert_same_bits(out, np.where(keep != 0, x * x.dtype.type(1.5), zero))
    assert np.signbit(out[x == 0]).any()


def test_strided_arrays_have_the_bits_of_contiguous_ones(backend):
    x = special_numbers((70, 8), "float32")
    check(backend, x.T[::2], decisions((2, 70)).T[:4, :1])


@pytest.mark.parametrize("dtype", ["float16", *FLOATS])
@pytest.mark.parametrize("rate", [0, 0.3, 1])
def test_keep_factors_are_the_mask(rate, dtype, backend):
    for shape in [(3, 70), (3, 1, 5), (5,), (), (0, 3)]:
        (factors,) = host(backend, backend.keep_factors(shape, rate, ADDRESS, dtype))
        mask = keep_mask(shape, rate, **ADDRESS._asdict())
        wide = "float64" if dtype == "float64" else "float32"
        np.testing.assert_array_equal(factors, mask.astype(wide), strict=True)


@pytest.mark.parametrize("dtype", FLOATS)
def test_placed_numbers_of_a_recording_take_effect(dtype):
    x, keep, results = special_numbers((30, 70), dtype), decisions((30, 1), dtype), []
    places = [np.array([number], dtype) for number in NUMBERS]
    placed = [PlacedFloat(n, place) for n, place in zip(NUMBERS, places, strict=True)]
    recording = CPU.record(lambda: results.append(CPU.select(x, keep, *placed)))
    for numbers in [NUMBERS, (2.0, -0.5, 0.0), (0.5, -0.0, 3.0)]:
        for place, number in zip(places, numbers, strict=True):
            place[0] = number
        recording.replay()
        assert_same_bits(results[0], expected(x, keep, *numbers))


def test_recorded_decisions_follow_their_step():
    x, results = np.ones((30, 70), "float32"), []

    def work(address=ADDRESS):
        keep = CPU.keep_factors((30, 1), 0.5, address, x.dtype)
        results.append(CPU.select(x, keep, 2.0))

    recording = CPU.record(work)
    first = results[0].copy()
    assert (recording.obstacle, recording.launches) == ("", 2)
    for _ in range(3):  # nothing writes to the ones that the mask is drawn for
        recording.replay()
        assert_same_bits(results[0], first)


def test_more_groups_than_the_kernel_has_axes_are_an_obstacle():
    x, keep = np.ones((2,) * 6, "float32"), np.ones((2, 1) * 3, "float32")
    recording = CPU.record(lambda: CPU.select(x, keep, 2.0))
    assert recording.obstacle == "axes share decisions in more than 5 groups"


@pytest.mark.parametrize(
    ("x", "keep", "error", "message"),
    [
        (np.ones((2, 3), "i4"), np.ones((2, 1), "f4"), TypeError, "expected x of a dtype"),
        (np.ones((2, 3), "f4"), np.ones((2, 1), "f8"), TypeError, "expected keep of dtype float32"),
        (np.ones((2, 3), "f2"), np.ones((2, 1), "f2"), TypeError, "expected keep of dtype float32"),
        (np.ones((2, 3), "f4"), np.ones((3, 1), "f4"), ValueError, r"broadcasts to \(2, 3\), got"),
        (np.ones((2, 3), "f4"), np.ones((1, 2, 3), "f4"), ValueError, r"got \(1, 2, 3\)"),
        (np.ones((1, 3), "f4"), np.ones((2, 3), "f4"), ValueError, r"got \(2, 3\)"),
    ],
)
def test_select_rejects_arrays_that_do_not_fit(x, keep, error, message, backend):
    with pytest.raises(error, match=f"^select: .*{message}"):
        backend.select(backend.asarray(x), backend.asarray(keep), 2.0)


def test_select_writes_to_out(backend):
    x, keep = special_numbers((4, 70), "float32"), decisions((4, 1))
    out = backend.asarray(np.empty_like(x))
    assert backend.select(backend.asarray(x), backend.asarray(keep), *NUMBERS, out=out) is out
    assert_same_bits(*host(backend, out), expected(x, keep, *NUMBERS))
    with pytest.raises(ValueError, match="select: expected out of shape"):
        backend.select(backend.asarray(x), backend.asarray(keep), 2.0, out=out[:3])
