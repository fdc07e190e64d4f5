"""Dropout: each decision has an address, in value and gradient."""

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, models, rng

SIZES = [0, 1, 3, 4, 5, 255, 256, 257]
SCALINGS = ("train", "inference")


def numbers(shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def by_contract(x, mask, rate, dtype="float32"):
    """Return kept values times the scale, rounded once, and zeros."""
    scale = np.dtype(dtype).type(1 / (1 - rate))
    return np.where(mask, x * scale, 0).astype(dtype)


def assert_same_bits(received, expected):
    """Compare float arrays bit for bit, including the sign of zero."""
    received, expected = np.asarray(received), np.asarray(expected)
    np.testing.assert_array_equal(received, expected, strict=True)
    assert received.tobytes() == expected.tobytes(), "the signs of zeros differ"


# ------------------------------------------------------------------------------ value and gradient


def test_dropout_in_inference_returns_its_input(device):
    x = Tensor(numbers((3, 5)), device=device)
    assert layers.Dropout(0.5)(x) is x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_in_training_applies_mask_of_its_address(dtype, device):
    for columns in SIZES:
        layer = layers.Dropout(0.3, seed=2**63 + 5, stream=9)
        x = Tensor(numbers((3, columns), dtype), device=device, requires_grad=True)
        gradient = numbers((3, columns), dtype) + 2
        with minidl.training(step=4, row_offset=100):
            y = layer(x)
        y.backward(Tensor(gradient, device=device))
        mask = rng.keep_mask((3, columns), 0.3, seed=2**63 + 5, stream=9, step=4, row_offset=100)
        assert_same_bits(y.numpy(), by_contract(x.numpy(), mask, 0.3, dtype))
        assert_same_bits(x.grad.numpy(), by_contract(gradient, mask, 0.3, dtype))


def test_dropout_of_float16_is_computed_in_float32_and_rounded_once(device):
    x = numbers((5, 257), "float16")
    with minidl.training(step=1):
        y = layers.Dropout(0.3, seed=1)(Tensor(x, device=device)).numpy()
    mask = rng.keep_mask(x.shape, 0.3, seed=1, stream=0, step=1)
    assert_same_bits(y, by_contract(x.astype("float32"), mask, 0.3).astype("float16"))


@pytest.mark.parametrize("shape", [(), (7,), (1, 1), (2, 3, 5)])
def test_dropout_accepts_any_number_of_axes(shape, device):
    x = numbers(shape)
    with minidl.training(step=1):
        y = layers.Dropout(0.5, seed=1)(Tensor(x, device=device)).numpy()
    mask = rng.keep_mask(shape, 0.5, seed=1, stream=0, step=1)
    assert_same_bits(y, by_contract(x, mask, 0.5))


def test_dropout_at_another_address_has_another_mask():
    def mask(seed=1, stream=2, step=3, row_offset=0):
        with minidl.training(step=step, row_offset=row_offset):
            y = layers.Dropout(0.5, seed=seed, stream=stream)(Tensor(np.ones((4, 64))))
        return (y.numpy() == 0).tobytes()

    masks = [mask(), mask(seed=2), mask(stream=3), mask(step=4), mask(row_offset=1)]
    assert len(set(masks)) == 5
    assert mask() == masks[0]


@pytest.mark.parametrize("rate", [0.25, 1.0])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_dropped_nan_and_infinity_are_positive_zero(rate, scaling, device):
    x = np.resize(np.array([np.nan, np.inf, -np.inf, -1.0], "float32"), (4, 70))
    t = Tensor(x, device=device, requires_grad=True)
    with minidl.training(step=0):
        y = layers.Dropout(rate, seed=3, scaling=scaling)(t)
    y.backward(Tensor(x, device=device))
    dropped = ~rng.keep_mask(x.shape, rate, seed=3, stream=0, step=0)
    assert dropped.any()
    for values in (y.numpy(), t.grad.numpy()):
        assert_same_bits(values[dropped], np.zeros(dropped.sum(), "float32"))
        assert np.array_equal(np.isnan(values), np.isnan(x) & ~dropped)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_dropout_at_rate_zero_returns_its_input_and_counts_the_step(scaling, device):
    x = numbers((3, 5))
    layer = layers.Dropout(0, seed=1, scaling=scaling)
    t = Tensor(x, device=device, requires_grad=True)
    with minidl.training():
        y = layer(t)
    y.backward(Tensor(x, device=device))
    assert_same_bits(y.numpy(), x)
    assert_same_bits(t.grad.numpy(), x)
    assert layer.step == 1


@pytest.mark.parametrize("scaling", SCALINGS)
def test_dropout_at_rate_one_returns_zeros_and_counts_the_step(scaling):
    layer = layers.Dropout(1, seed=1, scaling=scaling)
    with minidl.training():
        y = layer(Tensor(numbers((3, 5))))
    assert_same_bits(y.numpy(), np.zeros((3, 5), "float32"))
    assert layer.step == 1


# ------------------------------------------------------------------------------ scaling="inference"


def test_inference_scaling_only_drops_in_training(device):
    x = Tensor(numbers((4, 65)), device=device, requires_grad=True)
    with minidl.training(step=2):
        y = layers.Dropout(0.3, seed=1, scaling="inference")(x)
    y.backward(Tensor(x.numpy(), device=device))
    mask = rng.keep_mask((4, 65), 0.3, seed=1, stream=0, step=2)
    assert_same_bits(y.numpy(), np.where(mask, x.numpy(), np.float32(0)))
    assert_same_bits(x.grad.numpy(), np.where(mask, x.numpy(), np.float32(0)))


def test_inference_scaling_multiplies_value_and_gradient_in_inference(device):
    x = Tensor(numbers((4, 65)), device=device, requires_grad=True)
    y = layers.Dropout(0.3, scaling="inference")(x)
    y.backward(Tensor(x.numpy(), device=device))
    assert_same_bits(y.numpy(), x.numpy() * np.float32(0.7))
    assert_same_bits(x.grad.numpy(), x.numpy() * np.float32(0.7))


def test_inference_scaling_at_rate_one_returns_positive_zeros(device):
    values = np.array([[np.inf, -np.inf, np.nan, -1.0]], "float32")
    x = Tensor(values, device=device, requires_grad=True)
    y = layers.Dropout(1, scaling="inference")(x)
    y.backward(Tensor(values, device=device))
    assert_same_bits(y.numpy(), np.zeros((1, 4), "float32"))
    assert_same_bits(x.grad.numpy(), np.zeros((1, 4), "float32"))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_training_has_expectation_of_inference(scaling, rate):
    steps, x = 400, np.full((8, 64), 2.0)
    layer = layers.Dropout(rate, seed=11, scaling=scaling)
    expected = layer(Tensor(x)).numpy()
    total = np.zeros_like(x)
    for step in range(steps):
        with minidl.training(step=step):
            total += layer(Tensor(x)).numpy()
    # A kept element has the value 2 * scale; this is the standard deviation of one draw.
    scale = 1 / (1 - rate) if scaling == "train" else 1.0
    sigma = 2 * scale * (rate * (1 - rate)) ** 0.5
    assert np.abs(total / steps - expected).max() < 5 * sigma / steps**0.5
    assert abs(total.mean() / steps - expected.mean()) < 5 * sigma / (steps * x.size) ** 0.5


# ------------------------------------------------------------------------------ steps and calls


def test_calls_without_step_use_consecutive_steps():
    layer, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((2, 64), "float32"))
    with minidl.training():
        outputs = [layer(x).numpy() for _ in range(2)]
    with minidl.training():
        outputs.append(layer(x).numpy())
    for step, y in enumerate(outputs):
        mask = rng.keep_mask((2, 64), 0.5, seed=1, stream=0, step=step)
        assert np.array_equal(y != 0, mask)
    assert layer.step == 3


def test_call_without_step_follows_last_given_step():
    layer, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((2, 64), "float32"))
    with minidl.training(step=41):
        layer(x)
    with minidl.training():
        y = layer(x).numpy()
    assert np.array_equal(y != 0, rng.keep_mask((2, 64), 0.5, seed=1, stream=0, step=42))


def test_inference_does_not_advance_the_step():
    layer = layers.Dropout(0.5, seed=1)
    layer(Tensor(np.ones((2, 64))))
    assert layer.step == 0


def test_shared_layer_draws_anew_at_each_call():
    shared = layers.Dropout(0.5)
    model = models.Sequential([shared, shared], seed=1)
    with minidl.training(step=0):
        y = model(np.ones((2, 64), "float32")).numpy()
    first, second = (
        rng.keep_mask((2, 64), 0.5, seed=1, stream=call * 2**20, step=0) for call in (0, 1)
    )
    assert np.array_equal(y != 0, first & second)


# ------------------------------------------------------------------------------ seeds and arguments


def test_dropout_uses_seed_of_model_unless_it_has_its_own():
    own, of_model = layers.Dropout(0.5, seed=7), layers.Dropout(0.5)
    model = models.Sequential([of_model, own], seed=3)
    with minidl.training(step=0):
        y = model(np.ones((2, 64), "float32")).numpy()
    first = rng.keep_mask((2, 64), 0.5, seed=3, stream=0, step=0)
    second = rng.keep_mask((2, 64), 0.5, seed=7, stream=1, step=0)
    assert np.array_equal(y != 0, first & second)


def test_seed_stream_and_step_are_read_only():
    layer = layers.Dropout(0.5, seed=7, stream=4)
    assert (layer.seed, layer.stream, layer.step) == (7, 4, 0)
    for name in ("seed", "stream", "step"):
        with pytest.raises(AttributeError, match=name):
            setattr(layer, name, 1)


def test_repr_shows_integers():
    text = "Dropout(rate=0.5, scaling='inference', seed=18446744073709551615, stream=4, step=0)"
    layer = layers.Dropout(0.5, seed=np.uint64(2**64 - 1), stream=4, scaling="inference")
    assert repr(layer) == text
    assert repr(layers.Dropout(1)) == ("Dropout(rate=1.0, seed=None, stream=None, step=0)")


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan"), float("inf")])
def test_rate_outside_unit_interval_is_rejected(rate):
    with pytest.raises(ValueError, match=rf"rate.*\[0, 1\].*{rate}"):
        layers.Dropout(rate, seed=1)


def test_unknown_scaling_is_rejected():
    with pytest.raises(ValueError, match=r"Dropout: expected scaling .*train.*inference.*'none'"):
        layers.Dropout(0.5, scaling="none")


# ------------------------------------------------------------------------------ rows of the batch


@pytest.mark.parametrize("cuts", [(1, 2, 3, 4), (5, 5), (9, 1), (1,) * 10])
def test_micro_batches_have_masks_of_whole_batch(cuts, device):
    seen = []

    def record(x):
        seen.append(x.numpy() != 0)
        return x

    positive = {"kernel_initializer": "ones", "activation": "relu"}
    model = models.Sequential(
        [
            layers.Dense(70, **positive),
            layers.Dropout(0.5),
            layers.Activation(record),
            layers.Dense(33, **positive),
            layers.Dropout(0.2),
            layers.Activation(record),
        ],
        seed=5,
        device=device,
    )
    x = np.abs(numbers((10, 20))) + 1
    model(x)
    seen.clear()
    with minidl.training(step=6):
        whole = model(x).numpy()
    whole_masks = list(seen)
    for stream, (rate, mask) in enumerate(zip((0.5, 0.2), whole_masks, strict=True)):
        expected = rng.keep_mask(mask.shape, rate, seed=5, stream=stream, step=6)
        assert np.array_equal(mask, expected)

    outputs, start = [], 0
    seen.clear()
    for rows in cuts:
        with minidl.training(step=6, row_offset=start):
            outputs.append(model(x[start : start + rows]).numpy())
        start += rows
    for place in (0, 1):
        assert np.array_equal(np.concatenate(seen[place::2]), whole_masks[place])
    np.testing.assert_allclose(np.concatenate(outputs), whole, rtol=1e-5)


def test_micro_batch_without_row_offset_has_another_mask():
    layer, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((4, 64), "float32"))
    with minidl.training(step=0):
        whole = layer(x).numpy()
    with minidl.training(step=0):
        second_half = layer(x[2:]).numpy()
    assert not np.array_equal(second_half, whole[2:])


def test_row_offset_is_rejected_if_axis_0_is_not_the_batch():
    model = models.Sequential([layers.Activation(lambda x: x.T), layers.Dropout(0.5)])
    x = np.ones((3, 5))
    with minidl.training(step=0):
        model(x)  # without an offset there is nothing to check
    with (
        minidl.training(step=0, row_offset=0),
        pytest.raises(ValueError, match=r"row_offset: .*3 samples.*5 rows"),
    ):
        model(x)
