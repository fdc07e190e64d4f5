"""Changes by hand between a run and its resumption."""

import copy
import pickle

import numpy as np
import pytest
from recorded_runs import RARE
from small_models import bits

import minidl
from minidl import Tensor, layers, losses, metrics, models, optimizers, rng
from minidl.callbacks import Callback
from minidl.constraints import MaxNorm
from minidl.optimizers import SGD, schedules
from minidl.rng import RandomStream

X = np.random.default_rng(0).normal(size=(12, 4))
LABELS = np.arange(12) % 3


class Scale(layers.Layer):
    """A layer of the user with an argument, and a number that is none."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.calls = factor, 0

    def call(self, x):
        self.calls += 1
        return x * self.factor


class OwnLoss(losses.SparseCategoricalCrossentropy):
    """Another class with the same arguments."""


class TwoStreams(layers.Layer):
    """A random layer of the user, whose streams are not arguments."""

    def __init__(self):
        super().__init__()
        self.streams_of_both = [RandomStream(), RandomStream(seed=1)]

    def call(self, x):
        for stream in self.streams_of_both if rng.is_training() else ():
            address = stream.next_address(x.shape)
            x = x * x.like(x.backend.keep_mask(x.shape, 0.5, address)).astype(x.dtype)
        return x


class WeightedLoss(losses.Loss):
    """A loss of the user with an argument that is an array."""

    def __init__(self, weights):
        self.weights = weights

    def per_sample(self, y_true, y_pred):
        return (y_pred * y_true.backend.asarray(self.weights)).sum(axis=-1)


def trained(loss=None, rate=0.05, device="cpu", epochs=1, **arguments):
    """Return a model whose run was stopped after an epoch."""
    stack = [
        layers.Dense(5, "relu", input_shape=(4,), kernel_constraint=MaxNorm(1.0)),
        layers.Dropout(0.3),
        Scale(2.0),
        TwoStreams(),
        layers.Dense(3, name="last"),
    ]
    model = models.Sequential(stack, seed=3, device=device)
    optimizer = SGD(rate, momentum=0.9)
    loss = loss or losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    fit(model, epochs=epochs, **arguments)
    return model


def fit(model, epochs=3, **arguments):
    return model.fit(X, LABELS, batch_size=4, epochs=epochs, verbose=0, **arguments)


def assign(model):
    parameter = model.parameters()[0]
    parameter.assign(parameter.data * 2)


def change_in_place(model):
    model.parameters()[-1].data[0] += 1e-3


def replace_array(model):
    model.parameters()[-1].data = model.parameters()[-1].data + 1


def train_by_hand(model):
    with minidl.training(step=99):
        model(X).sum().backward()
    model.optimizer.update(model.parameters())


def change_state(model):
    model.optimizer.state["velocity"][0] += 1


CHANGES = {
    "dense/weight": [
        assign,
        lambda m: m.train_state.load_state({"weights/dense/weight": 0 * m.parameters()[0].data}),
    ],
    "last/bias": [change_in_place, replace_array],
    "sequential.seed": [lambda m: setattr(m.placement, "seed", 4)],
    "dropout.seed": [lambda m: setattr(m.layers[1].random_stream, "own_seed", 9)],
    "dropout.stream": [lambda m: setattr(m.layers[1].random_stream, "number", 9)],
    "dropout.rate": [lambda m: setattr(m.layers[1], "rate", 0.4)],
    "the random stream of two_streams": [
        lambda m: setattr(m.layers[3].streams_of_both[0], "own_seed", 5),
        lambda m: setattr(m.layers[3].streams_of_both[1], "number", 5),
    ],
    "dropout.scaling": [lambda m: setattr(m.layers[1], "scaling", "inference")],
    "scale.factor": [lambda m: setattr(m.layers[2], "factor", 3.0)],
    "last.activation": [lambda m: setattr(m.layers[4], "activation", Tensor.tanh)],
    "requires_grad of last/bias": [lambda m: setattr(m.parameters()[-1], "requires_grad", False)],
    "the constraint of dense/weight": [
        lambda m: setattr(m.parameters()[0], "constraint", None),
        lambda m: setattr(m.parameters()[0].constraint, "max_value", 0.5),
    ],
    "the constraint of last/weight": [
        lambda m: setattr(m.parameters()[2], "constraint", MaxNorm())
    ],
    "the loss": [
        lambda m: setattr(m, "loss", WeightedLoss(np.ones(3))),
        lambda m: setattr(m, "loss", OwnLoss(from_logits=True)),
    ],
    "the list of metrics": [
        lambda m: m.metrics.append(metrics.Accuracy("second")),
        lambda m: m.metrics.clear(),
    ],
    "optimizer.learning_rate": [
        lambda m: setattr(m.optimizer, "learning_rate", 0.01),
        lambda m: setattr(m.optimizer, "learning_rate", schedules.CosineDecay(0.05, 10)),
    ],
    "optimizer.momentum": [lambda m: setattr(m.optimizer, "momentum", 0.5)],
    "optimizer.weight_decay": [lambda m: setattr(m.optimizer, "weight_decay", 0.5)],
    "optimizer.nesterov": [lambda m: setattr(m.optimizer, "nesterov", True)],
    "optimizer/velocity": [change_state],
    "optimizer/iterations": [lambda m: setattr(m.optimizer, "iterations", 7)],
    "model/step": [lambda m: setattr(m.train_state, "step", 7)],
}
CASES = [(name, change) for name, changes in CHANGES.items() for change in changes]
FREEZES = "weights were frozen"


@pytest.mark.parametrize(("name", "change"), CASES)
def test_change_by_hand_is_named_when_the_run_is_resumed(name, change):
    model = trained()
    change(model)
    reason = FREEZES if "requires_grad" in name else f"{name} was changed since it ended"
    for _ in range(2):  # a rejected run does not count
        with pytest.raises(ValueError, match=rf"^fit: .*but {reason}.*Leave resume out"):
            fit(model, resume=True)
    assert len(model.history.epoch) == 1


@pytest.mark.parametrize(
    "change",
    [assign, train_by_hand, lambda m: m.set_weights(np.ones_like(w) for w in m.get_weights())],
)
def test_changed_weights_are_accepted_by_a_new_run_that_can_be_resumed(change, device):
    model = trained(device=device)
    change(model)
    with pytest.raises(ValueError, match=r"^fit: .* can be resumed, but "):
        fit(model, resume=True)
    fit(model, epochs=1)
    assert fit(model, resume=True).epoch == [0, 1, 2]


def predict_and_more(model):
    """Use a model in all ways that change nothing."""
    model.predict(X, verbose=0, samples=2)
    model.evaluate(X, LABELS, verbose=0)
    with minidl.training(step=50):
        model(X)
    model.get_weights()
    model.stop_training = True


def set_back(model):
    model.optimizer.learning_rate = 0.5
    model.layers[1].rate = np.float64(0.1)
    model.optimizer.learning_rate, model.layers[1].rate = 0.05, np.float64(0.3)


def join_another_model(model):
    models.Sequential([*model.layers], device=model.device)


COPIES = [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]


@pytest.mark.parametrize(
    "copied", [COPIES[0], *(pytest.param(copied, marks=RARE) for copied in COPIES[1:])]
)
@pytest.mark.parametrize("use", [predict_and_more, set_back, join_another_model])
def test_use_without_change_leaves_the_run_resumable(use, copied, device):
    model, whole = copied(trained(device=device)), trained(device=device, epochs=3)
    use(model)
    fit(model, resume=True)
    assert bits(model) == bits(whole)


@pytest.mark.parametrize("copied", COPIES[1:])
def test_copy_finds_its_own_changes(copied):
    model = trained()
    twin = copied(model)
    assign(twin)
    assert model.train_state.why_not_resumable() == ""
    assert twin.train_state.why_not_resumable() == "dense/weight was changed since it ended"


@pytest.mark.parametrize("name", ["dense/weight", "dropout.rate", "optimizer.momentum"])
@pytest.mark.parametrize("is_before", [True, False])
def test_change_before_saving_and_after_loading_is_found(name, is_before, tmp_path):
    model, change = trained(), CHANGES[name][0]
    path = tmp_path / "model.safetensors"
    if is_before:
        change(model)
    model.save(path)
    loaded = models.load(path, custom_objects=[Scale, TwoStreams])
    if not is_before:
        assert loaded.train_state.why_not_resumable() == ""
        change(loaded)
    with pytest.raises(ValueError, match=rf"^fit: .*but {name} was changed since it ended"):
        fit(loaded, resume=True)


class Changes(Callback):
    """Change what a run relies on within the run, and interrupt it."""

    def __init__(self, is_interrupted=False):
        self.is_interrupted = is_interrupted

    def on_epoch_end(self, epoch, logs):
        self.model.optimizer.learning_rate *= 0.5
        self.model.layers[1].rate *= 0.5
        assign(self.model)

    def on_epoch_begin(self, epoch, logs):
        if epoch == 1 and self.is_interrupted:
            self.is_interrupted = False
            raise KeyboardInterrupt


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_changes_by_callbacks_are_a_part_of_the_run(is_interrupted):
    whole = trained(epochs=3, callbacks=[Changes()])
    model, used = trained(epochs=0), Changes(is_interrupted)
    if is_interrupted:
        with pytest.raises(KeyboardInterrupt):
            fit(model, callbacks=[used])
    else:
        fit(model, epochs=1, callbacks=[used])
    fit(model, callbacks=[used], resume=True)
    assert bits(model) == bits(whole)
    assert model.history.history == whole.history.history


def test_arguments_of_users_classes_are_compared():
    weights = np.ones(3)
    model = trained(WeightedLoss(weights))
    weights[0] = 2
    with pytest.raises(ValueError, match=r"^fit: .*but the loss was changed"):
        fit(model, resume=True)


def test_arguments_of_a_schedule_are_compared():
    model = trained(rate=schedules.CosineDecay(0.05, 10))
    model.optimizer.learning_rate.decay_steps = 20
    with pytest.raises(ValueError, match=r"^fit: .*but optimizer.learning_rate was changed"):
        fit(model, resume=True)


def test_added_layer_is_found():
    model = trained()
    model.add(layers.ReLU())
    with pytest.raises(ValueError, match=r"^fit: .*but .* was changed since it ended"):
        fit(model, resume=True)


def test_subclass_of_model_is_compared():
    class Net(models.Model):
        def __init__(self, power=1):
            super().__init__()
            self.power, self.dense = power, layers.Dense(3, "softmax")

        def call(self, x):
            return self.dense(x**self.power)

    model = Net()
    model.compile(optimizers.Adam(), "sparse_categorical_crossentropy")
    fit(model, epochs=1)
    model.power = 2
    with pytest.raises(ValueError, match=r"^fit: .*but net.power was changed"):
        fit(model, resume=True)
    model.power = 1
    assert fit(model, resume=True).epoch == [0, 1, 2]
