"""Rehearsal: an error while layers are added or built leaves model and layers as they were."""

import numpy as np
import pytest
from small_models import LABELS, X, bits, classifier

from minidl import initializers, layers, models


class Rejecting(initializers.Initializer):
    """Initializer that rejects every weight."""

    def check(self, shape):
        raise ValueError(f"Rejecting: got shape {shape}.")


def failing_layer():
    """Return a layer whose first call fails after it has added a weight."""
    return layers.Dense(2, kernel_initializer="ones", bias_initializer=Rejecting())


def stack():
    return [layers.Dense(8, input_shape=(4,)), layers.Dropout(0.5), layers.Dense(3)]


@pytest.mark.parametrize(
    "build",
    [lambda model: model.build((None, 4)), lambda model: model.predict(X, verbose=0)],
    ids=["build", "predict"],
)
def test_failed_build_leaves_no_weights(build):
    model = models.Sequential([layers.Dense(3), failing_layer()], seed=1)
    with pytest.raises(ValueError, match="Rejecting"):
        build(model)
    assert model.parameters() == []
    assert not any(layer.built for layer in model.walk())


def test_layers_of_a_failed_model_can_be_used_in_another():
    used, nested = stack(), models.Sequential([layers.Dense(3)], seed=9, dtype="float64")
    with pytest.raises(ValueError, match="Rejecting"):
        models.Sequential([*used, nested, failing_layer()], seed=1)
    assert not any(layer.built for layer in used)
    assert nested.seed == 9
    assert nested.dtype == "float64"
    with pytest.raises(ValueError, match="unique names, got two layers named 'b'"):
        models.Sequential([*used, layers.ReLU(name="b"), layers.ReLU(name="b")], dtype="float64")
    model, fresh = (models.Sequential(made, seed=2) for made in (used, stack()))
    assert list(map(repr, model.layers)) == list(map(repr, fresh.layers))
    assert [(p.name, p.stream) for p in model.parameters()] == [
        (p.name, p.stream) for p in fresh.parameters()
    ]
    assert bits(model) == bits(fresh)


@pytest.mark.parametrize("is_nested", [False, True])
def test_layer_that_fails_to_be_added_uses_no_name_and_no_stream(is_nested):
    def grown(*failing):
        model = models.Sequential(stack(), seed=3)
        outer = (
            models.Sequential([model, layers.Dense(2, input_shape=(3,))]) if is_nested else model
        )
        outer(np.zeros((1, 4)))
        for layer in failing:
            with pytest.raises(ValueError, match="Rejecting"):
                model.add(layer)
        model.add(layers.Dense(3))
        outer(np.zeros((1, 4)))
        return [(p.name, p.stream, p.numpy().tobytes()) for p in outer.parameters()]

    nested = models.Sequential([layers.Dense(3), layers.Dropout(0.5), failing_layer()])
    assert grown(failing_layer(), nested) == grown()


def test_layer_that_fails_to_be_added_takes_no_name_from_a_later_layer():
    inner = models.Sequential([layers.ReLU(input_shape=(4,))])
    model = models.Sequential([inner, layers.Dense(3)])
    model(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="Rejecting"):
        inner.add(models.Sequential([layers.Dense(4, name="dense"), failing_layer()]))
    assert [p.name for p in model.parameters()] == ["dense/weight", "dense/bias"]
    assert model.layers[1].name == "dense"


def test_layer_with_a_used_name_leaves_the_model_as_it_was():
    model = classifier()
    model.add(layers.Dense(3, name="again"))
    before = model.predict(X)
    with pytest.raises(ValueError, match="unique names, got two layers named 'again'"):
        model.add(layers.Dense(3, name="again"))
    assert len(model.layers) == 6
    np.testing.assert_array_equal(model.predict(X), before)


def test_fit_that_rejects_its_data_leaves_the_model_unbuilt():
    model = models.Sequential([layers.Dense(3, activation="softmax")], seed=1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"sparse_.*\(None, 2, 3\), got y of shape \(5,\)"):
        model.fit(np.ones((5, 2, 3)), LABELS[:5], verbose=0)
    assert not model.built
    model.fit(X, LABELS, verbose=0)


def test_layer_built_with_another_dtype_is_rejected():
    inside = models.Sequential([layers.Dense(2, input_shape=(3,))])
    message = "sequential: expected dense/weight .*float64, got cpu and float32"
    with pytest.raises(ValueError, match=message):
        models.Sequential([inside], dtype="float64")


def test_layer_that_another_model_will_build_with_another_dtype_is_rejected(device):
    shared = layers.Dense(3)
    models.Sequential([shared], device=device)
    message = f"sequential: expected dense .*cpu.*float64, got {device}.* and float32"
    with pytest.raises(ValueError, match=message):
        models.Sequential([layers.Dense(4), shared], dtype="float64")
    models.Sequential([models.Sequential([shared], device=device)], device=device)


def test_rehearsal_shares_existing_weights_and_draws_zeros_for_new_ones():
    inner = models.Sequential([layers.Dense(4, input_shape=(6,))])
    outer = models.Sequential([inner, layers.Dropout(0.5)])
    twin, (layer,) = inner._rehearsal([layers.Dense(3)])
    assert twin is not inner
    assert twin.placement.owner is not outer
    assert twin.parameters()[0].data is inner.parameters()[0].data
    twin._append([layer])
    assert not layer.weight.numpy().any()
    assert len(inner.layers) == 1


class RaisesAtItsFirstCalls(layers.Layer):
    """Identity that raises when it is called, until it is told not to."""

    raises = True

    def call(self, x):
        if RaisesAtItsFirstCalls.raises:
            raise KeyError("a fault of the user's layer")
        return x


def test_direct_call_that_raises_leaves_the_model_as_it_was(monkeypatch):
    stack = [layers.Dense(3), RaisesAtItsFirstCalls(), layers.Dropout(0.5), layers.Dense(2)]
    model = models.Sequential(stack)
    with pytest.raises(KeyError):
        model(np.ones((2, 4)))
    assert not any(layer.built for layer in model.walk())
    assert model.parameters() == []
    monkeypatch.setattr(RaisesAtItsFirstCalls, "raises", False)
    assert model(np.ones((2, 5))).shape == (2, 2)
