"""Descriptions: which objects a file can name, and those of the user that it cannot."""

import json

import numpy as np
import pytest
from checkpoint_cases import SMALL, joined, rewritten, setter, small
from layer_table import LAYERS
from small_models import X, bits

from minidl import (
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    regularizers,
)
from minidl.formats.description import KNOWN, Builder, describe
from minidl.optimizers import schedules

# ------------------------------------------------------------------------------ minidl's classes

SYMBOL = layers.Input((3,))


def own_error(y_true, y_pred):
    return (y_pred - y_true) ** 4


ARGUMENTS = {
    "losses.FunctionLoss": (own_error,),
    "metrics.FunctionMetric": (own_error,),
    "metrics.Weighted": (metrics.MeanSquaredError(),),
    "losses.OutputLosses": ([losses.Huber(0.5), losses.MeanSquaredError()], ["a", "b"], [1, 2]),
    "metrics.OutputMetric": (metrics.Weighted(metrics.AUC()), 1, "b_auc"),
    "PiecewiseConstantDecay": ([2], [0.1, 0.2]),
    "CosineDecay": (0.1, 5),
    "CosineDecayRestarts": (0.1, 5),
    "ExponentialDecay": (0.1, 5, 0.5),
    "InverseTimeDecay": (0.1, 5, 0.5),
    "PolynomialDecay": (0.1, 5),
    "Functional": (SYMBOL, layers.Dense(2)(SYMBOL)),
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_class_of_minidl_is_built_again_from_its_description(name):
    make = LAYERS[name][0].make if name in LAYERS else KNOWN[name]
    described = describe(make(*ARGUMENTS.get(name, ())))
    assert json.loads(json.dumps(described)) == described
    assert described["class"] == name
    built = Builder([own_error]).build(described, object)
    assert type(built) is KNOWN[name]
    assert describe(built) == described


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_may_be_the_first_and_have_the_input_shape(name, path):
    first = LAYERS[name][0].make(input_shape=(4, 3))
    model = models.Sequential([first, layers.Dense(2)])
    model.save(path)
    again = models.load(path)
    assert again.input_shape == (4, 3)
    assert bits(model) == bits(again)


def public_classes(module, base):
    return {
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }


def test_no_class_of_minidl_is_missing():
    ours = public_classes(layers, layers.Layer) - {layers.Input}
    ours |= public_classes(losses, losses.Loss) | public_classes(optimizers, optimizers.Optimizer)
    ours |= public_classes(metrics, metrics.Metric)
    ours |= public_classes(schedules, schedules.LearningRateSchedule)
    ours |= public_classes(initializers, initializers.Initializer)
    ours |= public_classes(constraints, constraints.Constraint)
    ours |= public_classes(regularizers, regularizers.Regularizer)
    public = {kind for kind in ours if not kind.__name__.startswith("_")}
    assert len(public) > 20
    assert public - set(KNOWN.values()) == set()


# ------------------------------------------------------------------------------ custom_objects


class Scale(layers.Layer):
    """A layer with arguments and a weight."""

    def __init__(self, factor, initializer="ones", **arguments):
        super().__init__(**arguments)
        self.factor = factor
        self.initializer = initializers.get(initializer)

    def build(self, input_shape):
        self.weight = self.add_weight("weight", input_shape[1:], self.initializer)

    def call(self, x):
        return x * self.weight * self.factor


class Everywhere(initializers.Initializer):
    """An initializer with an argument."""

    def __init__(self, value=1.0):
        super().__init__()
        self.value = value

    def draw(self, shape, *, seed, stream):
        return np.full(shape, self.value)


class Huber(losses.Loss):
    """A loss with an argument."""

    def __init__(self, delta=1.0):
        self.delta = delta

    def per_sample(self, y_true, y_pred):
        difference = y_pred - y_true.astype(y_pred.dtype)
        return (difference * difference).clip(0, self.delta).mean(axis=1)


class WithinRange(metrics.Metric):
    """A metric with an argument and a name."""

    def __init__(self, distance=0.5, name="within"):
        super().__init__(name)
        self.distance = distance

    def per_sample(self, y_true, y_pred):
        distance = abs(y_pred.data - y_true.data).max(axis=-1)
        return y_pred.like(distance <= self.distance)


class Warmup(schedules.LearningRateSchedule):
    """A schedule that wraps another one."""

    def __init__(self, steps, then):
        self.steps = steps
        self.then = then

    def __call__(self, step):
        return self.then(step) * min(1.0, (step + 1) / self.steps)


class Signed(optimizers.Optimizer):
    """An optimizer with an argument and state."""

    state_names = ("previous",)

    def __init__(self, learning_rate=0.01, memory=0.5):
        super().__init__(learning_rate)
        self.memory = memory

    def rule(self, weights, gradients, rate, decay):
        previous = self.state["previous"]
        previous *= self.memory
        previous += gradients
        weights -= rate * np.sign(previous)


CUSTOM = [Scale, Everywhere, Huber, WithinRange, Warmup, Signed]


def custom_model():
    model = models.Sequential(
        [
            layers.Dense(4, input_shape=(4,), kernel_initializer=Everywhere(0.25)),
            models.Sequential([Scale(2.0, Everywhere(0.5)), layers.Dropout(0.5)]),
            Scale(3.0, name="last"),
        ],
        seed=4,
    )
    rate = Warmup(3, then=schedules.ExponentialDecay(0.1, 4, 0.5))
    model.compile(Signed(rate, memory=0.25), Huber(delta=2.0), metrics=[WithinRange(0.75)])
    return model


def test_classes_of_the_user_are_loaded_with_their_arguments(path):
    model = custom_model()
    model.save(path)
    again = models.load(path, custom_objects=CUSTOM)
    assert bits(again) == bits(model)
    first, nested, last = again.layers
    assert isinstance(first.kernel_initializer, Everywhere)
    assert first.kernel_initializer.value == 0.25
    assert (type(nested.layers[0]), nested.layers[0].factor) == (Scale, 2.0)
    assert nested.layers[0].initializer.value == 0.5
    assert (last.name, last.factor) == ("last", 3.0)
    assert (type(again.loss), again.loss.delta) == (Huber, 2.0)
    (metric,) = again.metrics
    assert (type(metric), metric.distance, metric.name) == (WithinRange, 0.75, "within")
    rate = again.optimizer.learning_rate
    assert (type(rate), rate.steps, type(rate.then)) == (Warmup, 3, schedules.ExponentialDecay)
    assert (type(again.optimizer), again.optimizer.memory) == (Signed, 0.25)


def test_run_with_classes_of_the_user_is_resumed_with_equal_bits(path):
    arguments = {"batch_size": 2, "verbose": 0}
    whole, first = custom_model(), custom_model()
    whole.fit(*SMALL, epochs=4, **arguments)
    first.fit(*SMALL, epochs=2, **arguments)
    first.save(path)
    again = models.load(path, custom_objects=CUSTOM)
    again.fit(*SMALL, epochs=4, **arguments, resume=True)
    assert bits(again) == bits(whole)
    assert again.history.history == whole.history.history


@pytest.mark.parametrize("missing", CUSTOM)
def test_load_without_a_custom_object_names_its_class(path, missing):
    custom_model().save(path)
    others = [kind for kind in CUSTOM if kind is not missing]
    with pytest.raises(ValueError, match=f"{path}: .*custom_objects, got '{missing.__name__}'"):
        models.load(path, custom_objects=others)


def test_custom_object_of_another_kind_is_rejected(path):
    models.Sequential([layers.Input((4,)), Scale(2.0)]).save(path)
    other = type("Scale", (losses.Loss,), {})
    with pytest.raises(ValueError, match=r"expected a Layer of minidl .*got 'Scale'"):
        models.load(path, custom_objects=[other])


class Rectified(layers.Dense):
    """A layer that passes arguments on, and sets one of them itself."""

    def __init__(self, units, gain=1.0, **arguments):
        super().__init__(units, activation="relu", **arguments)
        self.gain = gain

    def call(self, x):
        return super().call(x) * self.gain


class Renamed(layers.Dense):
    """A layer that passes on an argument without a default."""

    def __init__(self, gain, **arguments):
        super().__init__(**arguments)
        self.gain = gain


class Heavy(optimizers.SGD):
    """An optimizer that passes arguments on."""

    def __init__(self, learning_rate, **arguments):
        super().__init__(learning_rate, **arguments)


def test_arguments_that_go_to_the_base_class_are_saved(path):
    stack = [
        Rectified(3, gain=2.0, use_bias=False, kernel_initializer=Everywhere(0.5)),
        Renamed(gain=3.0, units=2, activation="tanh"),
        layers.Dense(2),
    ]
    model = models.Sequential([layers.Input((4,)), *stack])
    model.compile(Heavy(0.1, momentum=0.9, nesterov=True), "mse")
    model.save(path)
    again = models.load(path, custom_objects=[Rectified, Renamed, Heavy, Everywhere])
    x = np.random.default_rng(0).normal(size=(5, 4))
    assert np.array_equal(again.predict(x), model.predict(x))
    assert again.layers[0].kernel_initializer.value == 0.5
    assert (again.optimizer.momentum, again.optimizer.nesterov) == (0.9, True)


class Sum(layers.Layer):
    """A layer with a list of objects for an argument."""

    def __init__(self, starts, **arguments):
        super().__init__(**arguments)
        self.starts = starts

    def call(self, x):
        return x + sum(start.value for start in self.starts)


def test_objects_in_the_list_of_an_argument_are_built_again(path):
    model = models.Sequential([layers.Input((4,)), Sum([Everywhere(2.0), Everywhere(3.0)])])
    model.save(path)
    again = models.load(path, custom_objects=[Sum, Everywhere])
    assert [start.value for start in again.layers[0].starts] == [2.0, 3.0]


# ------------------------------------------------------------------------------ rejected classes


class Positional(layers.Layer):
    """A layer with positional arguments of any number."""

    def __init__(self, *factors, **arguments):
        super().__init__(**arguments)
        self.factors = factors

    def call(self, x):
        return x * self.factors[0]


class Forgets(layers.Layer):
    """A layer that does not keep its argument in an attribute of that name."""

    def __init__(self, factor, **arguments):
        super().__init__(**arguments)
        self._factor = factor

    def call(self, x):
        return x * self._factor


class Keeps(layers.Layer):
    """A layer that keeps any value."""

    def __init__(self, value, **arguments):
        super().__init__(**arguments)
        self.value = value

    def call(self, x):
        return x


def own_activation(x):
    return x


def namesake(base, name):
    """Return a class of the user with the name of a class of minidl."""
    return type(name, (base,), {"call": lambda self, x: x, "__module__": "mine"})


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (
            layers.Dense(2, own_activation),
            TypeError,
            r"\.own_activation, a function that files cannot hold",
        ),
        (layers.Activation(lambda x: x), TypeError, r"<lambda>, a function that files cannot hold"),
        (namesake(layers.Layer, "Softmax")(), TypeError, r"unique names .* mine\.Softmax"),
        (Forgets(2.0), TypeError, r"expected Forgets to keep its argument factor"),
        (Positional(2.0), TypeError, r"expected Positional to name its arguments, got \*factors"),
        (Keeps({"a": 1}), TypeError, r"got builtins\.dict"),
        (Keeps(np.ones(3)), TypeError, r"got numpy\.ndarray"),
        (Keeps(own_activation), TypeError, r"\.own_activation, a function that files cannot hold"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else None,
)
def test_layer_that_a_file_cannot_describe_is_rejected(path, layer, error, message):
    path.write_bytes(b"older")
    model = models.Sequential([layers.Input((3,)), layer])
    with pytest.raises(error, match=f"save: .*{message}"):
        model.save(path)
    assert path.read_bytes() == b"older"


def test_loss_with_the_name_of_one_of_minidl_is_rejected(path):
    model = models.Sequential([layers.Dense(2, input_shape=(3,))])
    model.compile("sgd", type("MeanSquaredError", (losses.MeanSquaredError,), {})())
    with pytest.raises(TypeError, match=r"save: .*unique names .*\.MeanSquaredError with"):
        model.save(path)
    assert not path.exists()


def test_two_classes_of_one_name_are_rejected(path):
    other = type("Scale", (Scale,), {})
    model = models.Sequential([layers.Input((3,)), Scale(2.0), other(3.0)])
    with pytest.raises(ValueError, match=r"save: .*unique names, got two named Scale"):
        model.save(path)
    assert not path.exists()


def test_subclasses_of_model_are_rejected(path):
    class Net(models.Model):
        pass

    class Stack(models.Sequential):
        pass

    for model in (Net(), models.Sequential([Stack([layers.Dense(2)])])):
        with pytest.raises(TypeError, match=r"save: .*\.(Net|Stack), a class that files"):
            model.save(path)


@pytest.mark.parametrize(
    ("custom_objects", "error", "message"),
    [
        (Scale, TypeError, "to be a list, got <class .*Scale"),
        ({"Scale": Scale(1.0)}, TypeError, "expected a list of classes, got <Scale"),
        ([Scale(1.0)], TypeError, "expected a list of classes, got <Scale"),
        ([Scale, type("Scale", (Scale,), {})], ValueError, "unique names, got two named Scale"),
        ([type("Dense", (layers.Layer,), {})], ValueError, "unique names, got two named Dense"),
    ],
)
def test_load_rejects_custom_objects_that_are_not_classes_with_unique_names(
    path, custom_objects, error, message
):
    models.Sequential([layers.Dense(2, input_shape=(3,))]).save(path)
    with pytest.raises(error, match=f"custom_objects:? .*{message}"):
        models.load(path, custom_objects=custom_objects)
    assert models.load(path, custom_objects=[Scale, Scale]).built


def test_load_takes_custom_objects_as_the_dictionary_of_keras(path):
    model = models.Sequential([layers.Dense(2, input_shape=(3,)), Scale(2.0)])
    model.save(path)
    again = models.load(path, custom_objects={"Scale": Scale})
    assert [type(layer) for layer in again.layers] == [layers.Dense, Scale]
    with pytest.raises(ValueError, match=r"got 'Scale'\. Pass your own classes: custom_objects="):
        models.load(path)


# ------------------------------------------------------------------------------ rejected models


def test_layer_that_occurs_twice_is_rejected(path):
    shared = layers.Dense(3)
    model = models.Sequential([layers.Input((3,)), shared, shared])
    with pytest.raises(ValueError, match=r"save: expected each layer once .*got dense more"):
        model.save(path)


def renamed():
    model = small()
    model.layers[0].name = "encoder"
    return model


def of_another_dtype():
    model = small()
    model.layers[1].bias.data = model.layers[1].bias.data.astype("float64")
    return model


def grown():
    model = models.Sequential([layers.Dense(4)])
    model.predict(SMALL[0])
    model.add(layers.Dense(4))
    return model


def with_a_bad_optimizer():
    model = small()
    vars(model.optimizer)["beta_1"] = 1.0  # setting it would raise
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (joined, "unique names, got two layers named 'dense'"),
        (renamed, "weights of encoder .*got a/weight"),
        (of_another_dtype, "expected b/bias to be float32.*got float64"),
        (grown, "sequential is not built and others are"),
        (lambda: models.Sequential(small().layers), "sequential is not built and others are"),
        (with_a_bad_optimizer, r"Adam: expected beta_1 in \[0, 1\), got 1.0"),
        (
            lambda: models.Sequential([layers.Flatten(input_shape=(2**12, 2**13))]),
            "expected samples of at most 16,777,216 numbers, got",
        ),
    ],
)
def test_model_that_could_not_be_loaded_is_not_saved(path, make, message):
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match=f"save: .*{message}"):
        make().save(path)
    assert path.read_bytes() == b"older"


def test_description_cannot_name_other_classes(path):
    models.Sequential([layers.Dense(2, input_shape=(3,))]).save(path)
    for name in ("Layer", "Input", "Model", "Parameter", "object", "os", "__import__"):
        rewritten(path, setter("network", "layers", 0, "class", value=name))
        with pytest.raises(ValueError, match=f"expected a Layer of minidl .*got '{name}'"):
            models.load(path)


def test_constraint_of_the_user_is_saved(path):
    class Halved(constraints.MaxNorm):
        pass

    model = models.Sequential(
        [layers.Dense(2, input_shape=(3,), kernel_constraint=Halved(0.5))], seed=1
    )
    model.save(path)
    again = models.load(path, custom_objects=[Halved])
    assert type(again.layers[0].weight.constraint) is Halved
    assert again.layers[0].weight.constraint.max_value == 0.5


class Nameless(layers.Layer):
    """A layer whose constructor takes no name."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


def test_layer_without_a_name_argument_is_saved_with_its_name(tmp_path):
    model = models.Sequential([Nameless(2.0), Nameless(3.0), layers.Dense(1, input_shape=(2,))])
    model(np.ones((1, 2)))
    model.save(tmp_path / "m.safetensors")
    again = models.load(tmp_path / "m.safetensors", custom_objects=[Nameless])
    assert [(layer.name, type(layer)) for layer in again.layers] == [
        (layer.name, type(layer)) for layer in model.layers
    ]
    assert [layer.name_is_given for layer in again.layers] == [False] * 3
    np.testing.assert_array_equal(
        again.predict(X[:3, :2], verbose=0), model.predict(X[:3, :2], verbose=0)
    )
