"""Products of matrices: the same on any number of threads as NumPy's, to rounding."""

import numpy as np
import pytest
from minidl_kernels import threads
from minidl_kernels.cpu import products
from minidl_kernels.cpu.products import matmul

SIZES = [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (4, 5, 3), (33, 17, 10), (10, 64, 257)]
SIZES += [(257, 9, 65), (128, 300, 128), (1, 300, 512), (512, 300, 1)]
DTYPES = ["float32", "float64"]


def _operands(size, transpose_a, transpose_b, dtype, rng):
    m, k, n = size
    a = rng.standard_normal((k, m) if transpose_a else (m, k)).astype(dtype)
    b = rng.standard_normal((n, k) if transpose_b else (k, n)).astype(dtype)
    return a, b


def _in_pieces(monkeypatch, pieces):
    monkeypatch.setattr(products, "pieces_of_product", lambda *_: pieces)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pieces", [1, 2, 3, 8])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_numpy(size, transpose_a, transpose_b, pieces, dtype, monkeypatch):
    _in_pieces(monkeypatch, pieces)
    a, b = _operands(size, transpose_a, transpose_b, dtype, np.random.default_rng(1))
    before = a.copy(), b.copy()
    left, right = (a.T if transpose_a else a), (b.T if transpose_b else b)
    exact = left.astype("longdouble") @ right.astype("longdouble")
    # |error| <= inner * eps * |a| @ |b| (Higham, Accuracy and Stability, eq. 3.13).
    bound = size[1] * np.finfo(dtype).eps * (np.abs(left) @ np.abs(right)).astype("longdouble")
    out = np.full(exact.shape, np.nan, dtype)
    flags = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    for result in (matmul(a, b, **flags), matmul(a, b, **flags, out=out)):
        assert result.dtype == dtype
        assert result.shape == exact.shape
        assert (np.abs(result - exact) <= bound).all()
    assert result is out
    assert a.tobytes() == before[0].tobytes()
    assert b.tobytes() == before[1].tobytes()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_has_the_same_bits_from_run_to_run(number):
    usual = threads.num_threads()
    threads.set_num_threads(number)
    try:
        a, b = _operands((128, 784, 512), False, False, "float32", np.random.default_rng(1))
        assert len({matmul(a, b).tobytes() for _ in range(20)}) == 1
    finally:
        threads.set_num_threads(usual)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype("float16"),
        lambda x: x.astype("int32"),
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(x),
        lambda x: x[::-1],
        lambda x: x[:, ::-1],
        lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
    ],
)
def test_other_matrices_are_left_to_numpy(change, monkeypatch):
    _in_pieces(monkeypatch, 2)
    a, b = _operands((65, 64, 63), False, False, "float32", np.random.default_rng(1))
    a, b = (a * 4).round(), (b * 4).round()  # exact in any order
    for left, right in ((change(a), b), (a, change(b)), (change(a), change(b))):
        result, expected = matmul(left, right), np.matmul(left, right)
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)


def test_not_a_number_goes_where_it_belongs(monkeypatch):
    _in_pieces(monkeypatch, 2)
    a, b = np.ones((130, 70), "float32"), np.ones((70, 140), "float32")
    a[3, 4], b[5, 6] = np.nan, np.inf
    result = matmul(a, b)
    assert np.isnan(result[3]).all()
    assert np.isinf(np.delete(result[:, 6], 3)).all()
    assert (np.delete(np.delete(result, 3, 0), 6, 1) == 70).all()


@pytest.mark.parametrize(("left", "right"), [((2, 3), (2, 3)), ((3,), (3, 2)), ((1, 2, 3), (3, 4))])
def test_shapes_that_do_not_fit(left, right):
    with pytest.raises(ValueError, match="matmul: expected two matrices whose inner sizes agree"):
        matmul(np.ones(left), np.ones(right))


def test_out_of_another_shape():
    with pytest.raises(ValueError, match=r"expected out of shape \(2, 4\), received \(4, 2\)"):
        matmul(np.ones((2, 3)), np.ones((3, 4)), out=np.ones((4, 2)))
