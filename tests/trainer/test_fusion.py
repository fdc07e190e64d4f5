"""What is computed as one op gives what it gives one after the other."""

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, losses, metrics, models
from minidl.batches import Batch
from minidl.trainer import fusion

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


def trained(kind, dtype, device, weight=None, **options):
    model = kind(stack(**options), seed=1, dtype=dtype, device=device)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(X, LABELS, batch_size=16, epochs=2, verbose=0, sample_weight=weight)
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
    # With weights of the samples the last layer and the loss are not fused: the bits are the same.
    weight = np.ones(len(X))
    fused = trained(models.Sequential, dtype, device, weight, **options)
    apart = trained(Apart, dtype, device, weight, **options)
    for a, b in zip(fused.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [repr(layer) for layer in fused.layers[1::2]] == [
        repr(layer) for layer in apart.stack[1::2]
    ]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("float64", 1e-9)])
def test_the_last_layer_and_the_loss_train_as_apart(dtype, tolerance, device):
    fused = trained(models.Sequential, dtype, device)
    apart = trained(Apart, dtype, device)
    for name, values in apart.history.history.items():
        np.testing.assert_allclose(fused.history.history[name], values, rtol=tolerance)
    for a, b in zip(fused.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    results = [model.evaluate(X, LABELS, verbose=0) for model in (fused, apart)]
    np.testing.assert_allclose(*results, rtol=tolerance)


def test_a_model_that_begins_with_rescaling_trains_as_apart(device):
    images = np.random.default_rng(3).integers(0, 256, (40, 7, 10)).astype("uint8")
    whole, apart = (
        kind([layers.Rescaling(1 / 255, 0.5), layers.Flatten(), *stack()], seed=1, device=device)
        for kind in (models.Sequential, Apart)
    )
    for model in (whole, apart):
        model.compile("adam", "sparse_categorical_crossentropy")
        weight = np.ones(len(images))
        model.fit(images, LABELS, batch_size=16, verbose=0, sample_weight=weight)
    for a, b in zip(whole.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.predict(images), apart.predict(images))


class Halved(models.Sequential):
    """A subclass with a call of its own, which must run."""

    def call(self, x):
        return super().call(x * 0.5)


def test_a_subclass_with_a_call_of_its_own_is_not_bypassed():
    half = Halved([layers.Rescaling(2.0), *stack()], seed=1)
    whole = models.Sequential(stack(), seed=1)
    half.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    whole.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    for model in (half, whole):
        model.fit(X, LABELS, batch_size=16, verbose=0, sample_weight=np.ones(len(X)))
    for a, b in zip(half.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(half.predict(X), whole.predict(X))


class MyLoss(losses.SparseCategoricalCrossentropy):
    """A subclass, whose own call must run."""


def test_what_is_classified_at_once():
    model = trained(models.Sequential, "float32", "cpu")
    batch = Batch(Tensor(X), Tensor(LABELS), None)
    last, loss, accuracy = model.layers[-1], model.loss, metrics.Accuracy()
    assert fusion.can_classify_at_once(last, batch, loss, [accuracy])
    for other in (
        (model.layers[0], batch, loss, [accuracy]),
        (last, batch._replace(weight=Tensor(X[:, 0])), loss, [accuracy]),
        (last, batch._replace(y=Tensor(LABELS[:, None])), loss, [accuracy]),
        (last, batch, MyLoss(), [accuracy]),
        (last, batch, losses.SparseCategoricalCrossentropy(from_logits=True), [accuracy]),
        (last, batch, loss, [accuracy, metrics.CategoricalAccuracy()]),
    ):
        assert not fusion.can_classify_at_once(*other)


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
        assert not fusion.can_drop_at_once(*pair, Tensor(X, dtype="float32"))


def test_nothing_is_fused_in_inference_or_for_other_than_vectors():
    dense, dropout = layers.Dense(2), layers.Dropout(0.5)
    models.Sequential([dense, dropout])(X)
    x = Tensor(X, dtype="float32")
    assert not fusion.can_drop_at_once(dense, dropout, x)
    with minidl.training(step=0):
        assert fusion.can_drop_at_once(dense, dropout, x)
        assert not fusion.can_drop_at_once(dense, dropout, x.reshape(2, 20, 70))


def test_a_fused_layer_checks_its_input_too():
    dense, dropout = layers.Dense(2), layers.Dropout(0.5)
    model = models.Sequential([dense, dropout])
    model(X)
    with (
        minidl.training(step=0),
        pytest.raises(ValueError, match="dense: expected inputs with 70 features"),
    ):
        model(X[:, :5])


class Outside(models.Sequential):
    """A subclass with a `__call__` of its own, which must run."""

    def __call__(self, x):
        return super().__call__(x) * 0.5


def test_a_subclass_with_a_dunder_call_of_its_own_is_not_bypassed():
    model = Outside(stack(), seed=1)
    expected = model(X.astype("float32")).numpy()  # one batch, not two: the sums differ in rounding
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-5)


@pytest.mark.parametrize("order", ["F", "transposed", "reversed", "big-endian"])
def test_samples_may_lie_in_memory_in_any_order(order, device):
    x = {
        "F": np.asfortranarray(X),
        "transposed": X.T.copy().T,
        "reversed": X[::-1].copy()[::-1],
        "big-endian": X.astype(">f8"),
    }
    models_ = [models.Sequential(stack(), seed=1, device=device) for _ in range(2)]
    for model, samples in zip(models_, (X, x[order]), strict=True):
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(samples, LABELS, batch_size=16, verbose=0)
    np.testing.assert_array_equal(models_[0].predict(X), models_[1].predict(x[order]))


class Float64(layers.Layer):
    """A layer after which tensors are float64, as a NumPy array in it makes them."""

    def call(self, x):
        return x * Tensor(np.linspace(1, 2, x.shape[-1]), x.device)


def test_a_tensor_of_another_dtype_goes_the_general_way(device):
    model = models.Sequential([*stack()[:-1], Float64(), stack()[-1]], seed=1, device=device)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(X, LABELS, batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert model.parameters()[0].dtype == "float32"
