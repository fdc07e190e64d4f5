"""Network: device, dtype and seed, weights, building, nesting and the summary."""

import copy

import numpy as np
import pytest
from small_models import LABELS, TARGETS, X, bits, classifier, regressor

import minidl
from minidl import Tensor, layers, models
from minidl.optimizers import Adam


class Branches(models.Model):
    """A model with layers in attributes, a list and a dictionary."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.first = layers.Dense(8, activation="relu")
        self.blocks = [layers.Dense(8, activation="tanh"), layers.Dropout(0.2)]
        self.heads = {"out": layers.Dense(3, activation="softmax")}

    def call(self, x):
        x = x_first = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.heads["out"](x + x_first)


# ------------------------------------------------------------------------------ dtype and seed


@pytest.mark.parametrize("dtype", ["int32", "complex64"])
def test_model_rejects_dtype_that_is_not_floating(dtype):
    with pytest.raises(ValueError, match=f"sequential: expected dtype .*float16.*got '{dtype}'"):
        models.Sequential(dtype=dtype)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_model_rejects_seed_out_of_range(seed):
    with pytest.raises(ValueError, match=rf"sequential: seed.*2\*\*64.* {seed}"):
        models.Sequential(seed=seed)


def test_layer_rejects_empty_name():
    with pytest.raises(ValueError, match="Dense: expected a name, got an empty string"):
        layers.Dense(3, name="")


# ------------------------------------------------------------------------------ weights


def test_get_weights_returns_copies_in_the_order_of_keras():
    model = classifier()
    weights = model.get_weights()
    assert [w.shape for w in weights] == [(6, 16), (16,), (16, 12), (12,), (12, 3), (3,)]
    weights[0][:] = 0
    assert model.get_weights()[0].any()


def test_set_weights_copies_the_weights(device):
    source, model = classifier(1), classifier(2, device=device)
    model.set_weights(source.get_weights())
    assert bits(model) == bits(source)
    np.testing.assert_allclose(model.predict(X), source.predict(X), rtol=1e-5)


@pytest.mark.parametrize("change", ["number", "shape"])
def test_set_weights_rejects_other_shapes_and_changes_nothing(change):
    model = classifier()
    before = bits(model)
    weights = [w + 1 for w in model.get_weights()]
    weights = weights[:-1] if change == "number" else [*weights[:-1], np.ones(4)]
    with pytest.raises(ValueError, match=r"sequential: set_weights: expected .*\(3,\)\], got \[\("):
        model.set_weights(weights)
    assert bits(model) == before


def test_set_weights_rejects_text_and_changes_nothing():
    model = classifier()
    before = bits(model)
    wrong = [weight + 1 for weight in model.get_weights()[:-1]] + [["a", "b", "c"]]
    with pytest.raises(TypeError, match=r"set_weights: .*array 5"):
        model.set_weights(wrong)
    assert bits(model) == before


# ------------------------------------------------------------------------------ summary


def test_summary_of_the_notes_network_equals_that_of_keras(capsys):
    model = models.Sequential(
        [
            layers.Flatten(input_shape=(28, 28)),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(256, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.summary()
    # Keras 3 prints this table for the same network: 784 * 512 + 512 and so on, 4 bytes each.
    assert (
        capsys.readouterr().out
        == """\
Model: "sequential"
┏━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━┓
┃ Layer (type)        ┃ Output Shape ┃ Param # ┃
┡━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━┩
│ flatten (Flatten)   │ (None, 784)  │       0 │
├─────────────────────┼──────────────┼─────────┤
│ dense (Dense)       │ (None, 512)  │ 401,920 │
├─────────────────────┼──────────────┼─────────┤
│ dropout (Dropout)   │ (None, 512)  │       0 │
├─────────────────────┼──────────────┼─────────┤
│ dense_1 (Dense)     │ (None, 256)  │ 131,328 │
├─────────────────────┼──────────────┼─────────┤
│ dropout_1 (Dropout) │ (None, 256)  │       0 │
├─────────────────────┼──────────────┼─────────┤
│ dense_2 (Dense)     │ (None, 10)   │   2,570 │
└─────────────────────┴──────────────┴─────────┘
 Total params: 535,818 (2.04 MB)
 Trainable params: 535,818 (2.04 MB)
 Non-trainable params: 0 (0.00 B)
"""
    )
    assert model.count_params() == 535_818


def test_summary_counts_frozen_weights(capsys):
    model = regressor()
    model.layers[0].bias.requires_grad = False
    model.summary()
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines == [
        " Total params: 14 (56.00 B)",
        " Trainable params: 12 (48.00 B)",
        " Non-trainable params: 2 (8.00 B)",
    ]


class Pair(models.Model):
    """Model of two layers, of which it calls none before it is built."""

    def __init__(self):
        super().__init__()
        self.one, self.two = layers.Dense(2), layers.Dropout(0.5)

    def call(self, x):
        return self.two(self.one(x))


UNBUILT = {
    "sequential": lambda: models.Sequential([layers.Dense(2), layers.Dropout(0.5)]),
    "subclass": Pair,
    "nested": lambda: models.Sequential([models.Sequential([layers.Dense(2)]), layers.ReLU()]),
}


@pytest.mark.parametrize("name", UNBUILT)
def test_summary_of_an_unbuilt_model_shows_question_marks(name, capsys):
    model = UNBUILT[name]()
    model.summary()
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[2:4]] for line in printed.splitlines()]
    assert [row for row in cells if row] == [["?", "0 (unbuilt)"]] * 2
    assert printed.endswith(" Non-trainable params: 0 (0.00 B)\n")
    assert not model.built
    with pytest.raises(ValueError, match="expected a built layer"):
        model.count_params()
    model(np.zeros((1, 3)))
    model.summary()
    assert "?" not in capsys.readouterr().out


def test_summary_of_an_empty_model_has_no_rows(capsys):
    models.Sequential().summary()
    assert " Total params: 0 (0.00 B)" in capsys.readouterr().out


# ------------------------------------------------------------------------------ building


@pytest.mark.parametrize("batch", [None, 32])
def test_build_accepts_any_number_of_samples(batch, capsys):
    built, called = (models.Sequential([layers.Dense(3), layers.Dropout(0.5)]) for _ in range(2))
    built.build((batch, 4))
    called(np.zeros((2, 4)))
    assert built.built
    assert built.count_params() == 15
    assert bits(built) == bits(called)
    built.summary()
    assert "(None, 3)" in capsys.readouterr().out


def test_build_again_keeps_the_weights_and_rejects_another_shape():
    model = models.Sequential([layers.Dense(3)])
    model.build((None, 4))
    before = bits(model)
    model.build((None, 4))
    with pytest.raises(ValueError, match=r"dense: expected 4 features .*\(1, 5\)"):
        model.build((None, 5))
    assert bits(model) == before


def test_build_of_a_subclass_creates_its_own_weights():
    class Scaled(models.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def build(self, input_shape):
            super().build(input_shape)
            self.scale = self.add_weight("scale", (3,), "ones")

        def call(self, x):
            return self.dense(x) * self.scale

    model = Scaled()
    assert model(np.zeros((2, 4))).shape == (2, 3)
    assert model.count_params() == 18


def test_build_of_a_subclass_builds_its_layers():
    branches = Branches()
    branches.build((None, 6))
    assert branches.count_params() == (6 + 1) * 8 + (8 + 1) * 8 + (8 + 1) * 3


@pytest.mark.parametrize("length", [None, 0, 2.0])
def test_build_rejects_length_that_is_not_a_positive_integer(length):
    model = models.Sequential([layers.Dense(3)])
    message = f"sequential: build: input_shape: .*positive integer, got {length}"
    with pytest.raises(ValueError, match=message):
        model.build((None, length))
    assert not model.built


class WithoutInit(models.Model):
    """A model that does not call super().__init__()."""

    def __init__(self):
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    "use",
    [lambda m: m(X), lambda m: m.fit(X, LABELS), lambda m: m.predict(X), lambda m: m.dtype],
    ids=["call", "fit", "predict", "dtype"],
)
def test_subclass_without_super_init_is_rejected_at_first_use(use):
    message = r"^WithoutInit: no attribute .* before super\(\).__init__\(\)"
    with pytest.raises(AttributeError, match=message):
        use(WithoutInit())


# ------------------------------------------------------------------------------ subclasses


def test_subclass_trains_and_finds_its_layers(device, capsys):
    model = Branches(seed=3, device=device)
    model.compile(Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(X[:20], LABELS[:20], epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert [layer.name for layer in model.layers] == ["dense", "dense_1", "dropout", "dense_2"]
    assert model.count_params() == 6 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3
    model.summary()
    assert 'Model: "branches"' in capsys.readouterr().out


def test_subclass_trained_twice_returns_equal_bits():
    def trained():
        model = Branches(seed=3)
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(X, LABELS, epochs=2, verbose=0)
        return bits(model)

    assert trained() == trained()


def test_layers_is_a_tuple_that_cannot_be_changed():
    for model in (regressor(), Branches()):
        before = model.layers
        with pytest.raises(AttributeError, match="pop"):
            model.layers.pop()
        assert model.layers == before
    with pytest.raises(AttributeError, match="layers"):
        regressor().layers = []


def test_call_accepts_tensor_that_requires_a_gradient(device):
    model = regressor(device=device)
    x = Tensor(X.astype("float32"), device=device, requires_grad=True)
    model(x).sum().backward()
    expected = np.tile(model.get_weights()[0].sum(axis=1), (50, 1))
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-5)


def test_call_rejects_tensor_of_another_device(cuda_double):
    model = regressor()
    with pytest.raises(ValueError, match="sequential: expected an input on cpu, got one on cuda:0"):
        model(Tensor(X.astype("float32"), device="cuda"))


def test_call_rejects_one_number():
    with pytest.raises(ValueError, match="sequential: expected a batch of samples, got one number"):
        models.Sequential([layers.ReLU()])(np.float32(3))


def test_shared_layer_has_one_weight_and_sums_its_gradients():
    shared = layers.Dense(4, kernel_initializer="ones")
    model = models.Sequential([shared, shared], dtype="float64")
    y = model(np.ones((1, 4)))
    y.sum().backward()
    assert len(model.parameters()) == 2
    # y = (x W + b) W + b: for W = ones and b = 0, each element gets 4 from both places.
    np.testing.assert_allclose(shared.weight.grad.numpy(), np.full((4, 4), 4.0 + 4.0))


# ------------------------------------------------------------------------------ nesting


def test_nested_model_uses_device_dtype_and_seed_of_the_outer(device):
    inside = models.Sequential([layers.Dense(4), layers.Dropout(0.5)], seed=99)
    model = models.Sequential([inside, layers.Dense(2)], dtype="float64", seed=3, device=device)
    flat = models.Sequential(
        [layers.Dense(4), layers.Dropout(0.5), layers.Dense(2)],
        dtype="float64",
        seed=3,
        device=device,
    )
    with minidl.training(step=1):
        first = model(X).numpy()
    with minidl.training(step=1):
        second = flat(X).numpy()
    assert bits(model) == bits(flat)
    assert np.array_equal(first, second)
    assert (inside.dtype, inside.device, inside.seed) == (model.dtype, model.device, 3)


def test_nested_model_trains(device):
    inside = models.Sequential([layers.Dense(8, activation="relu"), layers.Dropout(0.1)])
    model = models.Sequential([inside, layers.Dense(2)], device=device)
    model.compile(Adam(0.05), "mse")
    history = model.fit(X[:20], TARGETS[:20], epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert len(model.parameters()) == 4


def test_layer_added_to_a_nested_model_gets_a_stream_that_is_free_in_the_whole():
    inner = models.Sequential([layers.Dense(4), layers.Dropout(0.5)])
    outer = models.Sequential([inner, layers.Dense(4), layers.Dropout(0.5)])
    outer(X)
    inner.add(layers.Dropout(0.5))
    numbers = [layer.stream for layer in outer.walk() if isinstance(layer, layers.Dropout)]
    assert sorted(numbers) == [0, 1, 2]


def test_deep_copy_of_a_nested_model_is_a_model_of_its_own():
    inner = models.Sequential([layers.Dense(4), layers.Dropout(0.5)])
    outer = models.Sequential([inner, layers.Dense(2)])
    outer(X)
    twin = copy.deepcopy(outer)
    twin.set_weights([weight + 1 for weight in twin.get_weights()])
    assert twin.placement.owner is twin
    assert bits(twin) != bits(outer)


# ------------------------------------------------------------------------------ public names


def test_modules_that_users_import_are_there():
    from minidl.optimizers.schedules import ExponentialDecay

    assert ExponentialDecay is minidl.optimizers.schedules.ExponentialDecay
    assert callable(minidl.checkpoint.latest)
    assert callable(minidl.testing.check_gradient)
