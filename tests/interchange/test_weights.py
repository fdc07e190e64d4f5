"""Weights of Keras and PyTorch come in, and go out, and give the same predictions.

``keras.weights.h5`` (30 kB) and ``keras.json`` were written by `record_keras.py` with Keras 3.15.1,
TensorFlow 2.21.0 and Python 3.11: a network that Keras trained, and what Keras predicts with it.
The same script loaded a file that minidl had saved, and predicted the same to 1e-6.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from minidl import layers, models
from minidl.storage import tensor_file
from minidl.storage.tensor_file import TensorFile

h5py = pytest.importorskip("h5py", reason="needs the extra keras")

HERE = Path(__file__).parent
INPUTS = (np.arange(5 * 4 * 3).reshape(5, 4, 3) * 7 % 32 / 16).astype("float32")


def network(seed=0, device="cpu", **arguments):
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
        seed=seed,
        device=device,
        **arguments,
    )


# ------------------------------------------------------------------------------ Keras


def test_a_network_that_keras_trained_predicts_what_it_does_in_keras(device):
    expected = json.loads((HERE / "keras.json").read_text())["predictions"]
    model = network(device=device)
    assert np.abs(model.predict(INPUTS) - expected).max() > 0.01  # before, it does not
    model.load_weights(HERE / "keras.weights.h5")
    np.testing.assert_allclose(model.predict(INPUTS), expected, rtol=1e-5, atol=1e-6)


def tree(path):
    """Return the groups and data sets of a file, with shapes, dtypes and data."""
    found = {}

    def visit(name, thing):
        is_data = isinstance(thing, h5py.Dataset)
        found[name] = (thing.shape, thing.dtype, thing[...].tobytes()) if is_data else "group"

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_what_is_saved_has_the_form_that_keras_gives_it(tmp_path):
    model = network()
    model.load_weights(HERE / "keras.weights.h5")
    model.save_weights(tmp_path / "ours.weights.h5")
    ours, theirs = tree(tmp_path / "ours.weights.h5"), tree(HERE / "keras.weights.h5")
    assert ours == theirs


def test_the_state_of_an_optimizer_in_the_file_is_left_alone(tmp_path):
    path = tmp_path / "x.weights.h5"
    shutil.copy(HERE / "keras.weights.h5", path)
    with h5py.File(path, "a") as file:
        file.create_group("optimizer/vars").create_dataset("0", data=np.int64(3))
    network().load_weights(path)


@pytest.mark.parametrize("ending", [".weights.h5", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_weights_come_back(ending, dtype, tmp_path):
    path = os.fspath(tmp_path / "x") + ending
    model = network(seed=1, dtype=dtype)
    model.save_weights(path)
    other = network(seed=2, dtype=dtype)
    other.load_weights(path)
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    assert all(a.tobytes() == b.tobytes() and a.dtype == dtype for a, b in pairs)


def changed(tmp_path, change):
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (delete("layers/dense/vars/1"), r"dense has weights of shapes \[\(12, 8\), \(8,\)\], and"),
        (delete("layers/dense"), "dense has weights of shapes"),
        (delete("layers"), "dense has weights of shapes"),
        (replace("layers/dense/vars/1", data=np.zeros(9, "f4")), r"and the file .*\(9,\)"),
        (replace("layers/dense/vars/1", data=np.zeros(8, "i4")), "expected floating-point numbers"),
        (
            replace("layers/dense/vars/1", shape=(2**40,), dtype="f4", chunks=(2**20,)),
            "expected floating-point numbers that lie in one piece",
        ),
        (replace("layers/dense/vars/1", shape=(2**40,), dtype="f4"), r"\(1099511627776,\)"),
        (
            replace(
                "layers/dense/vars/1", shape=(8,), dtype="f4", external=[("/etc/passwd", 0, 32)]
            ),
            "expected floating-point numbers that lie in one piece",
        ),
        (
            link("layers/dense/vars/1", h5py.ExternalLink("other.h5", "x")),
            "expected a data set, found something else",
        ),
        (link("layers/dense/vars", h5py.SoftLink("/layers")), "expected a group, found something"),
        (
            lambda file: file.create_dataset("layers/dense_9/vars/0", data=np.zeros(3, "f4")),
            "holds weights for a layer dense_9 that sequential does not have",
        ),
    ],
)
def test_other_hdf5_files_are_refused_and_nothing_is_changed(change, message, tmp_path):
    model = network()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.load_weights(changed(tmp_path, change))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 200])
def test_what_is_no_hdf5_is_refused(content, tmp_path):
    path = tmp_path / "x.weights.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected Keras' weights in HDF5, found"):
        network().load_weights(path)


@pytest.mark.parametrize(("errno", "kind"), [(13, PermissionError), (None, ValueError)])
def test_a_file_that_cannot_be_opened_is_not_called_damaged(errno, kind, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno, "Permission denied") if errno else OSError("truncated file")

    path = tmp_path / "x.weights.h5"
    path.write_bytes(b"")
    monkeypatch.setattr(pytest.importorskip("h5py"), "File", refused)
    with pytest.raises(kind, match="Permission denied" if errno else f"{path}: .*truncated file"):
        network().load_weights(path)


# ------------------------------------------------------------------------------ PyTorch


def test_names_and_shapes_are_those_of_a_state_dict(tmp_path):
    network().save_weights(tmp_path / "x.safetensors")
    with TensorFile(tmp_path / "x.safetensors") as file:
        assert file.metadata == {"format": "pt"}
        assert file.shapes == {
            "dense.weight": (8, 12),
            "dense.bias": (8,),
            "dense_1.weight": (6, 8),
            "dense_1.bias": (6,),
            "dense_2.weight": (7, 6),
            "classes.weight": (5, 7),
            "classes.bias": (5,),
        }


@pytest.mark.parametrize(
    "prefixes",
    [
        ("0", "3", "10"),
        ("fc1", "fc2", "fc10"),
        ("b.0.x", "b.2.x", "b.11.x"),
        ("x08", "x9", "x010"),
        ("x1", "x" + "8" * 5000, "x1" + "0" * 5000),  # more digits than Python's int reads
    ],
    ids=["plain", "named", "nested", "padded", "long"],
)
def test_numbered_layers_are_taken_in_the_order_of_their_numbers(prefixes, tmp_path):
    model = models.Sequential([layers.Input((4,)), *(layers.Dense(4) for _ in range(3))])
    arrays = {}
    for place, prefix in enumerate(prefixes):
        arrays[f"{prefix}.weight"] = np.full((4, 4), place, "float32")
        arrays[f"{prefix}.bias"] = np.full(4, -place, "float32")
    tensor_file.write(tmp_path / "x.safetensors", arrays)
    model.load_weights(tmp_path / "x.safetensors")
    assert [w.flat[0] for w in model.get_weights()] == [0, 0, 1, -1, 2, -2]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("first", "second"), "or those of as many numbered layers"),
        (("fc1", "out2"), "or those of as many numbered layers"),
        (("1",), "or those of as many numbered layers"),
        (("1", "2", "3"), "or those of as many numbered layers"),
    ],
)
def test_names_that_do_not_tell_the_order_are_refused(names, message, tmp_path):
    model = models.Sequential([layers.Input((4,)), layers.Dense(4), layers.Dense(4)])
    arrays = {f"{name}.weight": np.zeros((4, 4)) for name in names}
    arrays |= {f"{name}.bias": np.zeros(4) for name in names}
    tensor_file.write(tmp_path / "x.safetensors", arrays)
    with pytest.raises(ValueError, match=message):
        model.load_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "arrays",
    [
        {"dense.weight": np.zeros((4, 3)), "dense.bias": np.zeros(4)},  # not transposed
        {"dense.weight": np.zeros((3, 4), "int64"), "dense.bias": np.zeros(4)},
    ],
)
def test_shapes_and_dtypes_that_do_not_fit_are_refused(arrays, tmp_path):
    model = models.Sequential([layers.Input((4,)), layers.Dense(3)])
    tensor_file.write(tmp_path / "x.safetensors", arrays)
    with pytest.raises(ValueError, match=r"dense/weight needs floating-point numbers of shape \(3"):
        model.load_weights(tmp_path / "x.safetensors")


class Affine(layers.Layer):
    """Keep its weights in a list."""

    def build(self, input_shape):
        self.both = [self.add_weight(name, input_shape[-1:], "ones") for name in ("a", "b")]

    def call(self, x):
        return x * self.both[0] + self.both[1]


@pytest.mark.parametrize("ending", [".weights.h5", ".safetensors"])
def test_weights_in_a_list_come_back(ending, tmp_path):
    first, second = (models.Sequential([Affine(input_shape=(3,))]) for _ in range(2))
    first.set_weights([np.arange(3), np.arange(3) + 0.5])
    first.save_weights(tmp_path / f"a{ending}")
    second.load_weights(tmp_path / f"a{ending}")
    assert [w.tolist() for w in second.get_weights()] == [[0, 1, 2], [0.5, 1.5, 2.5]]


def test_two_weights_of_one_name_are_refused(tmp_path):
    class Twins(Affine):
        def build(self, input_shape):
            self.both = [self.add_weight("w", input_shape[-1:], "ones") for _ in range(2)]

    model = models.Sequential([Twins(input_shape=(3,))])
    with pytest.raises(ValueError, match="two weights have one name; give layers, and the weights"):
        model.save_weights(tmp_path / "a.safetensors")


def test_weights_of_a_model_of_the_users_own_come_back(tmp_path):
    class Scale(layers.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight("factor", (2, input_shape[-1]), "ones")

        def call(self, x):
            return x * self.factor[0]

    class Net(models.Model):
        def __init__(self, seed):
            super().__init__(seed=seed)
            self.scale, self.out = Scale(), layers.Dense(3)

        def call(self, x):
            return self.out(self.scale(x))

    one, other = Net(1), Net(2)
    x = np.ones((2, 4))
    for net in (one, other):
        net(x)
    one.save_weights(tmp_path / "x.safetensors")
    other.load_weights(tmp_path / "x.safetensors")
    assert np.array_equal(one.predict(x), other.predict(x))
    with pytest.raises(TypeError, match=r"name layers by their place in a Sequential"):
        one.save_weights(tmp_path / "x.weights.h5")


def test_torch_trains_and_minidl_predicts_the_same_and_back(tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch (the extra oracle)")
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(12, 8),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(8, 5),
        torch.nn.Softmax(-1),
    )
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    x = torch.randn(64, 4, 3)
    for _ in range(20):
        loss = torch.nn.functional.nll_loss(theirs(x).log(), (x[:, 0, 0] > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    theirs.eval()
    save_file(theirs.state_dict(), tmp_path / "torch.safetensors")

    def ours():
        stack = [layers.Flatten(), layers.Dense(8, "relu"), layers.Dropout(0.5)]
        return models.Sequential([layers.Input((4, 3)), *stack, layers.Dense(5, "softmax")])

    model = ours()
    model.load_weights(tmp_path / "torch.safetensors")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(INPUTS)).numpy()
    np.testing.assert_allclose(model.predict(INPUTS), expected, rtol=1e-5, atol=1e-6)

    model.save_weights(tmp_path / "ours.safetensors")
    places = {"dense": "1", "dense_1": "4"}
    split = ((*name.split("."), w) for name, w in load_file(tmp_path / "ours.safetensors").items())
    state = {f"{places[layer]}.{kind}": w for layer, kind, w in split}
    for values in theirs.parameters():
        values.data.zero_()
    theirs.load_state_dict(state)
    with torch.no_grad():
        np.testing.assert_array_equal(theirs(torch.from_numpy(INPUTS)).numpy(), expected)

    named = models.Sequential([layers.Input((12,)), layers.Dense(8, name="0")])
    named.save_weights(tmp_path / "named.safetensors")
    torch.nn.Sequential(torch.nn.Linear(12, 8)).load_state_dict(
        load_file(tmp_path / "named.safetensors")
    )


def test_a_whole_model_is_not_taken_for_weights(tmp_path):
    network().save(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"found a whole model; use models.load\(path\)"):
        network().load_weights(tmp_path / "x.safetensors")


# ------------------------------------------------------------------------------ both


def test_other_names_and_models_without_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weights are in NAME.weights.h5 \(Keras\) or NAME.safet"):
        network().save_weights(tmp_path / "x.h5")
    with pytest.raises(ValueError, match="sequential: not built, so it has no weights"):
        models.Sequential([layers.Dense(2)]).load_weights(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError):
        network().load_weights(tmp_path / "missing.weights.h5")


def test_weights_for_keras_need_h5py(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'minidl\[keras\]'"):
        network().save_weights(tmp_path / "x.weights.h5")
