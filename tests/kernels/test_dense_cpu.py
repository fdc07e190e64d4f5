"""Dense layers on the CPU: the bits of the operations one after the other, however it is cut."""

import numpy as np
import pytest
from minidl_kernels import mask_contract
from minidl_kernels.cpu import dense as module
from minidl_kernels.cpu import dropout
from minidl_kernels.cpu.dense import activate_and_drop, activate_vjp, dense

ADDRESS = {"seed": 2**40 + 17, "stream": 3, "step": 2**32 - 1, "row_offset": 2**31}
DTYPES = ["float32", "float64"]
SHAPES = [(0, 3), (3, 0), (1, 1), (3, 4), (5, 10), (4, 16), (7, 33), (2, 64), (3, 65), (9, 255)]
SHAPES += [(256, 257), (128, 512), (257, 256)]


def _values(shape, dtype, seed=1):
    values = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    values.flat[1::7] = -0.0
    values.flat[2::11] = np.nan
    values.flat[3::13] = np.inf
    return values


def _one_after_the_other(z, bias, activation, rate, rescale, address):
    y = z + bias
    if activation == "relu":
        y = np.maximum(y, z.dtype.type(0))
    keep = mask_contract.keep_mask(y.shape, rate, **address)
    if rescale and rate < 1:
        y = y * z.dtype.type(1 / (1 - rate))
    return np.where(keep, y, z.dtype.type(0))


def _assert_same_bits(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    np.testing.assert_array_equal(np.signbit(a), np.signbit(b))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("rate", [0, 2.0**-33, 0.3, 1 - 2.0**-32, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_has_the_bits_of_one_operation_after_the_other(shape, rate, activation, dtype):
    z, bias = _values(shape, dtype), _values(shape[1:], dtype, 2)
    before = bias.copy()
    for rescale in (True, False):
        expected = _one_after_the_other(z, bias, activation, rate, rescale, ADDRESS)
        y = z.copy()
        activate_and_drop(y, bias, activation=activation, rate=rate, rescale=rescale, **ADDRESS)
        _assert_same_bits(y, expected)
    _assert_same_bits(bias, before)


def test_the_mask_is_that_of_dropout():
    z = np.ones((5, 130), "float32")
    expected = dropout.dropout(z, 0.4, **ADDRESS)
    activate_and_drop(z, np.zeros(130, "float32"), activation="linear", rate=0.4, **ADDRESS)
    _assert_same_bits(z, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", [0, 0.5])
@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "shape", [(1, 5, 1), (33, 20, 10), (70, 3, 65), (256, 16, 300), (300, 9, 64)]
)
def test_dense_is_the_product_finished(shape, pieces, rate, dtype, monkeypatch):
    monkeypatch.setattr(module.products, "pieces_of_product", lambda *_: pieces)
    rows, inputs, units = shape
    rng = np.random.default_rng(3)
    # Small integers, whose products are exact in any order.
    x = rng.integers(-4, 5, (rows, inputs)).astype(dtype)
    weight = rng.integers(-4, 5, (inputs, units)).astype(dtype)
    bias = rng.standard_normal(units).astype(dtype)
    y = dense(x, weight, bias, activation="relu", rate=rate, **ADDRESS)
    expected = x @ weight
    activate_and_drop(expected, bias, activation="relu", rate=rate, **ADDRESS)
    _assert_same_bits(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("in_place", [False, True])
def test_vjp(in_place, shape, dtype):
    g, y = _values(shape, dtype), _values(shape, dtype, 2)
    factor = 1 / (1 - 0.3)
    wanted = np.where(y > 0, g * g.dtype.type(factor), g.dtype.type(0))
    sums = np.zeros(shape[1:], dtype)
    for row in wanted:
        sums = sums + row
    before = y.copy()
    g_z, g_bias = g if in_place else np.empty_like(g), np.empty(shape[1:], dtype)
    unchanged = None if in_place else g.copy()
    activate_vjp(g, y, factor, g_z, g_bias)
    _assert_same_bits(g_z, wanted)
    _assert_same_bits(g_bias, sums)
    _assert_same_bits(y, before)
    if unchanged is not None:
        _assert_same_bits(g, unchanged)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.asfortranarray(x),
        lambda x: x[::-1, ::-1],
        lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_dense_takes_any_strides(pieces, change, monkeypatch):
    monkeypatch.setattr(module.products, "pieces_of_product", lambda *_: pieces)
    x, weight = change(np.arange(12.0).reshape(3, 4)), change(np.arange(20.0).reshape(4, 5))
    before = x.copy(), weight.copy()
    y = dense(x, weight, np.ones(5), activation="linear")
    np.testing.assert_array_equal(y, x @ weight + 1)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(weight, before[1])


@pytest.mark.parametrize("pieces", [1, 2])
def test_dense_at_rate_1_gives_zeros(pieces, monkeypatch):
    monkeypatch.setattr(module.products, "pieces_of_product", lambda *_: pieces)
    y = dense(np.full((3, 4), np.nan), np.ones((4, 5)), np.ones(5), activation="linear", rate=1)
    assert y.tolist() == np.zeros((3, 5)).tolist()


@pytest.mark.parametrize("rate", [0.5, 1])
def test_a_bad_address_is_an_error_before_any_work(rate):
    z = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"stream must be in \[0, 2\*\*32\), received -1"):
        activate_and_drop(z, np.ones(3), activation="relu", rate=rate, stream=-1)
    assert (z == 1).all()


def test_errors_of_activate_and_drop():
    z, bias = np.ones((2, 3)), np.ones(3)
    with pytest.raises(ValueError, match="activation must be one of linear, relu, received 'tanh'"):
        activate_and_drop(z, bias, activation="tanh")
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], received 1\.5"):
        activate_and_drop(z, bias, activation="relu", rate=1.5)
    for wrong in (np.ones((2, 4)), np.ones(3), np.ones((3, 2)).T):
        with pytest.raises(ValueError, match="activate_and_drop: expected z of shape"):
            activate_and_drop(wrong, bias, activation="relu")
    for dtypes in (("float16", "float16"), ("float32", "float64"), ("int64", "int64")):
        pair = z.astype(dtypes[0]), bias.astype(dtypes[1])
        with pytest.raises(TypeError, match=f"received {dtypes[0]} and {dtypes[1]}"):
            activate_and_drop(*pair, activation="relu")


def test_errors_of_dense():
    x, weight, bias = np.ones((2, 3)), np.ones((3, 4)), np.ones(4)
    with pytest.raises(ValueError, match=r"dense: expected x .* received \(2, 3\) and \(4, 3\)"):
        dense(x, weight.T, bias, activation="relu")
    with pytest.raises(TypeError, match="dense: expected one dtype, received float32 and float64"):
        dense(x.astype("f4"), weight, bias, activation="relu")
    with pytest.raises(ValueError, match="dense: expected z of shape"):
        dense(x, weight, np.ones(3), activation="relu")
    with pytest.raises(TypeError, match="dense: expected z and bias of one dtype"):
        dense(x.astype("f2"), weight.astype("f2"), bias.astype("f2"), activation="relu")


def test_errors_of_the_vjp():
    g, bias = np.ones((2, 3)), np.ones(3)
    for wrong in (np.ones((3, 2)), np.ones((3, 2)).T, np.ones(6)):
        with pytest.raises(ValueError, match="activate_vjp: expected g, y and g_z of one shape"):
            activate_vjp(g, wrong, 1.0, g, bias)
    with pytest.raises(ValueError, match="activate_vjp: expected g, y and g_z of one shape"):
        activate_vjp(g, g, 1.0, g, np.ones(2))
    with pytest.raises(TypeError, match=r"activate_vjp: expected arrays of one dtype.*float32"):
        activate_vjp(g, g.astype("f4"), 1.0, g, bias)
