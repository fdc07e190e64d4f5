"""A random layer of the user's own: a few lines, and it does all that Dropout does."""

import doctest
import inspect

import numpy as np
import pytest

import minidl
from minidl import Tensor, callbacks, layers, models, rng
from minidl.rng import MONTE_CARLO_STREAMS

LINES = 12
SEED = 5


class DropSample(layers.Layer):
    def __init__(self, rate, seed=None, **arguments):
        super().__init__(**arguments)
        self.rate, self.seed, self.stream = rate, seed, rng.RandomStream(seed)

    def call(self, x):
        if not rng.is_training():
            return x
        address = self.stream.next_address(x.shape)
        keep = x.backend.keep_mask((len(x), 1), self.rate, address)
        return x * x.like(keep).astype(x.dtype) / (1 - self.rate)


def network(device="cpu"):
    """Return a model with the layer between two random layers of minidl."""
    stack = [
        layers.Dense(6, activation="tanh", input_shape=(3,)),
        layers.Dropout(0.25),
        DropSample(0.5),
        layers.Dense(2),
        layers.Dropout(0.5),
    ]
    model = models.Sequential(stack, seed=SEED, device=device)
    model.compile("adam", "mse")
    return model


def data(rows=10):
    x = np.random.default_rng(0).normal(size=(rows, 3))
    return x, x[:, :2] * 2


def kept_rows(rows, *, step, stream=1, row_offset=0, seed=SEED):
    """Return which rows the layer keeps, by the mask contract."""
    address = {"seed": seed, "stream": stream, "step": step, "row_offset": row_offset}
    return rng.keep_mask((rows, 1), 0.5, **address)[:, 0]


class StopAt(callbacks.Callback):
    """Stop training after a number of batches of an epoch."""

    def __init__(self, epoch, batch):
        self.at = epoch, batch

    def on_train_batch_end(self, batch, logs):
        if (self.model.position.epoch, self.model.position.batch) == self.at:
            self.model.stop_training = True


def test_random_layer_takes_few_lines():
    lines = [line for line in inspect.getsource(DropSample).splitlines() if line.strip()]
    assert len(lines) <= LINES


def test_random_layer_is_the_example_in_the_docstring_of_layer():
    source = inspect.getsource(DropSample).replace("layers.Layer", "Layer")
    source = source.replace("rng.RandomStream", "RandomStream")
    examples = doctest.DocTestParser().get_examples(layers.Layer.__doc__)
    assert source in [example.source for example in examples]


def test_random_layer_is_numbered_as_dropout():
    assert [stream.number for stream in network().streams()] == [0, 1, 2]


def test_random_layer_draws_at_its_address(device):
    layer = models.Sequential([DropSample(0.5)], seed=SEED, device=device)
    x = np.ones((40, 3), "float32")
    with minidl.training(step=7):
        y = layer(x).numpy()
    expected = np.where(kept_rows(40, step=7, stream=0)[:, None], 2 * x, 0)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(layer(x).numpy(), x)


def test_random_layer_is_saved_and_loaded_as_custom_object(device, tmp_path):
    model, (x, y) = network(device), data()
    model.fit(x, y, batch_size=4, verbose=0)
    model.save(tmp_path / "model.safetensors")
    loaded = models.load(tmp_path / "model.safetensors", device, custom_objects=[DropSample])
    assert type(loaded.layers[2]) is DropSample
    assert [repr(s) for s in loaded.streams()] == [repr(s) for s in model.streams()]
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    outputs = []
    for twin in (model, loaded):
        with minidl.training():
            outputs.append(twin(x).numpy())
    np.testing.assert_array_equal(*outputs)


def test_loading_without_custom_objects_names_the_class(tmp_path):
    network().save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="custom_objects, got 'DropSample'"):
        models.load(tmp_path / "model.safetensors")


def test_run_resumed_in_mid_epoch_equals_whole_run_bit_for_bit(device, tmp_path):
    x, y = data()
    arguments = {"batch_size": 4, "epochs": 3, "verbose": 0}
    whole = network(device)
    history = whole.fit(x, y, **arguments)

    broken = network(device)
    broken.fit(x, y, **arguments, callbacks=[StopAt(epoch=1, batch=2)])
    assert (broken.position.epoch, broken.position.batch) == (1, 2)
    broken.save(tmp_path / "model.safetensors")
    resumed = models.load(tmp_path / "model.safetensors", device, custom_objects=[DropSample])
    assert resumed.fit(x, y, **arguments, resume=True).history == history.history
    for received, expected in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(received, expected)
    assert [repr(s) for s in resumed.streams()] == [repr(s) for s in whole.streams()]


def test_micro_batches_have_masks_of_whole_batch(device):
    model = models.Sequential([DropSample(0.5)], seed=SEED, device=device)
    x = np.ones((11, 3), "float32")
    with minidl.training(step=3):
        whole = model(x).numpy()
    np.testing.assert_array_equal(whole[:, 0] != 0, kept_rows(11, step=3, stream=0))
    parts = []
    for start, stop in ((0, 4), (4, 5), (5, 11)):
        with minidl.training(step=3, row_offset=start):
            parts.append(model(x[start:stop]).numpy())
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_random_layer_draws_in_monte_carlo_prediction(device):
    rows, draws = 9, 5
    model = models.Sequential([DropSample(0.5)], seed=SEED, device=device)
    x = np.random.default_rng(1).normal(size=(rows, 3)).astype("float32")
    uncertainty = model.predict(x, batch_size=4, samples=draws)
    masks = [kept_rows(rows, step=draw, stream=MONTE_CARLO_STREAMS) for draw in range(draws)]
    outputs = np.stack([np.where(mask[:, None], 2.0 * x, 0) for mask in masks])
    np.testing.assert_allclose(uncertainty.mean, outputs.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(uncertainty.std, outputs.std(axis=0), rtol=1e-6)
    assert [stream.step for stream in model.streams()] == [0]


def test_random_layer_alone_needs_its_own_seed():
    x = Tensor(np.ones((2, 3)))
    with (
        minidl.training(step=0),
        pytest.raises(RuntimeError, match="RandomStream: expected a seed"),
    ):
        DropSample(0.5)(x)
    with minidl.training(step=0):
        DropSample(0.5, seed=1)(x)


def test_random_layer_that_keeps_no_arguments_has_the_repr_of_a_layer():
    class Mine(layers.GaussianNoise):
        def __init__(self, strength):
            super().__init__(strength)

    assert repr(Mine(0.5)) == "<Mine mine>"
