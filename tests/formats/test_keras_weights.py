"""Weights in the format of Keras: the same predictions, and damaged files.

`record_keras.py` wrote ``keras.weights.h5`` (30 kB) and ``keras.json`` with Keras 3.15.1,
TensorFlow 2.21.0 and Python 3.11: a network that Keras trained, and its predictions. The same
script loaded a file saved by minidl, and its predictions were equal to 1e-6.
`record_keras_graph.py` wrote the files of a functional model, with Keras 3.15.1 on PyTorch 2.13.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from record_keras_graph import inputs, names, network_with_a_layer_at_several_depths
from record_keras_graph import network as network_of_graph
from small_models import bits

from minidl import layers, models

h5py = pytest.importorskip("h5py", reason="needs the extra keras")

HERE = Path(__file__).parent
INPUTS = (np.arange(5 * 4 * 3).reshape(5, 4, 3) * 7 % 32 / 16).astype("float32")


def network(device="cpu"):
    """Return the network of `record_keras.py`."""
    inner = models.Sequential([layers.Dense(6, activation="tanh"), layers.Dropout(0.2)])
    return models.Sequential(
        [
            layers.Input((4, 3)),
            layers.Rescaling(0.5),
            layers.Flatten(),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.5),
            inner,
            layers.Dense(7, use_bias=False),
            layers.Dense(5, activation="softmax", name="classes"),
        ],
        device=device,
    )


def test_load_weights_of_keras_gives_the_predictions_of_keras(device):
    expected = json.loads((HERE / "keras.json").read_text())["predictions"]
    model = network(device=device)
    assert np.abs(model.predict(INPUTS) - expected).max() > 0.01
    model.load_weights(HERE / "keras.weights.h5")
    np.testing.assert_allclose(model.predict(INPUTS), expected, rtol=1e-5, atol=1e-6)


def tree(path):
    """Return the groups and data sets of a file, with shapes, dtypes and contents."""
    found = {}

    def visit(name, thing):
        is_data = isinstance(thing, h5py.Dataset)
        found[name] = (thing.shape, thing.dtype, thing[...].tobytes()) if is_data else "group"

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_save_weights_writes_the_file_of_keras(tmp_path):
    model = network()
    model.load_weights(HERE / "keras.weights.h5")
    model.save_weights(tmp_path / "ours.weights.h5")
    ours, theirs = tree(tmp_path / "ours.weights.h5"), tree(HERE / "keras.weights.h5")
    assert ours == theirs


def test_load_weights_ignores_the_state_of_an_optimizer(tmp_path):
    path = tmp_path / "x.weights.h5"
    shutil.copy(HERE / "keras.weights.h5", path)
    with h5py.File(path, "a") as file:
        file.create_group("optimizer/vars").create_dataset("0", data=np.int64(3))
    network().load_weights(path)


def changed(tmp_path, change):
    """Return a changed copy of the file of Keras."""
    path = tmp_path / "changed.weights.h5"
    shutil.copy(HERE / "keras.weights.h5", path)
    with h5py.File(path, "a") as file:
        change(file)
    return path


def delete(name):
    return lambda file: file.__delitem__(name)


def replace(name, **arguments):
    def change(file):
        del file[name]
        file.create_dataset(name, **arguments)

    return change


def link(name, to):
    def change(file):
        del file[name]
        file[name] = to

    return change


BIAS = "layers/dense/vars/1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (delete("layers/dense/vars/1"), r"\[\(12, 8\), \(8,\)\] for dense, got \[\(12, 8\)\]"),
        (delete("layers/dense"), r"\[\(12, 8\), \(8,\)\] for dense, got \[\]"),
        (delete("layers"), r"\[\(12, 8\), \(8,\)\] for dense, got \[\]"),
        (replace(BIAS, data=np.zeros(9, "f4")), r"for dense, got \[\(12, 8\), \(9,\)\]"),
        (replace(BIAS, data=np.zeros(8, "i4")), f"/{BIAS}: expected floating-point .* int32"),
        (
            replace(BIAS, shape=(2**40,), dtype="f4", chunks=(2**20,)),
            f"/{BIAS}: expected floating-point .* one piece",
        ),
        (replace(BIAS, shape=(2**40,), dtype="f4"), r"for dense, got .*\(1099511627776,\)"),
        (
            replace(BIAS, shape=(8,), dtype="f4", external=[("/etc/passwd", 0, 32)]),
            f"/{BIAS}: expected floating-point .* one piece",
        ),
        (link(BIAS, h5py.ExternalLink("other.h5", "x")), f"/{BIAS}: expected a Dataset"),
        (
            link("layers/dense/vars", h5py.SoftLink("/layers")),
            "layers/dense/vars: expected a Group",
        ),
        (
            lambda file: file.create_dataset("layers/dense_9/vars/0", data=np.zeros(3, "f4")),
            "expected weights of the layers of sequential, got .* dense_9",
        ),
    ],
)
def test_load_weights_rejects_changed_files_and_keeps_the_weights(change, message, tmp_path):
    model = network()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.load_weights(changed(tmp_path, change))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 200])
def test_load_weights_rejects_files_that_are_not_hdf5(content, tmp_path):
    path = tmp_path / "x.weights.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.weights\.h5: expected Keras' weights in HDF5"):
        network().load_weights(path)


@pytest.mark.parametrize(("errno", "kind"), [(13, PermissionError), (None, ValueError)])
def test_load_weights_raises_errors_of_the_system_unchanged(errno, kind, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno, "Permission denied") if errno else OSError("truncated file")

    path = tmp_path / "x.weights.h5"
    path.write_bytes(b"")
    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(kind, match="Permission denied" if errno else f"{path}: .*truncated file"):
        network().load_weights(path)


def test_save_weights_without_h5py_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"h5py.*pip install 'minidl\[keras\]'"):
        network().save_weights(tmp_path / "x.weights.h5")
    assert not list(tmp_path.iterdir())


def test_save_weights_rejects_models_without_an_order_of_layers(tmp_path):
    class Net(models.Model):
        def __init__(self):
            super().__init__()
            self.out = layers.Dense(3)

        def call(self, x):
            return self.out(x)

    net = Net()
    net(np.ones((2, 4)))
    with pytest.raises(TypeError, match="net: expected a Sequential"):
        net.save_weights(tmp_path / "x.weights.h5")
    assert not list(tmp_path.iterdir())


def test_functional_model_of_keras_has_its_order_weights_and_predictions(tmp_path):
    model = network_of_graph(layers, models.Model)
    facts = json.loads((HERE / "keras_graph.json").read_text())
    assert names(model) == facts["layers"]
    other = network_with_a_layer_at_several_depths(layers, models.Model)
    assert names(other) == facts["depths"]
    model.load_weights(HERE / "keras_graph.weights.h5")
    for ours, theirs in zip(model.predict(inputs()), facts["predictions"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for name in ("ours.weights.h5", "ours.safetensors"):
        model.save_weights(tmp_path / name)
        again = network_of_graph(layers, models.Model)
        again.load_weights(tmp_path / name)
        assert bits(again) == bits(model)
