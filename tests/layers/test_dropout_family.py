"""Shared decisions, and the layers that drop by them."""

import math

import numpy as np
import pytest

import minidl
from minidl import Tensor, callbacks, layers, models, rng
from minidl.optimizers.schedules import PolynomialDecay

SEED, STEP, RATE = 3, 5, 0.4
SELU_LIMIT = -1.0507009873554805 * 1.6732632423543772


def numbers(shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def mask(shape, rate=RATE, row_offset=0):
    return rng.keep_mask(shape, rate, seed=SEED, stream=0, step=STEP, row_offset=row_offset)


def assert_same_bits(received, expected):
    """Compare float arrays bit for bit, including the sign of zero."""
    np.testing.assert_array_equal(received, expected, strict=True)
    assert received.tobytes() == np.asarray(expected).tobytes(), "the signs of zeros differ"


def trained(layer, x, device="cpu", gradient=None, row_offset=None):
    """Return the output of a layer in training, and its gradient for the input."""
    x = Tensor(x, device=device, requires_grad=True)
    with minidl.training(step=STEP, row_offset=row_offset):
        y = layer(x)
    y.backward(Tensor(x.numpy() if gradient is None else gradient, device=device))
    return y.numpy(), x.grad.numpy()


# A layer, a shape of its input, and the shape of its decisions: the entry of axis 0 is None if each
# sample has its own.
SHARED = {
    "features": (lambda: layers.Dropout(RATE, (None, 1), SEED), (8, 70), (None, 1)),
    "samples": (lambda: layers.Dropout(RATE, (1, None), SEED), (8, 70), (1, 70)),
    "all": (lambda: layers.Dropout(RATE, (1, 1), SEED), (8, 70), (1, 1)),
    "none": (lambda: layers.Dropout(RATE, (None, None), SEED), (8, 70), (None, 70)),
    "lengths": (lambda: layers.Dropout(RATE, [None, 4, 1], SEED), (8, 4, 5), (None, 4, 1)),
    "word": (lambda: layers.Dropout(RATE, (None, None, 1), SEED), (8, 7, 5), (None, 7, 1)),
    "1D": (lambda: layers.SpatialDropout1D(RATE, SEED), (8, 4, 5), (None, 1, 5)),
    "2D": (lambda: layers.SpatialDropout2D(RATE, seed=SEED), (8, 2, 3, 5), (None, 1, 1, 5)),
    "2D first": (
        lambda: layers.SpatialDropout2D(RATE, "channels_first", SEED),
        (8, 5, 2, 3),
        (None, 5, 1, 1),
    ),
    "3D": (lambda: layers.SpatialDropout3D(RATE, None, SEED), (8, 2, 3, 2, 5), (None, 1, 1, 1, 5)),
    "3D first": (
        lambda: layers.SpatialDropout3D(RATE, "channels_first", SEED),
        (8, 5, 2, 3, 2),
        (None, 5, 1, 1, 1),
    ),
    "path": (lambda: layers.DropPath(RATE, seed=SEED), (8, 4, 5), (None, 1, 1)),
    "path per step": (lambda: layers.DropPath(RATE, "step", SEED), (8, 4, 5), (1, 1, 1)),
}
each_shared = pytest.mark.parametrize("name", SHARED)


def decisions(noise_shape, rows, **address):
    """Return the mask of some samples by the contract."""
    first, *others = noise_shape
    if first is None:
        return mask((rows, *others), **address)
    return mask(noise_shape)  # of the step, at row 0


@each_shared
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_shared_mask_is_the_mask_of_the_noise_shape(name, dtype, device):
    make, shape, noise_shape = SHARED[name]
    x, gradient = numbers(shape, dtype), numbers(shape, dtype) + 2
    y, g = trained(make(), x, device, gradient)
    kept = np.broadcast_to(decisions(noise_shape, len(x)), shape)
    assert 0 < kept.sum() < kept.size or name in ("all", "path per step")
    wide = np.promote_types(dtype, "float32").type
    for found, given in ((y, x), (g, gradient)):
        expected = np.where(kept, given.astype(wide) * wide(1 / (1 - RATE)), wide(0)).astype(dtype)
        assert_same_bits(found, expected)


@each_shared
@pytest.mark.parametrize("cuts", [(3, 1, 4), (1,) * 8])
def test_parts_of_a_batch_have_the_masks_of_the_whole(name, cuts, device):
    make, shape, noise_shape = SHARED[name]
    x, start, parts = numbers(shape), 0, []
    whole = trained(make(), x, device)
    for rows in cuts:
        stop = start + rows
        parts.append(trained(make(), x[start:stop], device, row_offset=start))
        kept = decisions(noise_shape, rows, row_offset=start)
        np.testing.assert_array_equal(parts[-1][0] != 0, np.broadcast_to(kept, (rows, *shape[1:])))
        start = stop
    for place in range(2):
        assert_same_bits(np.concatenate([part[place] for part in parts]), whole[place])


def test_axis_0_of_a_batch_of_one_is_not_shared():
    outputs = [
        trained(layers.Dropout(RATE, shape, SEED), np.ones((1, 70), "float32"), row_offset=6)[0]
        for shape in [(None, None), (1, None)]
    ]
    np.testing.assert_array_equal(outputs[0] != 0, mask((1, 70), row_offset=6))
    np.testing.assert_array_equal(outputs[1] != 0, mask((1, 70)))


def test_axis_0_that_is_shared_need_not_be_the_batch():
    model = models.Sequential(
        [layers.Activation(lambda x: x.T), layers.Dropout(0.5, (1, None))], seed=SEED
    )
    with minidl.training(step=STEP, row_offset=0):
        y = model(np.ones((3, 5), "float32")).numpy()
    np.testing.assert_array_equal(y != 0, np.broadcast_to(mask((1, 3), 0.5), (5, 3)))


@pytest.mark.parametrize("kind", [layers.SpatialDropout2D, layers.SpatialDropout3D])
def test_both_layouts_drop_the_same_channels(kind, device):
    shape = (8, 5, 2, 3) if kind is layers.SpatialDropout2D else (8, 5, 2, 3, 2)
    x = numbers(shape)
    first, _ = trained(kind(RATE, "channels_first", SEED), x, device)
    last, _ = trained(kind(RATE, "channels_last", SEED), np.moveaxis(x, 1, -1), device)
    assert_same_bits(np.moveaxis(last, -1, 1).copy(), first)


def test_mask_does_not_depend_on_the_length_of_a_sequence():
    layer = layers.SpatialDropout1D(RATE, SEED)
    short, long = (trained(layer, np.ones((8, n, 5), "float32"))[0] for n in (2, 9))
    np.testing.assert_array_equal(short[:, 0], long[:, 0])


def alpha_factors(rate):
    """Return a and b of Klambauer et al., in Python's floats."""
    a = ((1 - rate) * (1 + rate * SELU_LIMIT**2)) ** -0.5
    return a, -a * rate * SELU_LIMIT


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("noise_shape", [None, (None, 1, 5), (None, 4, 5), (1, 1, 1)])
def test_alpha_dropout_follows_its_formula(noise_shape, dtype, device):
    x, gradient = numbers((8, 4, 5), dtype), numbers((8, 4, 5), dtype) + 2
    y, g = trained(layers.AlphaDropout(RATE, noise_shape, SEED), x, device, gradient)
    kept = decisions(noise_shape or (None, 4, 5), 8)
    wide = np.promote_types(dtype, "float32").type
    a, b = alpha_factors(RATE)
    dropped = wide(a * SELU_LIMIT + b)
    expected = np.where(kept, x.astype(wide) * wide(a) + wide(b), dropped)
    if dtype != "float64":  # the last bit of a constant in float64 depends on how it is computed
        assert_same_bits(y, expected.astype(dtype))
        assert_same_bits(g, np.where(kept, gradient.astype(wide) * wide(a), wide(0)).astype(dtype))
    np.testing.assert_allclose(y, expected, rtol=1e-3 if dtype == "float16" else 1e-6)
    assert (g[np.broadcast_to(~kept, g.shape)] == 0).all()


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_alpha_dropout_keeps_mean_and_variance(rate):
    """For inputs with mean 0 and variance 1, by the expectation over the mask."""
    _, scale, shift, dropped = layers.AlphaDropout(rate).numbers_of(rate)
    mean = (1 - rate) * shift + rate * dropped
    square = (1 - rate) * (scale**2 + shift**2) + rate * dropped**2
    assert math.isclose(mean, 0, abs_tol=1e-13)
    assert math.isclose(square - mean**2, 1, rel_tol=1e-13)


def test_selu_keeps_mean_and_variance_of_normal_numbers():
    """The fixed point of Klambauer et al., by the trapezoidal rule."""
    z, step = np.linspace(-12, 12, 2**18 + 1, retstep=True)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * step
    y = Tensor(z).selu().numpy()
    assert math.isclose(y @ density, 0, abs_tol=1e-6)
    assert math.isclose((y * y) @ density, 1, rel_tol=1e-6)
    assert math.isclose(y[0], layers.alpha_dropout.NEGATIVE_SATURATION, rel_tol=1e-5)


@pytest.mark.parametrize("noise_shape", [None, (None, 1)])
def test_alpha_dropout_at_rate_one_returns_the_mean(noise_shape, device):
    x = np.array([[np.nan, np.inf, -1.0]], "float32")
    for found in trained(layers.AlphaDropout(1, noise_shape, SEED), x, device):
        assert_same_bits(found, np.zeros((1, 3), "float32"))


FAMILY = {name: make for name, (make, *_) in SHARED.items()} | {
    "alpha": lambda: layers.AlphaDropout(RATE, seed=SEED),
    "shared alpha": lambda: layers.AlphaDropout(RATE, (None, 1), SEED),
}
SHAPES = {name: shape for name, (_, shape, _) in SHARED.items()}


@pytest.mark.parametrize("name", FAMILY)
def test_dropped_nan_and_infinity_leave_no_trace(name, device):
    shape = SHAPES.get(name, (8, 70))
    layer = FAMILY[name]()
    plain, _ = trained(layer, np.ones(shape, "float32"), device)
    _, slope = trained(layer, np.ones(shape, "float32"), device, np.ones(shape, "float32"))
    dropped = slope == 0
    x = np.resize(np.array([np.nan, np.inf, -np.inf, -1.0], "float32"), shape)
    y, g = trained(layer, x, device, x)
    assert dropped.any() or name in ("all", "path per step")
    assert_same_bits(y[dropped], plain[dropped])
    assert_same_bits(g[dropped], np.zeros(dropped.sum(), "float32"))
    assert np.array_equal(np.isnan(y), np.isnan(x) & ~dropped)
    assert np.array_equal(np.isnan(g), np.isnan(x) & ~dropped)
    if "alpha" not in name:
        assert_same_bits(y[dropped], np.zeros(dropped.sum(), "float32"))


@pytest.mark.parametrize("rate", [0, 1])
@pytest.mark.parametrize("name", FAMILY)
def test_rates_zero_and_one_select(name, rate, device):
    shape = SHAPES.get(name, (8, 70))
    x = np.resize(np.array([np.inf, -np.inf, -0.0, -1.0], "float32"), shape)
    layer = FAMILY[name]()
    layer.rate = rate
    for found in trained(layer, x, device, x):
        assert_same_bits(found, np.zeros_like(x) if rate else x)
    assert layer.step == STEP + 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", FAMILY)
def test_empty_batch_is_empty(name, dtype, device):
    shape = (0, *SHAPES.get(name, (8, 70))[1:])
    for found in trained(FAMILY[name](), np.ones(shape, dtype), device):
        assert (found.shape, found.dtype) == (shape, dtype)


@pytest.mark.parametrize("name", FAMILY)
def test_inference_returns_the_input(name):
    x = Tensor(numbers(SHAPES.get(name, (8, 70))))
    assert FAMILY[name]()(x) is x


def test_inference_scaling_with_shared_decisions(device):
    layer, x = layers.Dropout(RATE, (None, 1), SEED, scaling="inference"), numbers((8, 70))
    for found in trained(layer, x, device):
        assert_same_bits(found, np.where(mask((8, 1)), x, np.float32(0)))
    assert_same_bits(layer(Tensor(x, device=device)).numpy(), x * np.float32(1 - RATE))


def test_dense_is_not_fused_with_shared_dropout(device):
    stack = [layers.Dense(70, kernel_initializer="ones"), layers.Dropout(0.5, (None, 1))]
    model = models.Sequential(stack, seed=SEED, device=device)
    x = np.ones((8, 2), "float32")
    model.compile("sgd", "mse")
    uncertainty = model.predict(x, samples=1, verbose=0)
    address = {"seed": SEED, "stream": rng.MONTE_CARLO_STREAMS, "step": 0}
    kept = rng.keep_mask((8, 1), 0.5, **address)
    np.testing.assert_array_equal(uncertainty.mean, np.broadcast_to(kept * 4.0, (8, 70)))


# ------------------------------------------------------------------------------ DropConnect


def drop_connect(per_sample=False, device="cpu", units=70, **options):
    options = {"seed": SEED, "kernel_initializer": "ones"} | options
    layer = layers.DropConnect(units, RATE, per_sample, **options)
    models.Sequential([layer], device=device)(np.ones((1, 3), "float32"))
    return layer


@pytest.mark.parametrize("row_offset", [None, 6])
def test_drop_connect_shares_the_mask_of_the_weight(row_offset, device):
    x = np.eye(3, dtype="float32")[[0, 1, 2, 1]]
    y, _ = trained(drop_connect(device=device), x, device, np.ones((4, 70)), row_offset)
    expected = np.where(mask((3, 70)), np.float32(1 / (1 - RATE)), np.float32(0))
    np.testing.assert_array_equal(y, expected[[0, 1, 2, 1]])


def test_drop_connect_per_sample_draws_for_each_sample(device):
    x = np.eye(3, dtype="float32")[[0, 1, 2, 1]]
    layer = drop_connect(True, device)
    y, _ = trained(layer, x, device, np.ones((4, 70)), row_offset=6)
    kept = mask((4, 3, 70), row_offset=6)[range(4), [0, 1, 2, 1]]
    np.testing.assert_array_equal(y, np.where(kept, np.float32(1 / (1 - RATE)), np.float32(0)))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("rate", [0.4, 1])
def test_dropped_weights_of_nan_leave_no_trace(rate, per_sample, device):
    layer = drop_connect(per_sample, device, units=3, activation="relu")
    layer.rate = rate
    kept = mask((2, 3, 3) if per_sample else (3, 3), rate)
    always_dropped = ~(kept.any(axis=0) if per_sample else kept)
    assert always_dropped.any()
    weight = np.where(always_dropped, np.nan, 1).astype("float32")
    layer.weight.data = layer.weight.backend.asarray(weight)
    y, g = trained(layer, np.ones((2, 3), "float32"), device, np.ones((2, 3)))
    assert np.isfinite(y).all()
    assert np.isfinite(g).all()
    found = layer.weight.grad.numpy()[always_dropped]
    assert_same_bits(found, np.zeros(always_dropped.sum(), "float32"))


@pytest.mark.parametrize("per_sample", [False, True])
def test_drop_connect_at_rate_zero_and_in_inference_is_dense(per_sample, device):
    layer, x = drop_connect(per_sample, device, activation="relu"), numbers((4, 3))
    dense = layers.Dense(70, "relu", kernel_initializer="ones")
    models.Sequential([dense], device=device)(x)
    expected = dense(Tensor(x, device=device)).numpy()
    assert_same_bits(layer(Tensor(x, device=device)).numpy(), expected)
    layer.rate = 0
    assert_same_bits(trained(layer, x, device, np.ones((4, 70)))[0], expected)
    assert layer.random_stream.step == STEP + 1


@pytest.mark.parametrize("per_sample", [False, True])
def test_drop_connect_of_empty_batch_is_empty(per_sample, device):
    x, gradient = np.ones((0, 3), "float32"), np.ones((0, 70))
    y, g = trained(drop_connect(per_sample, device), x, device, gradient)
    assert (y.shape, g.shape) == ((0, 70), (0, 3))


# ------------------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize("kind", [layers.Dropout, layers.AlphaDropout])
def test_noise_shape_that_does_not_fit_is_rejected(kind):
    x = Tensor(np.ones((4, 3, 5), "float32"))
    for noise_shape in [(None, 1), (None,), (), (None, 1, 1, 1)]:
        layer = kind(RATE, noise_shape, SEED)
        with (
            minidl.training(),
            pytest.raises(ValueError, match="with an entry for each"),
        ):
            layer(x)
        assert layer.step == 0
    for noise_shape in [(None, 2, None), (3, None, None), (None, None, 0)]:
        with minidl.training(), pytest.raises(ValueError, match="with None, 1 or the length"):
            kind(RATE, noise_shape, SEED)(x)


@pytest.mark.parametrize(
    ("noise_shape", "error"), [(3, TypeError), ("ab", TypeError), ((None, 1.5), ValueError)]
)
@pytest.mark.parametrize("kind", [layers.Dropout, layers.AlphaDropout])
def test_noise_shape_that_is_no_shape_is_rejected(kind, noise_shape, error):
    with pytest.raises(error, match=rf"{kind.__name__}: .*noise_shape"):
        kind(RATE, noise_shape)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.SpatialDropout1D(RATE, SEED), (4, 5)),
        (layers.SpatialDropout2D(RATE, seed=SEED), (4, 5, 6)),
        (layers.SpatialDropout3D(RATE, seed=SEED), (4, 5, 6, 7)),
    ],
)
def test_spatial_dropout_rejects_other_axes(layer, shape):
    with (
        minidl.training(),
        pytest.raises(ValueError, match=r"expected inputs with . axes"),
    ):
        layer(Tensor(np.ones(shape)))


@pytest.mark.parametrize(
    "make",
    [
        layers.SpatialDropout1D,
        layers.SpatialDropout2D,
        layers.SpatialDropout3D,
        layers.AlphaDropout,
        layers.DropPath,
        lambda rate: layers.DropConnect(2, rate),
    ],
)
def test_rate_outside_of_the_unit_interval_is_rejected(make):
    for rate in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"expected rate in \[0, 1\]"):
            make(rate)


def test_unknown_choices_are_rejected():
    with pytest.raises(ValueError, match=r"SpatialDropout2D: expected data_format .*'NCHW'"):
        layers.SpatialDropout2D(RATE, "NCHW")
    with pytest.raises(ValueError, match=r"DropPath: expected per .*'batch'"):
        layers.DropPath(RATE, "batch")


def test_drop_connect_rejects_an_activation_in_the_place_of_per_sample():
    with pytest.raises(TypeError, match=r"DropConnect: expected per_sample .*got 'relu'\. Pass "):
        layers.DropConnect(4, RATE, "relu")


@pytest.mark.parametrize("kind", [layers.GaussianNoise, layers.GaussianDropout])
def test_seed_of_noise_is_the_second_argument_as_in_keras(kind):
    assert kind(RATE, 7).seed == 7


def test_repr_shows_what_was_given():
    assert repr(layers.Dropout(0.5, [None, 1], 2)) == (
        "Dropout(rate=0.5, noise_shape=(None, 1), seed=2, stream=None, step=0)"
    )
    assert repr(layers.DropPath(0.5, "step")) == (
        "DropPath(rate=0.5, per='step', seed=None, stream=None, step=0)"
    )


# ------------------------------------------------------------------------------ in a network

X = numbers((14, 4, 3))
LABELS = np.arange(14) % 3


def network(device):
    """Return a classifier with a layer of each kind."""
    stack = [
        layers.SpatialDropout1D(0.2, input_shape=(4, 3)),
        layers.Flatten(),
        layers.Dense(8, "selu", kernel_initializer="lecun_normal"),
        layers.AlphaDropout(0.1),
        layers.DropConnect(8, 0.3, activation="relu"),
        layers.Dropout(0.2, (1, None)),
        layers.DropPath(0.1),
        layers.DropConnect(6, 0.3, True, "relu"),
        layers.DropPath(0.1, "step"),
        layers.GaussianNoise(0.2),
        layers.GaussianDropout(0.1),
        layers.ConcreteDropout(layers.Dense(6, "relu"), 0.2),
        layers.Dropout(PolynomialDecay(0.4, decay_steps=9, end_learning_rate=0.1)),
        layers.Dense(3, "softmax"),
    ]
    model = models.Sequential(stack, seed=SEED, device=device)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


class StopAt(callbacks.Callback):
    """Stop training after some steps."""

    def on_train_batch_end(self, batch, logs):
        if self.model.step == 6:
            self.model.stop_training = True


def test_run_with_every_member_resumes_bit_for_bit(device, tmp_path):
    arguments = {"batch_size": 4, "epochs": 3, "verbose": 0}
    whole, broken = network(device), network(device)
    history = whole.fit(X, LABELS, **arguments)
    broken.fit(X, LABELS, **arguments, callbacks=[StopAt()])
    assert broken.step == 6
    broken.save(tmp_path / "model.safetensors")
    resumed = models.load(tmp_path / "model.safetensors", device)
    assert [repr(layer) for layer in resumed.layers] == [repr(layer) for layer in broken.layers]
    assert resumed.fit(X, LABELS, **arguments, resume=True).history == history.history
    for received, expected in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        assert_same_bits(received, expected)


def test_network_with_every_member_draws_in_monte_carlo_prediction(device):
    model = network(device)
    whole, parts = (model.predict(X, batch_size=n, samples=5, verbose=0) for n in (14, 4))
    assert (whole.std > 0).all()
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-5)
    np.testing.assert_allclose(parts.std, whole.std, rtol=1e-3, atol=1e-5)


def test_parts_of_a_batch_give_the_outputs_of_the_whole_network(device):
    model = network(device)
    with minidl.training(step=STEP):
        whole = model(X).numpy()
    parts = []
    for start, stop in ((0, 3), (3, 4), (4, 8), (8, 14)):
        with minidl.training(step=STEP, row_offset=start):
            parts.append(model(X[start:stop]).numpy())
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5)
