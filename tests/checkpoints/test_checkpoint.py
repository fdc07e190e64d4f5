"""What a checkpoint holds, what comes back, and what is refused."""

import copy
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minidl import (
    Tensor,
    callbacks,
    checkpoint,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    tensor_file,
)
from minidl.batches import Samples
from minidl.description import KNOWN, describe, describe_network
from minidl.files import lock_folder
from minidl.optimizers import schedules
from minidl.tensor_file import TensorFile

X = np.random.default_rng(0).integers(0, 256, (50, 4, 3)).astype("uint8")
Y = np.random.default_rng(1).integers(0, 5, 50)


def network(optimizer=None, device="cpu", seed=2**63 + 5):
    inner = models.Sequential(
        [layers.Dense(6, "tanh", name="inside"), layers.Dropout(0.25, seed=9)], name="nested"
    )
    model = models.Sequential(
        [
            layers.Rescaling(1 / 255, input_shape=(4, 3)),
            layers.Flatten(),
            layers.Dense(
                8,
                "relu",
                kernel_initializer=initializers.HeNormal(seed=4),
                kernel_constraint=constraints.MaxNorm(1.5),
            ),
            layers.Dropout(0.5),
            inner,
            layers.Dropout(0.1, scaling="inference"),
            layers.Dense(5, activation="softmax", name="classes"),
        ],
        device=device,
        seed=seed,
    )
    model.compile(
        optimizer or optimizers.AdamW(schedules.CosineDecay(0.01, 40), weight_decay=0.1),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


FIT = {"batch_size": 16, "epochs": 4, "verbose": 0, "validation_split": 0.2}
STEPS = 3  # an epoch: 40 of the 50 samples are trained on


class SaveAndStop(callbacks.Callback):
    """Save after a step, and end."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, batch, logs):
        if self.model.step == self.step:
            self.model.save(self.path)
            self.model.stop_training = True


def same_weights(model, other):
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


# ------------------------------------------------------------------------------ what comes back


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_everything_comes_back(path):
    model = network()
    model.layers[2].bias.requires_grad = False
    model.layers[-1].bias.constraint = constraints.MaxNorm(3.0)
    model.fit(X, Y, **FIT)
    model.save(path)
    again = models.load(path)
    assert same_weights(model, again)
    assert describe_network(again) == describe_network(model)
    assert again.layers[2].bias.requires_grad is False
    assert again.layers[-1].bias.constraint.max_value == 3.0
    assert (again.step, again.epoch, again.seed) == (4 * STEPS, 4, 2**63 + 5)
    assert again.history.history == model.history.history
    assert again.history.epoch == [0, 1, 2, 3]
    assert again.optimizer.iterations == 4 * STEPS
    assert again.optimizer.state.keys() == {"mean", "square"}
    for name, values in model.optimizer.state.items():
        assert again.optimizer.state[name].tobytes() == values.tobytes()
    drops = [layer for layer in model.walk() if isinstance(layer, layers.Dropout)]
    again_drops = [layer for layer in again.walk() if isinstance(layer, layers.Dropout)]
    assert [repr(layer) for layer in again_drops] == [repr(layer) for layer in drops]
    assert [layer.stream_is_fixed for layer in again_drops] == [True] * 3
    assert np.array_equal(again.predict(X), model.predict(X))
    assert again.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)


def test_the_file_says_what_it_is(path):
    model = network()
    model.fit(X, Y, **FIT)
    model.save(path)
    with TensorFile(path) as file:
        texts = json.loads(file.metadata["minidl"])
        assert file.shapes["weights/classes/weight"] == (6, 5)
        assert int(file.read("model/step")) == 4 * STEPS
    assert (texts["format"], texts["version"]) == (1, "0.1.0")
    assert texts["training"]["optimizer"]["class"] == "AdamW"
    assert texts["network"]["layers"][3]["arguments"]["rate"] == 0.5


ARGUMENTS = {
    "Activation": ("tanh",),
    "Dense": (3,),
    "Dropout": (0.5,),
    "Rescaling": (2.0,),
    "PiecewiseConstantDecay": ([2], [0.1, 0.2]),
    "CosineDecay": (0.1, 5),
    "ExponentialDecay": (0.1, 5, 0.5),
    "InverseTimeDecay": (0.1, 5, 0.5),
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_class_of_minidl_can_be_described(name):
    described = describe(KNOWN[name](*ARGUMENTS.get(name, ())))
    assert json.loads(json.dumps(described)) == described
    assert described["class"] == name


LAYERS = [name for name, kind in KNOWN.items() if issubclass(kind, layers.Layer)]


@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"Sequential"}))
def test_every_layer_may_be_the_first_and_give_the_input_shape(name, path):
    first = KNOWN[name](*ARGUMENTS.get(name, ()), input_shape=(4, 3))
    model = models.Sequential([first, layers.Dense(2)])
    model.save(path)
    again = models.load(path)
    assert again.input_shape == (4, 3)
    assert same_weights(model, again)


def public_classes(module, base):
    return {
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }


def test_no_class_of_minidl_is_forgotten():
    ours = public_classes(layers, layers.Layer) - {layers.Input}
    ours |= public_classes(losses, losses.Loss) | public_classes(optimizers, optimizers.Optimizer)
    ours |= public_classes(metrics, metrics.Metric) - {metrics.Mean}
    public = {kind for kind in ours if not kind.__name__.startswith("_")}
    assert public - set(KNOWN.values()) == set()


def test_a_model_that_is_not_built_or_not_compiled_is_saved_too(path):
    models.Sequential([layers.Dense(3), layers.Dropout(0.5)], seed=7).save(path)
    model = models.load(path)
    assert not model.built
    assert model.optimizer is None
    fresh = models.Sequential([layers.Dense(3), layers.Dropout(0.5)], seed=7)
    assert np.array_equal(model.predict(np.ones((2, 4))), fresh.predict(np.ones((2, 4))))


def test_a_model_built_by_its_first_call_takes_other_shapes_after_loading(path):
    model = models.Sequential([layers.Dense(3)])
    model.predict(np.ones((2, 4)))
    model.save(path)
    again = models.load(path)
    assert again.input_shape is None
    assert again.predict(np.ones((2, 5, 4))).shape == (2, 5, 3)


def test_float64_comes_back_as_float64(path):
    model = models.Sequential([layers.Dense(3, input_shape=(2,))], dtype="float64")
    model.save(path)
    again = models.load(path)
    assert again.dtype == np.float64
    assert same_weights(model, again)


def test_a_loaded_model_can_grow(path):
    model = network()
    model.save(path)
    for grown in (model, again := models.load(path)):
        grown.add(layers.Dense(2))
        grown.add(layers.Dropout(0.5))
    assert same_weights(model, again)
    assert repr(again.layers[-1]) == repr(model.layers[-1])


# ------------------------------------------------------------------------------ resuming


@pytest.fixture(scope="module")
def whole():
    model = network()
    model.fit(X, Y, **FIT)
    return model


@pytest.mark.parametrize("step", [1, 2, 3, 4, 7, 12])
def test_a_resumed_run_ends_with_the_same_bits(whole, path, step):
    network_ = network()
    network_.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, step)])
    for broken_off in (models.load(path), network_):
        history = broken_off.fit(X, Y, **FIT, resume=True)
        assert same_weights(broken_off, whole)
        assert history.history == whole.history.history
        assert history.epoch == [0, 1, 2, 3]
        assert (broken_off.step, broken_off.epoch) == (12, 4)


def test_without_resume_it_does_not_end_with_the_same_bits(whole, path):
    network().fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 4)])
    model = models.load(path)
    model.fit(X, Y, **FIT | {"initial_epoch": 1})
    assert not same_weights(model, whole)


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        optimizers.SGD(0.1),
        optimizers.RMSprop(schedules.ExponentialDecay(0.01, 5, 0.5)),
        optimizers.Adam(schedules.PiecewiseConstantDecay([5], [0.01, 0.001])),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_every_optimizer_goes_on(optimizer, path):
    one, other = network(optimizer), network(copy.deepcopy(optimizer))
    one.fit(X, Y, **FIT)
    other.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    again = models.load(path)
    again.fit(X, Y, **FIT, resume=True)
    assert same_weights(one, again)


def test_it_resumes_on_the_other_device_with_the_same_masks(whole, path, cuda_double):
    network().fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    model = models.load(path, device="cuda")
    assert model.device == "cuda:0"
    model.fit(X, Y, **FIT, resume=True)
    drops = [repr(layer) for layer in model.walk() if isinstance(layer, layers.Dropout)]
    assert drops == [repr(layer) for layer in whole.walk() if isinstance(layer, layers.Dropout)]
    for a, b in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 8}, "resume=True goes on with a run of batch_size 16, received"),
        ({"validation_split": 0.3}, "resume=True goes on with a run of samples 40, received"),
        ({"shuffle": False}, "resume=True goes on with a run of shuffle True, received"),
    ],
)
def test_another_run_is_not_resumed(change, message):
    model = network()
    model.fit(X, Y, **FIT | {"epochs": 1})
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, **FIT | change, resume=True)


OTHER_X, OTHER_Y = X.copy(), Y.copy()
OTHER_X[7, 3, 2] ^= 1
OTHER_Y[0] = (OTHER_Y[0] + 1) % 5
HELD_OUT = {"validation_split": 0.0, "validation_data": (X, Y)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": OTHER_X}, "a run of data_checksum .*, received data_checksum"),
        ({"x": X[::-1]}, "a run of data_checksum"),
        ({"x": X.astype("float32")}, "a run of data_checksum"),
        ({"y": OTHER_Y}, "a run of data_checksum"),
        ({"sample_weight": np.ones(50)}, "a run of data_checksum"),
        ({"validation_data": (OTHER_X, Y)}, "a run of validation_checksum .*, received validation"),
        ({"validation_data": (X, OTHER_Y)}, "a run of validation_checksum"),
        ({"validation_data": None}, r"a run of validation_checksum \d+, received .* 0; give"),
    ],
)
def test_a_run_on_other_data_is_not_resumed(path, change, message):
    run = {"x": X, "y": Y, **FIT, **HELD_OUT, "epochs": 2}
    model = network()
    model.fit(**run, callbacks=[SaveAndStop(path, 5)])
    for broken_off in (model, models.load(path)):
        with pytest.raises(ValueError, match=f"fit: resume=True goes on with {message}"):
            broken_off.fit(**run | change, resume=True)
        assert broken_off.step == 5
        copied = {"x": np.asfortranarray(X), "y": Y.tolist()}
        assert broken_off.fit(**run | copied, resume=True).epoch == [0, 1]


@pytest.mark.parametrize("shape", [(1,), (3, 0), (5, 4), (257, 3), (2**22, 1)])
def test_the_checksum_of_data_up_to_4_mib_notices_every_change(shape):
    x = np.zeros(shape, "uint8")
    checksum = Samples(x).checksum()
    assert 0 <= checksum < 2**32
    assert checksum == Samples(np.zeros(shape, "uint8")).checksum()
    assert checksum != Samples(x, np.zeros(len(x))).checksum()
    assert checksum != Samples(x[..., np.newaxis]).checksum()
    for place in {0, x.size // 2, x.size - 1} if x.size else ():
        changed = x.copy()
        changed.flat[place] = 1
        assert checksum != Samples(changed).checksum()


def test_the_checksum_of_large_data_reads_a_part_of_them():
    x = np.broadcast_to(np.float32(0), (10**6, 10**4))  # 40 GB, of which 4 bytes are in memory
    tracemalloc.start()
    try:
        checksum = Samples(x).checksum()
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    assert checksum != Samples(np.broadcast_to(np.float32(1), x.shape)).checksum()


def test_a_run_that_was_compiled_anew_is_not_resumed(path):
    network().fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    model = models.load(path)
    model.compile(model.optimizer.__class__(), model.loss, metrics=[])
    model.save(path)
    for broken_off in (model, models.load(path)):
        with pytest.raises(ValueError, match="since it began compile was called, or weights were"):
            broken_off.fit(X, Y, **FIT, resume=True)
        assert broken_off.step == 5


class FreezeAndCompile(callbacks.Callback):
    """Train on without the first layer, and with another optimizer, from the second epoch on."""

    def on_epoch_end(self, epoch, logs):
        if epoch == 0:
            for parameter in self.model.layers[2].parameters():
                parameter.requires_grad = False
            self.model.compile("rmsprop", self.model.loss, metrics=self.model.metrics)


def test_a_run_that_a_callback_compiles_goes_on(path):
    whole = network()
    whole.fit(X, Y, **FIT, callbacks=[FreezeAndCompile()])
    model = network()
    model.fit(X, Y, **FIT, callbacks=[FreezeAndCompile(), SaveAndStop(path, 5)])
    for resumed in (model, models.load(path)):
        resumed.fit(X, Y, **FIT, resume=True)
        assert same_weights(resumed, whole)
        assert resumed.history.history == whole.history.history


def test_resuming_and_an_epoch_to_begin_with_exclude_each_other():
    with pytest.raises(ValueError, match="resume=True says where to begin, received initial_epoch"):
        network().fit(X, Y, **FIT, resume=True, initial_epoch=2)


def test_resuming_what_never_ran_is_a_run(whole):
    model = network()
    model.fit(X, Y, **FIT, resume=True)
    assert same_weights(model, whole)


def test_a_finished_run_that_is_resumed_does_nothing(path):
    model = network()
    model.fit(X, Y, **FIT)
    before = model.get_weights()
    assert model.fit(X, Y, **FIT, resume=True).epoch == [0, 1, 2, 3]
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def broken_off(*_, **__):
    raise KeyboardInterrupt


def updated_and_broken_off(optimizer, parameters, update=optimizers.Optimizer.update):
    update(optimizer, parameters)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "name", "breaks_off"),
    [
        (optimizers.Adam, "rule", broken_off),
        (constraints.MaxNorm, "apply", broken_off),
        (optimizers.Adam, "update", updated_and_broken_off),
    ],
)
def test_a_run_broken_off_within_a_step_is_neither_resumed_nor_saved(
    path, whole, monkeypatch, kind, name, breaks_off
):
    model = network()
    model.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    monkeypatch.setattr(kind, name, breaks_off)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, **FIT, resume=True)
    monkeypatch.undo()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"save: training was broken off within a step, .* load t"):
        model.save(path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="and training was broken off within one; load the last"):
        model.fit(X, Y, **FIT, resume=True)
    model.save_weights(path.with_name("weights.safetensors"))
    again = models.load(path)
    again.fit(X, Y, **FIT, resume=True)
    assert same_weights(again, whole)
    model.fit(X, Y, **FIT)  # begins anew
    model.save(path)


def refused(*_):
    raise ValueError("no learning rate")


@pytest.mark.parametrize(
    ("kind", "name", "ends"),
    [(Tensor, "backward", broken_off), (schedules.CosineDecay, "__call__", refused)],
)
def test_a_run_that_ends_before_weights_change_is_resumed(
    path, whole, monkeypatch, kind, name, ends
):
    model = network()
    model.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    monkeypatch.setattr(kind, name, ends)
    with pytest.raises((KeyboardInterrupt, ValueError), match=r"no learning rate|^$"):
        model.fit(X, Y, **FIT, resume=True)
    monkeypatch.undo()
    model.save(path)
    for resumed in (model, models.load(path)):
        resumed.fit(X, Y, **FIT, resume=True)
        assert same_weights(resumed, whole)
        assert resumed.history.history == whole.history.history


def test_a_model_of_float16_that_was_refused_can_be_saved(path):
    model = models.Sequential([layers.Dense(1, input_shape=(3,))], dtype="float16")
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="float16 weights cannot be trained"):
        model.fit(X[:, 0] / 255, Y / 5, verbose=0)
    model.save(path)
    assert same_weights(models.load(path), model)


def test_a_fit_that_is_refused_leaves_the_run_before_it(path):
    model = network()
    model.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    history, position = model.history, model.position
    with pytest.raises(ValueError, match="accurcy is not logged"):
        model.fit(X, Y, **FIT, callbacks=[callbacks.EarlyStopping("accurcy")])
    assert model.history is history
    assert model.position is position
    assert (position.epoch, position.batch, history.epoch) == (1, 2, [0])


@pytest.mark.parametrize("shuffle", ["yes", None, 2])
def test_what_does_not_say_whether_to_shuffle_is_refused(shuffle):
    with pytest.raises(ValueError, match="fit: shuffle must be True or False, received"):
        network().fit(X, Y, **FIT, shuffle=shuffle)


def test_numpys_truth_says_whether_to_shuffle(path):
    model = network()
    model.fit(X, Y, **FIT, shuffle=np.bool_(True))
    model.save(path)
    assert models.load(path).position.shuffle == 1


# ------------------------------------------------------------------------------ what is refused


class OwnLayer(layers.Layer):
    """A user's."""

    def call(self, x):
        return x


class OwnDense(layers.Dense):
    """A user's, with the name of nothing of ours."""


class OwnLoss(losses.MeanSquaredError):
    """A user's."""


def own_activation(x):
    return x


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (OwnLayer(), r"\.OwnLayer is a class of your own"),
        (OwnDense(2), r"\.OwnDense is a class of your own"),
        (layers.Dense(2, own_activation), r"\.own_activation is a function of your own"),
        (layers.Activation(lambda x: x), r"<lambda> is a function of your own"),
    ],
)
def test_what_is_the_users_own_is_refused_by_name(layer, named, path):
    path.write_bytes(b"older")
    model = models.Sequential([layers.Input((3,)), layer])
    with pytest.raises(TypeError, match=named):
        model.save(path)
    assert path.read_bytes() == b"older"


def test_a_loss_of_the_users_own_and_a_subclass_of_model_are_refused(path):
    model = models.Sequential([layers.Dense(2, input_shape=(3,))])
    model.compile("sgd", OwnLoss())
    with pytest.raises(TypeError, match=r"\.OwnLoss is a class of your own"):
        model.save(path)

    class Net(models.Model):
        pass

    with pytest.raises(TypeError, match=r"Net is a class of your own"):
        Net().save(path)


def test_a_layer_that_is_there_twice_is_refused(path):
    shared = layers.Dense(3)
    model = models.Sequential([layers.Input((3,)), shared, shared])
    with pytest.raises(ValueError, match="dense is in the model more than once"):
        model.save(path)


# ------------------------------------------------------------------------------ what is written


def freeze(layer, is_frozen=True):
    for parameter in layer.parameters():
        parameter.requires_grad = not is_frozen


def small(*more, optimizer="adam", epochs=1):
    """Return a trained model of two layers of equal size, and `more`."""
    stack = [layers.Dense(4, name=name) for name in "ab"]
    model = models.Sequential([layers.Input((4,)), *stack, *more], seed=1)
    model.compile(optimizer, "mse")
    model.fit(*SMALL, epochs=epochs, verbose=0)
    return model


SMALL = np.ones((6, 4)), np.ones((6, 4))


def freeze_a(model):
    freeze(model.layers[0])


def swap_frozen_layers(model):
    freeze(model.layers[0])
    freeze(model.layers[1], is_frozen=False)


def frozen_b():
    model = small()
    freeze(model.layers[1])
    model.compile("adam", "mse")
    model.fit(*SMALL, verbose=0)
    return model


@pytest.mark.parametrize(
    ("begin", "change"),
    [
        (small, freeze_a),
        (frozen_b, lambda model: freeze(model.layers[1], is_frozen=False)),
        (frozen_b, swap_frozen_layers),
        (small, lambda model: model.add(layers.Dense(4))),
        (lambda: small(optimizer="sgd"), freeze_a),
        (small, lambda model: model.compile("adam", "mse")),
        (lambda: small(optimizer="sgd"), lambda model: model.compile("adam", "mse")),
    ],
    ids=["freeze", "unfreeze", "swap", "add", "sgd", "compile", "compile another"],
)
@pytest.mark.parametrize("is_loaded", [False, True])
def test_an_optimizer_of_other_weights_is_saved_as_a_new_one(path, begin, change, is_loaded):
    model = begin()
    if is_loaded:  # what was loaded knows whose state it has
        model.save(path)
        model = models.load(path)
    change(model)
    model.save(path)
    again = models.load(path)
    assert same_weights(model, again)
    assert again.optimizer.iterations == 0
    assert again.optimizer.state == {}
    assert again.history.history == model.history.history
    for broken_off in (model, again):
        with pytest.raises(ValueError, match="resume=True goes on with a run, and since it began"):
            broken_off.fit(*SMALL, epochs=3, verbose=0, resume=True)
    model.compile(type(model.optimizer)(), "mse")
    for fresh in (model, again):
        fresh.fit(*SMALL, verbose=0)
    assert same_weights(model, again)


def test_a_loaded_optimizer_refuses_other_weights_as_the_saved_one_does(path):
    small().save(path)
    for model in (small(), models.load(path)):
        freeze_a(model)
        with pytest.raises(ValueError, match="Adam: expected the 4 weights of the first update"):
            model.fit(*SMALL, verbose=0)


def test_state_that_the_optimizer_no_longer_uses_is_left_out(path):
    model = small(optimizer=optimizers.SGD(0.1, momentum=0.9))
    model.optimizer.momentum = 0.0
    model.save(path)
    again = models.load(path)
    assert again.optimizer.iterations == 1
    for resumed in (model, again):
        resumed.fit(*SMALL, epochs=3, verbose=0, resume=True)
    assert same_weights(model, again)


def joined():
    """Return a model of built layers, two of which have one name."""
    parts = [models.Sequential([layers.Dense(4, input_shape=(4,))], seed=n) for n in range(2)]
    model = models.Sequential([layer for part in parts for layer in part.layers])
    model.predict(SMALL[0])
    return model


def renamed():
    model = small()
    model.layers[0].name = "encoder"
    return model


def of_another_dtype():
    model = small()
    model.layers[1].bias.data = model.layers[1].bias.data.astype("float64")
    return model


def grown():
    model = models.Sequential([layers.Dense(4)])
    model.predict(SMALL[0])
    model.add(layers.Dense(4))
    return model


def without_a_rate():
    model = small()
    model.optimizer.beta_1 = 1.0
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (joined, "save: two layers are named 'dense'; give each its own name"),
        (renamed, "save: encoder has the weight a/weight, from before .* give it back the name"),
        (of_another_dtype, "save: b/bias is float64, and the model float32; build the layer"),
        (grown, "save: sequential is not built, and other layers are, .* call the model on"),
        (
            lambda: models.Sequential(small().layers),
            "save: sequential is not built, and other layers are",
        ),
        (without_a_rate, r"save: Adam: beta_1 must be in \[0, 1\), received 1.0"),
        (
            lambda: models.Sequential([layers.Flatten(input_shape=(2**12, 2**13))]),
            "save: expected samples of at most 16,777,216 numbers, found",
        ),
        (
            lambda: models.Sequential([layers.Dense(2, use_bias="no", input_shape=(1,))]),
            "save: Dense: expected use_bias to be bool, found 'no'",
        ),
    ],
)
def test_what_could_not_be_read_is_not_written(path, make, message):
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match=message):
        make().save(path)
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize("make", [joined, renamed])
def test_a_model_that_cannot_be_saved_is_not_trained_with_a_checkpoint(tmp_path, make):
    model = make()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="save: "):
        model.fit(*SMALL, callbacks=[callbacks.ModelCheckpoint(tmp_path / "run")], verbose=0)
    assert model.step == (make is renamed)
    assert not list(tmp_path.iterdir())


def test_an_empty_name_is_none():
    with pytest.raises(ValueError, match="Dense: name must not be empty; leave it out"):
        layers.Dense(3, name="")


def test_numpys_truth_is_one(path):
    model = models.Sequential([layers.Dense(2, use_bias=np.bool_(False), input_shape=(1,))])
    model.save(path)
    assert models.load(path).layers[0].use_bias is False


def test_numbers_that_callbacks_log_are_in_the_file_and_what_is_none_is_not(path):
    class Notes(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            logs |= {"rate": np.float32(0.1), "steps": np.int64(7), "norm": np.array(2.5)}
            logs |= {"list": [1, 2], "ragged": [1, [2]], "text": "0.5", "none": None, "nan": np.nan}
            logs |= {"huge": 10**400, 3: 1.0, "complex": 1j, "array": np.ones(1), "is_odd": True}
            del logs["loss"]

    model = network()
    model.fit(X, Y, **FIT | {"epochs": 1}, callbacks=[Notes()])
    model.save(path)
    (logs,) = models.load(path).history.logs
    written = {"rate": float(np.float32(0.1)), "steps": 7.0, "norm": 2.5, "is_odd": 1.0}
    assert {name: logs[name] for name in written} == written
    assert np.isnan(logs["nan"])
    assert logs.keys() == {*written, "nan", "accuracy", "val_loss", "val_accuracy"}
    assert model.history.logs[0]["list"] == [1, 2]


def test_a_name_that_was_not_given_gives_way_after_loading_as_before(path):
    def part(name=None):
        return models.Sequential([layers.Dense(4, input_shape=(4,), name=name)], seed=1)

    part().save(path)
    model = models.Sequential([models.load(path), models.load(path)])
    assert [parameter.name for parameter in model.parameters()][::2] == [
        "dense/weight",
        "dense_1/weight",
    ]
    model.save(path)
    assert same_weights(models.load(path), model)
    rewritten(path, drop=["names/is_given"])  # as earlier versions wrote it
    assert same_weights(models.load(path), model)
    part("own").save(path)
    with pytest.raises(ValueError, match="two layers are named 'own'; give each its own name"):
        models.Sequential([models.load(path), models.load(path)])


def rewritten(path, change=None, drop=(), **arrays):
    """Write the file anew with changed texts and arrays."""
    with TensorFile(path) as file:
        texts = json.loads(file.metadata["minidl"])
        kept = {name: file.read(name) for name in file.shapes if name not in drop}
    if change is not None:
        change(texts)
    tensor_file.write(path, kept | arrays, {"minidl": json.dumps(texts)})


def setter(*keys, value):
    def change(texts):
        for key in keys[:-1]:
            texts = texts[key]
        texts[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setter("format", value=2), "format 2, written by version '0.1.0'; this version reads"),
        (setter("network", "layers", 2, "class", value="OwnLayer"), "expected a Layer of minidl"),
        (setter("network", "layers", 2, "class", value="Adam"), "expected a Layer of minidl"),
        (setter("network", "layers", 2, "class", value=["x"]), "expected a Layer of minidl"),
        (setter("network", "layers", 2, "arguments", "units", value=2**40), "weights/dense/"),
        (setter("network", "layers", 2, "arguments", "units", value="8"), "positive integer"),
        (
            setter("network", "layers", 0, "arguments", "input_shape", value=[2**40]),
            r"unknown arguments \['input_shape'\]",
        ),
        (setter("network", "built_for", value=[2**20, 2**20]), "at most 16,777,216 numbers"),
        (setter("network", "built_for", value=[2]), "weights/dense/weight of shape"),
        (setter("network", "dtype", value="object"), "dtype must be one of"),
        (setter("network", "dtype", value="float64"), "weights/dense/weight of shape"),
        (setter("network", "seed", value=-1), "seed"),
        (setter("network", "weights", value=[]), "dense/weight"),
        (setter("network", "layers", value=7), ""),
        (setter("network", value=None), ""),
        (setter("training", "optimizer", "class", value="Dense"), "expected a Optimizer"),
        (setter("training", "optimizer", "arguments", "beta_1", value=2), "beta_1 must be in"),
        (setter("network", "name", value=3), "Sequential: expected name to be str | None, found 3"),
        (setter("network", "layers", 4, "name", value=["x"]), "expected name to be str | None"),
        (setter("network", "layers", 2, "arguments", "name", value=[]), "expected name to be str"),
        (
            setter("network", "layers", 2, "arguments", "use_bias", value="é"),
            "Dense: expected use_bias to be bool, found 'é'",
        ),
        (setter("network", "layers", 0, "arguments", "scale", value="2"), "scale to be float"),
        (setter("network", "input_shape", value=[2, 6]), r"input_shape \(2, 6\), and built for"),
        (
            setter("network", "layers", 4, "input_shape", value=[7]),
            r"nested: input_shape \(7,\), and built for samples of shape \(8,\)",
        ),
        (setter("network", "weights", 0, "shape", value=[1, 2]), r"weights \[\('dense/weight', "),
        (setter("network", "weights", 0, "trainable", value=None), "trainable to be bool"),
        (
            setter("network", "weights", 0, "stream", value=-1),
            "dense/weight: stream: expected",
        ),
        (
            setter("network", "weights", 0, "stream", value=2**32),
            "dense/weight: stream: expected",
        ),
        (setter("history", 0, 1, "loss", value="high"), "history: 'loss' with 'high', which is no"),
        (setter("history", 0, 1, "loss", value=[1.0, 2.0]), r"'loss' with \[1.0, 2.0\], which is"),
        (setter("history", 0, 0, value=-1), "history: epoch: expected an integer"),
        (setter("history", 0, 0, value=0.5), "history: epoch: expected an integer"),
        (setter("history", 0, value=[0]), r"history: \[0\], which is no epoch with what it logged"),
        (setter("history", 0, value=[0, 0.5]), r"history: \[0, 0.5\], which is no epoch with"),
        (
            setter("history", value={"epoch": [0], "history": {"loss": [1.0, 2.0]}}),
            "history: 'epoch', which is no epoch with what it logged",
        ),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(path, change, message):
    model = network()
    model.fit(X, Y, **FIT | {"epochs": 1})
    model.save(path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=f"expected a checkpoint of minidl, found: .*{message}"):
        models.load(path)


@pytest.mark.parametrize(
    ("arrays", "drop", "message"),
    [
        ({"model/step": np.array(-1)}, (), r"model/step: expected an integer .* got -1"),
        ({"model/step": np.array(2**32)}, (), "model/step: expected an integer .* got 4294967296"),
        ({"model/epoch": np.array(2**32)}, (), "model/epoch: expected an integer"),
        (
            {"optimizer/iterations": np.array(2**63 - 1)},
            (),
            "optimizer/iterations: expected",
        ),
        ({"random/step": np.array([0, 0, -1])}, (), "random/step: expected an integer"),
        ({"random/step": np.array([0, 0, 2**32])}, (), "random/step: expected an integer"),
        ({"position/batch": np.array(4)}, (), "position/batch 4, where the epoch has 3"),
        ({"position/batch_size": np.array(2**62)}, (), "position/batch_size: expected an integer"),
        ({"position/shuffle": np.array(2)}, (), "position/shuffle 2, which is neither 0 nor 1"),
        ({"position/counts": np.array([-1, 0])}, (), "the sum over -1 samples"),
        ({"position/totals": np.array([np.nan, 0])}, (), "position/totals nan, the sum over 0"),
        ({"model/step": np.array([1])}, (), r"model/step of shape \(1,\)"),
        ({"model/step": np.array(1.0)}, (), "model/step of shape .* float64"),
        ({}, ("model/step",), "no array 'model/step'"),
        ({"random/step": np.zeros(2, "int64")}, (), r"random/step of shape \(2,\)"),
        ({"optimizer/mean": np.zeros(3, "float32")}, (), r"optimizer/mean of shape \(3,\)"),
        ({"weights/new": np.zeros(3, "float32")}, (), r"does not have: \['weights/new'\]"),
        ({"position/totals": np.zeros(1)}, (), r"position/totals of shape \(1,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(path, arrays, drop, message):
    model = network()
    model.fit(X, Y, **FIT | {"epochs": 1})
    model.save(path)
    rewritten(path, None, drop, **arrays)
    with pytest.raises(ValueError, match=f"{path}: expected a checkpoint .*{message}"):
        models.load(path)


def test_a_run_that_diverged_within_an_epoch_can_be_loaded(path):
    diverged = network()
    diverged.set_weights([weight * np.nan for weight in diverged.get_weights()])
    diverged.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 2)])
    totals = models.load(path).position.totals()
    assert np.isnan(totals["loss"][0])


def network_of(stack, sample_shape, path):
    """Write a checkpoint of layers that nobody computed on samples of such a size."""
    models.Sequential([layers.Input((1,)), *stack]).save(path)

    def change(texts):
        texts["network"] |= {"built_for": sample_shape, "input_shape": sample_shape}

    rewritten(path, change)


@pytest.mark.parametrize(
    ("stack", "shape"),
    [
        ([layers.Softmax() for _ in range(8)], [2**24]),
        ([layers.Dense(1000)], [2**24, 1]),
    ],
    ids=["softmax", "dense"],
)
def test_a_small_file_takes_little_memory_however_large_its_samples(path, stack, shape):
    network_of(stack, shape, path)
    tracemalloc.start()
    try:
        model = models.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert model.built_for == tuple(shape)


def test_a_folder_of_checkpoints_is_no_file(tmp_path):
    message = (
        f"{tmp_path}: expected a file, received .* that of checkpoint.latest\\('{tmp_path}'\\)"
    )
    with pytest.raises(ValueError, match=message):
        models.load(tmp_path)


def test_weights_without_a_network_are_no_checkpoint(path):
    tensor_file.write(path, {"x": np.zeros(3)})
    with pytest.raises(ValueError, match="no description of a network; for weights alone"):
        models.load(path)


def test_deeply_nested_descriptions_are_refused(path):
    deep = '{"format": 1, "network": ' + "[" * 100_000 + "]" * 100_000 + "}"
    tensor_file.write(path, {"x": np.zeros(3)}, {"minidl": deep})
    with pytest.raises(ValueError, match="expected a checkpoint of minidl"):
        models.load(path)


def test_an_unknown_device_is_not_the_files_fault(path):
    network().save(path)
    with pytest.raises(ValueError, match=r'^device: expected "cpu"'):
        models.load(path, "tpu")


# ------------------------------------------------------------------------------ latest, differences


def test_the_latest_is_the_one_of_the_most_steps(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    for name in ("step-0000000009", "step-0000000010", "step-11", "best", ".step-0000000012"):
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "step-0000000013.safetensors.tmp").touch()
    assert checkpoint.latest(tmp_path).name == "step-0000000010.safetensors"
    with pytest.raises(FileNotFoundError):
        checkpoint.latest(tmp_path / "missing")


def test_differences_are_named(path):
    model = network()
    model.fit(X, Y, **FIT)
    model.save(path)
    assert list(checkpoint.differences(network(), models.load(path))) == []
    other = network(optimizers.AdamW(0.5), seed=1)
    found = {where: (a, b) for where, a, b in checkpoint.differences(other, models.load(path))}
    assert found["seed"] == (1, 2**63 + 5)
    assert found["network layers[3] arguments seed"] == (1, 2**63 + 5)
    assert "training optimizer arguments learning_rate" in found


# ------------------------------------------------------------------------------ ModelCheckpoint


def steps_in(folder):
    return [int(path.stem.removeprefix("step-")) for path in sorted(folder.glob("step-*"))]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"keep": 9}, [3, 6, 9, 12]),
        ({}, [6, 9, 12]),
        ({"keep": 1}, [12]),
        ({"every_epochs": 3, "keep": 9}, [9, 12]),
        ({"every_steps": 5, "keep": 9}, [5, 10, 12]),
        ({"every_steps": 4, "every_epochs": 2, "keep": 9}, [4, 6, 8, 12]),
        ({"every_steps": 10**6}, [12]),
    ],
)
def test_model_checkpoint_saves_when_it_should_and_keeps_what_it_should(
    tmp_path, whole, arguments, expected
):
    folder = tmp_path / "new" / "folder"
    saver = callbacks.ModelCheckpoint(folder, **arguments)
    model = network()
    model.fit(X, Y, **FIT, callbacks=[saver])
    assert steps_in(folder) == expected
    assert same_weights(model, whole)  # saving changes nothing
    for step in expected:
        again = models.load(folder / f"step-{step:010d}.safetensors")
        again.fit(X, Y, **FIT, resume=True)
        assert same_weights(again, whole)


def test_the_best_epoch_is_kept(tmp_path):
    class Fake(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            logs["val_loss"] = [3.0, 1.0, 2.0, 1.5][epoch]

    saver = callbacks.ModelCheckpoint(tmp_path, monitor="val_loss")
    network().fit(X, Y, **FIT, callbacks=[Fake(), saver])
    best = models.load(tmp_path / "best.safetensors")
    assert best.step == 2 * STEPS
    # A resumed run remembers what the best was.
    again = models.load(tmp_path / "step-0000000006.safetensors")
    for later in (9, 12):
        (tmp_path / f"step-{later:010d}.safetensors").unlink()
    again.fit(X, Y, **FIT, callbacks=[Fake(), saver], resume=True)
    assert models.load(tmp_path / "best.safetensors").step == 2 * STEPS


def test_weights_that_are_not_finite_are_not_saved(tmp_path, caplog):
    class Break(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 2:
                self.model.set_weights([weight * np.nan for weight in self.model.get_weights()])

    saver = callbacks.ModelCheckpoint(tmp_path)
    with np.errstate(all="ignore"):
        network().fit(X, Y, **FIT, callbacks=[Break(), saver])
    assert steps_in(tmp_path) == [3, 6]
    assert "not written: weights of the model are not finite" in caplog.text


def test_two_runs_in_one_folder_are_refused(tmp_path):
    first = callbacks.ModelCheckpoint(tmp_path)

    class Second(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs):
            with pytest.raises(BlockingIOError, match="another run, or another callback, writes"):
                network().fit(X, Y, **FIT, callbacks=[callbacks.ModelCheckpoint(tmp_path)])

    network().fit(X, Y, **FIT, callbacks=[first, Second()])
    assert steps_in(tmp_path) == [6, 9, 12]
    again = models.load(checkpoint.latest(tmp_path))  # free again
    again.fit(X, Y, **FIT, callbacks=[callbacks.ModelCheckpoint(tmp_path)], resume=True)


def test_two_callbacks_in_one_folder_are_refused(tmp_path):
    savers = [callbacks.ModelCheckpoint(tmp_path) for _ in range(2)]
    model = network()
    with pytest.raises(BlockingIOError, match="or another callback, writes here; give each a fold"):
        model.fit(X, Y, **FIT, callbacks=savers)
    assert model.step == 0
    lock_folder(tmp_path).close()


def test_a_folder_with_later_checkpoints_is_refused_and_free_again(tmp_path):
    network().fit(X, Y, **FIT, callbacks=[callbacks.ModelCheckpoint(tmp_path)])
    before = {path.name: path.read_bytes() for path in tmp_path.glob("step-*")}
    model = network()
    with pytest.raises(FileExistsError, match="has checkpoints of another run, step-0000000012"):
        model.fit(X, Y, **FIT, callbacks=[callbacks.ModelCheckpoint(tmp_path)])
    assert model.step == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("step-*")} == before
    lock_folder(tmp_path).close()


@pytest.mark.parametrize("keep", [1, 2])
def test_the_file_just_written_stays_though_others_are_of_later_steps(tmp_path, keep):
    saver = callbacks.ModelCheckpoint(tmp_path, keep=keep)
    model = network()
    model.fit(X, Y, **FIT, callbacks=[saver])
    model.step = 5  # as after a guard went back
    saver.save()
    assert steps_in(tmp_path) == [5, 12][:keep]


def test_the_best_is_written_before_the_step(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(models.Model, "save", lambda _, path: written.append(path.name))
    saver = callbacks.ModelCheckpoint(tmp_path, monitor="loss")
    network().fit(X, Y, **FIT | {"epochs": 1}, callbacks=[saver])
    assert written == ["best.safetensors", "step-0000000003.safetensors"]


def test_where_it_stops_within_an_epoch_it_is_saved(tmp_path, whole, path):
    stop = SaveAndStop(path.with_name("other.safetensors"), 5)
    folder = tmp_path / "run"
    network().fit(X, Y, **FIT, callbacks=[callbacks.ModelCheckpoint(folder), stop])
    assert steps_in(folder) == [3, 5]
    again = models.load(checkpoint.latest(folder))
    again.fit(X, Y, **FIT, resume=True)
    assert same_weights(again, whole)


def test_a_callback_that_was_begun_is_ended_where_a_later_one_is_refused(tmp_path):
    class Unbegun(callbacks.Callback):
        def on_train_end(self, logs):
            raise AssertionError("it was never begun")

    told = [callbacks.ModelCheckpoint(tmp_path), Refused(), Unbegun()]
    with pytest.raises(ValueError, match="at the beginning"):
        network().fit(X, Y, **FIT, callbacks=told)
    others = [callbacks.ModelCheckpoint(tmp_path), callbacks.ModelCheckpoint(tmp_path, monitor="x")]
    with pytest.raises(ValueError, match="x is not logged"):
        network().fit(X, Y, **FIT, callbacks=others)
    lock_folder(tmp_path).close()


class Refused(callbacks.Callback):
    """Refuse the run."""

    def on_train_begin(self, logs):
        raise ValueError("at the beginning")


def test_what_a_callback_saves_at_the_end_of_an_epoch_has_that_epoch(path):
    class Save(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            logs["epoch_squared"] = epoch**2
            self.model.save(path)

    model = network()
    model.fit(X, Y, **FIT, callbacks=[Save()])
    again = models.load(path)
    assert again.history.epoch == [0, 1, 2, 3]
    assert again.history.history["loss"] == model.history.history["loss"]
    assert model.history.history["epoch_squared"] == [0, 1, 4, 9]


def test_what_a_killed_run_left_half_written_is_cleared_away(tmp_path):
    (tmp_path / ".step-0000000003.safetensors.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    network().fit(X, Y, **FIT, callbacks=[callbacks.ModelCheckpoint(tmp_path)])
    assert not list(tmp_path.glob(".*.tmp"))
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("name", ["best.keras", "best.weights.h5", "a/best.safetensors"])
def test_a_folder_with_the_name_of_a_file_is_refused(name):
    with pytest.raises(
        ValueError, match=f"ModelCheckpoint: expected a folder, received .* {name};"
    ):
        callbacks.ModelCheckpoint(name)


@pytest.mark.parametrize("name", ["every_steps", "every_epochs", "keep"])
def test_numbers_below_1_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"ModelCheckpoint: {name} must be at least 1, received 0"):
        callbacks.ModelCheckpoint(tmp_path, **{name: 0})


# ------------------------------------------------------------------------------ writing


def test_a_reader_meets_the_old_file_or_the_new_one(path):
    values = [np.full(200_000, value, "float32") for value in (1.0, 2.0)]
    tensor_file.write(path, {"x": values[0]})
    done = threading.Event()

    def write():
        for round_ in range(30):
            tensor_file.write(path, {"x": values[round_ % 2]})
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        with TensorFile(path) as file:
            x = file.read("x")
        assert x.min() == x.max()
    thread.join()


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.pt", "m"])
def test_a_name_of_another_format_is_refused(name, tmp_path):
    message = rf"{name}: a model is saved in NAME.safetensors; give a file of such a name"
    with pytest.raises(ValueError, match=message):
        network().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_places_for_no_file_are_named(path, tmp_path):
    missing = tmp_path / "missing"
    for name in ("x.safetensors", "x.weights.h5", "x.onnx"):
        model = network()
        write = model.export if name.endswith(".onnx") else model.save_weights
        with pytest.raises(FileNotFoundError, match=f"{name}: there is no folder {missing}; make"):
            write(missing / name)
    with pytest.raises(FileNotFoundError, match=f"there is no folder {missing}; make it first"):
        network().save(missing / "x.safetensors")
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=f"{path}: expected the name of a file, received a"):
        network().save(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_leads_to_the_new_file(path, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path.symlink_to(Path("elsewhere", "real.safetensors"))
    for value in (1.0, 2.0):  # the first makes the file that the link leads to
        tensor_file.write(path, {"x": np.full(3, value)})
        assert path.is_symlink()
        assert [file.name for file in folder.iterdir()] == ["real.safetensors"]
        with TensorFile(folder / "real.safetensors") as file:
            assert file.read("x").tolist() == [value] * 3
    nowhere = tmp_path / "nowhere.safetensors"
    nowhere.symlink_to(tmp_path / "missing" / "real.safetensors")
    with pytest.raises(
        FileNotFoundError, match=f"{nowhere}: there is no folder {tmp_path}/missing"
    ):
        tensor_file.write(nowhere, {"x": np.ones(3)})


def test_texts_that_no_reader_takes_are_not_written(path):
    with pytest.raises(ValueError, match="save: expected texts and names of at most 16,777,216"):
        tensor_file.write(path, {"x": np.ones(3)}, {"history": " " * 2**24})
    assert not path.exists()
    tensor_file.write(path, {"x": np.ones(3)}, {"history": " " * (2**24 - 1000)})
    TensorFile(path).close()


LIMITED = """
import resource, signal, sys
import numpy as np
from minidl import tensor_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    tensor_file.write(sys.argv[1], {"x": np.zeros(10_000)})
except OSError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(path):
    tensor_file.write(path, {"x": np.ones(3)})
    before = path.read_bytes()
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(root), str(root / "kernels")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "refused: [Errno 27]" in result.stderr
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def flipped(path, place, bit=1):
    """Write the file anew with one bit changed."""
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


@pytest.mark.parametrize("array", ["weights/dense/weight", "optimizer/mean", "model/step"])
def test_one_changed_bit_of_an_array_is_noticed(path, array):
    model = network()
    model.fit(X, Y, **FIT)
    model.save(path)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    first, last = json.loads(content[8:end])[array]["data_offsets"]
    for place in (end + first, end + last - 1):
        path.write_bytes(content)
        flipped(path, place)
        with pytest.raises(
            ValueError, match=f"{path}: damaged: its contents do not have the check"
        ):
            models.load(path)
    path.write_bytes(content)
    assert same_weights(models.load(path), model)


@pytest.mark.parametrize(
    ("written", "found"), [(b"rate 0.5", b"rate 0.4"), (b'"mean"', b'"meam"'), (b"2, 3", b"3, 2")]
)
def test_changed_texts_names_and_shapes_are_noticed(path, written, found):
    tensor_file.write(path, {"mean": np.zeros((2, 3))}, {"network": "rate 0.5"})
    content = path.read_bytes()
    assert content.count(written) == 1
    path.write_bytes(content.replace(written, found))
    with pytest.raises(ValueError, match="damaged: its contents do not have the checksum"):
        TensorFile(path)


def test_weights_of_others_and_their_damage(path):
    from safetensors.numpy import load_file, save_file

    model = network()
    model.save_weights(path)
    flipped(path, -1)
    with pytest.raises(ValueError, match=f"{path}: damaged: .* with them; use an older file"):
        model.load_weights(path)
    flipped(path, -1)
    before = model.get_weights()
    save_file(load_file(path), path)  # as PyTorch writes it: no texts
    with TensorFile(path) as file:
        assert file.metadata == {}
    model.load_weights(path)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_other_readers_read_the_files(path):
    from safetensors.numpy import load, load_file

    arrays = {"b": np.arange(6, dtype="float16").reshape(2, 3).T, "a": np.ones(3, "bool")}
    tensor_file.write(path, arrays, {"é": "ü", "z": "\n"})
    for found in (load_file(path), load(path.read_bytes())):
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    content = path.read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    with TensorFile(path) as file:
        assert file.metadata == {"é": "ü", "z": "\n"}


def test_equal_runs_give_equal_files(path):
    contents = set()
    for _ in range(5):
        model = network()
        model.fit(X, Y, **FIT)
        model.save(path)
        weights = path.with_name("weights.safetensors")
        model.save_weights(weights)
        contents.add((path.read_bytes(), weights.read_bytes()))
    assert len(contents) == 1
    other = network(seed=1)
    other.fit(X, Y, **FIT)
    other.save(path)
    assert path.read_bytes() not in next(iter(contents))


def test_a_rename_that_fails_leaves_the_old_file(path, monkeypatch):
    tensor_file.write(path, {"x": np.ones(3)})

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="No space left"):
        tensor_file.write(path, {"x": np.zeros(3)})
    with TensorFile(path) as file:
        assert file.read("x").tolist() == [1, 1, 1]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a safetensors file, found"),
        (b"\xff" * 64, r"expected a safetensors file .* found a file that starts with b'\\xff"),
        (
            (2**24 + 1).to_bytes(8, "little") + b" " * (2**24 + 1),
            "a header of at most 16,777,216 bytes, found",
        ),
        ((2).to_bytes(8, "little") + b"[]", "expected a safetensors file, found"),
        (
            (62).to_bytes(8, "little")
            + b'{"x":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4]}}   \0\0\0\0',
            "expected a safetensors file, found",
        ),
        (
            (58).to_bytes(8, "little")
            + b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}   \0\0\0\0',
            "x has dtype BF16; expected one of BOOL, F16, F32, F64, I64",
        ),
    ],
)
def test_other_files_are_refused(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        TensorFile(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a file, found a folder, a pipe or a device"):
        TensorFile(tmp_path)
    with pytest.raises(FileNotFoundError):
        TensorFile(tmp_path / "missing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="expected a file, found a folder, a pipe or a device"):
            TensorFile(tmp_path / "pipe")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4), (257,), (2, 0, 3)])
def test_arrays_come_back(path, dtype, shape):
    array = (np.random.default_rng(0).normal(size=shape) * 9).astype(dtype)
    tensor_file.write(path, {"x": array, "transposed": array.T})
    with TensorFile(path) as file:
        for name, expected in (("x", array), ("transposed", array.T)):
            assert file.read(name).dtype == expected.dtype
            assert np.array_equal(file.read(name), expected)
