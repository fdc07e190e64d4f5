"""Dropout on each device: the bits of the mask contract for any shape, strides and threads."""

import llvmlite.binding
import numba
import numpy as np
import pytest
import reference
from backends import Reference, assert_same_bits, host, special_numbers
from minidl_kernels import mask_contract
from minidl_kernels.cpu import dropout, launch, pool
from minidl_kernels.mask_contract import Address

from minidl import get_backend

ADDRESS = Address(seed=2**40 + 17, stream=3, step=2**32 - 1, row_offset=2**31)
REFERENCE = Reference()
DTYPES = ["float32", "float64"]
SHAPES = [
    (2 * 64 + 5, 1),
    *[(), (0,), (1,), (5,), (16,), (63,), (64,), (65,), (257,)],
    *[(0, 5), (5, 0), (60, 10), (7, 100), (2, 3, 65), (4, 5, 3, 2)],
]


def dropped(backend, x, rate, address=ADDRESS, **options):
    """Return dropout of an array of the host, and check that the device's copy is unchanged."""
    given = backend.asarray(x)
    (received,) = host(backend, backend.dropout(given, rate, address, **options))
    assert_same_bits(backend.to_numpy(given), x)
    return received


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dropout_has_the_bits_of_the_reference(shape, dtype, backend):
    x = special_numbers(shape, dtype)
    assert_same_bits(dropped(backend, x, 0.3), REFERENCE.dropout(x, 0.3, ADDRESS))


def test_dropout_of_a_million_elements_has_the_bits_of_the_reference(backend):
    x = special_numbers((2**20 + 3,), "float32")
    assert_same_bits(dropped(backend, x, 0.5), REFERENCE.dropout(x, 0.5, ADDRESS))


def test_dropout_keeps_what_the_contract_in_plain_integers_keeps(backend):
    kept = dropped(backend, np.ones((3, 130), "float32"), 0.4) != 0
    expected = reference.keep_mask((3, 130), 0.4, **ADDRESS._asdict())
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("dtype", ["float16", *DTYPES])
@pytest.mark.parametrize("rate", [2.0**-33, 2.0**-32, 0.1, 0.5, 1 - 2.0**-32, np.nextafter(1, 0)])
def test_dropout_multiplies_once_by_the_scale(rate, dtype, rescale, backend):
    x = np.random.default_rng(2).standard_normal((9, 70)).astype(dtype)
    wide = x.astype("float64" if dtype == "float64" else "float32")
    kept = mask_contract.keep_mask(x.shape, rate, **ADDRESS._asdict())
    with np.errstate(over="ignore"):
        scaled = wide * wide.dtype.type(1 / (1 - rate) if rescale else 1)
        expected = np.where(kept, scaled, wide.dtype.type(0)).astype(dtype)
    assert_same_bits(dropped(backend, x, rate, rescale=rescale), expected)


@pytest.mark.parametrize("column", [0, 20, 64, 100])
def test_word_equal_to_the_threshold_keeps(column, backend):
    word = reference.word(1, 2, 3, 0, column)
    for limit, kept in ((word, True), (word + 1, False)):
        y = dropped(backend, np.ones(101, "float32"), limit / 2**32, Address(1, 2, 3))
        assert (y[column] != 0) == kept


@pytest.mark.parametrize("dtype", ["float16", *DTYPES])
def test_dropout_at_rate_zero_returns_a_copy(dtype, backend):
    x = backend.asarray(special_numbers((6, 70), dtype))
    for view in (x, x.T, x[::2, ::-1]):
        before = backend.to_numpy(view)
        copy = backend.dropout(view, 0, ADDRESS)
        assert copy.flags.c_contiguous
        assert_same_bits(backend.to_numpy(copy), before)
        copy[...] = -1
        assert_same_bits(backend.to_numpy(view), before)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("dtype", ["float16", *DTYPES])
def test_dropout_at_rate_one_returns_zeros(dtype, rescale, backend):
    x = special_numbers((6, 70), dtype)
    assert_same_bits(dropped(backend, x, 1, rescale=rescale), np.zeros_like(x))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, -0.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropped_element_is_positive_zero(value, dtype, backend):
    y = dropped(backend, np.full((4, 70), value, dtype), 0.5)
    kept = mask_contract.keep_mask(y.shape, 0.5, **ADDRESS._asdict())
    assert_same_bits(y[~kept], np.zeros((~kept).sum(), dtype))
    assert_same_bits(y[kept], np.full(kept.sum(), value * 2, dtype))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[:, ::2],
        lambda x: x[::-1, ::-1],
        lambda x: x[1:, 3:100],
        lambda x: np.broadcast_to(x[0], x.shape),
        lambda x: np.asfortranarray(x),
        lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
        lambda x: np.ndarray(x.shape, x.dtype, bytes(1) + x.tobytes(), offset=1),  # not aligned
    ],
)
def test_dropout_on_the_cpu_takes_any_strides(view):
    x = view(special_numbers((30, 120), "float32"))
    y = get_backend("cpu").dropout(x, 0.5, ADDRESS)
    assert y.flags.c_contiguous
    assert_same_bits(y, REFERENCE.dropout(np.array(x), 0.5, ADDRESS))


@pytest.mark.needs_threads
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_dropout_on_several_threads_has_the_bits_of_one(pieces, dtype, monkeypatch):
    shapes = [
        (257, 10),
        (2**16 + 3, 1),
        (65, 256),
        (3, 2**15 + 5),
        (2**17 + 3,),
        (1, 2**14),
        (1, 1),
    ]
    arrays = [special_numbers(shape, dtype) for shape in shapes]
    monkeypatch.setattr(pool, "pieces", lambda size: 1)
    serial = [get_backend("cpu").dropout(x, 0.3, ADDRESS) for x in arrays]
    monkeypatch.setattr(pool, "pieces", lambda size: pieces)
    for x, expected in zip(arrays, serial, strict=True):
        assert_same_bits(get_backend("cpu").dropout(x, 0.3, ADDRESS), expected)


def test_last_columns_have_the_words_of_the_contract():
    @numba.njit(error_model="numpy")
    def drop(x, out, address, step, row_offset, threshold, words):
        address = dropout.unpack(address, step, row_offset, threshold)
        dropout.drop_row(x, out, 0, 2**34 - 64, address, np.float32(1), words)

    x, out = np.ones(64, "float32"), np.empty(64, "float32")
    address = launch.placed_address(mask_contract.PackedAddress(0, 0, 0, 0, 0, 2**31))
    drop(x, out, *address, np.empty(64, "uint32"))
    words = [reference.word(0, 0, 0, 0, 2**34 - 64 + i) for i in range(64)]
    np.testing.assert_array_equal(out, [float(word >= 2**31) for word in words])


@pytest.mark.parametrize("dtype", DTYPES)
def test_lanes_run_in_vector_registers_without_fused_arithmetic(dtype):
    if not llvmlite.binding.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2, whose instructions the test reads")
    fresh = numba.njit(error_model="numpy")(dropout._dropout.py_func)
    number, integer = getattr(numba, dtype), numba.int64
    array, words = number[::1], numba.uint32[::1]
    places = words, words, words, words, array
    fresh.compile((integer, integer, array, array, integer, integer, *places))
    (assembly,) = fresh.inspect_asm().values()
    products = [line for line in assembly.splitlines() if "vpmuludq" in line]
    # Two products a round, less those that the compiler moves out of the loop.
    assert sum("ymm" in line or "zmm" in line for line in products) >= 17
    assert "vfm" not in assembly
    assert "vfnm" not in assembly
    if dtype == "float32":
        assert "pd\t" not in assembly.replace("vpermpd", "").replace("vmovupd", "")


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 65), (0, 3)])
@pytest.mark.parametrize("rate", [0, 0.3, 1])
def test_keep_mask_is_the_mask_contract(shape, rate, backend):
    mask = backend.keep_mask(shape, rate, ADDRESS)
    assert backend.is_array(mask)
    expected = mask_contract.keep_mask(shape, rate, **ADDRESS._asdict())
    np.testing.assert_array_equal(backend.to_numpy(mask), expected, strict=True)


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
def test_dropout_rejects_other_dtypes(dtype, backend):
    with pytest.raises(TypeError, match=rf"^dropout: expected x .*float16.* got {dtype}\. "):
        backend.dropout(backend.asarray(np.ones(3, dtype)), 0.5, ADDRESS)


def test_dropout_on_the_cpu_rejects_foreign_byte_order():
    with pytest.raises(TypeError, match=r"^dropout: expected x .* got >f4"):
        get_backend("cpu").dropout(np.ones(3, ">f4"), 0.5, ADDRESS)


@pytest.mark.parametrize("rate", [0, 0.5, 1])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
@pytest.mark.parametrize(
    ("part", "value", "error"),
    [
        ("seed", -1, ValueError),
        ("seed", 2**64, ValueError),
        ("stream", 2**32, ValueError),
        ("step", 2**32, ValueError),
        ("row_offset", 2**32, ValueError),
        ("seed", 1.5, TypeError),
    ],
)
def test_dropout_rejects_an_address_out_of_range(part, value, error, shape, rate, backend):
    x = backend.asarray(np.ones(shape, "float32"))
    with pytest.raises(error, match=rf"^mask: {part}: expected an integer"):
        backend.dropout(x, rate, ADDRESS._replace(**{part: value}))


@pytest.mark.parametrize("address", [None, (1, 2, 3), {"seed": 1}])
def test_dropout_rejects_an_address_of_another_type(address, backend):
    with pytest.raises(TypeError, match=r"^mask: expected an Address, got"):
        backend.dropout(backend.asarray(np.ones(3, "float32")), 0.5, address)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_dropout_rejects_a_rate_out_of_range(rate, backend):
    with pytest.raises(ValueError, match=rf"^dropout: expected a rate in \[0, 1\], got {rate}"):
        backend.dropout(backend.asarray(np.ones(3, "float32")), rate, ADDRESS)
