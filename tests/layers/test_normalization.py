"""Normalisation of batches and of samples: modes, averages, arguments and errors."""

import copy

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, models, rng

X = np.random.default_rng(5).normal(3.0, 2.0, size=(8, 3)).astype("float32")


def network(layer=None, **arguments):
    return models.Sequential([layer or layers.BatchNormalization()], seed=1, **arguments)


def averages(layer):
    return [layer.moving_mean.numpy().tolist(), layer.moving_variance.numpy().tolist()]


def test_training_normalises_by_the_batch_and_inference_by_the_averages(device):
    layer = layers.BatchNormalization(momentum=0.75, epsilon=0.5)
    model = network(layer, device=device)
    model(X)
    model.set_weights([[2.0, 3.0, 4.0], [0.1, 0.2, 0.3], [0.0] * 3, [1.0] * 3])
    with minidl.training(step=0):
        y = model(X).numpy()
    scale, shift = np.array([2, 3, 4]), np.array([0.1, 0.2, 0.3])
    mean, variance = X.mean(0), X.var(0)
    np.testing.assert_allclose(y, (X - mean) / (variance + 0.5) ** 0.5 * scale + shift, rtol=1e-5)
    mean, variance = mean * 0.25, 0.75 + variance * 0.25
    np.testing.assert_allclose(averages(layer), [mean, variance], rtol=1e-6)
    expected = (X - mean) / (variance + 0.5) ** 0.5 * scale + shift
    np.testing.assert_allclose(model(X).numpy(), expected, rtol=1e-5)


def test_averages_follow_the_formula_of_keras_over_twenty_calls(device):
    layer = layers.BatchNormalization(1, momentum=0.9)
    model = network(layer, device=device, dtype="float64")
    batches = np.random.default_rng(1).normal(size=(20, 4, 3, 5)) * 3 + 1
    model(batches[0])
    mean, variance = np.zeros(3), np.ones(3)
    for batch in batches:
        with minidl.training():
            model(batch)
        mean = mean * 0.9 + batch.mean((0, 2)) * 0.1
        variance = variance * 0.9 + batch.var((0, 2)) * 0.1
    np.testing.assert_allclose(averages(layer), [mean, variance], rtol=1e-12)


@pytest.mark.parametrize("mode", [rng.inference, lambda: rng.monte_carlo(sample=1, row_offset=0)])
def test_inference_and_monte_carlo_use_the_averages_and_keep_them(mode):
    layer = layers.BatchNormalization()
    model = network(layer)
    expected = model(X).numpy()
    before = averages(layer)
    with mode():
        found = model(X).numpy()
    assert (found == expected).all()
    assert averages(layer) == before == [[0.0] * 3, [1.0] * 3]


def test_layer_called_twice_in_one_pass_moves_its_averages_twice():
    layer = layers.BatchNormalization(momentum=0.5)
    model = models.Sequential([layer, layers.Rescaling(1.0, 5.0), layer], seed=1)
    model(X)
    with minidl.training():
        model(X)
    second = 5.0  # the mean of the second input
    np.testing.assert_allclose(layer.moving_mean.numpy(), X.mean(0) / 4 + second / 2, rtol=1e-5)


def test_averages_are_frozen_and_a_part_of_all_weights(capsys):
    model = models.Sequential([layers.BatchNormalization(input_shape=(3,))], seed=1)
    names = [p.name.partition("/")[2] for p in model.parameters()]
    assert names == ["weight", "bias", "running_mean", "running_var"]
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False]
    model.summary()
    assert "Non-trainable params: 6 " in capsys.readouterr().out


def test_layers_without_center_and_scale_have_no_weights_for_them():
    layer = layers.BatchNormalization(center=False, scale=False)
    model = network(layer)
    model(X)
    assert layer.gamma is layer.beta is None
    assert len(model.parameters()) == 2
    model = network(layers.LayerNormalization(center=False, scale=False))
    np.testing.assert_allclose(model(X).numpy().mean(1), 0, atol=1e-6)
    assert model.parameters() == []


def test_initializers_give_the_first_weights():
    layer = layers.BatchNormalization(
        beta_initializer="ones",
        gamma_initializer="zeros",
        moving_mean_initializer="ones",
        moving_variance_initializer="zeros",
    )
    model = network(layer)
    model(X)
    assert [w.tolist() for w in model.get_weights()] == [[0] * 3, [1] * 3, [1] * 3, [0] * 3]


def test_layer_normalization_of_several_axes_has_weights_of_their_lengths():
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 5))
    layer = layers.LayerNormalization(axis=(-1, 1), epsilon=0.0)
    y = network(layer, dtype="float64")(x).numpy()
    assert layer.gamma.shape == (3, 5)
    expected = (x - x.mean((1, 3), keepdims=True)) / x.std((1, 3), keepdims=True)
    np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_float16_inference_equals_float32_up_to_its_rounding(device):
    stack = [layers.BatchNormalization(), layers.LayerNormalization(), layers.Activation("gelu")]
    wide, narrow = (
        models.Sequential(copy.deepcopy(stack), dtype=dtype, device=device, seed=1)
        for dtype in ("float32", "float16")
    )
    x = X * 100
    wide(x)
    narrow(x)
    with minidl.training():
        wide(x)
    narrow.set_weights(wide.get_weights())
    assert narrow.predict(x).dtype == np.float16
    np.testing.assert_allclose(narrow.predict(x), wide.predict(x), rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("kind", [layers.BatchNormalization, layers.LayerNormalization])
def test_penalties_and_constraints_of_gamma_and_beta_are_those_of_the_weights(kind, tmp_path):
    layer = kind(gamma_regularizer="l2", beta_regularizer="l1", gamma_constraint="non_neg")
    model = models.Sequential([layer, layers.Dense(2)])
    model.build((None, 3))
    assert (layer.gamma.regularizer.l2, layer.beta.regularizer.l1) == (0.01, 0.01)
    assert [term.item() for term in layer.losses] == pytest.approx([0.03, 0.0])
    model.save(tmp_path / "model.safetensors")
    loaded = models.load(tmp_path / "model.safetensors")
    for copied in (loaded, models.clone_model(loaded)):
        copied.build((None, 3))
        gamma, beta = copied.parameters()[:2]
        assert (gamma.regularizer.l2, beta.regularizer.l1, beta.constraint) == (0.01, 0.01, None)
        assert type(gamma.constraint).__name__ == "NonNeg"


@pytest.mark.parametrize("kind", [layers.BatchNormalization, layers.LayerNormalization])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"axis": 0}, ValueError, "expected axis to name axes .*, got 0"),
        ({"axis": 1.5}, ValueError, "axis: expected an integer, got 1.5"),
        ({"epsilon": -1.0}, ValueError, r"expected epsilon in \[0, inf\), got -1.0"),
        ({"epsilon": "small"}, TypeError, "expected epsilon"),
        ({"gamma_regularizer": "l3"}, ValueError, "regularizer: expected a Reg"),
    ],
)
def test_normalization_rejects_invalid_arguments(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(**arguments)


@pytest.mark.parametrize("axis", [[], [1, 1], [0, 1], "ab"])
def test_layer_normalization_rejects_invalid_lists_of_axes(axis):
    with pytest.raises(ValueError, match="axis"):
        layers.LayerNormalization(axis)


def test_batch_normalization_rejects_invalid_momentum_and_lists_of_axes():
    with pytest.raises(ValueError, match=r"expected momentum in \[0, 1\], got 1.5"):
        layers.BatchNormalization(momentum=1.5)
    with pytest.raises(ValueError, match=r"axis: expected an integer, got \[1\]"):
        layers.BatchNormalization([1])


@pytest.mark.parametrize("axis", [2, -2, 5])
def test_axis_that_the_input_lacks_is_rejected_when_the_layer_is_built(axis):
    with pytest.raises(ValueError, match=f"batch_normalization: expected axis .*, got {axis}"):
        network(layers.BatchNormalization(axis))(X)


@pytest.mark.parametrize("kind", [layers.BatchNormalization, layers.LayerNormalization])
def test_other_features_than_those_of_the_weights_are_rejected(kind):
    layer = kind()
    layer(Tensor(X))
    with pytest.raises(ValueError, match=r"expected lengths \(3,\) along axis -1, got .*\(8, 1\)"):
        layer(Tensor(X[:, :1]))
