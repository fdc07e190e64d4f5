"""Regularizers in loops, fit, evaluate and files; on CUDA also in recorded steps."""

import numpy as np
import pytest
from recorded_runs import LABELS, REPLAYS, X, assert_equal, check, fit, network
from small_models import bits

from minidl import Tensor, layers, losses, models, optimizers, regularizers, training
from minidl.distributed import DataParallel

CROSS_ENTROPY = losses.SparseCategoricalCrossentropy()


def stack(l1=0.01, l2=0.02):
    return [
        layers.Dense(8, "relu", input_shape=(6,), kernel_regularizer=regularizers.L1L2(l1, l2)),
        layers.Dropout(0.5),
        layers.Dense(3, "softmax", bias_regularizer="l2", bias_initializer="ones"),
    ]


def penalty_of(model, l1=0.01, l2=0.02):
    first, _, last = model.layers
    weight, bias = first.weight.numpy(), last.bias.numpy()
    return (l1 * np.abs(weight) + l2 * weight**2).sum() + 0.01 * (bias**2).sum()


def test_losses_are_penalties_of_the_present_weights():
    model = models.Sequential(stack(), seed=3)
    for factor in (1, 2):
        model.set_weights([factor * weight for weight in model.get_weights()])
        assert len(model.losses) == 2
        assert sum(term.item() for term in model.losses) == pytest.approx(penalty_of(model))
    assert [len(layer.losses) for layer in model.layers] == [1, 0, 1]


@pytest.mark.slow_on("cuda-double")
def test_evaluate_adds_the_penalty_once_for_any_batch_size(device):
    model = network(device, stack=stack())
    plain = CROSS_ENTROPY(Tensor(LABELS), Tensor(model.predict(X))).item()
    for size in (1, 4, 14):
        loss, _ = model.evaluate(X, LABELS, batch_size=size, verbose=0)
        assert loss == pytest.approx(plain + penalty_of(model), rel=1e-5)


def test_frozen_weight_has_no_penalty_and_stays():
    model = network(stack=stack())
    model.layers[0].weight.requires_grad = False
    before = model.layers[0].weight.numpy()
    assert len(model.losses) == 1
    fit(model, epochs=1)
    assert np.array_equal(model.layers[0].weight.numpy(), before)


def test_fit_equals_a_loop_that_adds_the_losses(device):
    fitted, looped = (network(device, optimizers.SGD(0.1), stack=stack()) for _ in range(2))
    fit(fitted, epochs=1, batch_size=14, shuffle=False)
    with training(step=0):
        outputs = looped(Tensor(X, dtype="float32", device=device))
    loss = CROSS_ENTROPY(Tensor(LABELS, device=device), outputs)
    for term in looped.losses:
        loss = loss + term
    loss.backward()
    optimizers.SGD(0.1).update(looped.parameters())
    for ours, theirs in zip(fitted.get_weights(), looped.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert fitted.history.history["loss"][0] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.needs_recordings
def test_regularised_steps_are_recorded_on_cuda_and_refused_on_the_cpu(device, tmp_path):
    if device == "cpu":
        model = fit(network(device, stack=stack()))
        assert (model.recording.replays, model.recording.reason) == (
            0,
            "the operation penalty has no kernel",
        )
        return
    # Nadam and clipping have no kernels either.
    used = optimizers.Nadam
    check(lambda: network(device, used(clipnorm=0.2), stack=stack()), tmp_path, REPLAYS)


@pytest.mark.slow_on("cuda-double")
def test_change_of_a_regularizer_between_epochs_is_seen(device, tmp_path):
    def change(model, epoch):
        model.layers[0].weight.regularizer.l2 = 0.5 if epoch == 2 else 0.02

    def trained(record):
        model = network(device, stack=stack())
        for epoch in range(4):
            change(model, epoch)
            fit(model, epochs=epoch + 1, initial_epoch=epoch, record=record)
        return model

    assert_equal(trained(True), trained(False), tmp_path)


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_of_a_batch_share_one_penalty(shards):
    plain, shared = (
        network("cpu", optimizers.SGD(0.1), stack=[*stack()[:1], *stack()[2:]]) for _ in range(2)
    )
    fit(plain)
    fit(shared, distribution=DataParallel(shards=shards))
    for ours, theirs in zip(shared.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)
    found, expected = shared.history.history["loss"], plain.history.history["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class Mean(regularizers.Regularizer):
    """A user's regularizer."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, weight):
        return weight.mean() * self.factor


def own_stack():
    return [
        layers.DropConnect(4, 0.5, bias_regularizer="l1", input_shape=(6,)),
        layers.Dense(3, "softmax", kernel_regularizer=Mean(0.5)),
    ]


def test_run_with_a_regularizer_of_the_user_is_resumed_with_equal_bits(tmp_path):
    path = tmp_path / "model.safetensors"
    whole, first = fit(network(stack=own_stack())), fit(network(stack=own_stack()), epochs=2)
    first.save(path)
    again = fit(models.load(path, custom_objects=[Mean]), resume=True)
    assert bits(again) == bits(whole)
    assert again.history.history == whole.history.history


def test_regularizer_that_was_set_after_building_is_saved(tmp_path):
    model = network(stack=own_stack())
    model.layers[0].weight.regularizer = regularizers.L1(0.25)
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = models.load(path, custom_objects=[Mean])
    found = [p.regularizer for p in again.parameters()]
    assert [type(each) for each in found] == [regularizers.L1, regularizers.L1, Mean, type(None)]
    assert (found[0].l1, found[1].l1, found[2].factor) == (0.25, 0.01, 0.5)


def test_weight_of_a_layer_of_the_user_may_have_a_regularizer():
    class Scale(layers.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight("factor", (2,), "ones", regularizer="l2")
            self.factors = [self.factor]  # the same weight again

        def call(self, x):
            return x * self.factor

    model = models.Sequential([Scale(input_shape=(2,))])
    assert [term.item() for term in model.losses] == [pytest.approx(0.02)]


@pytest.mark.parametrize(
    ("penalty", "error", "message"),
    [
        (lambda weight: weight * weight, ValueError, r"expected a scalar, got shape \(6, 3\)"),
        (lambda weight: 0.5, TypeError, "expected a Tensor, got a float"),
    ],
)
def test_penalty_that_is_not_a_scalar_tensor_names_the_weight(penalty, error, message):
    model = network(stack=[layers.Dense(3, "softmax", input_shape=(6,))])
    model.layers[0].weight.regularizer = penalty
    with pytest.raises(error, match=f"^the regularizer of dense/weight: {message}"):
        fit(model, record=False)


def test_penalty_of_float16_is_summed_in_float32():
    penalty = regularizers.L2(1e-4)(Tensor(np.full(4, 400.0), dtype="float16"))
    assert (penalty.dtype, penalty.item()) == ("float16", 64.0)


def test_get_rejects_unknown_names_and_keeps_objects():
    own = regularizers.L1(0.5)
    assert regularizers.get(own) is own
    assert regularizers.get(None) is None
    assert repr(regularizers.get("l1_l2")) == "L1L2()"
    with pytest.raises(ValueError, match=r"^regularizer: expected a .* one of l1, .*'l3'"):
        layers.Dense(2, kernel_regularizer="l3")
    with pytest.raises(ValueError, match=r"^L2: expected l2 in \[0, inf\), got -1"):
        regularizers.L2(-1)
