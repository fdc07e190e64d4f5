"""What every layer keeps to, from one table; then what each one is, and how models number them."""

import numpy as np
import pytest

import minidl
from minidl import Tensor, initializers, layers, metrics, models
from minidl.constraints import MaxNorm
from minidl.testing import check_gradient

DENSE_SEED = initializers.GlorotUniform(seed=3)


def square(x):
    """Return an activation that is no name."""
    return x * x


# A maker of the layer, and the shape of its input. A new layer needs a row.
LAYERS = {
    "Activation": [
        *[
            (lambda name=name: layers.Activation(name), (3, 5))
            for name in ("linear", "relu", "sigmoid", "softmax", "tanh")
        ],
        (lambda: layers.Activation(square), (3, 5)),
    ],
    "Dense": [
        (lambda: layers.Dense(4, kernel_initializer=DENSE_SEED), (3, 5)),
        (lambda: layers.Dense(1, "tanh", kernel_initializer=DENSE_SEED), (1, 1)),
        (lambda: layers.Dense(4, use_bias=False, kernel_initializer=DENSE_SEED), (2, 3, 5)),
        (lambda: layers.Dense(4, "relu", kernel_initializer=DENSE_SEED), (3, 5)),
        (lambda: layers.Dense(4, "softmax", kernel_initializer=DENSE_SEED), (3, 5)),
    ],
    "Dropout": [
        (lambda: layers.Dropout(0.4, seed=1), (3, 5)),
        (lambda: layers.Dropout(0.4, seed=1, scaling="inference"), (2, 3, 5)),
        (lambda: layers.Dropout(0.4, seed=1), (5,)),
    ],
    "Flatten": [(layers.Flatten, (3, 2, 4)), (layers.Flatten, (3, 5)), (layers.Flatten, (3,))],
    "ReLU": [(layers.ReLU, (3, 5))],
    "Rescaling": [
        (lambda: layers.Rescaling(1 / 255), (3, 5)),
        (lambda: layers.Rescaling(2.0, offset=-1.0), (3, 5)),
    ],
    "Softmax": [(layers.Softmax, (3, 5)), (lambda: layers.Softmax(axis=1), (2, 3, 4))],
}
CASES = [
    pytest.param(make, shape, id=f"{name}{number}")
    for name, rows in LAYERS.items()
    for number, (make, shape) in enumerate(rows)
]


def numbers(shape, dtype="float64", seed=0):
    """Return numbers that are not near a kink of relu."""
    values = np.random.default_rng(seed).uniform(0.1, 1.0, shape)
    signs = np.random.default_rng(seed + 1).choice([-1.0, 1.0], shape)
    return (values * signs).astype(dtype)


def model_of(layer, dtype, device="cpu"):
    return models.Sequential([layer], device=device, dtype=dtype, seed=2)


def test_every_layer_has_a_row():
    assert set(LAYERS) == set(layers.__all__) - {"Layer", "Parameter", "Input"}


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize(("make", "shape"), CASES)
def test_gradients_of_inputs_and_weights(make, shape, mode, device):
    layer = make()
    model = model_of(layer, "float64", device)
    model(np.zeros(shape))
    weights = [name for name in ("weight", "bias") if getattr(layer, name, None) is not None]
    shapes = [shape, *(getattr(layer, name).shape for name in weights)]

    def function(x, *values):
        vars(layer).update(zip(weights, values, strict=True))
        if mode == "inference":
            return model(x)
        with minidl.training(step=5):
            return model(x)

    inputs = [numbers(shape, seed=2 * place) for place, shape in enumerate(shapes)]
    check_gradient(function, *(Tensor(x, device, requires_grad=True) for x in inputs))


def test_a_wrong_gradient_of_a_layer_is_found():
    class HalfBlind(layers.Layer):
        def call(self, x):
            return x * x.detach()

    with pytest.raises(AssertionError, match="check_gradient"):
        check_gradient(HalfBlind(), Tensor(numbers((3, 5)), requires_grad=True))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("make", "shape"), CASES)
def test_the_dtype_of_the_input_is_the_dtype_of_the_output(make, shape, dtype, device):
    model = model_of(make(), dtype, device)
    with minidl.training(step=0):
        y = model(numbers(shape, dtype))
    assert y.dtype == model(numbers(shape, dtype)).dtype == dtype
    assert y.device == model.device
    assert {p.dtype for p in model.parameters()} <= {np.dtype(dtype)}
    if dtype != "float16":
        x = Tensor(numbers(shape, dtype), device=device, requires_grad=True)
        (y.sum() if y.requires_grad else model(x).sum()).backward()
        assert all(p.grad.dtype == dtype for p in model.parameters())


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_a_layer_alone_keeps_float32(make, shape):
    assert make()(Tensor(numbers(shape, "float32"))).dtype == "float32"


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_inputs_are_not_modified(make, shape, device):
    model = model_of(make(), "float32", device)
    x = Tensor(numbers(shape, "float32"), device=device)
    before = x.numpy()
    with minidl.training(step=0):
        model(x)
    model(x)
    assert np.array_equal(before, x.numpy())


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_non_contiguous_inputs_give_the_same_bits(make, shape):
    x = numbers((*shape, 2), "float32")[..., 0]
    strided, whole = model_of(make(), "float32"), model_of(make(), "float32")
    assert x.size < 2 or not x.flags.c_contiguous
    with minidl.training(step=0):
        first = strided(Tensor(x)).numpy()
    with minidl.training(step=0):
        second = whole(Tensor(x.copy())).numpy()
    np.testing.assert_array_equal(first, second)


# ------------------------------------------------------------------------------ each layer


def test_dense_is_x_times_weight_plus_bias(device):
    x, weight, bias = numbers((4, 3)), numbers((3, 2), seed=5), numbers((2,), seed=6)
    model = models.Sequential([layers.Dense(2, "relu")], device=device, dtype="float64")
    model(x)
    model.set_weights([weight, bias])
    np.testing.assert_allclose(model(x).numpy(), np.maximum(x @ weight + bias, 0), rtol=1e-13)


@pytest.mark.parametrize("units", [0, -1, 2.0, "3", None])
def test_dense_refuses_units(units):
    with pytest.raises(ValueError, match=f"Dense: units must be a positive integer, .*{units}"):
        layers.Dense(units)


def test_dense_names_itself_and_both_sizes_where_features_do_not_agree():
    model = models.Sequential([layers.Dense(2)])
    model(np.zeros((1, 3)))
    message = r"dense: expected inputs with 3 features in the last axis, received shape \(1, 4\)"
    with pytest.raises(ValueError, match=message):
        model(np.zeros((1, 4)))


def test_dense_keeps_its_constraint_and_has_no_bias_where_none_is_wanted():
    constraint = MaxNorm(1.0)
    layer = layers.Dense(2, use_bias=False, kernel_constraint=constraint)
    model = models.Sequential([layer], seed=0)
    model(np.zeros((1, 3)))
    assert layer.bias is None
    assert layer.weight.constraint is constraint
    assert [p.name for p in model.parameters()] == ["dense/weight"]


def test_an_unknown_activation_is_answered_with_the_names():
    with pytest.raises(ValueError, match="linear, relu, sigmoid, softmax, tanh; received 'gelu'"):
        layers.Dense(2, activation="gelu")


def test_softmax_of_large_logits_is_finite_and_sums_to_one():
    y = layers.Softmax()(Tensor(np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], "float32"))).numpy()
    np.testing.assert_allclose(y, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


def test_softmax_takes_its_axis():
    y = layers.Softmax(axis=1)(Tensor(numbers((2, 3, 4)))).numpy()
    np.testing.assert_allclose(y.sum(axis=1), np.ones((2, 4)), rtol=1e-12)


def test_rescaling_brings_bytes_to_the_unit_interval():
    model = models.Sequential([layers.Rescaling(1 / 255)])
    y = model(np.array([[0, 51, 255]], "uint8"))
    assert y.dtype == "float32"
    np.testing.assert_allclose(y.numpy(), [[0, 0.2, 1]], rtol=1e-6)


def test_flatten_keeps_the_batch_and_c_order():
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(layers.Flatten()(Tensor(x)).numpy(), x.reshape(2, 12))


@pytest.mark.parametrize("shape", [(0,), (2, -1), (2.0,), (None,)])
def test_an_input_shape_that_is_none_is_refused(shape):
    with pytest.raises(ValueError, match="input_shape must be a positive integer"):
        layers.Input(shape)


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: layers.Dense(2, kernel_regularizer="l2"), "use the optimizer's weight_decay"),
        (lambda: layers.Dropout(0.5, noise_shape=(2,)), "every element is decided by itself"),
        (lambda: layers.Dense(2, dtype="float64"), "give the dtype to the model"),
    ],
)
def test_what_keras_takes_and_minidl_does_not_is_refused_by_name(make, hint):
    with pytest.raises(TypeError, match=f"(Dense|Dropout): .* is not in minidl: {hint}"):
        make()


def test_an_argument_nobody_knows_is_refused():
    with pytest.raises(TypeError, match="Dense: got an unexpected argument 'unit'"):
        layers.Dense(2, unit=3)


def test_a_layer_of_keras_that_is_missing_names_the_nearest_way():
    with pytest.raises(AttributeError, match=r"Conv2D is not in minidl: .*use Flatten and Dense"):
        layers.Conv2D  # noqa: B018
    with pytest.raises(AttributeError, match="Dens is none of Activation, Dense, Dropout"):
        layers.Dens  # noqa: B018


def test_a_layer_without_call_says_so():
    with pytest.raises(NotImplementedError, match="Layer: a Layer must define call"):
        layers.Layer()(Tensor([1.0]))


# ------------------------------------------------------------------------------ names and numbers


def streams(model):
    return [layer.stream for layer in model.walk() if isinstance(layer, layers.Dropout)]


def names(model):
    return [layer.name for layer in model.walk() if layer is not model]


def dropout(**arguments):
    return layers.Dropout(0.5, **arguments)


def test_random_layers_are_numbered_depth_first():
    inside = models.Sequential([layers.Dense(3), dropout(), dropout()])
    model = models.Sequential([dropout(), inside, dropout()])
    assert streams(model) == [0, 1, 2, 3] == list(range(4))


def test_subclasses_number_layers_in_attributes_lists_and_dictionaries():
    class Net(models.Model):
        def __init__(self):
            super().__init__()
            self.first = dropout()
            self.several = [dropout(), (dropout(), {"a": dropout()})]
            self.last = dropout()

        def call(self, x):
            return self.last(self.several[1][1]["a"](self.first(x)))

    net = Net()
    net(np.zeros((1, 2)))
    assert streams(net) == [0, 1, 2, 3, 4]


def test_a_given_number_is_kept_and_the_others_go_around():
    assert streams(models.Sequential([dropout(), dropout(), dropout(stream=1)])) == [0, 2, 1]
    assert streams(models.Sequential([dropout(stream=0), dropout()])) == [0, 1]


def test_two_given_numbers_that_clash_are_refused():
    message = "dropout and dropout_1 both draw from stream 4; give one another number"
    with pytest.raises(ValueError, match=message):
        models.Sequential([dropout(stream=4), dropout(stream=4)])


def test_one_number_under_two_seeds_is_no_clash():
    model = models.Sequential([dropout(stream=4, seed=1), dropout(stream=4, seed=2), dropout()])
    assert streams(model) == [4, 4, 0]


def test_an_unused_nested_model_gives_way():
    inside = models.Sequential([dropout()])
    assert streams(inside) == [0]
    assert streams(models.Sequential([dropout(), inside, dropout()])) == [0, 1, 2]


def test_a_nested_model_that_has_drawn_keeps_its_number():
    inside = models.Sequential([dropout()])
    with minidl.training(step=0):
        inside(np.ones((2, 3)))
    assert streams(models.Sequential([dropout(), inside, dropout()])) == [1, 0, 2]


def test_two_nested_models_that_have_drawn_from_one_number_are_refused():
    used = [models.Sequential([dropout()]) for _ in range(2)]
    for model in used:
        with minidl.training(step=0):
            model(np.ones((2, 3)))
    with pytest.raises(ValueError, match="both draw from stream 0; give one another number"):
        models.Sequential(used)


def test_numbers_do_not_change_when_layers_are_added():
    model = models.Sequential([dropout()])
    model.add(models.Sequential([dropout(), dropout()]))
    before = streams(model)
    model.add(dropout())
    assert (before, streams(model)) == ([0, 1, 2], [0, 1, 2, 3])


def test_a_shared_layer_has_one_number_and_one_name():
    shared = dropout()
    model = models.Sequential([shared, layers.ReLU(), shared, dropout()])
    assert streams(model) == [0, 1]
    assert names(model) == ["dropout", "re_lu", "dropout_1"]


def test_layers_have_unique_names():
    model = models.Sequential(
        [layers.Dense(2), layers.Dense(2, name="dense_1"), layers.Dense(2), layers.ReLU()]
    )
    assert names(model) == ["dense", "dense_1", "dense_2", "re_lu"]


def test_names_that_nested_models_gave_give_way_with_their_weights():
    inside = [models.Sequential([layers.Dense(2, input_shape=(3,))]), models.Sequential([])]
    inside[1].add(layers.Dense(2, input_shape=(2,)))
    model = models.Sequential(inside)
    model(np.zeros((1, 3)))
    assert names(model) == ["sequential", "dense", "sequential_1", "dense_1"]
    assert [p.name for p in model.parameters()] == [
        "dense/weight",
        "dense/bias",
        "dense_1/weight",
        "dense_1/bias",
    ]


@pytest.mark.parametrize("name", [3, 0, b"bytes", ["list"]])
@pytest.mark.parametrize(
    "make",
    [
        lambda name: layers.Dense(2, name=name),
        lambda name: layers.Dropout(0.5, name=name),
        lambda name: models.Sequential(name=name),
        metrics.Accuracy,
    ],
)
def test_a_name_that_is_no_string_is_refused(make, name):
    with pytest.raises(TypeError, match=r"^(Dense|Dropout|Sequential|Accuracy): name must be a st"):
        make(name)


def test_two_layers_that_were_given_one_name_are_refused():
    with pytest.raises(ValueError, match="two layers are named 'a'; give each its own name"):
        models.Sequential([layers.ReLU(name="a"), layers.ReLU(name="a")])


# ------------------------------------------------------------------------------ initial weights


def network(**arguments):
    return models.Sequential(
        [layers.Dense(6, input_shape=(4,)), models.Sequential([layers.Dense(6)]), layers.Dense(6)],
        **arguments,
    )


def test_each_weight_has_its_own_stream():
    used = [p.stream for p in network().parameters()]
    assert used == [minidl.rng.WEIGHT_STREAMS + n for n in range(6)]
    second, third = network().get_weights()[2:5:2]
    assert not np.array_equal(second, third)


class Polynomial(layers.Layer):
    """Keep weights in containers: a + b x + c x^2 + d x^3."""

    def build(self, input_shape):
        size = input_shape[-1:]
        self.rest = [self.add_weight(name, size, "ones") for name in "ab"]
        self.rest.append(({"c": self.add_weight("c", size, "ones")},))
        self.cubic = self.add_weight("d", size, "ones")
        self.offset = self.rest[0]

    def call(self, x):
        a, b, (rest,) = self.rest
        return a + b * x + rest["c"] * x * x + self.cubic * x * x * x


def test_weights_in_lists_tuples_and_dictionaries_are_found_in_order_and_learn():
    model = models.Sequential([Polynomial(input_shape=(2,)), layers.Dense(1)], seed=1)
    names = [*(f"polynomial/{name}" for name in "abcd"), "dense/weight", "dense/bias"]
    assert [p.name for p in model.parameters()] == names
    assert [p.stream - minidl.rng.WEIGHT_STREAMS for p in model.parameters()] == list(range(6))
    assert model.count_params() == 4 * 2 + 3
    assert len(list(model.layers[0].own_parameters())) == 4  # one of them is held twice
    before = model.get_weights()
    model.compile("sgd", "mse")
    model.fit(numbers((5, 2)), numbers((5, 1)), verbose=0)
    after = model.get_weights()
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_weights_in_containers_are_renamed_with_their_layer():
    inside = [models.Sequential([Polynomial(input_shape=(2,))]) for _ in range(2)]
    found = [p.name for p in models.Sequential(inside).parameters()]
    assert found == [
        f"{layer}/{name}" for layer in ("polynomial", "polynomial_1") for name in "abcd"
    ]


def test_weights_in_containers_of_another_dtype_are_refused():
    layer = Polynomial()
    layer(Tensor(numbers((1, 2), "float32")))
    with pytest.raises(ValueError, match=r"polynomial/a was built on cpu as float32, and the mod"):
        models.Sequential([layer], dtype="float64")


def test_a_nested_model_that_is_built_keeps_its_streams_and_the_others_go_around():
    inside = models.Sequential([layers.Dense(4, input_shape=(4,))])
    model = models.Sequential([layers.Dense(4, input_shape=(4,)), inside])
    used = [p.stream - minidl.rng.WEIGHT_STREAMS for p in model.parameters()]
    assert used == [2, 3, 0, 1]


def test_weights_are_the_same_bits_for_one_seed_and_others_for_another():
    first, again, other = (network(seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first[::2], other[::2], strict=True))


def test_weights_do_not_depend_on_device_and_dtype_but_for_one_rounding(device):
    exact = network(seed=1, dtype="float64").get_weights()
    for dtype in ("float16", "float32", "float64"):
        rounded = network(seed=1, dtype=dtype, device=device).get_weights()
        assert all(w.dtype == dtype for w in rounded)
        for w, value in zip(rounded, exact, strict=True):
            assert np.array_equal(w, value.astype(dtype))


def test_weights_of_an_unseeded_layer_outside_of_a_model_are_refused():
    layer = layers.Dense(2)
    message = r"dense: its weights need a seed; put the layer in a model, .*GlorotUniform\(seed=0\)"
    with pytest.raises(RuntimeError, match=message):
        layer(Tensor(np.zeros((1, 3))))
    assert not layer.built


def test_weights_that_are_not_random_need_no_seed():
    y = layers.Dense(2, kernel_initializer="ones")(Tensor(np.ones((1, 3), "float32")))
    assert y.numpy().tolist() == [[3, 3]]


def test_a_layer_alone_wants_a_tensor():
    with pytest.raises(TypeError, match="relu: expected a Tensor, received ndarray; use Tensor"):
        layers.ReLU(name="relu")(np.ones(3))


def test_training_is_no_argument_of_a_call():
    with pytest.raises(TypeError, match="training is not in minidl: use `with minidl"):
        models.Sequential([layers.ReLU()])(np.ones((1, 3)), training=True)


@pytest.mark.parametrize(
    "stack",
    [
        lambda: [layers.Input((28, 28)), layers.Flatten(), layers.Dense(3)],
        lambda: [layers.Flatten(), layers.Dense(3, input_shape=(784,))],
    ],
)
def test_a_shape_that_was_given_is_held(stack):
    model = models.Sequential(stack())
    model(np.zeros((2, 28, 28)))
    with pytest.raises(ValueError, match=r"expected samples of shape .*, as its input_shape says"):
        model(np.zeros((2, 14, 14)))


def test_a_subclass_need_not_call_init():
    class Double(layers.Layer):
        def __init__(self):
            self.factor = 2

        def call(self, x):
            return x * self.factor

    model = models.Sequential([Double()])
    assert model(np.ones((1, 2))).numpy().tolist() == [[2, 2]]
    assert model.layers[0].name == "double"


@pytest.mark.parametrize("constraint", ["norm", 3.0])
def test_dense_refuses_what_is_no_constraint(constraint):
    with pytest.raises(ValueError, match="constraint: expected a MaxNorm or one of max_norm"):
        layers.Dense(2, kernel_constraint=constraint)


def test_a_constraint_on_an_axis_that_is_not_there_is_refused_when_the_layer_is_built():
    layer = layers.Dense(2, kernel_constraint=MaxNorm(1.0, axis=5))
    with pytest.raises(ValueError, match=r"MaxNorm.*: a weight of shape \(3, 2\) has no axis 5"):
        models.Sequential([layer])(np.zeros((1, 3)))


def test_a_model_that_is_not_built_does_not_count_its_weights():
    with pytest.raises(ValueError, match="not built, so its weights are not known"):
        models.Sequential([layers.Dense(2)]).count_params()


def test_units_may_be_an_integer_of_numpy():
    assert layers.Dense(np.uint8(4)).units == 4


def test_an_input_shape_that_is_a_number_is_refused():
    with pytest.raises(TypeError, match=r"Input: input_shape must be a tuple.*use \(784,\)"):
        layers.Input(784)


def test_an_activation_need_not_be_hashable():
    class Swish:
        __hash__ = None

        def __call__(self, x):
            return x * x.sigmoid()

    model = models.Sequential([layers.Dense(2, activation=Swish()), layers.Dropout(0.5)])
    model(np.ones((1, 3)))
    with minidl.training(step=0):
        model(np.ones((1, 3)))


@pytest.mark.parametrize(
    ("given", "shown"), [(["relu"], r"\['relu'\]"), (np.tanh, "<ufunc 'tanh'>")]
)
def test_what_is_no_activation_is_refused(given, shown):
    message = f"activation: expected a function of a Tensor or one of linear, .*; received {shown}"
    with pytest.raises(ValueError, match=message):
        layers.Dense(2, activation=given)


@pytest.mark.parametrize(("features", "remedy"), [(1, r"x\[:, None\]"), (3, r"x\[None\]")])
def test_an_axis_that_is_missing_is_named(features, remedy):
    layer = layers.Dense(2, input_shape=(features,))
    with pytest.raises(ValueError, match=rf"received \(\); for .* give {remedy}$"):
        layer(Tensor(np.ones(3)))
