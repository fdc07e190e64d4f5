"""Files of weights in every format: round trips, names, and formats of your own."""

import os

import numpy as np
import pytest

from minidl import layers, models
from minidl.storage import registry
from minidl.storage.tensor_file import TensorFile

pytest.importorskip("h5py", reason="needs the extra keras")

PATHS = ("a", "b.a", "c.a")
ENDINGS = [ending for kind, ending in registry._formats if kind == "weights"]


def network(**arguments):
    stack = [layers.Flatten(), layers.Dense(8, "relu"), layers.Dropout(0.5)]
    return models.Sequential([layers.Input((4, 3)), *stack, layers.Dense(5)], **arguments)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_load_weights_restores_every_dtype(ending, dtype, tmp_path):
    path = os.fspath(tmp_path / "x") + ending
    model = network(seed=1, dtype=dtype)
    model.save_weights(path)
    other = network(seed=2, dtype=dtype)
    other.load_weights(path)
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    assert all(a.tobytes() == b.tobytes() and a.dtype == dtype for a, b in pairs)


class Affine(layers.Layer):
    """Layer with its weights in a list."""

    def build(self, input_shape):
        self.both = [self.add_weight(name, input_shape[-1:], "ones") for name in ("a", "b")]

    def call(self, x):
        return x * self.both[0] + self.both[1]


@pytest.mark.parametrize("ending", ENDINGS)
def test_load_weights_restores_weights_in_a_list(ending, tmp_path):
    first, second = (models.Sequential([Affine(input_shape=(3,))]) for _ in range(2))
    first.set_weights([np.arange(3), np.arange(3) + 0.5])
    first.save_weights(tmp_path / f"a{ending}")
    second.load_weights(tmp_path / f"a{ending}")
    assert [w.tolist() for w in second.get_weights()] == [[0, 1, 2], [0.5, 1.5, 2.5]]


def test_save_weights_rejects_unknown_endings(tmp_path):
    message = r"x\.h5: expected .* ends in \.weights\.h5 or \.safetensors.*, got 'x\.h5'"
    with pytest.raises(ValueError, match=message):
        network().save_weights(tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
def test_load_weights_rejects_models_without_weights(ending, tmp_path):
    with pytest.raises(ValueError, match="sequential: expected a built layer"):
        models.Sequential([layers.Dense(2)]).load_weights(tmp_path / f"x{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_load_weights_of_a_missing_file_raises_os_error(ending, tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        network().load_weights(tmp_path / f"missing{ending}")


def nested(seed, **arguments):
    """Return a model whose layers have equal names in different models."""
    parts = [
        models.Sequential([layers.Dense(3, name="a"), layers.ReLU(name="r")], name=name)
        for name in ("b", "c")
    ]
    return models.Sequential(
        [layers.Dense(3, name="a", input_shape=(3,)), *parts, layers.Dropout(0.5, name="r")],
        seed=seed,
        **arguments,
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_load_weights_does_not_mix_up_equal_layer_names(ending, tmp_path):
    model, other = nested(1), nested(2)
    model.save_weights(tmp_path / f"x{ending}")
    other.load_weights(tmp_path / f"x{ending}")
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)
    assert len({w.tobytes() for w in model.get_weights()[::2]}) == 3


def test_names_in_a_state_dict_are_paths(tmp_path):
    nested(1).save_weights(tmp_path / "x.safetensors")
    names = TensorFile(tmp_path / "x.safetensors").shapes
    assert set(names) == {f"{path}.{kind}" for path in PATHS for kind in ("weight", "bias")}


def test_model_file_does_not_mix_up_equal_layer_names(tmp_path):
    x, y = np.ones((8, 3)), np.ones((8, 3))
    model = nested(1)
    model.compile("adam", "mse")
    model.fit(x, y, batch_size=4, verbose=0)
    model.save(tmp_path / "x.safetensors")
    again = models.load(tmp_path / "x.safetensors")
    assert [p.name for p in again.parameters()] == [p.name for p in model.parameters()]
    for trained in (model, again):
        trained.fit(x, y, batch_size=4, epochs=3, verbose=0, resume=True)
    pairs = zip(model.get_weights(), again.get_weights(), strict=True)
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)
