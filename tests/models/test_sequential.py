"""Sequential: its list of layers, and the check of the last layer against the loss."""

import re

import numpy as np
import pytest
from small_models import LABELS, X, bits, classifier

import minidl
from minidl import layers, losses, models


def test_add_builds_the_same_model_as_a_list():
    def arguments_of(layer):
        names = {"Dense": ["units", "activation", "input_shape"], "Dropout": ["rate"]}
        return {name: getattr(layer, name) for name in names[type(layer).__name__]}

    whole, grown = classifier(), models.Sequential(seed=1)
    for layer in classifier().layers:
        grown.add(type(layer)(**arguments_of(layer)))
    assert bits(whole) == bits(grown)
    assert grown.output_shape == whole.output_shape == (None, 3)
    with minidl.training(step=3):
        first = whole(X).numpy()
    with minidl.training(step=3):
        assert np.array_equal(first, grown(X).numpy())


def test_add_after_the_first_call_leaves_the_model_unbuilt_until_the_next(capsys):
    model = models.Sequential([layers.Dense(4)])
    model(X)
    model.add(layers.Dense(2))
    model.summary()
    printed = capsys.readouterr().out
    assert re.search(r"│ dense \(Dense\) +│ \(None, 4\) +│ +28 │", printed)
    assert re.search(r"│ dense_1 \(Dense\) +│ \? +│ 0 \(unbuilt\) │", printed)
    assert model(X).shape == (50, 2)
    assert model.output_shape == (None, 2)


@pytest.mark.parametrize("first", [layers.Input((28, 28)), layers.Flatten(input_shape=(28, 28))])
def test_input_shape_of_the_first_layer_builds_the_model(first):
    model = models.Sequential(
        [first, *([] if isinstance(first, layers.Flatten) else [layers.Flatten()])]
    )
    model.add(layers.Dense(3))
    assert model.built
    assert model.count_params() == 784 * 3 + 3
    assert [type(layer).__name__ for layer in model.layers] == ["Flatten", "Dense"]


def test_sequential_rejects_input_after_the_first_element():
    with pytest.raises(ValueError, match="sequential: expected Input only as the first element"):
        models.Sequential([layers.Dense(2), layers.Input((3,))])


def test_sequential_rejects_what_is_not_a_layer():
    with pytest.raises(TypeError, match="sequential: expected layers, got 'dense'"):
        models.Sequential(["dense"])
    with pytest.raises(TypeError, match="sequential: expected layers, got None"):
        models.Sequential().add(None)


def test_sequential_rejects_a_layer_in_place_of_a_list():
    with pytest.raises(TypeError, match="sequential: expected layers to be a list, got <Dense"):
        models.Sequential(layers.Dense(2))


def test_layers_lists_a_shared_layer_as_often_as_it_is_called():
    shared = layers.Dense(3)
    model = models.Sequential([layers.Input((3,)), shared, layers.ReLU(), shared])
    assert [layer.label for layer in model.layers] == ["dense", "re_lu", "dense"]
    assert len(model.parameters()) == 2


# ------------------------------------------------------------------------------ probabilities

CROSS_ENTROPIES = [
    (losses.SparseCategoricalCrossentropy, LABELS),
    (losses.CategoricalCrossentropy, np.eye(3)[LABELS]),
    (losses.BinaryCrossentropy, np.eye(3)[LABELS]),
]


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
@pytest.mark.parametrize(("loss", "y"), CROSS_ENTROPIES)
def test_classifier_without_softmax_is_rejected_before_training(activation, method, loss, y):
    model = models.Sequential([layers.Dense(3, activation, input_shape=(6,))])
    model.compile("adam", loss())
    before = bits(model)
    message = (
        rf"{method}: expected probabilities for {loss.__name__}, got {activation} outputs of "
        r"dense\. .*from_logits=True"
    )
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(X, y, verbose=0)
    assert bits(model) == before
    model.compile("adam", loss(from_logits=True))
    getattr(model, method)(X, y, verbose=0)


def test_outputs_of_a_sigmoid_are_no_logits_and_no_softmax():
    model = models.Sequential([layers.Dense(3, "sigmoid", input_shape=(6,))])
    model.compile("adam", losses.BinaryCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"^fit: .*got sigmoid outputs of dense\. .*the sigmoid\."):
        model.fit(X, np.eye(3)[LABELS], verbose=0)
    model.compile("adam", losses.CategoricalCrossentropy())  # shares of their sum, as in Keras
    model.fit(X, np.eye(3)[LABELS], verbose=0)


class Softened(models.Sequential):
    """A subclass that computes probabilities of the last layer's outputs itself."""

    def call(self, x):
        return super().call(x).softmax()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Softened([layers.Dense(3)]),
        lambda: models.Sequential([layers.Dense(3), layers.Softmax()]),
        lambda: models.Sequential([layers.Dense(3, "sigmoid")]),
        lambda: models.Sequential([layers.Dense(3, lambda x: x.softmax())]),
    ],
    ids=["own call", "Softmax", "sigmoid", "own activation"],
)
def test_outputs_that_may_be_probabilities_are_accepted(make):
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy")
    assert np.isfinite(model.fit(X, LABELS, verbose=0).history["loss"]).all()


# ------------------------------------------------------------------------------ input_shape


def second(shape=(4,)):
    return layers.Dense(2, input_shape=shape)


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.Sequential([layers.Dense(4), second()]),
        lambda: models.Sequential([layers.Dense(4, input_shape=(6,)), second()]),
        lambda: models.Sequential([layers.Input((6,)), layers.Dense(4), second([4])]),
        lambda: models.Sequential([models.Sequential([layers.Dense(4)]), second()]),
    ],
)
def test_later_layer_may_give_its_input_shape(make):
    model = make()
    assert model(X).shape == (50, 2)
    grown = models.Sequential(seed=0)
    for layer in make().layers:
        grown.add(layer)
    assert grown(X).shape == (50, 2)


def test_input_shape_of_a_later_layer_must_agree():
    message = (
        r"^dense_1: expected samples of its input_shape \(5,\), got \(4,\)\. .*change input_shape"
    )
    with pytest.raises(ValueError, match=message):
        models.Sequential([layers.Dense(4, input_shape=(6,)), second((5,))])
    late = models.Sequential([layers.Dense(4), second((5,))])
    with pytest.raises(ValueError, match=message):
        late(X)
    assert not late.built
    grown = models.Sequential([layers.Dense(4, input_shape=(6,))])
    with pytest.raises(ValueError, match=message):
        grown.add(second((5,)))
    assert len(grown.layers) == 1
