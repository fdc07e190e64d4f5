"""Dropout on the CPU: the contract's bits, whatever the path, the threads and the strides."""

import llvmlite.binding
import numba
import numpy as np
import pytest
import reference
from minidl_kernels import mask_contract
from minidl_kernels.cpu import dropout as module
from minidl_kernels.cpu.dropout import dropout

ADDRESS = {"seed": 2**40 + 17, "stream": 3, "step": 2**32 - 1, "row_offset": 2**31}
DTYPES = [np.float32, np.float64]
SHAPES = [
    *[(n,) for n in (0, 1, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257, 2**20 + 3)],
    *[(), (0, 5), (5, 0), (1, 1), (60, 10), (3, 64), (7, 100), (2, 3, 65), (4, 5, 3, 2)],
]


def _input(shape, dtype):
    x = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    x.flat[1::7] = -0.0
    x.flat[2::11] = np.nan
    x.flat[3::13] = -np.inf
    return x


def _expected(x, rate, rescale=True, **address):
    keep = mask_contract.keep_mask(x.shape, rate, **address)
    scale = x.dtype.type(1 / (1 - rate) if rescale else 1)
    return np.where(keep, x * scale, x.dtype.type(0))


def _assert_same_bits(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_contract(shape, dtype):
    x = _input(shape, dtype)
    before = x.copy()
    y = dropout(x, 0.3, **ADDRESS)
    _assert_same_bits(y, _expected(x, 0.3, **ADDRESS))
    _assert_same_bits(x, before)
    assert y.flags.c_contiguous
    assert y.flags.owndata
    assert y.flags.writeable


def test_equals_the_reference():
    x = np.ones((3, 130), np.float32)
    kept = dropout(x, 0.4, **ADDRESS) != 0
    np.testing.assert_array_equal(kept, reference.keep_mask(x.shape, 0.4, **ADDRESS))


@pytest.mark.parametrize("rate", [2.0**-33, 2.0**-32, 0.1, 0.5, 1 - 2.0**-32, np.nextafter(1, 0)])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rates(rate, rescale, dtype):
    x = np.random.default_rng(2).standard_normal((9, 200)).astype(dtype)
    y = dropout(x, rate, **ADDRESS, rescale=rescale)
    _assert_same_bits(y, _expected(x, rate, rescale, **ADDRESS))


@pytest.mark.parametrize("column", [0, 20, 40, 60, 64, 100])
def test_a_word_equal_to_the_threshold_keeps(column):
    word = reference.word(1, 2, 3, 0, column)
    x = np.ones(101, np.float32)
    for limit, kept in ((word, True), (word + 1, False)):
        y = dropout(x, limit / 2**32, seed=1, stream=2, step=3)
        mask = mask_contract.keep_mask(x.shape, limit / 2**32, seed=1, stream=2, step=3)
        assert (y[column] != 0) == mask[column] == kept


@pytest.mark.parametrize("dtype", DTYPES)
def test_rate_0_copies_and_rate_1_gives_zeros(dtype):
    x = _input((6, 70), dtype)
    copy = dropout(x, 0, **ADDRESS)
    _assert_same_bits(copy, x)
    assert not np.shares_memory(copy, x)
    _assert_same_bits(dropout(x, 1, **ADDRESS), np.zeros_like(x))
    _assert_same_bits(dropout(x, 1, **ADDRESS, rescale=False), np.zeros_like(x))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, -0.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dropped_element_is_positive_zero(value, dtype):
    y = dropout(np.full((4, 130), value, dtype), 0.5, **ADDRESS)
    keep = mask_contract.keep_mask(y.shape, 0.5, **ADDRESS)
    assert np.all(y[~keep] == 0)
    assert not np.signbit(y[~keep]).any()
    np.testing.assert_array_equal(y[keep], np.full(keep.sum(), value * 2, dtype))
    if value == 0:
        assert np.signbit(y[keep]).all()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[:, ::2],
        lambda x: x[::-1, ::-1],
        lambda x: x[1:, 3:100],
        lambda x: np.broadcast_to(x[0], x.shape),
        lambda x: x.astype(x.dtype, order="F"),
        lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
    ],
)
def test_any_strides(view):
    x = view(np.random.default_rng(3).standard_normal((30, 120)).astype(np.float32))
    before = x.copy()
    y = dropout(x, 0.5, **ADDRESS)
    _assert_same_bits(y, _expected(before, 0.5, **ADDRESS))
    np.testing.assert_array_equal(x, before)
    assert y.flags.c_contiguous


@pytest.mark.parametrize("pieces", [2, 3, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_parallel_equals_serial(pieces, dtype, monkeypatch):
    shapes = [(257, 10), (65, 256), (3, 2**15 + 5), (2**20 + 3,), (1, 2**14), (1, 1)]
    arrays = [_input(shape, dtype) for shape in shapes]
    monkeypatch.setattr(module.pool, "pieces", lambda size: 1)
    serial = [dropout(x, 0.3, **ADDRESS) for x in arrays]
    monkeypatch.setattr(module.pool, "pieces", lambda size: pieces)
    parallel = [dropout(x, 0.3, **ADDRESS) for x in arrays]
    for a, b in zip(serial, parallel, strict=True):
        _assert_same_bits(a, b)


def test_the_last_columns_do_not_wrap():
    x, zero = np.ones(64, np.float32), np.uint32(0)
    out, half = np.empty_like(x), np.uint32(2**31)
    counter0 = np.uint32(2**32 - 16)
    module._drop(x, out, 64, counter0, zero, zero, zero, zero, zero, half, np.float32(1))
    words = [reference.word(0, 0, 0, 0, 2**34 - 64 + i) for i in range(64)]
    np.testing.assert_array_equal(out, [float(word >= 2**31) for word in words])


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex64", "bool", ">f4"])
def test_other_dtypes(dtype):
    x = np.ones((2, 2), dtype)
    message = rf"dropout: dtype must be float32 or float64, received {x.dtype}"
    with pytest.raises(TypeError, match=message):
        dropout(x, 0.5, **ADDRESS)


@pytest.mark.parametrize("rate", [-1, 1.5, float("nan")])
def test_bad_rates(rate):
    with pytest.raises(ValueError, match=rf"rate must be in \[0, 1\], received {rate}"):
        dropout(np.ones(3, np.float32), rate, **ADDRESS)


@pytest.mark.parametrize("rate", [0, 0.5, 1])
def test_a_bad_address_is_an_error_at_every_rate(rate):
    with pytest.raises(ValueError, match=r"stream must be in \[0, 2\*\*32\), received -1"):
        dropout(np.ones(3, np.float32), rate, seed=0, stream=-1, step=0)


@pytest.mark.parametrize("element", ["float32", "float64"])
def test_machine_code(element):
    """The lanes run in vector registers, and no multiplication is fused with an addition."""
    if not llvmlite.binding.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2, whose instructions the test looks for")
    fresh = numba.njit(error_model="numpy")(module._drop.py_func)
    array, word = getattr(numba, element)[::1], numba.uint32
    fresh.compile((array, array, numba.int64, *(word,) * 7, getattr(numba, element)))
    (assembly,) = fresh.inspect_asm().values()
    products = [line for line in assembly.splitlines() if "vpmuludq" in line]
    # Two products a round, less those that the compiler moves out of the loop.
    assert sum("ymm" in line or "zmm" in line for line in products) >= 17
    assert "vfm" not in assembly
    assert "vfnm" not in assembly
    if element == "float32":
        assert "pd\t" not in assembly.replace("vpermpd", "").replace("vmovupd", "")
