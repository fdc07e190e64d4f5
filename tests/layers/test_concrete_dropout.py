"""Concrete dropout: its formulas, its learned rate, and files."""

import copy
import math

import numpy as np
import pytest
from recorded_runs import LABELS, X, assert_equal, fit, network
from small_models import bits

import minidl
from minidl import Tensor, callbacks, layers, models, optimizers, rng
from minidl.testing import check_gradient

ADDRESS = {"seed": 1, "stream": 0, "step": 5}


def concrete(units=4, *arguments, activation=None, **options):
    return layers.ConcreteDropout(layers.Dense(units, activation), *arguments, **options)


def stack(**options):
    """Return a classifier that learns two rates."""
    return [
        layers.Input((6,)),
        concrete(8, activation="relu", learning_rate_factor=2.0, **options),
        concrete(3, 0.3, 0.5, activation="softmax", **options),
    ]


def built(dtype="float64", **options):
    """Return a layer in a model, its weights as arrays, and an input."""
    layer = concrete(4, 0.3, 0.5, seed=1, **options)
    model = models.Sequential([layer], dtype=dtype, seed=2)
    x = np.random.default_rng(3).normal(size=(5, 7)).astype(dtype)
    model(x)
    return model, layer, x


def test_training_multiplies_by_the_formula_of_the_paper():
    model, layer, x = built()
    with minidl.training(step=5):
        y = model(x).numpy()
    logit_p, weight, bias = model.get_weights()
    u = rng.uniform(x.shape, **ADDRESS).astype("float64")
    p = 1 / (1 + math.exp(-logit_p.item()))
    z = 1 / (1 + np.exp(-(math.log(p / (1 - p)) + np.log(u / (1 - u))) / 0.5))
    np.testing.assert_allclose(y, x * (1 - z) / (1 - p) @ weight + bias, rtol=1e-12)
    assert p == pytest.approx(layer.learned_rate, rel=1e-12) == pytest.approx(0.3)


@pytest.mark.parametrize("mode", [rng.inference, lambda: minidl.training(step=0)])
def test_term_of_the_loss_is_that_of_the_authors_in_both_modes(mode):
    model, _, x = built(weight_regularizer=0.01, dropout_regularizer=0.02)
    with mode():
        model(x)
    _, weight, bias = model.get_weights()
    entropy = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    expected = 0.01 * (weight**2).sum() / 0.7 - 0.02 * 7 * entropy
    assert [term.item() for term in model.losses] == [pytest.approx(expected, rel=1e-12)]
    model.layers[0].layer.bias.assign(bias + 1)  # which has no term
    model(x)
    assert model.losses[0].item() == pytest.approx(expected, rel=1e-12)


def test_inference_is_the_layer_alone():
    model, layer, x = built("float32")
    assert model(x).numpy().tobytes() == layer.layer(Tensor(x)).numpy().tobytes()


def test_gradients_of_logit_and_kernel_equal_central_differences(device):
    options = {"weight_regularizer": 0.1, "dropout_regularizer": 0.1, "seed": 1}
    layer = layers.ConcreteDropout(layers.Dense(4), 0.3, 0.5, **options)
    model = models.Sequential([layer], dtype="float64", seed=2, device=device)
    x = np.random.default_rng(3).normal(size=(5, 7))
    model(x)

    def function(logit, weight):
        vars(layer)["logit"], vars(layer.layer)["weight"] = logit, weight
        with minidl.training(step=5):
            y = model(Tensor(x, device))
        return (y * y).mean() + sum(model.losses)

    values = layer.logit.numpy(), layer.layer.weight.numpy()
    check_gradient(function, *(Tensor(value, device, requires_grad=True) for value in values))


def test_extreme_rates_have_finite_values_and_gradients():
    for rate in (1e-6, 1 - 1e-6):
        model = models.Sequential([concrete(4, rate)], seed=2)
        with minidl.training(step=0):
            y = model(Tensor(X))
        (y.sum() + sum(model.losses)).backward()
        assert all(np.isfinite(p.grad.numpy()).all() for p in model.parameters())


def test_rate_that_only_its_entropy_trains_goes_to_one_half():
    model = network(
        stack=[layers.Input((6,)), concrete(3, 0.1, activation="softmax", dropout_regularizer=9.0)],
        optimizer=optimizers.Adam(0.05),
    )
    fit(model, epochs=60)
    assert model.layers[0].learned_rate == pytest.approx(0.5, abs=0.02)


def test_weight_term_lowers_the_rate():
    def learned(weight_regularizer):
        model = network(stack=stack(weight_regularizer=weight_regularizer))
        return fit(model, epochs=20).layers[0].learned_rate

    assert learned(0.5) < learned(0.0)


def test_factor_of_the_learning_rate_is_that_of_the_logit():
    model = network(stack=stack())
    factors = {p.name: p.learning_rate_factor for p in model.parameters() if "logit" in p.name}
    assert [*factors.values()] == [2.0, 1.0]


def test_recorded_training_gives_eager_bits(device, tmp_path):
    recorded, eager = (
        fit(network(device, stack=stack()), record=record) for record in (True, False)
    )
    assert_equal(recorded, eager, tmp_path)
    assert recorded.recording.reason == ("" if device != "cpu" else recorded.recording.reason)
    assert (recorded.recording.replays > 0) == (device != "cpu")


def test_broken_off_run_resumes_from_a_file(tmp_path):
    class Stop(callbacks.Callback):
        def on_train_batch_end(self, batch, logs):
            if self.model.step == 6:
                self.model.save(tmp_path / "model.safetensors")
                self.model.stop_training = True

    fit(network(stack=stack()), Stop())
    model = models.load(tmp_path / "model.safetensors")
    assert model.layers[1].temperature == 0.5
    assert repr(model.layers[0]) == repr(network(stack=stack()).layers[0]).replace(
        "step=0", "step=6"
    )
    fit(model, resume=True)
    assert_equal(model, fit(network(stack=stack()), record=False), tmp_path)


@pytest.mark.parametrize("sizes", [(3, 1, 4, 6), (1,) * 14])
def test_parts_of_a_batch_have_the_factors_of_the_whole(sizes):
    layer = built("float64")[1]
    x = Tensor(np.random.default_rng(5).normal(size=(14, 7)))

    def output(first, stop):
        with minidl.training(step=5, row_offset=first):
            return layer(x[first:stop]).numpy()

    ends = np.cumsum(sizes)
    parts = [output(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    np.testing.assert_allclose(np.concatenate(parts), output(0, 14), rtol=1e-12)


def test_draws_differ_and_have_equal_bits_in_all_batch_sizes():
    model = fit(network(stack=stack()), epochs=1)
    found = [model.predict(X, size, verbose=0, samples=5) for size in (2, 14)]
    np.testing.assert_allclose(found[0].mean, found[1].mean, rtol=1e-5)
    assert found[0].std.max() > 0


def test_float16_is_finite():
    model = models.Sequential([concrete(4, 0.5)], dtype="float16", seed=1)
    with minidl.training(step=0):
        y = model(np.ones((2000, 50), "float16"))
    assert np.isfinite(y.numpy()).all()


def test_copy_has_its_own_rate():
    model = fit(network(stack=stack()), epochs=1)
    other = copy.deepcopy(model)
    fit(model, epochs=1)
    assert other.layers[0].learned_rate != model.layers[0].learned_rate
    assert bits(other) != bits(model)
    assert other.evaluate(X, LABELS, verbose=0)[0] > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((layers.Flatten(),), TypeError, "expected a Dense layer, got <Flatten"),
        ((0.1,), TypeError, r"expected a Dense layer, got 0\.1"),
        ((layers.Dense(2), 0.0), ValueError, r"expected rate in \(0, 1\), got 0\.0"),
        ((layers.Dense(2), 1.0), ValueError, r"expected rate in \(0, 1\), got 1\.0"),
        ((layers.Dense(2), 0.5, 0.0), ValueError, r"expected temperature in \(0, inf\), got 0\.0"),
    ],
)
def test_wrong_arguments_are_rejected(arguments, error, message):
    with pytest.raises(error, match=f"^ConcreteDropout: {message}"):
        layers.ConcreteDropout(*arguments)


def test_learned_rate_before_the_build_and_at_large_logits():
    layer = layers.ConcreteDropout(layers.Dense(2, kernel_initializer="ones"), 0.3, seed=0)
    assert layer.learned_rate == 0.3
    layer(Tensor(np.ones((1, 3), "float32")))
    layer.logit.data[...] = -800
    assert layer.learned_rate == 0


def test_layers_that_share_a_dense_layer_are_not_saved(tmp_path):
    shared = layers.Dense(3)
    stack = [layers.ConcreteDropout(shared, input_shape=(3,)), layers.ConcreteDropout(shared)]
    with pytest.raises(ValueError, match="save: expected each layer once in the model, got dense"):
        models.Sequential(stack, seed=0).save(tmp_path / "shared.safetensors")
