"""Resuming: an interrupted run ends with the bits of a whole one, or is rejected."""

import copy
import tracemalloc

import numpy as np
import pytest
from checkpoint_cases import FIT, SMALL, SaveAndStop, X, Y, network, small
from small_models import bits

from minidl import Tensor, callbacks, constraints, layers, models, optimizers
from minidl.batches import Samples
from minidl.optimizers import schedules

# ------------------------------------------------------------------------------ equal bits


@pytest.mark.parametrize("step", [1, 3, 4, 12])
def test_resumed_run_ends_with_the_bits_of_the_whole(whole, path, step):
    stopped = network()
    stopped.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, step)])
    for model in (models.load(path), stopped):
        history = model.fit(X, Y, **FIT, resume=True)
        assert bits(model) == bits(whole)
        assert history.history == whole.history.history
        assert history.epoch == [0, 1, 2, 3]
        assert (model.step, model.epoch) == (12, 4)


def test_run_without_resume_ends_with_other_bits(whole, path):
    network().fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 4)])
    model = models.load(path)
    model.fit(X, Y, **FIT | {"initial_epoch": 1})
    assert bits(model) != bits(whole)


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        optimizers.SGD(0.1),
        optimizers.RMSprop(schedules.ExponentialDecay(0.01, 5, 0.5)),
        optimizers.Adam(schedules.PiecewiseConstantDecay([5], [0.01, 0.001])),
    ],
    ids=["momentum", "SGD", "RMSprop", "Adam"],
)
def test_resumed_optimizer_ends_with_the_bits_of_the_whole(optimizer, path):
    one, other = network(optimizer), network(copy.deepcopy(optimizer))
    one.fit(X, Y, **FIT)
    other.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    again = models.load(path)
    again.fit(X, Y, **FIT, resume=True)
    assert bits(one) == bits(again)


def test_run_resumed_on_another_device_has_the_same_masks(path, cuda_double):
    arguments = FIT | {"epochs": 2}
    whole = network()
    whole.fit(X, Y, **arguments, callbacks=[SaveAndStop(path, 4)])
    whole.fit(X, Y, **arguments, resume=True)
    model = models.load(path, device="cuda")
    assert model.device == "cuda:0"
    model.fit(X, Y, **arguments, resume=True)
    assert [repr(stream) for stream in model.streams()] == [
        repr(stream) for stream in whole.streams()
    ]
    for a, b in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


class FreezeAndCompile(callbacks.Callback):
    """Callback that freezes the first layer and replaces the optimizer after the first epoch."""

    def on_epoch_end(self, epoch, logs):
        if epoch == 0:
            for parameter in self.model.layers[2].parameters():
                parameter.requires_grad = False
            self.model.compile("rmsprop", self.model.loss, metrics=self.model.metrics)


def test_run_that_a_callback_compiled_is_resumed(path):
    whole = network()
    whole.fit(X, Y, **FIT, callbacks=[FreezeAndCompile()])
    model = network()
    model.fit(X, Y, **FIT, callbacks=[FreezeAndCompile(), SaveAndStop(path, 5)])
    for resumed in (model, models.load(path)):
        resumed.fit(X, Y, **FIT, resume=True)
        assert bits(resumed) == bits(whole)
        assert resumed.history.history == whole.history.history


def test_resume_of_a_model_that_was_never_trained_is_a_run(whole):
    model = network()
    model.fit(X, Y, **FIT, resume=True)
    assert bits(model) == bits(whole)


def test_resume_of_a_finished_run_does_nothing():
    model = network()
    model.fit(X, Y, **FIT)
    before = bits(model)
    assert model.fit(X, Y, **FIT, resume=True).epoch == [0, 1, 2, 3]
    assert bits(model) == before


def test_shuffle_may_be_a_numpy_boolean(path):
    model = network()
    model.fit(X, Y, **FIT | {"epochs": 1}, shuffle=np.bool_(True))
    model.save(path)
    assert models.load(path).position.shuffle == 1


# ------------------------------------------------------------------------------ rejected


def test_resume_rejects_initial_epoch():
    with pytest.raises(ValueError, match="fit: expected resume=True or initial_epoch=2, got both"):
        network().fit(X, Y, **FIT, resume=True, initial_epoch=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 8}, "fit: expected batch_size 16 .*got 8"),
        ({"validation_split": 0.3}, "fit: expected samples 40 .*got 35"),
        ({"shuffle": False}, "fit: expected shuffle 1 .*got 0"),
    ],
)
def test_resume_rejects_other_arguments(whole, change, message):
    step = whole.step
    with pytest.raises(ValueError, match=message):
        whole.fit(X, Y, **FIT | change, resume=True)
    assert whole.step == step


OTHER_X, OTHER_Y = X.copy(), Y.copy()
OTHER_X[7, 3, 2] ^= 1
OTHER_Y[0] = (OTHER_Y[0] + 1) % 5
HELD_OUT = {"validation_split": 0.0, "validation_data": (X, Y), "epochs": 2}


@pytest.fixture(scope="module")
def held_out_run(tmp_path_factory):
    """Return a model whose run with validation data was stopped, and its file."""
    path = tmp_path_factory.mktemp("held out") / "model.safetensors"
    model = network()
    model.fit(X, Y, **FIT | HELD_OUT, callbacks=[SaveAndStop(path, 5)])
    return model, path


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"x": OTHER_X}, "data_checksum"),
        ({"x": X[::-1]}, "data_checksum"),
        ({"x": X.astype("float32")}, "data_checksum"),
        ({"y": OTHER_Y}, "data_checksum"),
        ({"sample_weight": np.ones(50)}, "data_checksum"),
        ({"validation_data": (OTHER_X, Y)}, "validation_checksum"),
        ({"validation_data": (X, OTHER_Y)}, "validation_checksum"),
        ({"validation_data": None}, r"validation_checksum \d+ .*got 0"),
    ],
)
def test_resume_rejects_other_data(held_out_run, change, name):
    model, path = held_out_run
    run = {"x": X, "y": Y, **FIT, **HELD_OUT}
    for stopped in (model, models.load(path)):
        with pytest.raises(ValueError, match=f"fit: expected {name}"):
            stopped.fit(**run | change, resume=True)
        assert stopped.step == 5


def test_resume_accepts_equal_data_of_another_layout(held_out_run):
    model = models.load(held_out_run[1])
    run = {**FIT, **HELD_OUT}
    assert model.fit(np.asfortranarray(X), Y.tolist(), **run, resume=True).epoch == [0, 1]


def test_run_that_was_compiled_again_is_not_resumed(path):
    network().fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    model = models.load(path)
    model.compile(model.optimizer.__class__(), model.loss, metrics=[])
    model.save(path)
    for stopped in (model, models.load(path)):
        with pytest.raises(ValueError, match=r"fit: .*but compile was called since it began"):
            stopped.fit(X, Y, **FIT, resume=True)
        assert stopped.step == 5


@pytest.mark.parametrize("ending", [".safetensors", ".weights.h5"])
def test_run_whose_weights_were_loaded_is_not_resumed(path, ending):
    model = small(epochs=2)
    weights = path.with_name(f"other{ending}")
    model.save_weights(weights)
    model.load_weights(weights)
    model.save(path)
    for loaded in (model, models.load(path)):
        with pytest.raises(ValueError, match=r"fit: .*but set_weights replaced the weights"):
            loaded.fit(*SMALL, epochs=3, verbose=0, resume=True)


def test_rejected_fit_leaves_the_last_run(path):
    model = network()
    model.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    history, position = model.history, model.position
    with pytest.raises(ValueError, match=r"EarlyStopping: .*got 'my_accuracy'"):
        model.fit(X, Y, **FIT, callbacks=[callbacks.EarlyStopping("my_accuracy")])
    assert model.history is history
    assert model.position is position
    assert (position.epoch, position.batch, history.epoch) == (1, 2, [0])


# ------------------------------------------------------------------------------ torn updates


def broken_off(*_, **__):
    raise KeyboardInterrupt


def updated_and_broken_off(optimizer, *arguments, update=optimizers.Optimizer.update):
    update(optimizer, *arguments)
    raise KeyboardInterrupt


def test_save_rejects_update_that_a_loop_by_hand_interrupted(path, monkeypatch):
    model = small()
    x, y = (Tensor(array) for array in SMALL)

    def update():
        model.loss(model(x), y).backward()
        model.optimizer.update(model.parameters())

    monkeypatch.setattr(optimizers.Adam, "rule", broken_off)
    with pytest.raises(KeyboardInterrupt):
        update()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"save: .*an interrupted update"):
        model.save(path)
    assert not path.exists()
    update()
    model.save(path)


@pytest.mark.parametrize(
    ("kind", "name", "breaks_off"),
    [
        (optimizers.Adam, "rule", broken_off),
        (constraints.MaxNorm, "apply", broken_off),
        (optimizers.Adam, "update", updated_and_broken_off),
    ],
)
def test_torn_update_is_neither_resumed_nor_saved(path, whole, monkeypatch, kind, name, breaks_off):
    model = network()
    model.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    monkeypatch.setattr(kind, name, breaks_off)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, **FIT, resume=True)
    monkeypatch.undo()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"save: .*an interrupted update\. .*save_weights"):
        model.save(path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"fit: .*an update was interrupted .*Leave resume out"):
        model.fit(X, Y, **FIT, resume=True)
    model.save_weights(path.with_name("weights.safetensors"))
    again = models.load(path)
    again.fit(X, Y, **FIT, resume=True)
    assert bits(again) == bits(whole)
    model.fit(X, Y, **FIT)  # a new run begins
    model.save(path)


def refused(*_):
    raise ValueError("no learning rate")


@pytest.mark.parametrize(
    ("kind", "name", "ends"),
    [(Tensor, "backward", broken_off), (schedules.CosineDecay, "__call__", refused)],
)
def test_run_that_ends_before_weights_change_is_resumed(path, whole, monkeypatch, kind, name, ends):
    model = network()
    model.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    monkeypatch.setattr(kind, name, ends)
    with pytest.raises((KeyboardInterrupt, ValueError), match=r"no learning rate|^$"):
        model.fit(X, Y, **FIT, resume=True)
    monkeypatch.undo()
    model.save(path)
    for resumed in (model, models.load(path)):
        resumed.fit(X, Y, **FIT, resume=True)
        assert bits(resumed) == bits(whole)
        assert resumed.history.history == whole.history.history


# ------------------------------------------------------------------------------ other weights


def freeze(layer, is_frozen=True):
    for parameter in layer.parameters():
        parameter.requires_grad = not is_frozen


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
def test_optimizer_of_other_weights_is_saved_as_a_new_one(path, begin, change, is_loaded):
    model = begin()
    if is_loaded:  # a loaded optimizer knows its weights, too
        model.save(path)
        model = models.load(path)
    change(model)
    model.save(path)
    again = models.load(path)
    assert bits(model) == bits(again)
    assert again.optimizer.iterations == 0
    assert again.optimizer.state == {}
    assert again.history.history == model.history.history
    for stopped in (model, again):
        with pytest.raises(ValueError, match=r"fit: .*but (weights were frozen|compile was call)"):
            stopped.fit(*SMALL, epochs=3, verbose=0, resume=True)
    model.compile(type(model.optimizer)(), "mse")
    for fresh in (model, again):
        fresh.fit(*SMALL, verbose=0)
    assert bits(model) == bits(again)


def test_loaded_optimizer_rejects_other_weights_as_the_saved_one_does(path):
    small().save(path)
    for model in (small(), models.load(path)):
        freeze_a(model)
        with pytest.raises(ValueError, match=r"Adam: expected the 4 weights .*got 2 others"):
            model.fit(*SMALL, verbose=0)


def test_momentum_that_was_set_to_0_is_resumed(path):
    class Stops(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.optimizer.momentum = 0.0

    model = small(optimizer=optimizers.SGD(0.1, momentum=0.9))
    model.fit(*SMALL, epochs=2, verbose=0, callbacks=[Stops()], resume=True)
    model.save(path)
    again = models.load(path)
    for resumed in (model, again):
        resumed.fit(*SMALL, epochs=3, verbose=0, resume=True)
    assert bits(model) == bits(again)


# ------------------------------------------------------------------------------ checksum of data


@pytest.mark.parametrize("shape", [(1,), (3, 0), (5, 4), (257, 3), (2**22, 1)])
def test_checksum_of_data_up_to_4_mib_depends_on_every_value(shape):
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


def test_checksum_of_large_data_reads_a_part_of_them():
    x = np.broadcast_to(np.float32(0), (10**6, 10**4))  # 40 GB, of which 4 bytes are in memory
    tracemalloc.start()
    try:
        checksum = Samples(x).checksum()
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    assert checksum != Samples(np.broadcast_to(np.float32(1), x.shape)).checksum()
