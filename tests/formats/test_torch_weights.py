"""Weights in the form of PyTorch: names, shapes, and the same predictions."""

import numpy as np
import pytest

from minidl import layers, models
from minidl.storage import tensor_file
from minidl.storage.tensor_file import TensorFile

X = (np.arange(5 * 4 * 3).reshape(5, 4, 3) * 7 % 32 / 16).astype("float32")


def network():
    inner = models.Sequential([layers.Dense(6, activation="tanh"), layers.Dropout(0.2)])
    stack = [layers.Flatten(), layers.Dense(8, "relu"), layers.Dropout(0.5), inner]
    stack += [layers.Dense(7, use_bias=False), layers.Dense(5, "softmax", name="classes")]
    return models.Sequential([layers.Input((4, 3)), *stack])


def test_save_weights_writes_a_state_dict(tmp_path):
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
def test_load_weights_reads_layers_in_the_order_of_their_numbers(prefixes, tmp_path):
    model = models.Sequential([layers.Input((4,)), *(layers.Dense(4) for _ in range(3))])
    arrays = {}
    for place, prefix in enumerate(prefixes):
        arrays[f"{prefix}.weight"] = np.full((4, 4), place, "float32")
        arrays[f"{prefix}.bias"] = np.full(4, -place, "float32")
    tensor_file.write(tmp_path / "x.safetensors", arrays)
    model.load_weights(tmp_path / "x.safetensors")
    assert [w.flat[0] for w in model.get_weights()] == [0, 0, 1, -1, 2, -2]


@pytest.mark.parametrize(
    "names", [("first", "second"), ("fc1", "out2"), ("1",), ("1", "2", "3")], ids="-".join
)
def test_load_weights_rejects_names_without_an_order(names, tmp_path):
    model = models.Sequential([layers.Input((4,)), layers.Dense(4), layers.Dense(4)])
    arrays = {f"{name}.weight": np.zeros((4, 4)) for name in names}
    arrays |= {f"{name}.bias": np.zeros(4) for name in names}
    tensor_file.write(tmp_path / "x.safetensors", arrays)
    message = rf"x\.safetensors: expected the weights dense\.weight, .*, got {names[0]}\.bias"
    with pytest.raises(ValueError, match=message):
        model.load_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "arrays",
    [
        {"dense.weight": np.zeros((4, 3)), "dense.bias": np.zeros(4)},  # not transposed
        {"dense.weight": np.zeros((3, 4), "int64"), "dense.bias": np.zeros(4)},
    ],
)
def test_load_weights_rejects_other_shapes_and_dtypes(arrays, tmp_path):
    model = models.Sequential([layers.Input((4,)), layers.Dense(3)])
    tensor_file.write(tmp_path / "x.safetensors", arrays)
    with pytest.raises(ValueError, match=r"of shape \(3, 4\) for dense/weight, got dense"):
        model.load_weights(tmp_path / "x.safetensors")


def test_save_weights_rejects_two_weights_of_one_name(tmp_path):
    class Twins(layers.Layer):
        def build(self, input_shape):
            self.both = [self.add_weight(name, input_shape[-1:], "ones") for name in "ab"]
            self.both[1].name = self.both[0].name

        def call(self, x):
            return x * self.both[0] + self.both[1]

    model = models.Sequential([Twins(input_shape=(3,))])
    with pytest.raises(ValueError, match="sequential: expected unique names, got two weights"):
        model.save_weights(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_load_weights_restores_a_custom_model(tmp_path):
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


@pytest.mark.slow
def test_weights_of_torch_give_the_predictions_of_torch_both_ways(tmp_path):
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
        expected = theirs(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-5, atol=1e-6)

    model.save_weights(tmp_path / "ours.safetensors")
    places = {"dense": "1", "dense_1": "4"}
    split = ((*name.split("."), w) for name, w in load_file(tmp_path / "ours.safetensors").items())
    state = {f"{places[layer]}.{kind}": w for layer, kind, w in split}
    for values in theirs.parameters():
        values.data.zero_()
    theirs.load_state_dict(state)
    with torch.no_grad():
        np.testing.assert_array_equal(theirs(torch.from_numpy(X)).numpy(), expected)

    named = models.Sequential([layers.Input((12,)), layers.Dense(8, name="0")])
    named.save_weights(tmp_path / "named.safetensors")
    torch.nn.Sequential(torch.nn.Linear(12, 8)).load_state_dict(
        load_file(tmp_path / "named.safetensors")
    )


def test_weights_of_torch_with_both_normalisations_fit_both_ways(tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch (the extra oracle)")
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2)
    )
    x = torch.randn(64, 3) * 3
    for _ in range(5):
        theirs(x)  # moves the averages
    theirs.eval()
    save_file(theirs.state_dict(), tmp_path / "torch.safetensors")
    assert "1.num_batches_tracked" in load_file(tmp_path / "torch.safetensors")
    stack = [layers.Dense(4, name="0"), layers.BatchNormalization(epsilon=1e-5, name="1")]
    stack += [layers.LayerNormalization(epsilon=1e-5, name="2"), layers.Dense(2, name="3")]
    model = models.Sequential([layers.Input((3,)), *stack])
    model.load_weights(tmp_path / "torch.safetensors")
    expected = theirs(x).detach().numpy()
    np.testing.assert_allclose(model.predict(x.numpy()), expected, rtol=1e-4, atol=1e-5)
    model.save_weights(tmp_path / "ours.safetensors")
    for values in theirs.state_dict().values():
        values.zero_()
    theirs.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    np.testing.assert_array_equal(theirs(x).detach().numpy(), expected)


def test_load_weights_rejects_a_whole_model(tmp_path):
    network().save(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="expected weights, got a whole model"):
        network().load_weights(tmp_path / "x.safetensors")
