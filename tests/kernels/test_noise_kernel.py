"""Random numbers and noise on each device: the bits of the contract of numbers."""

import importlib.util
import itertools

import llvmlite.binding
import numba
import numpy as np
import pytest
from backends import Reference, assert_same_bits, host, special_numbers
from minidl_kernels import number_contract
from minidl_kernels.cpu import noise, pool
from minidl_kernels.mask_contract import Address

from minidl import get_backend

ADDRESS = Address(seed=2**40 + 17, stream=3, step=2**32 - 1, row_offset=2**31)
REFERENCE = Reference()
DTYPES = ["float32", "float64"]
SHAPES = [
    *[(), (0,), (1,), (5,), (16,), (17,), (63,), (64,), (65,), (257,)],
    *[(0, 5), (5, 0), (60, 10), (7, 100), (2, 3, 65), (4, 5, 3, 2)],
]
EACH_FORM = pytest.mark.parametrize("is_factor", [False, True], ids=["sum", "product"])

needs_cuda = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("numba_cuda", "cupy"))),
    reason="numba-cuda and CuPy are not installed: no CUDA kernel is compiled",
)


def noisy(backend, x, sigma=0.3, address=ADDRESS, **options):
    """Return noise of an array of the host, and check that the device's copy is unchanged."""
    given = backend.asarray(x)
    (received,) = host(backend, backend.noise(given, sigma, address, **options))
    assert_same_bits(backend.to_numpy(given), x)
    return received


def by_contract(x, sigma, *, is_factor, address=ADDRESS):
    """Return what the contract says, in the arithmetic of the kernels."""
    wide = x.astype("float64" if x.dtype == "float64" else "float32")
    n = number_contract.normal(x.shape, **address._asdict()).astype(wide.dtype)
    sigma = wide.dtype.type(sigma)
    with np.errstate(over="ignore", invalid="ignore"):
        y = wide * (1 + sigma * n) if is_factor else wide + sigma * n
        return np.asarray(y, wide.dtype).astype(x.dtype)


# ------------------------------------------------------------------------------ bits


@pytest.mark.parametrize("dtype", ["float16", *DTYPES])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_are_those_of_the_contract(shape, dtype, backend):
    for name in ("uniform", "normal"):
        array = getattr(backend, name)(shape, ADDRESS, dtype)
        assert backend.is_array(array)
        expected = getattr(number_contract, name)(shape, **ADDRESS._asdict()).astype(dtype)
        assert_same_bits(backend.to_numpy(array), expected)


def test_numbers_are_float32_by_default(backend):
    assert backend.uniform((2, 3), ADDRESS).dtype == "float32"
    assert backend.normal([2, 3], ADDRESS).dtype == "float32"


@EACH_FORM
@pytest.mark.parametrize("dtype", ["float16", *DTYPES])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise_has_the_bits_of_the_contract(shape, dtype, is_factor, backend):
    x = special_numbers(shape, dtype)
    expected = by_contract(x, 0.3, is_factor=is_factor)
    assert_same_bits(noisy(backend, x, is_factor=is_factor), expected)
    with np.errstate(invalid="ignore"):
        reference = REFERENCE.noise(x, 0.3, ADDRESS, is_factor=is_factor)
    assert_same_bits(reference, expected)


@EACH_FORM
def test_noise_of_many_elements_has_the_bits_of_the_contract(is_factor, backend):
    for shape in ((2**18 + 3,), (300, 2**10 + 1)):
        x = np.random.default_rng(3).standard_normal(shape, "float32")
        received = noisy(backend, x, 1.7, is_factor=is_factor)
        assert_same_bits(received, by_contract(x, 1.7, is_factor=is_factor))


@EACH_FORM
def test_noise_of_parts_of_a_batch_is_that_of_the_whole(is_factor, backend):
    x = np.random.default_rng(3).standard_normal((8, 3, 30), "float32")
    whole = noisy(backend, x, is_factor=is_factor)
    for sizes in ((3, 1, 4), (1,) * 8):
        starts = [0, *itertools.accumulate(sizes)]
        parts = [
            noisy(
                backend,
                x[start:stop],
                address=ADDRESS._replace(row_offset=ADDRESS.row_offset + start),
                is_factor=is_factor,
            )
            for start, stop in itertools.pairwise(starts)
        ]
        assert_same_bits(np.concatenate(parts), whole)


@EACH_FORM
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[:, ::2],
        lambda x: x[::-1, ::-1],
        lambda x: np.broadcast_to(x[0], x.shape),
        lambda x: np.ndarray(x.shape, x.dtype, bytes(1) + x.tobytes(), offset=1),  # not aligned
    ],
)
def test_noise_on_the_cpu_takes_any_strides(view, is_factor):
    x = view(np.random.default_rng(3).standard_normal((30, 120), "float32"))
    y = get_backend("cpu").noise(x, 0.5, ADDRESS, is_factor=is_factor)
    assert y.flags.c_contiguous
    assert_same_bits(y, by_contract(np.array(x), 0.5, is_factor=is_factor))


@pytest.mark.needs_threads
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_numbers_and_noise_on_several_threads_have_the_bits_of_one(pieces, dtype, monkeypatch):
    cpu = get_backend("cpu")

    def results():
        for shape in [(257, 10), (65, 256), (3, 2**14 + 5), (2**16 + 3,), (1, 1)]:
            x = np.random.default_rng(3).standard_normal(shape).astype(dtype)
            yield cpu.uniform(shape, ADDRESS, dtype)
            yield cpu.normal(shape, ADDRESS, dtype)
            yield from (cpu.noise(x, 0.3, ADDRESS, is_factor=form) for form in (False, True))

    monkeypatch.setattr(pool, "pieces", lambda size: 1)
    serial = list(results())
    monkeypatch.setattr(pool, "pieces", lambda size: pieces)
    for received, expected in zip(results(), serial, strict=True):
        assert_same_bits(received, expected)


# ------------------------------------------------------------------------------ the formula


def words_with_corners():
    """Return pairs of words: all pairs of corners, and others at random."""
    powers = [2**n for n in range(32)]
    # u is sqrt(1/2) times a power of two, where the exponent of the logarithm changes.
    roots = [int(2**31.5 / 2**n) for n in range(31)]
    firsts = [0, 2**32 - 1, *powers, *roots]
    firsts += [word + step for word in (*powers, *roots) for step in (-2, -1, 1, 2)]
    seconds = [eighth * 2**29 + step for eighth in range(8) for step in (-1, 0, 1)]
    pairs = np.array(list(itertools.product(firsts, seconds))) % 2**32
    random = np.random.default_rng(7).integers(0, 2**32, (2048, 2))
    return np.ascontiguousarray(np.concatenate([pairs, random]).astype("uint32").T)


def test_compiled_pair_has_the_bits_of_the_contract():
    @numba.njit(error_model="numpy")
    def pairs(words, out):
        for i in range(out.shape[1]):
            out[0, i], out[1, i] = noise._pair(words[0, i], words[1, i])

    words = words_with_corners()
    out = np.empty(words.shape, "float32")
    pairs(words, out)
    assert_same_bits(out, np.array(number_contract._pair(*words)))


def bits_of_ptx(pair, capability, words):
    """Return the pairs that a device function computes, by the interpreter."""
    import ptxrun
    from code_checks import gpu_of
    from numba import cuda

    @cuda.jit
    def pairs(first, second, x, y):
        i = np.uint32(cuda.grid(1))
        stride = np.uint32(cuda.gridsize(1))
        while i < first.size:
            x[i], y[i] = pair(first[i], second[i])
            i = np.uint32(i + stride)

    types = (numba.uint32[::1],) * 2 + (numba.float32[::1],) * 2
    with gpu_of(capability):
        kernel = ptxrun.Kernel.from_numba(pairs, types, cc=capability)
    x, y = (np.empty(words.shape[1], "float32") for _ in range(2))
    kernel.launch((8,), (128,), *words, x, y)
    return np.array([x, y])


@needs_cuda
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (12, 0)], ids=str)
def test_ptx_of_pair_has_the_bits_of_the_contract(capability):
    from minidl_kernels.cuda import noise as cuda_noise

    words = words_with_corners()
    assert words.shape[1] > 4000
    received = bits_of_ptx(cuda_noise._pair, capability, words)
    assert_same_bits(received, np.array(number_contract._pair(*words)))


@needs_cuda
def test_plain_sums_on_cuda_have_other_bits():
    """The negative control: the compiler fuses sums that are not `fadd_rn`."""
    from minidl_kernels import normal
    from minidl_kernels.cuda import jit
    from numba.cuda import libdevice

    def add(a, b):
        return a + b

    functions = libdevice.fsqrt_rn, libdevice.float_as_int, libdevice.int_as_float
    pair = jit.inline(normal.pair_for(jit.inline(add), *functions))
    words = words_with_corners()
    received = bits_of_ptx(pair, (8, 0), words)
    expected = np.array(number_contract._pair(*words))
    assert (received != expected).any()
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-7)


def test_fast_mathematics_on_the_cpu_has_other_bits():
    """The negative control: the compiler reorders and fuses with this option."""
    fast = numba.njit(error_model="numpy", fastmath=True)(noise._noise.py_func)
    x, out = np.random.default_rng(3).standard_normal((2, 2**16)).astype("float32")
    words, place = np.array([7, 9, 1, 2, 0, 0], "uint32"), np.zeros(1, "uint32")
    sigma = np.array([0.3], "float32")
    arguments = x, out, 1, x.size, words, place, place, place, sigma, noise.SUM
    noise._noise(0, 1, *arguments)
    expected = out.copy()
    fast(0, 1, *arguments)
    assert (out != expected).any()
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_numbers_run_in_vector_registers_without_fused_arithmetic(dtype):
    if not llvmlite.binding.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2, whose instructions the test reads")
    fresh = numba.njit(error_model="numpy")(noise._noise.py_func)
    number, integer, words = getattr(numba, dtype), numba.int64, numba.uint32[::1]
    array = number[::1]
    address = words, words, words, words
    fresh.compile((integer, integer, array, array, integer, integer, *address, array, integer))
    (assembly,) = fresh.inspect_asm().values()
    roots = [line for line in assembly.splitlines() if "vsqrt" in line]
    assert any("vsqrtps" in line and ("ymm" in line or "zmm" in line) for line in roots)
    assert not any("vsqrtsd" in line or "vsqrtpd" in line for line in roots)
    assert "vfm" not in assembly
    assert "vfnm" not in assembly


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
def test_noise_and_numbers_reject_other_dtypes(dtype, backend):
    with pytest.raises(TypeError, match=rf"^noise: expected x .*float16.* got {dtype}\. "):
        backend.noise(backend.asarray(np.ones(3, dtype)), 0.5, ADDRESS)
    for name in ("uniform", "normal"):
        with pytest.raises(TypeError, match=rf"^{name}: expected numbers .* got {dtype}\. "):
            getattr(backend, name)((3,), ADDRESS, dtype)


@pytest.mark.parametrize(
    ("sigma", "error"),
    [
        (-0.1, ValueError),
        (np.nan, ValueError),
        (np.inf, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_noise_rejects_sigma_that_is_no_deviation(sigma, error, backend):
    with pytest.raises(error, match=r"^noise: expected sigma "):
        backend.noise(backend.asarray(np.ones(3, "float32")), sigma, ADDRESS)


@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
def test_noise_and_numbers_reject_an_address_out_of_range(shape, backend):
    address = ADDRESS._replace(step=2**32)
    with pytest.raises(ValueError, match=r"^noise: step: expected an integer"):
        backend.noise(backend.asarray(np.ones(shape, "float32")), 0.5, address)
    for name in ("uniform", "normal"):
        with pytest.raises(ValueError, match=rf"^{name}: step: expected an integer"):
            getattr(backend, name)(shape, address)
        with pytest.raises(TypeError, match=rf"^{name}: expected an Address, got"):
            getattr(backend, name)(shape, None)
        with pytest.raises(TypeError, match=rf"^{name}: shape: expected a tuple"):
            getattr(backend, name)(3, ADDRESS)
