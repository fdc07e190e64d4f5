"""Dense layers on each device: the bits of one operation after the other, and their gradients."""

import numpy as np
import pytest
from backends import Reference, assert_same_bits, host, special_numbers
from minidl_kernels import mask_contract
from minidl_kernels.cpu import products
from minidl_kernels.mask_contract import Address

from minidl import get_backend

ADDRESS = Address(seed=2**40 + 17, stream=3, step=2**32 - 1, row_offset=2**31)
REFERENCE = Reference()
DTYPES = ["float32", "float64"]
SHAPES = [(0, 3), (1, 1), (3, 4), (5, 10), (33, 65), (9, 255), (257, 10), (300, 33), (3, 512)]
FINISHES = [  # activation, rate, rescale
    ("relu", 0.3, True),
    ("linear", 0.5, True),
    ("relu", 0.3, False),
    ("linear", 0, True),
    ("relu", 0, True),
    ("linear", 2.0**-33, True),
    ("relu", 1 - 2.0**-32, True),
    ("relu", 1, True),
]


def dense(backend, x, weight, bias, **options):
    """Return the layer of arrays of the host, and check that the device's copies are unchanged."""
    arrays = [backend.asarray(array) for array in (x, weight, bias)]
    (y,) = host(backend, backend.dense(*arrays, **options))
    for array, given in zip(arrays, (x, weight, bias), strict=True):
        assert_same_bits(backend.to_numpy(array), given)
    return y


def one_after_the_other(z, activation, rate, rescale):
    """Return activation and dropout of logits, in NumPy."""
    y = np.maximum(z, z.dtype.type(0)) if activation == "relu" else z
    if rescale and rate < 1:
        y = y * z.dtype.type(1 / (1 - rate))
    keep = mask_contract.keep_mask(z.shape, rate, **ADDRESS._asdict())
    return np.where(keep, y, z.dtype.type(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense_has_the_bits_of_one_operation_after_the_other(shape, dtype, backend):
    x, bias = special_numbers(shape, dtype), special_numbers(shape[1:], dtype, 2)
    x[~np.isfinite(x) | (x == 0)] = 3  # the product with the identity is then exact
    with np.errstate(invalid="ignore"):
        z = x + bias
    for activation, rate, rescale in FINISHES:
        options = {"activation": activation, "rate": rate, "rescale": rescale, "address": ADDRESS}
        y = dense(backend, x, np.eye(shape[1], dtype=dtype), bias, **options)
        assert_same_bits(y, one_after_the_other(z, activation, rate, rescale))


def test_relu_of_negative_zero_is_positive_zero(backend):
    x, bias = np.full((1, 1), -0.0, "float32"), np.full(3, -0.0, "float32")
    y = dense(backend, x, np.ones((1, 3), "float32"), bias, activation="relu")
    assert not np.signbit(y).any()


def test_dense_at_rate_one_returns_zeros(backend):
    x, weight, bias = (np.full(shape, np.nan, "float32") for shape in ((2, 3), (3, 4), 4))
    y = dense(backend, x, weight, bias, activation="linear", rate=1, address=ADDRESS)
    assert_same_bits(y, np.zeros((2, 4), "float32"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(1, 5, 1), (33, 20, 10), (70, 3, 65), (256, 16, 300)])
def test_dense_on_several_threads_has_the_bits_of_the_reference(shape, pieces, dtype, monkeypatch):
    monkeypatch.setattr(products, "pieces_of_product", lambda *_: pieces)
    rows, inputs, units = shape
    rng = np.random.default_rng(3)
    # Small integers, whose products are exact in any order.
    x = rng.integers(-4, 5, (rows, inputs)).astype(dtype)
    weight = rng.integers(-4, 5, (inputs, units)).astype(dtype)
    bias = rng.standard_normal(units).astype(dtype)
    for rate in (0, 0.5):
        options = {"activation": "relu", "rate": rate, "address": ADDRESS}
        y = get_backend("cpu").dense(x, weight, bias, **options)
        assert_same_bits(y, REFERENCE.dense(x, weight, bias, **options))


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: np.asfortranarray(x),
        lambda x: x[::-1, ::-1],
        lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
    ],
)
def test_dense_on_the_cpu_takes_any_strides(view, pieces, monkeypatch):
    monkeypatch.setattr(products, "pieces_of_product", lambda *_: pieces)
    x, weight = view(np.arange(12.0).reshape(3, 4)), view(np.arange(20.0).reshape(4, 5))
    y = get_backend("cpu").dense(x, weight, view(np.ones((2, 5)))[0], activation="linear")
    np.testing.assert_array_equal(y, x @ weight + 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 0), (600, 1)], ids=str)
def test_vjp_selects_and_sums(shape, dtype, backend):
    g, y = special_numbers(shape, dtype), special_numbers(shape, dtype, 2)
    g[~np.isfinite(g)] = 1  # their sums are tested below
    expected = np.where(y > 0, g * g.dtype.type(1 / 0.7), g.dtype.type(0))
    arrays = backend.asarray(g), backend.asarray(y)
    out = backend.asarray(np.full(shape[1:], 7, dtype))
    g_z, g_bias = backend.bias_act_dropout_vjp(*arrays, 1 / 0.7, out)
    assert g_bias is out
    results = host(backend, g_z, g_bias)
    assert_same_bits(results[0], expected)
    bound = 16 * np.finfo(dtype).eps * np.abs(expected.astype("longdouble")).sum(axis=0)
    bound += np.finfo(dtype).smallest_normal  # CuPy's sum, of the chunks, is 0 below it
    assert (abs(results[1] - expected.sum(axis=0, dtype="longdouble")) <= bound).all()
    for array, given in zip(host(backend, *arrays), (g, y), strict=True):
        assert_same_bits(array, given)
    again = host(backend, *backend.bias_act_dropout_vjp(*arrays, 1 / 0.7))
    for array, same in zip(again, results, strict=True):
        assert_same_bits(array, same)


def test_vjp_on_the_cpu_sums_row_by_row():
    g, y = (np.random.default_rng(n).standard_normal((300, 5), "float32") for n in (1, 2))
    g_z, g_bias = get_backend("cpu").bias_act_dropout_vjp(g, y, 2.0)
    total = np.zeros(5, "float32")
    for row in g_z:
        total = total + row
    assert_same_bits(g_bias, total)


def test_vjp_drops_nan_and_infinity_by_selection(backend):
    g = backend.asarray(np.array([[np.nan, np.inf, np.nan, 1]], "float32"))
    y = backend.asarray(np.array([[0, 0, 1, np.nan]], "float32"))
    g_z, g_bias = host(backend, *backend.bias_act_dropout_vjp(g, y, 2))
    np.testing.assert_array_equal(g_z, [[0, 0, np.nan, 0]])
    np.testing.assert_array_equal(g_bias, [0, 0, np.nan, 0])


F4, F8 = np.ones((2, 3), "float32"), np.ones((2, 3))
LAYER = {"x": F4, "weight": F4.T.copy(), "bias": F4[0, :2].copy()}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": F4[0]}, ValueError, r"expected x of shape \(rows, inputs\), got \(3,\)"),
        ({"x": F4.astype("f2")}, TypeError, "expected x .* got float16"),
        ({"weight": F4}, ValueError, r"expected weight of shape \(3, 3\), got \(2, 3\)"),
        ({"weight": F4[0]}, ValueError, r"expected weight of shape \(3, 3\), got \(3,\)"),
        ({"weight": F8.T}, TypeError, "expected weight of dtype float32, got float64"),
        ({"bias": F8[0, :2]}, TypeError, "expected bias of dtype float32, got float64"),
        ({"bias": F4[0]}, ValueError, r"expected bias of shape \(2,\), got \(3,\)"),
        ({"activation": "tanh"}, ValueError, "expected activation among linear, relu, got 'tanh'"),
    ],
)
def test_dense_rejects_arrays_that_do_not_fit(changed, error, message, backend):
    options = {"activation": "relu"} | LAYER | changed
    arrays = {name: backend.asarray(options.pop(name)) for name in LAYER}
    with pytest.raises(error, match=f"^dense: {message}"):
        backend.dense(**arrays, **options)


@pytest.mark.parametrize("rate", [0.5, 1])
def test_dense_rejects_a_missing_address_and_a_bad_one(rate, backend):
    arrays = {name: backend.asarray(array) for name, array in LAYER.items()}
    with pytest.raises(TypeError, match="mask: expected an Address, got None"):
        backend.dense(**arrays, activation="relu", rate=rate)
    with pytest.raises(ValueError, match="mask: stream: expected"):
        backend.dense(**arrays, activation="relu", rate=rate, address=Address(0, -1, 0))
    with pytest.raises(ValueError, match="dropout: expected a rate"):
        backend.dense(**arrays, activation="relu", rate=1 + rate, address=ADDRESS)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"g": F8}, TypeError, "expected g of dtype float32, got float64"),
        ({"g": F4[:1]}, ValueError, r"expected g of shape \(2, 3\), got \(1, 3\)"),
        ({"y": F4[0]}, ValueError, r"expected y of shape \(rows, units\)"),
        ({"y": F4.astype("i4")}, TypeError, "expected y .* got int32"),
        ({"g_bias": F4}, ValueError, r"expected g_bias of shape \(3,\), got \(2, 3\)"),
        ({"g_bias": np.ones(6, "f4")[::2]}, ValueError, "expected g_bias in C order"),
    ],
)
def test_vjp_rejects_arrays_that_do_not_fit(changed, error, message, backend):
    arrays = {"g": F4, "y": F4, "g_bias": F4[0]} | changed
    on_device = {name: backend.asarray(array) for name, array in arrays.items()}
    if "order" in message:
        on_device["g_bias"] = backend.asarray(np.ones(6, "float32"))[::2]
    with pytest.raises(error, match=f"^bias_act_dropout_vjp: {message}"):
        backend.bias_act_dropout_vjp(factor=1.0, **on_device)
