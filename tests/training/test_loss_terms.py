"""Terms that layers add to the loss: in loops, fit, evaluate and predict, recorded and eager."""

import copy
import pickle

import numpy as np
import pytest
from recorded_runs import LABELS, RARE, X, assert_equal, fit, network
from small_models import bits

from minidl import Tensor, callbacks, layers, losses, models, optimizers, rng, training

CROSS_ENTROPY = "sparse_categorical_crossentropy"


class Squares(layers.Layer):
    """Identity that adds the mean square of its input, times a factor, to the loss."""

    recordable = True

    def __init__(self, factor=0.5, **arguments):
        super().__init__(**arguments)
        self.factor = factor

    def call(self, x):
        self.add_loss((x * x).mean() * self.factor)
        return x


class SquaresLoss(losses.SparseCategoricalCrossentropy):
    """The cross-entropy and the mean squares of the outputs, to compare with."""

    recordable = True

    def __call__(self, y_true, y_pred, sample_weight=None):
        return super().__call__(y_true, y_pred, sample_weight) + (y_pred * y_pred).mean() * 0.5


def stack(*last):
    return [
        layers.Dense(8, "relu", input_shape=(6,)),
        Squares(0.25),
        layers.Dropout(0.5),
        layers.Dense(3, "softmax"),
        *last,
    ]


# ------------------------------------------------------------------------------ calls


def test_losses_are_the_terms_of_the_latest_call():
    layer = Squares()
    assert layer.losses == []
    for number in (2.0, 4.0):
        layer(Tensor([number]))
    assert [term.item() for term in layer.losses] == [8.0]


def test_losses_of_several_calls_in_one_pass_are_all_terms():
    class Twice(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner, self.silent = Squares(), layers.Activation("relu")

        def call(self, x):
            return self.silent(self.inner(self.inner(x) * 2))

    layer = Twice()
    for _ in range(2):
        layer(Tensor([2.0]))
        assert [term.item() for term in layer.losses] == [2.0, 8.0]
        assert len(layer.inner.losses) == 2
        assert layer.silent.losses == []


def test_losses_of_nested_models_are_those_below():
    inner = models.Sequential([Squares(name="first"), layers.Dense(2)])
    model = models.Sequential([inner, Squares(name="last")], seed=1)
    model(X)
    assert [len(each.losses) for each in (model, inner, inner.layers[0], inner.layers[1])] == [
        2,
        1,
        1,
        0,
    ]
    assert model.losses[0] is inner.losses[0]


def test_term_of_a_call_by_condition_is_not_kept_for_the_next_call():
    class InTraining(layers.Layer):
        def call(self, x):
            if rng.is_training():
                self.add_loss(x.sum())
            return x

    model = models.Sequential([InTraining()])
    with training(step=0):
        model(X)
    assert len(model.losses) == 1
    model(X)
    assert model.losses == []


def test_building_a_model_within_a_call_adds_no_term():
    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = models.Sequential([Squares()])

        def call(self, x):
            return self.inner(x)

    layer = Outer()
    layer(Tensor([[2.0]]))
    assert [term.item() for term in layer.losses] == [2.0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_hold_no_terms(copied):
    model = models.Sequential([layers.Dense(2), Squares()], seed=1)
    model(X)
    assert copied(model).losses == copied(model.layers[1]).losses == []
    assert len(model.losses) == 1
    assert copied(model.layers[1]).factor == 0.5


class Adding(layers.Layer):
    """A layer that adds a given term."""

    def call(self, x):
        self.add_loss(self.term(x))
        return x


@pytest.mark.parametrize(
    ("term", "error", "message"),
    [
        (lambda x: 0.5, TypeError, "expected a Tensor, got a float"),
        (lambda x: x.data.sum(), TypeError, "expected a Tensor, got a float32"),
        (lambda x: x.sum(axis=1), ValueError, r"expected a scalar, got shape \(4,\)"),
        (lambda x: x.sum().reshape(1), ValueError, r"expected a scalar, got shape \(1,\)"),
    ],
)
def test_add_loss_rejects_other_terms(term, error, message):
    layer = Adding(name="adding")
    layer.term = lambda x: x.sum()
    model = network(stack=stack(layer))
    before = fit(model, epochs=1) and bits(model)
    layer.term = term
    with pytest.raises(error, match=f"^adding: add_loss: {message}"):
        fit(model)
    assert (bits(model), model.train_state.is_torn) == (before, False)


def test_add_loss_rejects_a_term_of_another_device(cuda_double):
    layer = Adding(name="adding")
    layer.term = lambda x: x.sum().to("cuda")
    with pytest.raises(
        ValueError, match=r"^adding: add_loss: expected a term on cpu, got one on cu"
    ):
        models.Sequential([layer])(X)


def test_add_loss_outside_of_a_call_is_rejected():
    with pytest.raises(RuntimeError, match=r"^squares: expected add_loss within call"):
        Squares().add_loss(Tensor(1.0))


# ------------------------------------------------------------------------------ fit


@pytest.mark.parametrize("record", [True, pytest.param(False, marks=RARE)])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=RARE)])
def test_fit_minimises_and_reports_the_terms(dtype, record, device):
    ours = network(device, stack=stack(Squares()), dtype=dtype)
    ours.layers[1].factor = 0.0
    theirs = network(device, stack=stack(), dtype=dtype, loss=SquaresLoss())
    theirs.layers[1].factor = 0.0
    theirs.set_weights(ours.get_weights())
    for model in (ours, theirs):
        fit(model, record=record, validation_data=(X[:5], LABELS[:5]))
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    for name, values in theirs.history.history.items():
        np.testing.assert_allclose(ours.history.history[name], values, rtol=1e-5, err_msg=name)
    results = [
        model.evaluate(X, LABELS, 4, verbose=0, record=record)[0] for model in (ours, theirs)
    ]
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.parametrize("metrics", [["accuracy"], []])
def test_term_before_a_fused_classifier_counts(metrics, device):
    model = network(device, optimizers.SGD(0.0), stack(), metrics=metrics)
    x, y = (Tensor(array).to(device) for array in (X, LABELS))
    outputs = model(x)
    (term,) = model.losses
    expected = losses.get(CROSS_ENTROPY)(y, outputs).item() + term.item()
    found = model.evaluate(X, LABELS, 14, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(expected, rel=1e-6)
    assert term.item() > 0


@pytest.mark.needs_recordings
def test_recorded_terms_give_eager_bits(device):
    trained = [fit(network(device, stack=stack()), record=record) for record in (True, False)]
    assert bits(trained[0]) == bits(trained[1])
    assert repr(trained[0].history.history) == repr(trained[1].history.history)
    if device == "cpu":
        assert "no kernel" in trained[0].recording.reason
    else:
        assert trained[0].recording.reason == ""
        assert trained[0].recording.replays > 0


@pytest.mark.needs_recordings
def test_constant_term_is_not_recorded_on_the_cpu():
    class Constant(layers.Layer):
        recordable = True
        constant = Tensor(1.0)

        def call(self, x):
            self.add_loss(self.constant)
            return x

    model = fit(network(stack=[layers.Input((6,)), Constant(), layers.Dense(3, "softmax")]))
    assert model.recording.reason == "layers add terms to the loss"
    plain = fit(network(stack=[layers.Input((6,)), layers.Dense(3, "softmax")]))
    history = [np.array(each.history.history["loss"]) for each in (model, plain)]
    np.testing.assert_allclose(history[0], history[1] + 1, rtol=1e-6)
    assert bits(model) == bits(plain)


def test_loop_by_hand_equals_fit():
    model, other = network(stack=stack()), network(stack=stack())
    fit(model, shuffle=False, batch_size=14)
    loss = losses.get(CROSS_ENTROPY)
    for step in range(model.step):
        with training(step=step):
            error = loss(LABELS, other(X)) + sum(other.losses)
        error.backward()
        other.optimizer.update(other.parameters())
    for mine, by_hand in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, by_hand, rtol=1e-5, atol=1e-6)


def test_sample_weights_do_not_scale_terms():
    model = network(stack=stack(), optimizer=optimizers.SGD(0.0))
    model(X)
    (term,) = model.losses
    weight = np.zeros(len(X))
    found = model.evaluate(X, LABELS, len(X), verbose=0, sample_weight=weight, return_dict=True)
    assert found["loss"] == pytest.approx(term.item(), rel=1e-6)


def test_predict_ignores_terms():
    model, plain = network(stack=stack()), network(stack=stack())
    plain.layers[1].factor = 0.0
    for samples in (None, 3):
        one, other = (m.predict(X, 4, verbose=0, samples=samples) for m in (model, plain))
        assert np.array_equal(np.asarray(one[0]), np.asarray(other[0]))


def test_resumed_run_with_terms_has_the_bits_of_the_whole(tmp_path):
    class Stop(callbacks.Callback):
        def on_train_batch_end(self, batch, logs):
            if self.model.step == 6:
                self.model.save(tmp_path / "model.safetensors")
                self.model.stop_training = True

    fit(network(stack=stack()), Stop())
    model = models.load(tmp_path / "model.safetensors", custom_objects=[Squares])
    fit(model, resume=True)
    assert_equal(model, fit(network(stack=stack()), record=False), tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_terminate_on_nan_names_the_layer_of_a_term():
    class Bad(layers.Layer):
        def call(self, x):
            self.add_loss((x.mean() * 0).log() * 0)
            return x

    model = network(stack=stack(Bad(name="bad")))
    guard = callbacks.TerminateOnNaN()
    fit(model, guard)
    assert guard.found == "a term of the loss by bad in step 0"


def test_nan_term_passes_to_the_loss():
    layer = Adding()
    layer.term = lambda x: x.sum() * float("nan")
    model = network(stack=stack(layer))
    assert np.isnan(model.evaluate(X, LABELS, verbose=0)[0])
