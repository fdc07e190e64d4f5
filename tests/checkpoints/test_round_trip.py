"""Checkpoints: what a file holds, and what a loaded model has."""

import json

import numpy as np
import pytest
from checkpoint_cases import FIT, STEPS, SaveAndStop, X, Y, network, rewritten, small
from small_models import bits

from minidl import callbacks, constraints, layers, models, optimizers
from minidl.formats.checkpoint import differences
from minidl.formats.description import describe_network
from minidl.storage.tensor_file import TensorFile


def test_loaded_model_has_everything_that_was_saved(path):
    model = network()
    model.layers[2].bias.requires_grad = False
    model.layers[-1].bias.constraint = constraints.MaxNorm(3.0)
    model.fit(X, Y, **FIT)
    model.save(path)
    again = models.load(path)
    assert bits(model) == bits(again)
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
    assert [stream.is_fixed for stream in again.streams()] == [True] * 3
    assert np.array_equal(again.predict(X), model.predict(X))
    assert again.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)


def test_loaded_state_equals_the_saved_one_entry_by_entry(path):
    model = network()
    model.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 5)])
    model.save(path)
    saved, loaded = model.train_state.state(), models.load(path).train_state.state()
    assert loaded.keys() == saved.keys()
    for name, value in saved.items():
        if isinstance(value, np.ndarray):
            assert loaded[name].tobytes() == value.tobytes(), name
        else:
            assert loaded[name] == value, name


def test_header_and_arrays_of_a_file(path):
    model = network()
    model.fit(X, Y, **FIT)
    model.save(path)
    with TensorFile(path) as file:
        header = json.loads(file.metadata["minidl"])
        assert file.shapes["weights/classes/weight"] == (6, 5)
        assert int(file.read("model/step")) == 4 * STEPS
    assert (header["format"], header["version"]) == (1, "0.1.0")
    assert header["training"]["optimizer"]["class"] == "AdamW"
    assert header["network"]["layers"][3]["arguments"]["rate"] == 0.5


def test_unbuilt_and_uncompiled_model_is_saved(path):
    models.Sequential([layers.Dense(3), layers.Dropout(0.5)], seed=7).save(path)
    model = models.load(path)
    assert not model.built
    assert model.optimizer is None
    fresh = models.Sequential([layers.Dense(3), layers.Dropout(0.5)], seed=7)
    assert np.array_equal(model.predict(np.ones((2, 4))), fresh.predict(np.ones((2, 4))))


def test_model_built_by_its_first_call_accepts_other_shapes_after_loading(path):
    model = models.Sequential([layers.Dense(3)])
    model.predict(np.ones((2, 4)))
    model.save(path)
    again = models.load(path)
    assert again.input_shape is None
    assert again.predict(np.ones((2, 5, 4))).shape == (2, 5, 3)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtype_is_kept(path, dtype):
    model = models.Sequential([layers.Dense(3, input_shape=(2,))], dtype=dtype)
    model.save(path)
    again = models.load(path)
    assert again.dtype == np.dtype(dtype)
    assert bits(model) == bits(again)


def test_float16_model_can_be_saved_after_fit_rejected_it(path):
    model = models.Sequential([layers.Dense(1, input_shape=(3,))], dtype="float16")
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"SGD: expected float32 or float64 weights, got float16"):
        model.fit(X[:, 0] / 255, Y / 5, verbose=0)
    model.save(path)
    assert bits(models.load(path)) == bits(model)


def test_loaded_model_can_grow(path):
    model = network()
    model.save(path)
    for grown in (model, again := models.load(path)):
        grown.add(layers.Dense(2))
        grown.add(layers.Dropout(0.5))
    assert bits(model) == bits(again)
    assert repr(again.layers[-1]) == repr(model.layers[-1])


def test_assigned_layer_names_are_renumbered_after_loading(path):
    def part(name=None):
        return models.Sequential([layers.Dense(4, input_shape=(4,), name=name)], seed=1)

    part().save(path)
    model = models.Sequential([models.load(path), models.load(path)])
    assert [parameter.name for parameter in model.parameters()][::2] == [
        "dense/weight",
        "dense_1/weight",
    ]
    model.save(path)
    assert bits(models.load(path)) == bits(model)
    rewritten(path, drop=["names/is_given"])  # as earlier versions wrote it
    assert bits(models.load(path)) == bits(model)
    part("own").save(path)
    model = models.Sequential([models.load(path), models.load(path)])
    assert [parameter.name for parameter in model.parameters()][::2] == [
        "sequential/own/weight",
        "sequential_1/own/weight",
    ]


def test_state_that_the_optimizer_no_longer_uses_is_not_saved(path):
    model = small(optimizer=optimizers.SGD(0.1, momentum=0.9))
    model.optimizer.momentum = 0.0
    model.save(path)
    again = models.load(path)
    assert again.optimizer.iterations == 1
    assert again.optimizer.state == {}


def test_numpy_booleans_are_saved(path):
    model = models.Sequential([layers.Dense(2, use_bias=np.bool_(False), input_shape=(1,))])
    model.save(path)
    assert models.load(path).layers[0].use_bias is False


def test_run_that_diverged_within_an_epoch_can_be_loaded(path):
    diverged = network()
    diverged.set_weights([weight * np.nan for weight in diverged.get_weights()])
    diverged.fit(X, Y, **FIT, callbacks=[SaveAndStop(path, 2)])
    totals = models.load(path).train_state.totals_of_epoch()
    assert np.isnan(totals["loss"][0])


# ------------------------------------------------------------------------------ logs of callbacks


def test_numbers_that_callbacks_log_are_saved_and_other_values_are_not(path):
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


def test_file_that_a_callback_saves_at_the_end_of_an_epoch_has_that_epoch(path):
    class Save(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            logs["epoch_squared"] = epoch**2
            self.model.save(path)

    model = network()
    model.fit(X, Y, **FIT, callbacks=[Save()])
    again = models.load(path)
    assert again.history.epoch == [0, 1, 2, 3]
    assert again.history.history["loss"] == model.history.history["loss"]
    assert again.history.history["epoch_squared"] == [0, 1, 4, 9]


# ------------------------------------------------------------------------------ memories


def test_memory_of_a_callback_is_saved(path):
    class Remembers(callbacks.Callback):
        loaded = None

        def state(self):
            numbers = {"text": "a", "none": None, "nested": {"list": [1, 2.5, True]}}
            return numbers | {
                "array/of/values": np.arange(-1, 2, dtype="int64"),
                "flag": np.ones(2) > 0,
            }

        def load_state(self, state):
            self.loaded = state

    model = small()
    model.fit(np.ones((6, 4)), np.ones((6, 4)), verbose=0, callbacks=[Remembers()])
    model.save(path)
    again, callback = models.load(path), Remembers()
    again.fit(
        np.ones((6, 4)), np.ones((6, 4)), epochs=2, verbose=0, callbacks=[callback], resume=True
    )
    expected = callback.state()
    assert callback.loaded.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(callback.loaded[name], value), name
    assert callback.loaded["array/of/values"].dtype == np.int64


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, [np.ones(1)], b"bytes"])
def test_memory_that_json_cannot_hold_is_rejected(path, value):
    class Remembers(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            """Act, so that the state is recorded."""

        def state(self):  # when training begins, it is valid
            return {"value": value if self.model.step > 1 else 0}

    path.write_bytes(b"older")
    model = small()
    model.fit(np.ones((6, 4)), np.ones((6, 4)), verbose=0, callbacks=[Remembers()])
    message = rf"save: expected the state of callbacks .*({type(value).__name__}|ndarray)"
    with pytest.raises(TypeError, match=message):
        model.save(path)
    assert path.read_bytes() == b"older"


# ------------------------------------------------------------------------------ equal files


def test_equal_runs_write_equal_files(path):
    contents = set()
    for _ in range(3):
        model = network()
        model.fit(X, Y, **FIT | {"epochs": 2})
        model.save(path)
        weights = path.with_name("weights.safetensors")
        model.save_weights(weights)
        contents.add((path.read_bytes(), weights.read_bytes()))
    assert len(contents) == 1
    other = network(seed=1)
    other.fit(X, Y, **FIT | {"epochs": 2})
    other.save(path)
    assert path.read_bytes() not in next(iter(contents))


def test_differences_name_what_two_models_do_not_share(path):
    model = network()
    model.fit(X, Y, **FIT | {"epochs": 1})
    model.save(path)
    again = models.load(path)
    assert list(differences(network(), again)) == []
    other = network(optimizers.AdamW(0.5), seed=1)
    found = {where: (a, b) for where, a, b in differences(other, again)}
    assert found["seed"] == (1, 2**63 + 5)
    assert found["network layers[3] arguments seed"] == (1, 2**63 + 5)
    assert "training optimizer arguments learning_rate" in found
