"""GaussianNoise and GaussianDropout: the numbers of an address, in value and gradient."""

import math

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, models, rng

NOISY = {
    "GaussianNoise": lambda **arguments: layers.GaussianNoise(0.75, **arguments),
    "GaussianDropout": lambda **arguments: layers.GaussianDropout(0.36, **arguments),
}
SIGMA = 0.75  # of both
EACH_LAYER = pytest.mark.parametrize("make", NOISY.values(), ids=NOISY.keys())


def numbers(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def by_contract(layer, x, n):
    """Return what a layer computes of normal numbers, in the arithmetic of its dtype."""
    sigma = x.dtype.type(SIGMA)
    is_factor = isinstance(layer, layers.GaussianDropout)
    return x * (1 + sigma * n) if is_factor else x + sigma * n


@EACH_LAYER
def test_noise_in_inference_returns_its_input(make, device):
    x = Tensor(numbers((3, 5)), device=device)
    assert make()(x) is x


@EACH_LAYER
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_in_training_has_numbers_of_its_address(dtype, make, device):
    for columns in (0, 1, 10, 64, 257):
        x = numbers((3, columns), dtype)
        layer = make(seed=2**63 + 5, stream=9)
        with minidl.training(step=7, row_offset=4):
            y = layer(Tensor(x, device=device, dtype=dtype)).numpy()
        n = rng.normal(x.shape, seed=2**63 + 5, stream=9, step=7, row_offset=4)
        np.testing.assert_array_equal(y, by_contract(layer, x, n.astype(dtype)), strict=True)


@EACH_LAYER
def test_noise_in_float16_is_that_of_float32_rounded_once(make, device):
    x = numbers((3, 70)).astype("float16")
    layer = make(seed=1)
    with minidl.training(step=0):
        y = layer(Tensor(x, device=device, dtype="float16")).numpy()
    n = rng.normal(x.shape, seed=1, stream=0, step=0)
    expected = by_contract(layer, x.astype("float32"), n).astype("float16")
    np.testing.assert_array_equal(y, expected, strict=True)


def test_gradient_of_added_noise_is_the_identity(device):
    x, g = Tensor(numbers((3, 70)), device=device, requires_grad=True), numbers((3, 70), seed=1)
    with minidl.training(step=0):
        layers.GaussianNoise(2.5, seed=1)(x).backward(Tensor(g, device=device))
    np.testing.assert_array_equal(x.grad.numpy(), g, strict=True)


def test_gradient_of_a_noisy_factor_is_the_factor(device):
    x, g = Tensor(numbers((3, 70)), device=device, requires_grad=True), numbers((3, 70), seed=1)
    layer = layers.GaussianDropout(0.36, seed=1)
    with minidl.training(step=0):
        layer(x).backward(Tensor(g, device=device))
    n = rng.normal((3, 70), seed=1, stream=0, step=0)
    np.testing.assert_array_equal(x.grad.numpy(), by_contract(layer, g, n), strict=True)


@pytest.mark.parametrize("layer", [layers.GaussianNoise, layers.GaussianDropout])
def test_layer_without_noise_returns_its_input_and_counts_the_step(layer):
    layer, x = layer(0, seed=1), Tensor(np.array([[-0.0, np.nan, np.inf]], "float32"))
    with minidl.training():
        assert layer(x) is x
    assert layer.step == 1


@EACH_LAYER
def test_nan_and_infinity_stay(make, device):
    x = np.array([[np.nan, np.inf, -np.inf, 1.0]], "float32")
    layer = make(seed=3)
    with minidl.training(step=0):
        y = layer(Tensor(x, device=device)).numpy()
    n = rng.normal(x.shape, seed=3, stream=0, step=0)
    np.testing.assert_array_equal(y, by_contract(layer, x, n), strict=True)
    assert np.isnan(y[0, 0])
    assert np.isinf(y[0, 1:3]).all()


@EACH_LAYER
def test_noise_has_its_mean_and_variance(make):
    x = np.full((400, 500), 3.0)
    layer = make(seed=11)
    with minidl.training(step=0):
        y = layer(Tensor(x, dtype="float64")).numpy()
    scale = 3.0 if isinstance(layer, layers.GaussianDropout) else 1.0
    z = (y - x) / (scale * SIGMA)
    assert abs(z.mean()) < 5 / z.size**0.5
    assert abs((z**2).mean() - 1) < 5 * 2**0.5 / z.size**0.5


@pytest.mark.parametrize("rate", [0, 0.2, 0.5, 0.999])
def test_gaussian_dropout_has_the_variance_of_dropout(rate):
    # A factor of Dropout is 1 / (1 - rate) with probability 1 - rate, and else 0.
    variance = (1 - rate) * (1 / (1 - rate) - 1) ** 2 + rate
    (sigma,) = layers.GaussianDropout(rate).numbers_of(rate)
    assert math.isclose(sigma**2, variance, abs_tol=1e-15)


@EACH_LAYER
@pytest.mark.parametrize("cuts", [(3, 1, 4), (1,) * 8])
def test_micro_batches_have_numbers_of_whole_batch(cuts, make, device):
    layer, x, parts, start = make(seed=5), numbers((8, 3, 30)), [], 0
    with minidl.training(step=6):
        whole = layer(Tensor(x, device=device)).numpy()
    for rows in cuts:
        with minidl.training(step=6, row_offset=start):
            parts.append(layer(Tensor(x[start : start + rows], device=device)).numpy())
        start += rows
    np.testing.assert_array_equal(np.concatenate(parts), whole, strict=True)


def network(device="cpu"):
    stack = [
        layers.Dense(6, activation="relu", input_shape=(5,)),
        layers.GaussianNoise(0.5),
        layers.Dropout(0.25),
        layers.GaussianDropout(0.3),
        layers.Dense(3, activation="softmax"),
    ]
    model = models.Sequential(stack, seed=5, device=device)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


X, LABELS = numbers((40, 5)), np.arange(40) % 3


def test_model_numbers_layers_of_noise_and_draws_monte_carlo_samples(device):
    model = network(device)
    assert [stream.number for stream in model.streams()] == [0, 1, 2]
    mean = model.predict(X)
    samples = model.predict(X, samples=5)
    assert np.abs(samples.mean - mean).max() > 0
    assert (samples.std > 0).any()


def test_recorded_training_has_the_bits_of_eager_training(device):
    weights = []
    for record in (True, False):
        model = network(device)
        model.fit(X, LABELS, batch_size=8, epochs=2, record=record, verbose=0)
        weights.append(model.get_weights())
        if record:
            assert model.recording.reason == ""
            assert model.recording.replays > 0
    for received, expected in zip(*weights, strict=True):
        np.testing.assert_array_equal(received, expected, strict=True)


def test_repr_shows_arguments_and_address():
    text = "GaussianNoise(stddev=2.5, seed=7, stream=4, step=0)"
    assert repr(layers.GaussianNoise(2.5, seed=7, stream=4)) == text
    text = "GaussianDropout(rate=0.5, seed=None, stream=None, step=0)"
    assert repr(layers.GaussianDropout(0.5)) == text


@pytest.mark.parametrize(
    ("stddev", "error"), [(-1, ValueError), (np.inf, ValueError), ("1", TypeError)]
)
def test_gaussian_noise_rejects_an_invalid_deviation(stddev, error):
    with pytest.raises(error, match=r"^GaussianNoise: expected stddev in \[0, inf\), got"):
        layers.GaussianNoise(stddev)


@pytest.mark.parametrize(
    ("rate", "error"), [(-0.1, ValueError), (1, ValueError), (None, TypeError)]
)
def test_gaussian_dropout_rejects_an_invalid_rate(rate, error):
    with pytest.raises(error, match=r"^GaussianDropout: expected rate in \[0, 1\), got"):
        layers.GaussianDropout(rate)
