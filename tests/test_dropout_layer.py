"""The dropout layer: every decision has an address, in value and gradient, however it is called."""

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, models, rng

SIZES = [0, 1, 3, 4, 5, 255, 256, 257]


def numbers(shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def drawn(x, mask, rate, dtype="float32"):
    """Return what the contract says: kept values times the scale, rounded once, and zeros."""
    scale = np.dtype(dtype).type(1 / (1 - rate))
    return np.where(mask, x * scale, 0).astype(dtype)


def same_bits(a, b):
    """Tell whether two float arrays are equal bit for bit, the sign of zero included."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# ------------------------------------------------------------------------------ value and gradient


def test_inference_is_the_identity(device):
    x = Tensor(numbers((3, 5)), device=device)
    assert layers.Dropout(0.5)(x) is x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", SIZES)
def test_training_is_the_mask_of_the_address_in_value_and_gradient(columns, dtype, device):
    layer = layers.Dropout(0.3, seed=2**63 + 5, stream=9)
    x = Tensor(numbers((3, columns), dtype), device=device, requires_grad=True)
    gradient = numbers((3, columns), dtype) + 2
    with minidl.training(step=4, row_offset=100):
        y = layer(x)
    y.backward(Tensor(gradient, device=device))
    mask = rng.keep_mask((3, columns), 0.3, seed=2**63 + 5, stream=9, step=4, row_offset=100)
    assert same_bits(y.numpy(), drawn(x.numpy(), mask, 0.3, dtype))
    assert same_bits(x.grad.numpy(), drawn(gradient, mask, 0.3, dtype))


def test_float16_goes_through_float32_and_is_rounded_once(device):
    x = numbers((5, 257), "float16")
    with minidl.training(step=1):
        y = layers.Dropout(0.3, seed=1)(Tensor(x, device=device)).numpy()
    mask = rng.keep_mask(x.shape, 0.3, seed=1, stream=0, step=1)
    assert same_bits(y, drawn(x.astype("float32"), mask, 0.3).astype("float16"))


@pytest.mark.parametrize("shape", [(), (7,), (1, 1), (2, 3, 5)])
def test_any_number_of_axes(shape, device):
    x = numbers(shape)
    with minidl.training(step=1):
        y = layers.Dropout(0.5, seed=1)(Tensor(x, device=device)).numpy()
    mask = rng.keep_mask(shape, 0.5, seed=1, stream=0, step=1)
    assert same_bits(y, drawn(x, mask, 0.5))


def test_another_address_is_another_mask():
    def zeros(seed=1, stream=2, step=3, row_offset=0):
        with minidl.training(step=step, row_offset=row_offset):
            y = layers.Dropout(0.5, seed=seed, stream=stream)(Tensor(np.ones((4, 64))))
        return (y.numpy() == 0).tobytes()

    masks = [zeros(), zeros(seed=2), zeros(stream=3), zeros(step=4), zeros(row_offset=1)]
    assert len(set(masks)) == 5
    assert zeros() == masks[0]


@pytest.mark.parametrize("rate", [0.25, 1.0])
@pytest.mark.parametrize("scaling", layers.dropout.SCALINGS)
def test_what_is_dropped_is_plus_zero_whatever_it_held(rate, scaling, device):
    x = np.resize(np.array([np.nan, np.inf, -np.inf, -1.0], "float32"), (4, 70))
    t = Tensor(x, device=device, requires_grad=True)
    with minidl.training(step=0):
        y = layers.Dropout(rate, seed=3, scaling=scaling)(t)
    y.backward(Tensor(x, device=device))
    dropped = ~rng.keep_mask(x.shape, rate, seed=3, stream=0, step=0)
    assert dropped.any()
    for values in (y.numpy(), t.grad.numpy()):
        assert same_bits(values[dropped], np.zeros(dropped.sum(), "float32"))
        assert np.array_equal(np.isnan(values), np.isnan(x) & ~dropped)


@pytest.mark.parametrize("scaling", layers.dropout.SCALINGS)
def test_rate_0_is_the_identity_and_the_step_goes_up(scaling, device):
    x = numbers((3, 5))
    layer = layers.Dropout(0, seed=1, scaling=scaling)
    t = Tensor(x, device=device, requires_grad=True)
    with minidl.training():
        y = layer(t)
    y.backward(Tensor(x, device=device))
    assert same_bits(y.numpy(), x)
    assert same_bits(t.grad.numpy(), x)
    assert layer.step == 1


@pytest.mark.parametrize("scaling", layers.dropout.SCALINGS)
def test_rate_1_is_zero_and_the_step_goes_up(scaling):
    layer = layers.Dropout(1, seed=1, scaling=scaling)
    with minidl.training():
        y = layer(Tensor(numbers((3, 5))))
    assert same_bits(y.numpy(), np.zeros((3, 5), "float32"))
    assert layer.step == 1


# ------------------------------------------------------------------------------ scaling="inference"


def test_scaling_at_inference_only_drops_in_training(device):
    x = Tensor(numbers((4, 65)), device=device, requires_grad=True)
    with minidl.training(step=2):
        y = layers.Dropout(0.3, seed=1, scaling="inference")(x)
    y.backward(Tensor(x.numpy(), device=device))
    mask = rng.keep_mask((4, 65), 0.3, seed=1, stream=0, step=2)
    assert same_bits(y.numpy(), np.where(mask, x.numpy(), np.float32(0)))
    assert same_bits(x.grad.numpy(), np.where(mask, x.numpy(), np.float32(0)))


def test_scaling_at_inference_multiplies_value_and_gradient(device):
    x = Tensor(numbers((4, 65)), device=device, requires_grad=True)
    y = layers.Dropout(0.3, scaling="inference")(x)
    y.backward(Tensor(x.numpy(), device=device))
    assert same_bits(y.numpy(), x.numpy() * np.float32(0.7))
    assert same_bits(x.grad.numpy(), x.numpy() * np.float32(0.7))


def test_scaling_at_inference_selects_plus_zero_at_rate_1(device):
    values = np.array([[np.inf, -np.inf, np.nan, -1.0]], "float32")
    x = Tensor(values, device=device, requires_grad=True)
    y = layers.Dropout(1, scaling="inference")(x)
    y.backward(Tensor(values, device=device))
    assert same_bits(y.numpy(), np.zeros((1, 4), "float32"))
    assert same_bits(x.grad.numpy(), np.zeros((1, 4), "float32"))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("scaling", layers.dropout.SCALINGS)
def test_training_has_the_expectation_of_inference(scaling, rate):
    steps, x = 400, np.full((8, 64), 2.0)
    layer = layers.Dropout(rate, seed=11, scaling=scaling)
    expected = layer(Tensor(x)).numpy()
    total = np.zeros_like(x)
    for step in range(steps):
        with minidl.training(step=step):
            total += layer(Tensor(x)).numpy()
    # A kept element has the value 2 * scale, so one draw has this standard deviation:
    scale = 1 / (1 - rate) if scaling == "train" else 1.0
    sigma = 2 * scale * (rate * (1 - rate)) ** 0.5
    assert np.abs(total / steps - expected).max() < 5 * sigma / steps**0.5
    assert abs(total.mean() / steps - expected.mean()) < 5 * sigma / (steps * x.size) ** 0.5


# ------------------------------------------------------------------------------ steps and calls


def test_without_a_step_each_call_takes_the_next():
    layer, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((2, 64), "float32"))
    with minidl.training():
        outputs = [layer(x).numpy() for _ in range(2)]
    with minidl.training():
        outputs.append(layer(x).numpy())
    for step, y in enumerate(outputs):
        mask = rng.keep_mask((2, 64), 0.5, seed=1, stream=0, step=step)
        assert np.array_equal(y != 0, mask)
    assert layer.step == 3


def test_a_given_step_is_where_the_layer_goes_on():
    layer, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((2, 64), "float32"))
    with minidl.training(step=41):
        layer(x)
    with minidl.training():
        y = layer(x).numpy()
    assert np.array_equal(y != 0, rng.keep_mask((2, 64), 0.5, seed=1, stream=0, step=42))


def test_inference_takes_no_step():
    layer = layers.Dropout(0.5, seed=1)
    layer(Tensor(np.ones((2, 64))))
    assert layer.step == 0


def test_call_k_in_a_step_draws_from_its_own_stream():
    layer, x = layers.Dropout(0.5, seed=1, stream=6), Tensor(np.ones((2, 64), "float32"))
    for step in (8, 9):  # each block counts from 0
        with minidl.training(step=step):
            outputs = [layer(x).numpy() for _ in range(3)]
        for call, y in enumerate(outputs):
            mask = rng.keep_mask((2, 64), 0.5, seed=1, stream=6 + call * 2**20, step=step)
            assert np.array_equal(y != 0, mask)


def test_a_shared_layer_in_a_model_draws_anew():
    shared = layers.Dropout(0.5)
    model = models.Sequential([shared, shared], seed=1)
    with minidl.training(step=0):
        y = model(np.ones((2, 64), "float32")).numpy()
    first, second = (
        rng.keep_mask((2, 64), 0.5, seed=1, stream=call * 2**20, step=0) for call in (0, 1)
    )
    assert np.array_equal(y != 0, first & second)


def test_more_calls_in_a_step_than_streams_are_refused():
    layer, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((1, 1)))
    with minidl.training(step=0):
        for _ in range(2**10):
            layer(x)
        message = "Dropout.* called more than 1024 times in one training step; open a new"
        with pytest.raises(ValueError, match=message):
            layer(x)
    with minidl.training():
        for _ in range(3):
            layer(x)  # without a step there is nothing to count


def test_the_last_step_is_used_and_none_comes_after_it():
    layer, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((2, 8)))
    with minidl.training(step=2**32 - 1):
        layer(x)
    with minidl.training(), pytest.raises(ValueError, match=r"step: expected an integer"):
        layer(x)


# ------------------------------------------------------------------------------ where it draws from


def test_without_model_and_seed_training_is_refused():
    layer = layers.Dropout(0.5)
    message = (
        r"dropout: to draw in training it needs a seed; put the layer in a model, or give it one: "
        r"Dropout\(rate, seed=0\)"
    )
    with minidl.training(step=0), pytest.raises(RuntimeError, match=message):
        layer(Tensor(np.ones((2, 3))))
    assert layer.step == 0


def test_the_seed_is_the_models_where_none_is_given():
    own, models_own = layers.Dropout(0.5, seed=7), layers.Dropout(0.5)
    model = models.Sequential([models_own, own], seed=3)
    with minidl.training(step=0):
        y = model(np.ones((2, 64), "float32")).numpy()
    first = rng.keep_mask((2, 64), 0.5, seed=3, stream=0, step=0)
    second = rng.keep_mask((2, 64), 0.5, seed=7, stream=1, step=0)
    assert np.array_equal(y != 0, first & second)


def test_repr_shows_the_integers():
    text = "Dropout(rate=0.5, seed=18446744073709551615, stream=4, step=0, scaling='inference')"
    layer = layers.Dropout(0.5, seed=np.uint64(2**64 - 1), stream=4, scaling="inference")
    assert repr(layer) == text
    assert repr(layers.Dropout(1)) == (
        "Dropout(rate=1.0, seed=None, stream=None, step=0, scaling='train')"
    )


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match=rf"expected a rate in \[0, 1\], got {rate}"):
        layers.Dropout(rate, seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, r"Dropout: seed: expected an integer .* got -1"),
        (
            {"seed": 2**64},
            r"Dropout: seed: expected an integer .* got 18446744073709551616",
        ),
        ({"stream": -1}, r"Dropout: stream: expected an integer .* got -1"),
        ({"stream": 2**20}, r"Dropout: stream: expected an integer .* got 1048576"),
        ({"scaling": "none"}, r"scaling must be one of \('train', 'inference'\), received 'none'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers.Dropout(0.5, **arguments)


@pytest.mark.parametrize("name", ["seed", "stream"])
def test_numbers_that_are_no_integers_are_refused(name):
    with pytest.raises(TypeError, match="float"):
        layers.Dropout(0.5, **{name: 1.5})


# ------------------------------------------------------------------------------ rows of the batch


def test_a_row_offset_needs_a_batch_axis_and_features():
    layer = layers.Dropout(0.5, seed=1)
    message = r"dropout: row_offset needs inputs with a batch axis .* received shape \(5,\)"
    with minidl.training(step=0, row_offset=0), pytest.raises(ValueError, match=message):
        layer(Tensor(np.ones(5)))


def test_a_row_offset_is_refused_where_axis_0_is_not_the_batch():
    model = models.Sequential([layers.Activation(lambda x: x.T), layers.Dropout(0.5)])
    x = np.ones((3, 5))
    with minidl.training(step=0):
        model(x)  # without an offset rows are what they are
    message = "axis 0 of its input has length 5 and the batch has 3; keep the batch on axis 0"
    with minidl.training(step=0, row_offset=0), pytest.raises(ValueError, match=message):
        model(x)


def test_the_last_row_is_used_and_none_comes_after_it():
    layer, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((2, 8), "float32"))
    with minidl.training(step=0, row_offset=2**32 - 2):
        y = layer(x).numpy()
    mask = rng.keep_mask((2, 8), 0.5, seed=1, stream=0, step=0, row_offset=2**32 - 2)
    assert np.array_equal(y != 0, mask)
    with minidl.training(step=0, row_offset=2**32 - 1), pytest.raises(ValueError, match="at most"):
        layer(x)


@pytest.mark.parametrize("cuts", [(1, 2, 3, 4), (5, 5), (9, 1), (1,) * 10])
def test_a_batch_cut_any_way_meets_the_masks_of_the_whole(cuts, device):
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


def test_micro_batches_without_their_offsets_meet_other_masks():
    layer, x = layers.Dropout(0.5, seed=1), Tensor(np.ones((4, 64), "float32"))
    with minidl.training(step=0):
        whole = layer(x).numpy()
    with minidl.training(step=0):
        second_half = layer(x[2:]).numpy()
    assert not np.array_equal(second_half, whole[2:])


def kept_by(model, step=0):
    """Return which outputs of a model are kept in training."""
    with minidl.training(step=step):
        return model(np.ones((4, 6))).numpy() != 0


def test_a_layer_keeps_the_draws_of_its_model_when_another_takes_it_in():
    dropout = layers.Dropout(0.5)
    first = models.Sequential([layers.Flatten(), dropout])
    second = models.Sequential([layers.Flatten(), dropout], seed=9)
    assert repr(first.layers[1]) == repr(second.layers[1])
    kept = rng.keep_mask((4, 6), 0.5, seed=0, stream=0, step=0)
    assert (kept_by(first) == kept).all()
    assert (kept_by(second) == kept).all()


def test_a_nested_model_that_has_drawn_keeps_its_draws_and_one_that_has_not_follows_the_outer():
    for used, seed in ((True, 5), (False, 0)):
        inner = models.Sequential([layers.Dropout(0.5)], seed=5)
        if used:
            kept_by(inner)
        outer = models.Sequential([inner])
        assert (kept_by(outer) == rng.keep_mask((4, 6), 0.5, seed=seed, stream=0, step=0)).all()


def test_a_layer_of_another_model_keeps_its_number_and_its_draws_are_its_own():
    shared = layers.Dropout(0.5)
    first = models.Sequential([shared])
    second = models.Sequential([layers.Dropout(0.5), layers.ReLU(), shared])
    assert shared.stream == 0
    assert second.layers[0].stream == 1
    assert shared.name == first.layers[0].name == "dropout"
    assert second.layers[0].name == "dropout_1"


def test_a_layer_that_drew_before_it_joined_a_model_keeps_its_number():
    alone = layers.Dropout(0.5, seed=7)
    with minidl.training(step=0):
        alone(Tensor(np.ones((4, 6))))
    model = models.Sequential([alone, layers.Dropout(0.5, seed=7)])
    assert [layer.stream for layer in model.layers] == [0, 1]


def test_two_layers_of_other_models_that_would_draw_alike_are_refused():
    parts = [models.Sequential([layers.Dense(4), layers.Dropout(0.5)]) for _ in range(2)]
    with pytest.raises(ValueError, match="both draw from stream 0"):
        models.Sequential([*parts[0].layers, *parts[1].layers])
