"""Dense and Dropout as one op give what they give one after the other."""

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, models
from minidl.layers import fusion

NUMBERS = np.random.default_rng(0)
X = NUMBERS.normal(size=(40, 70))
LABELS = NUMBERS.integers(0, 3, 40)


class Apart(models.Model):
    """Call the same layers as a `Sequential` would, each by itself."""

    def __init__(self, stack, **arguments):
        super().__init__(**arguments)
        self.stack = stack

    def call(self, x):
        for layer in self.stack:
            x = layer(x)
        return x


def stack(activation="relu", rate=0.3, scaling="train"):
    return [
        layers.Dense(65, activation=activation),
        layers.Dropout(rate, scaling=scaling),
        layers.Dense(33, activation=activation),
        layers.Dropout(rate, scaling=scaling),
        layers.Dense(3, activation="softmax"),
    ]


def trained(kind, dtype, device, **options):
    model = kind(stack(**options), seed=1, dtype=dtype, device=device)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, LABELS, batch_size=16, epochs=2, verbose=0)
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "linear"},
        {"scaling": "inference"},
        {"rate": 0.0},  # is not fused: there is nothing to drop
        {"rate": 1.0},
        {"activation": "tanh"},  # is not fused
    ],
)
def test_a_sequential_trains_as_its_layers_apart(options, dtype, device):
    fused = trained(models.Sequential, dtype, device, **options)
    apart = trained(Apart, dtype, device, **options)
    for a, b in zip(fused.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [repr(layer) for layer in fused.layers[1::2]] == [
        repr(layer) for layer in apart.stack[1::2]
    ]


def test_the_notes_network_is_fused(monkeypatch):
    seen = []
    whole = fusion.dense_dropout
    monkeypatch.setattr(fusion, "dense_dropout", lambda *args: seen.append(args) or whole(*args))
    trained(models.Sequential, "float32", "cpu")
    assert [(dense.name, dropout.name) for dense, dropout, _ in seen[:2]] == [
        ("dense", "dropout"),
        ("dense_1", "dropout_1"),
    ]


class MyDropout(layers.Dropout):
    """A subclass, whose own call must run."""


@pytest.mark.parametrize(
    "pair",
    [
        (layers.Dense(2, activation="sigmoid"), layers.Dropout(0.5)),
        (layers.Dense(2, use_bias=False), layers.Dropout(0.5)),
        (layers.Dense(2), MyDropout(0.5)),
        (layers.Dense(2), layers.ReLU()),
    ],
)
def test_other_layers_are_not_fused(pair):
    model = models.Sequential([*pair])
    model(X)
    with minidl.training(step=0):
        assert not fusion.can_fuse(*pair, Tensor(X, dtype="float32"))


def test_nothing_is_fused_in_inference_or_for_other_than_vectors():
    dense, dropout = layers.Dense(2), layers.Dropout(0.5)
    models.Sequential([dense, dropout])(X)
    x = Tensor(X, dtype="float32")
    assert not fusion.can_fuse(dense, dropout, x)
    with minidl.training(step=0):
        assert fusion.can_fuse(dense, dropout, x)
        assert not fusion.can_fuse(dense, dropout, x.reshape(2, 20, 70))


def test_a_fused_layer_checks_its_input_too():
    dense, dropout = layers.Dense(2), layers.Dropout(0.5)
    model = models.Sequential([dense, dropout])
    model(X)
    with (
        minidl.training(step=0),
        pytest.raises(ValueError, match="dense: expected inputs with 70 features"),
    ):
        model(X[:, :5])
