"""The factor of the learning rate of a weight: an optimizer of its own gives the same bits."""

import copy
import pickle

import numpy as np
import pytest
from recorded_runs import RARE
from small_models import bits

from minidl import Tensor, callbacks, layers, models, optimizers, training
from minidl.engine.parameter import Parameter
from minidl.optimizers import SGD, Adam, AdamW, RMSprop, schedules

NUMBERS = np.random.default_rng(3)
X, Y = NUMBERS.random((14, 6), "float32"), NUMBERS.integers(0, 3, 14)
FACTORS = [0.5, 0.5, 1.0, 3.0, 0.0, 0.5]  # of the weights of three layers, in their order

# Each with a schedule and weight decay, which both depend on the learning rate.
MAKERS = {
    "sgd": lambda rate: SGD(rate, weight_decay=0.1),
    "momentum": lambda rate: SGD(rate, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda rate: SGD(rate, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda rate: RMSprop(rate, weight_decay=0.1),
    "adam": lambda rate: Adam(rate, weight_decay=0.1),
    "adamw": lambda rate: AdamW(rate, weight_decay=0.1),
}


def rate_times(factor):
    """Return a schedule of 0.1 and then 0.05, times a factor."""
    return schedules.PiecewiseConstantDecay([2], [0.1 * factor, 0.05 * factor])


def network(factors=FACTORS, optimizer=None, device="cpu", dtype="float32"):
    stack = [layers.Dense(5, "relu", input_shape=(6,)), layers.Dense(4, "relu")]
    stack.append(layers.Dense(3, "softmax"))
    model = models.Sequential(stack, seed=3, device=device, dtype=dtype)
    for parameter, factor in zip(model.parameters(), factors, strict=True):
        parameter.learning_rate_factor = factor
    optimizer = MAKERS["adamw"](rate_times(1)) if optimizer is None else optimizer
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def fit(model, *used, **options):
    arguments = {"batch_size": 4, "epochs": 4, "verbose": 0, "callbacks": list(used)}
    model.fit(X, Y, **arguments | options)
    return model


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=RARE)])
@pytest.mark.parametrize("name", MAKERS)
def test_weight_with_a_factor_has_the_bits_of_its_own_optimizer(name, dtype, device):
    one, other = network(dtype=dtype, device=device), network([1.0] * 6, dtype=dtype, device=device)
    optimizer = MAKERS[name](rate_times(1))
    own = [MAKERS[name](rate_times(factor)) for factor in FACTORS]
    x = Tensor(X, device=device, dtype=dtype)
    for step in range(5):
        for model in (one, other):
            with training(step=step):
                (model(x) ** 2).sum().backward()
        optimizer.update(one.parameters())
        for each, parameter in zip(own, other.parameters(), strict=True):
            each.update([parameter])
        assert bits(one) == bits(other)
    assert bits(one) != bits(network([1.0] * 6, dtype=dtype, device=device))


@pytest.mark.needs_recordings
@pytest.mark.parametrize(
    "name", ["adam", *(pytest.param(name, marks=RARE) for name in MAKERS if name != "adam")]
)
def test_recorded_factors_give_eager_bits(name, device):
    trained = [
        fit(network(optimizer=MAKERS[name](rate_times(1)), device=device), record=record)
        for record in (True, False)
    ]
    assert trained[0].recording.replays > 0
    assert bits(trained[0]) == bits(trained[1])


def test_equal_factors_run_the_rule_once(monkeypatch):
    sizes = []

    def rule(self, weights, gradients, rate, decay):
        sizes.append((weights.size, rate))

    monkeypatch.setattr(SGD, "rule", rule)
    for factors in ([1.0] * 6, [2.0] * 6, FACTORS):
        fit(network(factors, SGD(0.5)), epochs=1, batch_size=14, record=False)
    assert sizes[:2] == [(74, 0.5), (74, 1.0)]
    assert sizes[2:] == [(35, 0.25), (20, 0.5), (4, 1.5), (12, 0.0), (3, 0.25)]


def test_rule_that_raises_leaves_the_whole_state():
    optimizer, model = MAKERS["momentum"](0.1), network()
    with training(step=0):
        model(X).sum().backward()
    optimizer.rule = None
    with pytest.raises(TypeError, match="not callable"):
        optimizer.update(model.parameters())
    assert optimizer.state["velocity"].size == model.count_params()


class Setting(callbacks.Callback):
    """Set a factor after a step."""

    def on_train_batch_end(self, batch, logs):
        if self.model.step == 10:
            self.model.parameters()[0].learning_rate_factor = 7.0


@pytest.mark.needs_recordings
def test_recorded_step_follows_a_change_of_a_factor():
    recorded, eager = (fit(network(), Setting(), record=record) for record in (True, False))
    assert recorded.recording.replays > 0
    assert bits(recorded) == bits(eager) != bits(fit(network()))


class Stop(callbacks.Callback):
    """Save and stop after a step."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, batch, logs):
        if self.model.step == 6:
            self.model.save(self.path)
            self.model.stop_training = True


def test_resumed_run_has_the_factors(tmp_path):
    path = tmp_path / "model.safetensors"
    fit(network(), Stop(path))
    model = models.load(path)
    assert [p.learning_rate_factor for p in model.parameters()] == FACTORS
    fit(model, resume=True)
    assert bits(model) == bits(fit(network()))


def test_run_with_a_changed_factor_cannot_be_resumed(tmp_path):
    model = fit(network(), Stop(tmp_path / "model.safetensors"))
    model.parameters()[1].learning_rate_factor = 9.0
    with pytest.raises(ValueError, match="learning_rate_factor of dense/bias"):
        fit(model, resume=True)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_keep_factors(copied):
    assert [p.learning_rate_factor for p in copied(network()).parameters()] == FACTORS


class Scale(layers.Layer):
    """A layer that gives its weight a factor."""

    def build(self, input_shape):
        options = {"learning_rate_factor": self.factor}
        self.weight = self.add_weight("weight", input_shape[1:], "ones", **options)

    def call(self, x):
        return x * self.weight


def test_add_weight_sets_the_factor():
    layer = Scale()
    layer.factor = 0.25
    layer(Tensor(X))
    assert layer.weight.learning_rate_factor == 0.25


@pytest.mark.parametrize(
    ("factor", "error"), [(-1, ValueError), (np.inf, ValueError), ("1", TypeError)]
)
def test_factor_out_of_range_is_rejected(factor, error):
    layer = Scale()
    layer.factor = factor
    with pytest.raises(error, match=r"expected learning_rate_factor in \[0, inf\), got "):
        layer(Tensor(X))


def test_factor_is_one_by_default():
    weight = Parameter(np.ones(2), network().backend, "weight", 0)
    assert weight.learning_rate_factor == 1
    assert optimizers.Adam(0.5).numbers()[0][1] == 1
