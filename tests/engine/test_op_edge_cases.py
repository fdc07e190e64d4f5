"""Edge cases of operations: large inputs, kinks, ties, repeated indices, dropped values."""

import math

import numpy as np
import pytest
from op_table import ADDRESS, INDICES, on_device

from minidl.backend import Backend
from minidl.engine import ops
from minidl.engine.tensor import Tensor
from minidl.rng import keep_mask

INF = math.inf

both_widths = pytest.mark.parametrize("dtype", ["float32", "float64"])


def test_cast_rounds_value_and_returns_gradient_in_dtype_of_input(backend):
    x = backend.asarray(np.array([0.1, 1e-50, 3.0]))
    value, (vjp,) = ops.cast(backend, x, dtype="float32")
    gradient = vjp(backend.asarray(np.array([0.5, 2.0, 4.0], "float32")))
    expected = np.array([0.1, 1e-50, 3.0]).astype("float32")
    np.testing.assert_array_equal(backend.to_numpy(value), expected, strict=True)
    np.testing.assert_array_equal(backend.to_numpy(gradient), [0.5, 2.0, 4.0], strict=True)


# ------------------------------------------------------------------------------ large inputs


@both_widths
def test_sigmoid_of_large_inputs_is_exact(backend, dtype):
    x = backend.asarray(np.array([-INF, -1e4, -1.0, 0.0, 1.0, 1e4, INF], dtype))
    value, (vjp,) = ops.sigmoid(backend, x)
    low = 1 / (1 + math.e)
    expected = [0, 0, low, 0.5, 1 - low, 1, 1]
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=1e-6)
    slope = low * (1 - low)
    gradient = backend.to_numpy(vjp(backend.xp.ones_like(x)))
    np.testing.assert_allclose(gradient, [0, 0, slope, 0.25, slope, 0, 0], rtol=1e-6, atol=0)


def test_sigmoid_of_small_result_keeps_relative_precision(backend):
    x = backend.asarray(np.array([-20.0, -80.0, -700.0]))
    value, _ = ops.sigmoid(backend, x)
    expected = [math.exp(-20) / (1 + math.exp(-20)), math.exp(-80), math.exp(-700)]
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=1e-12)


LARGE = np.array([-INF, -1e30, -1e4, 1e4, 1e30, INF])


@both_widths
@pytest.mark.parametrize(
    ("name", "static", "lowest"),
    [
        ("elu", {"alpha": 0.5}, -0.5),
        ("gelu", {"approximate": False}, 0),
        ("gelu", {"approximate": True}, 0),
        ("leaky_relu", {"negative_slope": 0.0}, 0),
        ("silu", {}, 0),
        ("softplus", {}, 0),
    ],
)
def test_activation_of_large_inputs_is_exact(name, static, lowest, backend, dtype):
    x = backend.asarray(LARGE.astype(dtype))
    value, (vjp,) = ops.OPS[name](backend, x, **static)
    expected = [lowest] * 3 + LARGE[3:].tolist()
    np.testing.assert_array_equal(backend.to_numpy(value), np.array(expected, dtype), strict=True)
    np.testing.assert_array_equal(
        backend.to_numpy(vjp(backend.xp.ones_like(x))), [0, 0, 0, 1, 1, 1]
    )


def test_gelu_of_small_result_keeps_relative_precision(backend):
    x = np.concatenate([-np.logspace(-3, 1.5, 400), np.logspace(-3, 1.5, 400)])
    value, (vjp,) = ops.gelu(backend, backend.asarray(x))
    share = np.array([math.erfc(-number / math.sqrt(2)) / 2 for number in x])
    np.testing.assert_allclose(backend.to_numpy(value), x * share, rtol=1e-12)
    slope = share + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    gradient = backend.to_numpy(vjp(backend.xp.ones_like(backend.asarray(x))))
    np.testing.assert_allclose(gradient, slope, rtol=1e-11, atol=1e-16)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["elu", "gelu", "leaky_relu", "silu", "softplus"])
def test_activation_keeps_nan(name, backend):
    value, _ = ops.OPS[name](backend, backend.asarray(np.array([math.nan, 1.0])))
    assert np.isnan(backend.to_numpy(value)).tolist() == [True, False]


def test_standardize_of_large_mean_is_exact(backend):
    x = np.array([[1e6], [1e6 + 1], [1e6 + 2]], "float32")
    value, _ = ops.standardize(backend, backend.asarray(x), axis=(0,), epsilon=0.0)
    np.testing.assert_allclose(backend.to_numpy(value).ravel(), np.array([-1, 0, 1]) * 1.5**0.5)


def test_standardize_of_constant_is_zero_with_finite_gradient(backend):
    x = backend.asarray(np.full((4, 2), 3.0))
    moments = backend.asarray(np.zeros((2, 2)))
    value, (vjp,) = ops.standardize(backend, x, axis=(0,), epsilon=1e-3, moments=moments)
    np.testing.assert_array_equal(backend.to_numpy(value), 0)
    np.testing.assert_array_equal(backend.to_numpy(moments), [[3, 3], [0, 0]])
    np.testing.assert_allclose(backend.to_numpy(vjp(x)), 0, atol=1e-12)


@both_widths
def test_softmax_of_large_inputs_is_exact(backend, dtype):
    x = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [0, -INF, 0], [-INF, 5, -INF]], dtype)
    value, (vjp,) = ops.softmax(backend, backend.asarray(x))
    expected = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0, 0.5], [0, 1, 0]])
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=1e-6)
    g = np.array([1.0, 2.0, 4.0])
    by_hand = expected * (g - (g * expected).sum(axis=-1, keepdims=True))
    received = backend.to_numpy(vjp(backend.asarray(np.tile(g, (4, 1)).astype(dtype))))
    np.testing.assert_allclose(received, by_hand, rtol=1e-6, atol=1e-7)


@both_widths
def test_log_softmax_of_large_inputs_is_exact(backend, dtype):
    x = np.array([[1e4, -1e4, 0], [1e4, 1e4, 1e4], [0, -INF, 0]], dtype)
    value, (vjp,) = ops.log_softmax(backend, backend.asarray(x))
    third, half = math.log(3), math.log(2)
    expected = [[0, -2e4, -1e4], [-third, -third, -third], [-half, -INF, -half]]
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=1e-6)
    g = backend.asarray(np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0]], dtype))
    by_hand = [[0, 0, 0], [-1 / 3, -1 / 3, 2 / 3], [0.5, 0, -0.5]]
    np.testing.assert_allclose(backend.to_numpy(vjp(g)), by_hand, rtol=1e-6, atol=1e-7)


@both_widths
def test_sparse_cross_entropy_of_large_logits_is_exact(backend, dtype):
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [0, -INF, 0], [0, -INF, 0]], dtype)
    labels = backend.asarray(np.array([0, 1, 2, 1]))
    value, (vjp,) = ops.sparse_cross_entropy(backend, backend.asarray(logits), labels=labels)
    np.testing.assert_allclose(backend.to_numpy(value), [0, 2e4, math.log(2), INF], rtol=1e-6)
    by_hand = [[0, 0, 0], [1, -1, 0], [0.5, 0, -0.5], [0.5, -1, 0.5]]
    gradient = vjp(backend.asarray(np.ones(4, dtype)))
    np.testing.assert_allclose(backend.to_numpy(gradient), by_hand, rtol=1e-6, atol=1e-7)


def test_mean_of_many_float16_does_not_overflow():
    assert Tensor(np.ones(70_000, "float16")).mean().item() == 1


# ------------------------------------------------------------------------------ kinks and ties


@pytest.mark.parametrize(
    ("x", "axis", "expected"),
    [
        ([1.0, 3.0, 3.0], None, [0, 0.5, 0.5]),
        ([7.0, 7.0, 7.0, 7.0], 0, [0.25] * 4),
        ([[1.0, 2.0], [2.0, 2.0]], 1, [[0, 1], [0.5, 0.5]]),
        ([[1.0, 2.0], [2.0, 2.0]], 0, [[0, 0.5], [1, 0.5]]),
        ([[1.0, 2.0], [2.0, 2.0]], None, [[0, 1 / 3], [1 / 3, 1 / 3]]),
        ([-INF, -INF], 0, [0.5, 0.5]),
        ([INF, np.nan, np.nan], None, [0, 0.5, 0.5]),
        ([[np.nan, 1.0], [2.0, 2.0]], 1, [[1, 0], [0.5, 0.5]]),
    ],
)
def test_max_with_ties_shares_gradient_equally(x, axis, expected, device):
    x = Tensor(x, device, requires_grad=True)
    x.max(axis).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-7)


def test_relu_at_zero_has_gradient_zero(device):
    x = Tensor([-0.0, 0.0], device, requires_grad=True)
    x.relu().sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0])


def test_clip_at_its_limits_has_gradient_one(device):
    x = Tensor([-1.0, 0.0, 1.0, 2.0], device, requires_grad=True)
    x.clip(0, 1).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 1, 1, 0])


@pytest.mark.parametrize(
    ("exponent", "value", "slope"), [(0, 1, 0), (0.0, 1, 0), (1, 0, 1), (2, 0, 0), (3.0, 0, 0)]
)
def test_power_of_zero_has_finite_slope(exponent, value, slope, device):
    x = Tensor([0.0], device, requires_grad=True)
    y = x**exponent
    assert y.item() == value
    y.backward()
    assert x.grad.item() == slope


def test_power_of_zero_has_gradient_zero_for_its_exponent(device):
    exponent = Tensor([1.0, 2.0], device, requires_grad=True)
    (Tensor([0.0, 0.0], device) ** exponent).sum().backward()
    np.testing.assert_array_equal(exponent.grad.numpy(), [0, 0])


def test_power_of_negative_base_is_exact(device):
    x = Tensor([-2.0, -2.0, -2.0], device, requires_grad=True)
    y = x ** Tensor([2.0, 3.0, -1.0], device)
    np.testing.assert_allclose(y.numpy(), [4, -8, -0.5])
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [-4, 12, -0.25])


# ------------------------------------------------------------------------------ indexing


def values_of_mixed_magnitude(shape, dtype, seed):
    """Return values whose sum shows the order in which they are added."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 7, shape)
    return np.asarray(values).astype(dtype)


@both_widths
def test_index_add_equals_numpy_bit_for_bit(dtype, backend):
    for shape, index in INDICES:
        values = values_of_mixed_magnitude(np.zeros(shape)[index].shape, dtype, seed=5)
        expected = np.zeros(shape, dtype)
        np.add.at(expected, index, values)
        device_index = on_device({"index": index}, backend)["index"]
        for add in (Backend.index_add, Backend._add_repeated, type(backend)._add_repeated):
            total = backend.to_numpy(add(backend, shape, device_index, backend.asarray(values)))
            np.testing.assert_array_equal(total, expected, f"{shape}[{index}]", strict=True)


def test_index_add_of_many_repeats_keeps_their_order(backend):
    index = np.random.default_rng(7).integers(-50, 50, 5000)
    values = values_of_mixed_magnitude(5000, "float32", seed=8)
    expected = np.zeros(50, "float32")
    np.add.at(expected, index, values)
    backwards = np.zeros(50, "float32")
    np.add.at(backwards, index[::-1], values[::-1])
    assert (expected != backwards).any()  # the sums show the order
    total = Backend._add_repeated(backend, (50,), backend.asarray(index), backend.asarray(values))
    np.testing.assert_array_equal(backend.to_numpy(total), expected, strict=True)


def test_tensor_accepts_every_index_of_its_array(backend, device):
    rng = np.random.default_rng(6)
    for shape, index in INDICES:
        numbers = rng.standard_normal(shape)
        x = Tensor(numbers, device, requires_grad=True)
        y = x[on_device({"index": index}, backend)["index"]]
        np.testing.assert_array_equal(y.numpy(), numbers[index], f"{shape}[{index}]", strict=True)
        cotangent = rng.standard_normal(y.shape)
        expected = np.zeros(shape)
        np.add.at(expected, index, cotangent)
        y.backward(backend.asarray(cotangent))
        np.testing.assert_array_equal(x.grad.numpy(), expected, f"{shape}[{index}]", strict=True)


def test_element_indexed_three_times_has_sum_of_gradients(device):
    x = Tensor([1.0, 2.0, 3.0], device, requires_grad=True)
    y = x[[1, 1, -2, 0]]
    np.testing.assert_array_equal(y.numpy(), [2, 2, 2, 1])
    y.backward([1.0, 10.0, 100.0, 5.0])
    np.testing.assert_array_equal(x.grad.numpy(), [5, 111, 0])


def test_getitem_accepts_tensor_as_index(device):
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], device, requires_grad=True)
    rows, columns = Tensor([1, 1], device), Tensor([0, 0], device)
    y = x[rows, columns]
    np.testing.assert_array_equal(y.numpy(), [3, 3])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0], [2, 0]])
    np.testing.assert_array_equal(x[x > 2].numpy(), [3, 4])


# ------------------------------------------------------------------------------ dropout


@pytest.mark.parametrize("rows", [1, 2])
def test_dropout_follows_mask_in_value_and_gradient(rows, backend):
    for size in (0, 1, 3, 4, 5, 255, 256, 257):
        check_dropout((rows, size), backend)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2])
def test_dropout_of_large_array_follows_mask_in_value_and_gradient(rows, backend):
    check_dropout((rows, 2**20 + 3), backend)


def check_dropout(shape, backend):
    x = np.random.default_rng(9).standard_normal(shape).astype("float32")
    mask = keep_mask(shape, 0.3, **ADDRESS._asdict())
    value, (vjp,) = ops.dropout(backend, backend.asarray(x), rate=0.3, address=ADDRESS)
    expected = np.where(mask, x * np.float32(1 / (1 - 0.3)), np.float32(0))
    np.testing.assert_array_equal(backend.to_numpy(value), expected, strict=True)
    g = backend.asarray(x[:, ::-1])
    expected = np.where(mask, x[:, ::-1] * np.float32(1 / (1 - 0.3)), np.float32(0))
    np.testing.assert_array_equal(backend.to_numpy(vjp(g)), expected, strict=True)


def test_dropout_of_nan_is_positive_zero(backend):
    x = np.full((4, 100), math.nan, "float32")
    mask = keep_mask(x.shape, 0.5, **ADDRESS._asdict())
    value, (vjp,) = ops.dropout(backend, backend.asarray(x), rate=0.5, address=ADDRESS)
    for received in (value, vjp(backend.asarray(-np.abs(x)))):
        received = backend.to_numpy(received)
        assert np.isnan(received[mask]).all()
        np.testing.assert_array_equal(received[~mask], 0)
        assert not np.signbit(received[~mask]).any()


def test_dropout_at_rate_one_returns_zeros_in_value_and_gradient(backend):
    x = backend.asarray(np.array([[INF, math.nan, -1.0]], "float32"))
    value, (vjp,) = ops.dropout(backend, x, rate=1.0, address=ADDRESS)
    for received in (value, vjp(x)):
        received = backend.to_numpy(received)
        np.testing.assert_array_equal(received, np.zeros((1, 3), "float32"), strict=True)


# ------------------------------------------------------------------------------ powers


@both_widths
@pytest.mark.parametrize("exponent", [0, 0.0, -0.0])
def test_power_zero_has_gradient_zero_everywhere(exponent, dtype, device):
    x = Tensor(np.array([-INF, -2, 0, 3, INF, math.nan], dtype), device, requires_grad=True)
    exponents = Tensor(np.full(6, exponent, dtype), device)
    (x**exponent + x**exponents).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros(6, dtype), strict=True)


def test_gradient_for_exponent_is_nan_at_negative_base_and_zero_at_zero(device):
    exponent = Tensor([2.0, 3.0, 2.0, 0.0], device, requires_grad=True)
    with np.errstate(invalid="ignore"):
        (Tensor([-2.0, -1.0, 0.0, 0.0], device) ** exponent).sum().backward()
    np.testing.assert_array_equal(exponent.grad.numpy(), [math.nan, math.nan, 0, 0])
