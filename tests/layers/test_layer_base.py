"""The base class of layers: what it holds, its weights, and the errors of its arguments."""

import re
from typing import ClassVar

import numpy as np
import pytest

import minidl
from minidl import Tensor, initializers, layers, metrics, models
from minidl.layers import Parameter
from minidl.rng import WEIGHT_STREAMS, RandomStream


def names_of(parameters):
    return [parameter.name for parameter in parameters]


# ------------------------------------------------------------------------------ what a layer holds


class Holder(layers.Layer):
    """A layer with objects of all kinds in attributes, lists, tuples and dictionaries."""

    def __init__(self):
        super().__init__()
        self.first = RandomStream(seed=1)
        self.below = [
            layers.ReLU(name="a"),
            (layers.ReLU(name="b"), {"key": layers.ReLU(name="c")}),
        ]
        self.streams_by_name = {"x": RandomStream(seed=2), "y": [RandomStream(seed=3)]}
        self.again = self.first
        self.other = {"number": 3, "text": "RandomStream", "nothing": None}

    def build(self, input_shape):
        self.bias = self.add_weight("bias", (2,), "zeros")
        self.rest = [self.add_weight("scale", (2,), "ones"), (self.bias,)]

    def call(self, x):
        return x


def test_held_finds_objects_by_type_in_order_and_once():
    layer = Holder()
    layer(Tensor([[1.0]]))
    assert [stream.seed for stream in layer.held(RandomStream)] == [1, 2, 3]
    assert [below.name for below in layer.held(layers.Layer)] == ["a", "b", "c"]
    assert names_of(layer.held(Parameter)) == ["holder/bias", "holder/scale"]


def test_held_of_layer_without_attributes_is_empty():
    assert layers.ReLU().held(RandomStream) == []


def test_walk_yields_layers_depth_first_and_once():
    shared = layers.ReLU(name="shared")
    inside = models.Sequential([shared, layers.ReLU(name="inner")], name="inside")
    model = models.Sequential([inside, shared, layers.ReLU(name="last")], name="model")
    assert [layer.name for layer in model.walk()] == ["model", "inside", "shared", "inner", "last"]


def test_parameters_and_streams_include_those_below_once():
    shared = layers.Dropout(0.5)
    inside = models.Sequential([layers.Dense(2, input_shape=(3,)), shared])
    model = models.Sequential([inside, shared, layers.Dropout(0.5), layers.Dense(2)])
    model(np.zeros((1, 3)))
    assert names_of(model.parameters()) == [
        *("dense/weight", "dense/bias", "dense_1/weight", "dense_1/bias"),
    ]
    assert model.streams() == [shared.random_stream, model.layers[2].random_stream]


class Polynomial(layers.Layer):
    """a + b x + c x^2 + d x^3, with the weights in containers."""

    def build(self, input_shape):
        size = input_shape[-1:]
        self.rest = [self.add_weight(name, size, "ones") for name in "ab"]
        self.rest.append(({"c": self.add_weight("c", size, "ones")},))
        self.cubic = self.add_weight("d", size, "ones")
        self.offset = self.rest[0]

    def call(self, x):
        a, b, (rest,) = self.rest
        return a + b * x + rest["c"] * x * x + self.cubic * x * x * x


def test_weights_in_containers_are_found_in_order_and_trained():
    model = models.Sequential([Polynomial(input_shape=(2,)), layers.Dense(1)], seed=1)
    names = [*(f"polynomial/{name}" for name in "abcd"), "dense/weight", "dense/bias"]
    assert names_of(model.parameters()) == names
    assert [p.stream - WEIGHT_STREAMS for p in model.parameters()] == list(range(6))
    assert model.count_params() == 4 * 2 + 3
    assert len(model.layers[0].held(Parameter)) == 4  # one of them is held twice
    before = model.get_weights()
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(5, 2))
    model.fit(x, x[:, :1], verbose=0)
    after = model.get_weights()
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_weights_in_containers_are_renamed_with_their_layer():
    inside = [models.Sequential([Polynomial(input_shape=(2,))]) for _ in range(2)]
    assert names_of(models.Sequential(inside).parameters()) == [
        f"{layer}/{name}" for layer in ("polynomial", "polynomial_1") for name in "abcd"
    ]


# ------------------------------------------------------------------------------ initial weights


def network(**arguments):
    return models.Sequential(
        [layers.Dense(6, input_shape=(4,)), models.Sequential([layers.Dense(6)]), layers.Dense(6)],
        **arguments,
    )


def test_each_weight_has_its_own_stream():
    used = [p.stream for p in network().parameters()]
    assert used == [WEIGHT_STREAMS + n for n in range(6)]
    second, third = network().get_weights()[2:5:2]
    assert not np.array_equal(second, third)


def test_built_nested_model_keeps_its_weight_streams():
    inside = models.Sequential([layers.Dense(4, input_shape=(4,))])
    model = models.Sequential([layers.Dense(4, input_shape=(4,)), inside])
    used = [p.stream - WEIGHT_STREAMS for p in model.parameters()]
    assert used == [2, 3, 0, 1]


def test_weights_depend_on_seed_bit_for_bit():
    first, again, other = (network(seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first[::2], other[::2], strict=True))


def test_weights_of_other_device_and_dtype_differ_by_one_rounding_only(device):
    exact = network(seed=1, dtype="float64").get_weights()
    for dtype in ("float16", "float32", "float64"):
        rounded = network(seed=1, dtype=dtype, device=device).get_weights()
        assert all(w.dtype == dtype for w in rounded)
        for w, value in zip(rounded, exact, strict=True):
            assert np.array_equal(w, value.astype(dtype))


def test_random_weights_without_seed_raise_and_layer_is_not_built():
    layer = layers.Dense(2)
    with pytest.raises(RuntimeError, match=r"dense: expected a seed.*GlorotUniform\(seed=0\)"):
        layer(Tensor(np.zeros((1, 3))))
    assert not layer.built


def test_constant_weights_need_no_seed():
    y = layers.Dense(2, kernel_initializer="ones")(Tensor(np.ones((1, 3), "float32")))
    assert y.numpy().tolist() == [[3, 3]]


def test_initializer_with_seed_needs_no_model():
    dense = layers.Dense(2, kernel_initializer=initializers.HeNormal(seed=1))
    assert dense(Tensor(np.ones((1, 3), "float32"))).shape == (1, 2)


# ------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("name", [3, 0, b"bytes", ["list"]])
@pytest.mark.parametrize(
    ("who", "make"),
    [
        ("Dense", lambda name: layers.Dense(2, name=name)),
        ("Dropout", lambda name: layers.Dropout(0.5, name=name)),
        ("Sequential", lambda name: models.Sequential(name=name)),
        ("Accuracy", metrics.Accuracy),
    ],
)
def test_name_that_is_not_a_string_is_rejected(who, make, name):
    with pytest.raises(TypeError, match=rf"^{who}: expected name .*{re.escape(repr(name))}"):
        make(name)


def test_empty_name_is_rejected():
    with pytest.raises(ValueError, match=r"^ReLU: expected a name"):
        layers.ReLU(name="")


@pytest.mark.parametrize("shape", [(0,), (2, -1), (2.0,), (None,)])
def test_input_shape_with_invalid_length_is_rejected(shape):
    with pytest.raises(ValueError, match=rf"^Input: input_shape: .*got {shape[-1]}"):
        layers.Input(shape)


def test_input_shape_that_is_a_number_is_rejected():
    with pytest.raises(TypeError, match=r"^Input: expected input_shape .*784.*\(784,\)"):
        layers.Input(784)


# ------------------------------------------------------------------------------ calls


def test_layer_without_call_raises():
    with pytest.raises(NotImplementedError, match="Layer: expected a method call"):
        layers.Layer()(Tensor([1.0]))


def test_lone_layer_takes_arrays_in_its_dtype():
    layer = layers.Dense(2, kernel_initializer="ones")
    for x in (np.array([[1, 2]]), np.array([[1.0, 2.0]]), [[1, 2]]):
        assert layer(x).dtype == "float32"
        np.testing.assert_array_equal(layer(x).numpy(), [[3, 3]])
    with pytest.raises(TypeError, match=r"^rectifier: expected x to be an array of numbers"):
        layers.ReLU(name="rectifier")(["a"])
    with pytest.raises(TypeError, match=r"^dense: expected one tensor, got a list"):
        layer([Tensor([[1.0, 2.0]])] * 2)


@pytest.mark.parametrize(
    "stack",
    [
        lambda: [layers.Input((28, 28)), layers.Flatten(), layers.Dense(3)],
        lambda: [layers.Flatten(), layers.Dense(3, input_shape=(784,))],
    ],
)
def test_input_of_another_shape_than_input_shape_is_rejected(stack):
    model = models.Sequential(stack())
    model(np.zeros((2, 28, 28)))
    with pytest.raises(
        ValueError, match=r": expected samples of its input_shape \((28, 28|784,)\)"
    ):
        model(np.zeros((2, 14, 14)))


@pytest.mark.parametrize(("features", "remedy"), [(1, r"x\.reshape\(-1, 1\)"), (3, r"x\[None\]")])
def test_input_without_batch_axis_is_rejected_with_remedy(features, remedy):
    layer = layers.Dense(2, input_shape=(features,))
    with pytest.raises(ValueError, match=rf"^dense: .*got \(\)\. .*{remedy}"):
        layer(Tensor(np.ones(3)))


def test_subclass_need_not_call_init():
    class Double(layers.Layer):
        def __init__(self):
            self.factor = 2

        def call(self, x):
            return x * self.factor

    model = models.Sequential([Double()])
    assert model(np.ones((1, 2))).numpy().tolist() == [[2, 2]]
    assert model.layers[0].name == "double"


def test_count_params_of_unbuilt_model_raises():
    with pytest.raises(ValueError, match=r"^sequential: expected a built layer"):
        models.Sequential([layers.Dense(2)]).count_params()


def test_layer_is_built_at_first_call_only():
    shapes = []

    class Recorder(layers.Layer):
        def build(self, input_shape):
            shapes.append(input_shape)

        def call(self, x):
            return x

    layer = Recorder()
    for rows in (2, 3):
        layer(Tensor(np.ones((rows, 4))))
    assert shapes == [(2, 4)]
    assert (layer.built_for, layer.output_shape) == ((4,), (None, 4))


def test_failed_first_call_leaves_no_shapes():
    class Failing(layers.Layer):
        def call(self, x):
            raise KeyError

    layer = Failing()
    with pytest.raises(KeyError), minidl.training(step=0):
        layer(Tensor([1.0]))
    assert (layer.built_for, layer.output_shape) == (None, None)


# ------------------------------------------------------------------------------ names of weights


class Twins(layers.Layer):
    """A layer that adds weights of some names; its build fails for each of `failures`."""

    failures: ClassVar[list[str]] = []

    def __init__(self, names):
        super().__init__()
        self.names = names

    def build(self, input_shape):
        self.both = [self.add_weight(name, input_shape[-1:], "ones") for name in self.names]
        if self.failures:
            raise KeyError(self.failures.pop())

    def call(self, x):
        return x * self.both[0] + self.both[1]


def test_add_weight_rejects_second_weight_of_one_name():
    with pytest.raises(ValueError, match=r"twins: expected unique names of weights, got 'w' twice"):
        Twins("ww")(Tensor([[1.0]]))


def test_layer_can_be_built_again_after_a_failed_build():
    for call in (Twins("vw"), models.Sequential([Twins("vw")])):
        Twins.failures.append("mine")
        with pytest.raises(KeyError, match="mine"):
            call(Tensor([[1.0]]))
        call(Tensor([[1.0]]))
        assert len(call.parameters()) == 2


# ------------------------------------------------------------------------------ built by hand


class Twice(Twins):
    """A layer whose `build` calls that of its base class."""

    def __init__(self):
        super().__init__("vw")

    def build(self, input_shape):
        super().build(input_shape)
        self.third = self.add_weight("third", input_shape[-1:], "ones")


def hand_built(layer=None, features=3, call=False):
    """Return a layer that was built before it has a model, with weights of 0."""
    layer = layer or layers.Dense(2, kernel_initializer="ones")
    if call:
        layer(Tensor(np.ones((1, features))))
    else:
        layer.build((None, features))
    for parameter in layer.parameters():
        parameter.assign(np.zeros(parameter.shape))
    return layer


def test_layer_built_within_its_model_keeps_its_weights(device):
    layer = layers.Dense(2)
    model = models.Sequential([layer], seed=1, device=device)
    layer.build((None, 3))
    weight = layer.weight
    weight.assign(model.backend.asarray(np.zeros((3, 2))))
    assert layer.built
    assert layer.count_params() == 8
    assert model(np.ones((1, 3))).numpy().tolist() == [[0, 0]]
    assert layer.weight is weight
    assert layer.output_shape == model.output_shape == (None, 2)


@pytest.mark.parametrize("call", [False, True])
@pytest.mark.parametrize("kind", [None, Twice, lambda: Twins("vw")])
def test_layer_built_before_its_model_keeps_its_weights(kind, call):
    layer = hand_built(kind and kind(), call=call)
    before = layer.parameters()
    model = models.Sequential([layers.ReLU(), layer])
    assert not model(np.ones((1, 3))).numpy().any()
    assert model.parameters() == before
    assert {name.partition("/")[0] for name in names_of(before)} == {layer.name}


def test_layer_built_by_hand_can_be_added_or_set_as_attribute():
    class Net(models.Model):
        def __init__(self):
            super().__init__()
            self.out = hand_built()

        def call(self, x):
            return self.out(x)

    assert not Net()(np.ones((1, 3))).numpy().any()
    grown = models.Sequential([layers.Dense(4, input_shape=(5,)), layers.Dense(3)])
    grown.add(hand_built())
    assert not grown(np.ones((1, 5))).numpy().any()


def test_hand_built_and_frozen_weight_stays_in_training():
    layer = hand_built()
    layer.weight.requires_grad = False
    model = models.Sequential([layer])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert not layer.weight.numpy().any()
    assert layer.bias.numpy().all()


def test_layer_built_for_other_features_is_rejected():
    message = r"dense: expected 4 features in the last axis, got shape \(1, 3\)"
    with pytest.raises(ValueError, match=message):
        models.Sequential([layers.Input((3,)), hand_built(features=4)])


def test_layer_built_with_another_dtype_than_its_model_is_rejected():
    with pytest.raises(ValueError, match=r"expected dense/weight .*float64, got cpu and float32"):
        models.Sequential([hand_built()], dtype="float64")


def test_weights_are_the_same_bits_if_a_layer_is_built_by_hand():
    layer = layers.Dense(2)
    models.Sequential([layer], seed=1)
    layer.build((None, 3))
    (expected, _) = models.Sequential([layers.Dense(2, input_shape=(3,))], seed=1).get_weights()
    assert layer.weight.numpy().tobytes() == expected.tobytes()


def test_layer_can_be_built_by_hand_after_a_failed_build():
    layer = Twice()
    Twins.failures.append("mine")
    with pytest.raises(KeyError, match="mine"):
        layer.build((None, 3))
    assert not layer.built
    layer.build((None, 3))
    assert len(layer.parameters()) == 3


def test_model_build_also_builds_a_subclass_that_defines_build():
    class Net(models.Model):
        def __init__(self):
            super().__init__()
            self.out = layers.Dense(2)

        def build(self, input_shape):
            self.scale = self.add_weight("scale", input_shape[-1:], "ones")

        def call(self, x):
            return self.out(x * self.scale)

    model = Net()
    model.build((None, 3))
    assert names_of(model.parameters()) == ["net/scale", "dense/weight", "dense/bias"]
    assert model.output_shape == (None, 2)
    before = model.parameters()
    model(np.ones((1, 3)))
    assert model.parameters() == before


@pytest.mark.parametrize("given", [layers.Dense(4), models.Sequential([layers.Dense(4)])])
@pytest.mark.parametrize("outer", [layers.Dense(3), models.Sequential([layers.Dense(3)])])
def test_call_on_a_layer_is_rejected_with_remedy(outer, given):
    message = rf"^{outer.label}: expected data or symbols, got the layer {given.label}\. .*Input"
    with pytest.raises(TypeError, match=message):
        outer(given)
