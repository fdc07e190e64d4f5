"""Checks of arguments, choice by name, and alternatives to names of Keras and PyTorch."""

import copy
import pickle
import re
import types

import numpy as np
import pytest

import minidl
from minidl import (
    Tensor,
    callbacks,
    datasets,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    rng,
)
from minidl.arguments import (
    ALTERNATIVES,
    choose,
    positive_integer,
    refuse_names,
    suggest_alternatives,
)
from minidl.constraints import MaxNorm
from minidl.optimizers import Adam

MODULES = [minidl, callbacks, datasets, layers, losses, metrics, models, optimizers]


def model():
    return models.Sequential([layers.Dense(2, input_shape=(3,))])


# ------------------------------------------------------------------------------ numbers and arrays


@pytest.mark.parametrize("value", [1, np.int64(3), np.uint8(4), np.array(5)])
def test_positive_integer_returns_python_integer(value):
    number = positive_integer("fit: epochs", value)
    assert number == value
    assert type(number) is int


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", None, True, np.True_])
def test_positive_integer_rejects_other_values(value):
    message = f"fit: epochs: expected a positive integer, got {re.escape(repr(value))}"
    with pytest.raises(ValueError, match=message):
        positive_integer("fit: epochs", value)


@pytest.mark.parametrize(
    ("use", "who"),
    [
        (Tensor, "Tensor"),
        (lambda masked: Tensor([1.0, 2.0]) * masked, "multiply"),
        (lambda masked: masked - Tensor([1.0, 2.0]), "subtract"),
        (lambda masked: Tensor([1.0, 2.0]) < masked, "lt"),
        (lambda masked: Tensor([1.0, 2.0])[masked], "getitem"),
        (models.Sequential([layers.Dense(1)], name="net"), "net"),
        (lambda masked: losses.MeanSquaredError()(masked, Tensor([1.0, 2.0])), "loss: y_true"),
        (
            lambda masked: losses.MeanSquaredError()([1, 2], Tensor([1.0, 2.0]), masked),
            "loss: sample_weight",
        ),
    ],
)
def test_masked_array_is_rejected(use, who):
    with pytest.raises(TypeError, match=f"^{who}: expected an ordinary array, got a masked array"):
        use(np.ma.masked_array([1.0, 2.0], mask=[True, False]))


# ------------------------------------------------------------------------------ choice by name


class Fruit:
    """Base class of things to choose from."""


class Apple(Fruit):
    """One of them."""


def test_choose_returns_given_object_or_makes_one_of_that_name():
    apple = Apple()
    assert choose("fruit", apple, Fruit, {"apple": Apple}) is apple
    assert type(choose("fruit", "APPLE", Fruit, {"apple": Apple})) is Apple


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("pear", r" Subclass Fruit for your own\."),
        (None, r" Subclass Fruit for your own\."),
        (Apple, r" Use Apple\(\)\."),
        (lambda x: x, r" Subclass Fruit for your own\."),
    ],
)
def test_choose_rejects_other_values_with_names_and_advice(given, advice):
    message = (
        f"fruit: expected a Fruit or one of apple, plum, got {re.escape(repr(given))}.{advice}$"
    )
    with pytest.raises(ValueError, match=message):
        choose("fruit", given, Fruit, {"apple": Apple, "plum": Apple})


@pytest.mark.parametrize(
    ("place", "get"),
    [("loss", losses.get), ("metric", metrics.get)],
)
def test_names_that_compile_lacks_have_alternatives(place, get):
    for name, alternative in ALTERNATIVES[place].items():
        for spelling in (name, name.upper()):
            message = f"{place}: .*'{spelling}'.*{re.escape(alternative[1:])}"
            with pytest.raises(ValueError, match=message):
                get(spelling)


# ------------------------------------------------------------------------------ missing names


@pytest.mark.parametrize(
    ("look_up", "message"),
    [
        (lambda: minidl.Sequential, r"minidl: .* Sequential\. Use models\.Sequential"),
        (lambda: minidl.manual_seed(0), r"minidl: .* manual_seed\. .*seed="),
        (
            lambda: callbacks.LambdaCallback,
            "callbacks: expected one of .* Callback.*, got Lambda",
        ),
        (lambda: losses.BinaryCrossentropy(), r"losses: .* BinaryCrossentropy\. .*Dense\(2"),
        (lambda: metrics.AUC(), "metrics: expected one of .*Metric.*, got AUC"),
        (lambda: models.load_model("x"), r"models: .* load_model\. Use models\.load"),
        (lambda: optimizers.Nadam(), "optimizers: expected one of .*Optimizer.*, got Nadam"),
        (lambda: layers.Conv2D, r"layers: .* Conv2D\. Use Flatten and Dense"),
        (lambda: layers.Dens, "layers: expected one of Activation, Dense, .*, got Dens"),
        (lambda: datasets.cifar10, "datasets: expected one of .*mnist.*, got cifar10"),
        (lambda: optimizers.Adan(), "optimizers: expected one of SGD, Adam, .*, got Adan"),
        (lambda: model().weights, r"Model: .* weights\. Use model\.parameters\(\)"),
        (lambda: model().state_dict(), r"Model: .* state_dict\. Use model\.save_weights"),
        (lambda: model().eval(), r"Model: .* eval\. .*minidl\.training\(\)"),
        (lambda: model().fitt, "'Sequential' object has no attribute 'fitt'"),
        (lambda: Adam().step(), r"Optimizer: .* step\. Use optimizer\.update"),
        (lambda: Adam().zero_grad(), r"Optimizer: .* zero_grad\. .*update\(\) clears"),
        (lambda: Adam().rate, "'Adam' object has no attribute 'rate'"),
        (lambda: Adam().lr, r"Optimizer: .* lr\. Use optimizer\.learning_rate"),
        (lambda: model().layers[0].get_weights(), r"Layer: .* get_weights\. .*parameters\(\)"),
        (lambda: model().layers[0].kernel, r"Layer: .* kernel\. Use layer\.weight"),
        (lambda: model().layers[0].unit, "'Dense' object has no attribute 'unit'"),
        (lambda: model().trainable, r"Layer: .* trainable\. Set requires_grad"),
    ],
)
def test_missing_name_raises_with_alternative(look_up, message):
    with pytest.raises(AttributeError, match=message):
        look_up()


@pytest.mark.parametrize(
    ("owner", "name", "who"),
    [
        (model(), "trainable", "Layer"),
        (layers.Dense(2), "trainable", "Layer"),
        (Adam(), "lr", "Optimizer"),
    ],
)
def test_setting_attribute_without_effect_raises(owner, name, who):
    with pytest.raises(AttributeError, match=rf"^{who}: minidl has no {name}\. "):
        setattr(owner, name, False)


def test_subclass_can_define_unavailable_attribute():
    class Gate(layers.Layer):
        trainable = True

    gate = Gate()
    gate.trainable = False
    assert not gate.trainable


def test_attribute_error_within_property_keeps_its_reason():
    class Net(models.Model):
        @property
        def weights(self):  # a name with an alternative
            return self.blocks

    with pytest.raises(AttributeError, match="'Net' object has no attribute 'blocks'"):
        Net().weights  # noqa: B018


def test_suggest_alternatives_adds_getattr_to_module():
    module = types.ModuleType("minidl.layers")
    module.__all__ = ["Dense"]
    suggest_alternatives(module)
    with pytest.raises(AttributeError, match=r"^layers: minidl has no Conv2D"):
        module.Conv2D  # noqa: B018
    with pytest.raises(AttributeError, match=r"^layers: expected one of Dense, got Conv9D"):
        module.Conv9D  # noqa: B018


def test_models_can_be_copied_and_pickled():
    first = model()
    for other in (copy.copy(first), copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert other.count_params() == first.count_params()


# ------------------------------------------------------------------------------ definitions


@pytest.mark.parametrize("base", [layers.Layer, models.Model, models.Sequential])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda self, x, training=None: x, r"training\. Use minidl\.rng\.is_training\(\)"),
        (lambda self, x, training: x, r"training\. "),
        (lambda self, x, *, mask=None: x, r"mask\. Leave it out"),
    ],
)
def test_class_whose_call_has_unavailable_parameter_is_rejected(base, call, message):
    with pytest.raises(TypeError, match=rf"^Net\.call: minidl has no {message}"):
        type("Net", (base,), {"call": call})


def test_call_can_have_other_parameters_and_reads_mode():
    class Mode(layers.Layer):
        def call(self, x, *, scale=1.0):
            return x * (0.0 if rng.is_training() else scale)

    layer, x = Mode(), Tensor([3.0])
    with minidl.training():
        assert layer(x).item() == 0.0
    assert layer(x).item() == 3.0


@pytest.mark.parametrize("name", sorted(ALTERNATIVES["Callback"]))
def test_callback_with_moment_that_never_comes_is_rejected(name):
    assert not hasattr(callbacks.Callback, name)

    def moment(self, *arguments):
        pass

    mixin = type("Mixin", (), {name: moment})
    for bases, body in (((callbacks.Callback,), {name: moment}), ((mixin, callbacks.Callback), {})):
        with pytest.raises(TypeError, match=rf"^Mine: minidl has no {name}\. "):
            type("Mine", bases, body)


METHODS = [
    (base, name)
    for base in (models.Model, losses.Loss, initializers.Initializer, MaxNorm, optimizers.Optimizer)
    for name in ALTERNATIVES[f"methods of {base.__name__}"]
]


@pytest.mark.parametrize(("base", "name"), METHODS)
def test_class_with_method_of_keras_that_is_never_called_is_rejected(base, name):
    assert name not in dir(base)
    body = {name: lambda self, *arguments: None}
    below = type("Below", (base,), {})
    for bases, own in (((base,), body), ((below,), body), ((type("Mixin", (), body), base), {})):
        with pytest.raises(TypeError, match=rf"^Mine: minidl has no {name}\. "):
            type("Mine", bases, own)


def test_class_with_methods_of_its_own_is_accepted():
    class Net(models.Model):
        def training_step(self, batch):
            return batch

        def fit(self, *arguments, **options):
            return "mine"

    assert (Net().training_step(3), Net().fit()) == (3, "mine")


TENSOR = Tensor([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("base", "method", "use"),
    [
        (layers.Layer, "call(self, x)", lambda thing: thing(TENSOR)),
        (losses.Loss, "per_sample(self, y_true, y_pred)", lambda thing: thing(TENSOR, TENSOR)),
        (
            metrics.Metric,
            "per_sample(self, y_true, y_pred)",
            lambda thing: thing.update_state(TENSOR, TENSOR),
        ),
        (
            initializers.Initializer,
            "draw(self, shape, *, seed, stream)",
            lambda thing: thing.draw((1,), seed=0, stream=0),
        ),
        (
            optimizers.Optimizer,
            "rule(self, weights, gradients, rate, decay)",
            lambda thing: thing.rule(None, None, 0.1, 1.0),
        ),
        (
            optimizers.schedules.LearningRateSchedule,
            "__call__(self, step)",
            lambda thing: thing(0),
        ),
    ],
)
def test_undefined_method_raises_with_class_and_method(base, method, use):
    kind = type("Mine", (base,), {})
    thing = kind(0.1) if base is optimizers.Optimizer else kind()
    with pytest.raises(NotImplementedError, match=rf"^Mine: .* method {re.escape(method)}\. Def"):
        use(thing)


def test_refuse_names_accepts_names_without_alternative():
    refuse_names("call's parameters", ["self", "x", "scale"], who="Net.call")


# ------------------------------------------------------------------------------ arguments of Keras


def compiled():
    built = model()
    built.compile("sgd", "mse")
    return built


X, Y = np.ones((4, 3)), np.ones((4, 2))

UNKNOWN_ARGUMENTS = {
    "clipnorm": lambda m: optimizers.Adam(clipnorm=1.0),
    "lr": lambda m: optimizers.SGD(lr=0.1),
    "kernel_regularizer": lambda m: layers.Dense(2, kernel_regularizer="l2"),
    "noise_shape": lambda m: layers.Dropout(0.5, noise_shape=(2,)),
    "dtype": lambda m: layers.Dense(2, dtype="float64"),
    "unit": lambda m: layers.Dense(2, unit=3),
    "save_best_only": lambda m: callbacks.ModelCheckpoint("best", save_best_only=True),
    "patience_": lambda m: callbacks.EarlyStopping("loss", patience_=1),
    "training": lambda m: m(X, training=True),
    "class_weight": lambda m: m.fit(X, Y, class_weight={0: 1.0}),
    "run_eagerly": lambda m: m.compile("adam", "mse", run_eagerly=True),
    "steps": lambda m: m.evaluate(X, Y, steps=2),
    "callbacks": lambda m: m.predict(X, callbacks=[]),
}


@pytest.mark.parametrize("name", UNKNOWN_ARGUMENTS)
def test_unknown_argument_raises_and_changes_nothing(name):
    trained = compiled()
    trained.fit(X, Y, verbose=0)
    optimizer, before = trained.optimizer, trained.train_state.snapshot()
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        UNKNOWN_ARGUMENTS[name](trained)
    after = trained.train_state.state()
    assert trained.optimizer is optimizer
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_equal(after[key], value, err_msg=key)


# ------------------------------------------------------------------------------ completeness

OWNERS = {
    **{module.__name__.removeprefix("minidl."): module for module in MODULES},
    "Layer": layers.Dense(2),
    "Model": model(),
    "Optimizer": Adam(),
    "Callback": callbacks.Callback(),
}
CHECKED_ELSEWHERE = {
    *("loss", "metric", "call's parameters"),
    *(place for place in ALTERNATIVES if place.startswith("methods of ")),
}


@pytest.mark.parametrize("module", MODULES)
def test_module_has_the_names_that_it_lists(module):
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("place", OWNERS)
def test_names_with_alternatives_are_missing(place):
    owner = OWNERS[place]
    assert [name for name in ALTERNATIVES.get(place, {}) if hasattr(owner, name)] == []


def test_every_place_of_alternatives_is_checked():
    assert set(ALTERNATIVES) <= set(OWNERS) | CHECKED_ELSEWHERE


def test_alternatives_name_objects_that_exist():
    texts = " ".join(text for place in ALTERNATIVES.values() for text in place.values())
    mentioned = re.findall(
        r"\b((?:minidl|rng|callbacks|losses|metrics|models|optimizers)\.[\w.]+)", texts
    )
    assert {"models.load", "minidl.rng.is_training"} <= set(mentioned)
    for path in set(mentioned):
        found = minidl
        for name in path.removeprefix("minidl.").split("."):
            found = getattr(found, name, None)
        assert found is not None, path
