"""Matrix products: those of NumPy to rounding, on any device and number of threads."""

import ctypes
import threading

import numpy as np
import pytest
from backends import Reference, assert_same_bits, host
from minidl_kernels import threads
from minidl_kernels.cpu import blas, launch, products

from minidl import get_backend

REFERENCE = Reference()
DTYPES = ["float32", "float64"]
SIZES = [(0, 3, 4), (3, 0, 4), (1, 1, 1), (4, 5, 3), (33, 17, 10), (10, 64, 257), (257, 9, 65)]
SIZES += [(1, 300, 512), (512, 300, 1), (70, 900, 144)]


def operands(size, transpose_a, transpose_b, dtype):
    rng = np.random.default_rng(1)
    m, k, n = size
    a = rng.standard_normal((k, m) if transpose_a else (m, k)).astype(dtype)
    b = rng.standard_normal((n, k) if transpose_b else (k, n)).astype(dtype)
    return a, b


def assert_product(result, left, right):
    """Fail unless a result is within the bound of Higham, Accuracy and Stability, eq. 3.13."""
    exact = left.astype("longdouble") @ right.astype("longdouble")
    bound = left.shape[-1] * np.finfo(result.dtype).eps * (np.abs(left) @ np.abs(right))
    assert result.shape == exact.shape
    assert (np.abs(result - exact) <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pieces", [1, 2, 3, 8])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
def test_product_on_several_threads_is_that_of_numpy(transposed, pieces, dtype, monkeypatch):
    monkeypatch.setattr(products, "pieces_of_product", lambda *_: pieces)
    cpu = get_backend("cpu")
    transpose_a, transpose_b = map(bool, transposed)
    for size in SIZES:
        a, b = operands(size, transpose_a, transpose_b, dtype)
        before = a.copy(), b.copy()
        left, right = (a.T if transpose_a else a), (b.T if transpose_b else b)
        out = np.full((size[0], size[2]), np.nan, dtype)
        flags = {"transpose_a": transpose_a, "transpose_b": transpose_b}
        results = cpu.matmul(a, b, **flags), cpu.matmul(a, b, **flags, out=out)
        assert results[1] is out
        for result in results:
            assert result.dtype == dtype
            assert_product(result, left, right)
        assert a.tobytes() == before[0].tobytes()
        assert b.tobytes() == before[1].tobytes()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        *[((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((4, 2, 3), (3, 5))],
        *[((2, 3), (4, 3, 2)), ((4, 1, 2, 3), (5, 3, 2)), ((4, 3), (4, 3, 2))],
    ],
    ids=str,
)
def test_product_of_stacks_and_vectors_is_that_of_numpy(left, right, backend):
    rng = np.random.default_rng(2)
    a, b = (rng.integers(-4, 5, shape).astype("float32") for shape in (left, right))
    (received,) = host(backend, backend.matmul(backend.asarray(a), backend.asarray(b)))
    np.testing.assert_array_equal(received, np.matmul(a, b), strict=True)
    if a.ndim > 1:
        a = a.swapaxes(-1, -2).copy()
        product = backend.matmul(backend.asarray(a), backend.asarray(b), transpose_a=True)
        np.testing.assert_array_equal(*host(backend, product), received, strict=True)


@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
def test_product_of_matrices_writes_to_out(transposed, backend):
    a, b = operands((5, 6, 7), *transposed, "float32")
    out = backend.asarray(np.empty((5, 7), "float32"))
    flags = {"transpose_a": bool(transposed[0]), "transpose_b": bool(transposed[1])}
    assert backend.matmul(backend.asarray(a), backend.asarray(b), **flags, out=out) is out
    left, right = (a.T if transposed[0] else a), (b.T if transposed[1] else b)
    assert_product(*host(backend, out), left, right)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_product_has_the_same_bits_from_run_to_run(number):
    usual = threads.num_threads()
    threads.set_num_threads(number)
    try:
        a, b = operands((128, 784, 512), False, False, "float32")
        assert len({get_backend("cpu").matmul(a, b).tobytes() for _ in range(20)}) == 1
    finally:
        threads.set_num_threads(usual)


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 9, 5), (32, 256, 10), (300, 7, 2)])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
def test_small_product_has_the_bits_of_numpy(transposed, shape):
    a, b = operands(shape, *transposed, "float32")
    flags = {"transpose_a": bool(transposed[0]), "transpose_b": bool(transposed[1])}
    expected = np.matmul(a.T if transposed[0] else a, b.T if transposed[1] else b)
    assert get_backend("cpu").matmul(a, b, **flags).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("dtype", "inner"),
    [*[(dtype, inner) for dtype in DTYPES for inner in (32, 400, 449, 500)], ("float32", 1000)],
)
@pytest.mark.parametrize("transposed", [(0, 0), (1, 0)], ids=str)
def test_product_in_tiles_has_the_bits_of_a_whole_one(dtype, transposed, inner, monkeypatch):
    if not blas._has_small:
        pytest.skip("OpenBLAS has no products without copies for this processor")
    a, b = operands((300, inner, 144), *transposed, dtype)
    flags = {"transpose_a": bool(transposed[0])}
    assert blas.tile_depth(300 * inner * 144, a, b, np.empty((300, 144), dtype)) > 0
    in_tiles = get_backend("cpu").matmul(a, b, **flags)
    monkeypatch.setattr(blas, "_has_small", False)
    assert_same_bits(in_tiles, get_backend("cpu").matmul(a, b, **flags))


@pytest.mark.needs_recordings
@pytest.mark.parametrize("transposed", [(0, 1), (1, 0)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_product_of_a_matrix_with_itself_has_the_bits_of_that_with_a_copy(dtype, transposed):
    a, _ = operands((33, 65, 1), False, False, dtype)
    flags = {"transpose_a": bool(transposed[0]), "transpose_b": bool(transposed[1])}
    product = get_backend("cpu").matmul(a, a, **flags)
    assert_product(product, a.T if transposed[0] else a, a.T if transposed[1] else a)
    if blas.available:  # NumPy would compute one triangle of the first
        assert_same_bits(product, get_backend("cpu").matmul(a, a.copy(), **flags))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype("float16"),
        lambda x: x.astype("int32"),
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(x),
        lambda x: x[::-1],
        lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
    ],
)
def test_other_matrices_are_left_to_numpy(change, monkeypatch):
    monkeypatch.setattr(products, "pieces_of_product", lambda *_: 2)
    monkeypatch.setattr(launch, "launch_pieces", None)  # a launch would fail
    a, b = operands((65, 64, 63), False, False, "float32")
    for left, right in ((change(a), b), (a, change(b)), (change(a), change(b))):
        result, expected = get_backend("cpu").matmul(left, right), np.matmul(left, right)
        np.testing.assert_array_equal(result, expected, strict=True)


def test_nan_and_infinity_reach_their_rows_and_columns_only(monkeypatch):
    monkeypatch.setattr(products, "pieces_of_product", lambda *_: 2)
    a, b = np.ones((130, 70), "float32"), np.ones((70, 140), "float32")
    a[3, 4], b[5, 6] = np.nan, np.inf
    result = get_backend("cpu").matmul(a, b)
    assert np.isnan(result[3]).all()
    assert np.isinf(np.delete(result[:, 6], 3)).all()
    assert (np.delete(np.delete(result, 3, 0), 6, 1) == 70).all()


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3), (2, 3)), ((3,), (2, 3)), ((1, 2, 3), (2, 4)), ((), (3,))], ids=str
)
def test_matmul_rejects_shapes_that_do_not_fit(left, right, backend):
    a, b = backend.asarray(np.ones(left)), backend.asarray(np.ones(right))
    with pytest.raises(ValueError, match=r"^matmul: expected operands whose inner sizes agree"):
        backend.matmul(a, b)


def test_matmul_rejects_an_out_of_another_shape(backend):
    a, b, out = (backend.asarray(np.ones(shape)) for shape in ((2, 3), (3, 4), (4, 2)))
    with pytest.raises(ValueError, match=r"^matmul: expected out of shape \(2, 4\), got \(4, 2\)"):
        backend.matmul(a, b, out=out)


@pytest.fixture
def openblas():
    """The functions that read and set OpenBLAS' threads, set to 2 for the test."""
    if not blas.available:
        pytest.skip("NumPy was not built with the OpenBLAS of its wheels")
    library = ctypes.PyDLL(np._core._multiarray_umath.__file__)
    get = library.scipy_openblas_get_num_threads64_
    put = library.scipy_openblas_set_num_threads64_
    usual = get()
    put(2)
    yield get
    put(usual)


@pytest.mark.parametrize("shape", [(128, 784, 512), (8, 7, 6), (1, 7, 6)])
def test_product_gives_openblas_its_threads_back(shape, openblas):
    a, b = operands(shape, False, False, "float32")
    get_backend("cpu").matmul(a, b)
    assert openblas() == 2
    layer = {"activation": "relu"}
    get_backend("cpu").dense(a, b, np.ones(shape[2], "float32"), **layer)
    assert openblas() == 2


@pytest.mark.parametrize("pieces", [1, 2])
def test_replay_gives_openblas_its_threads_back(pieces, openblas, monkeypatch):
    if not products._is_compiled():
        pytest.skip("NumPy computes the products")
    monkeypatch.setattr(products, "pieces_of_product", lambda *_: pieces)
    cpu, (a, b) = get_backend("cpu"), operands((65, 70, 66), False, False, "float32")
    recording = cpu.record(lambda: cpu.matmul(a, b))
    for times in (1, 3, 0):
        recording.replay(times)
        assert openblas() == 2
        assert blas.holders[0] == 0


def test_replay_inside_of_one_thread_keeps_it(openblas):
    if not products._is_compiled():
        pytest.skip("NumPy computes the products")
    cpu, (a, b) = get_backend("cpu"), operands((8, 7, 6), False, False, "float32")
    recording = cpu.record(lambda: cpu.matmul(a, b))
    with products._one_thread():
        recording.replay()
        assert openblas() == 1
    assert openblas() == 2


def test_product_holds_openblas_to_one_thread(openblas, monkeypatch):
    seen = []
    monkeypatch.setattr(products, "_is_compiled", lambda: True)  # also without TBB
    monkeypatch.setattr(np, "matmul", lambda *_, **__: seen.append(openblas()))
    get_backend("cpu").matmul(np.ones(3), np.ones((3, 4)))
    assert seen == [1]


def test_one_thread_is_reentrant_and_ends_with_an_error(openblas):
    with products._one_thread():
        with products._one_thread():
            assert openblas() == 1
        assert openblas() == 1
    with pytest.raises(KeyError), products._one_thread():
        raise KeyError
    assert openblas() == 2


def test_one_thread_is_shared_by_python_threads(openblas):
    inside, leave, seen = threading.Event(), threading.Event(), []

    def product():
        with products._one_thread():
            inside.set()
            leave.wait(60)

    other = threading.Thread(target=product)
    other.start()
    assert inside.wait(60)
    with products._one_thread():
        seen.append(openblas())
    seen.append(openblas())
    leave.set()
    other.join()
    assert [*seen, openblas()] == [1, 1, 2]
