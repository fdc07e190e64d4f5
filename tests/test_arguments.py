"""Checks of arguments, choice by name, and alternatives to names of Keras and PyTorch."""

import copy
import importlib.util
import inspect
import pickle
import re
import traceback
import types
from functools import partial
from pkgutil import resolve_name
from types import ModuleType

import numpy as np
import pytest

import minidl
from minidl import (
    Tensor,
    callbacks,
    constraints,
    datasets,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    rng,
)
from minidl.alternatives import ALTERNATIVES, refuse_names, suggest_alternatives
from minidl.arguments import choose, number, positive_integer
from minidl.constraints import Constraint
from minidl.optimizers import Adam, schedules

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


# Constructors, the name of a number of theirs, valid values, and values out of range.
NUMBERS = [
    (callbacks.EarlyStopping, "patience", [0, 3], [-1]),
    (callbacks.EarlyStopping, "min_delta", [0, -0.5, 2], [np.nan, np.inf]),
    (callbacks.EarlyStopping, "baseline", [None, 0.5, -2], [np.nan, -np.inf]),
    (callbacks.ReduceLROnPlateau, "factor", [0.5], [0, 1, -0.1, np.nan]),
    (callbacks.ReduceLROnPlateau, "patience", [0, 3], [-1]),
    (callbacks.ReduceLROnPlateau, "min_delta", [0, 0.5], [np.nan]),
    (callbacks.ReduceLROnPlateau, "cooldown", [0, 3], [-1]),
    (callbacks.ReduceLROnPlateau, "min_lr", [0, 0.1], [-0.1, np.inf]),
    (partial(callbacks.ModelCheckpoint, "files"), "every_steps", [None, 1], [0, -1]),
    (partial(callbacks.ModelCheckpoint, "files", every_steps=1), "every_epochs", [None, 1], [0]),
    (partial(callbacks.ModelCheckpoint, "files"), "keep", [1, 5], [0, -1]),
    (callbacks.TerminateOnNaN, "every", [1, 5], [0, -1]),
    (optimizers.SGD, "learning_rate", [0, 0.1], [-1, np.nan, 10**400]),
    (optimizers.SGD, "momentum", [0, 0.9], [1, -0.1, np.nan]),
    (optimizers.SGD, "weight_decay", [None, 0, 0.1], [-1, np.inf]),
    (optimizers.RMSprop, "rho", [0, 0.9], [1, 10**400]),
    (optimizers.RMSprop, "epsilon", [0, 1e-7], [-1, np.nan]),
    (optimizers.Adam, "beta_1", [0, 0.9], [1]),
    (optimizers.Adam, "beta_2", [0, 0.9], [-1]),
    (optimizers.AdamW, "weight_decay", [None, 0.1], [np.nan]),
    (partial(schedules.ExponentialDecay, 0.1, 10), "decay_rate", [0, 0.5], [np.nan]),
    (partial(schedules.InverseTimeDecay, decay_steps=1, decay_rate=1), "initial_learning_rate",
     [0, 0.5], [-1, np.inf]),
    (partial(schedules.CosineDecay, 0.1), "decay_steps", [1, 2.5], [0, np.nan]),
    (partial(schedules.CosineDecay, 0.1, 10), "alpha", [0, 0.5], [-1]),
    (constraints.MaxNorm, "max_value", [1, 2.5], [0, -1, np.inf]),
    (constraints.MaxNorm, "axis", [0, -1], []),
    (layers.Dropout, "rate", [0, 0.5, 1], [-0.1, 1.5, np.nan]),
    (partial(layers.Rescaling, 1), "offset", [0, -2.5], [np.nan]),
    (layers.Rescaling, "scale", [0, -2.5], [np.inf]),
    (layers.Softmax, "axis", [0, -1], []),
    (layers.Dense, "units", [1, 5], [0, -1]),
    (initializers.HeNormal, "seed", [None, 0, 5], [-1, 2**64]),
]  # fmt: skip
INTEGERS = {
    "patience", "cooldown", "every_steps", "every_epochs", "keep", "every", "axis", "units", "seed",
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "name", "valid", "invalid"),
    NUMBERS,
    ids=[f"{getattr(make, 'func', make).__name__}-{name}" for make, name, *_ in NUMBERS],
)
def test_constructor_accepts_numbers_in_range_only(make, name, valid, invalid):
    kind = np.int64 if name in INTEGERS else np.float64
    for value in valid:
        for given in {value, None if value is None else kind(value)}:
            kept = getattr(make(**{name: given}), name)
            assert kept == (abs(value) if name == "min_delta" else value)
            assert type(kept) in (int, float, type(None))
    others = ["1", "a", True, np.True_, 1j, [1], object()]
    others += [] if name == "seed" else [np.array([0.5, 0.5])]
    others += [] if None in valid else [None]
    others += [2.5, np.float64(1)] if name in INTEGERS else []
    who = getattr(make, "func", make).__name__
    for value in invalid + others:
        with pytest.raises((TypeError, ValueError), match=rf"^{who}:.* expected .*, got ") as error:
            make(**{name: value})
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (layers.Dropout(0.5), "rate", 1.5),
        (layers.Dropout(0.5), "rate", "a"),
        (layers.Dropout(0.5), "rate", True),
        (layers.Dropout(0.5), "rate", None),
        (layers.Rescaling(1), "scale", "0.5"),
        (layers.Rescaling(1), "offset", np.nan),
        (optimizers.Adam(), "beta_1", "0.9"),
        (optimizers.Adam(), "epsilon", -1),
        (optimizers.SGD(), "momentum", None),
        (optimizers.SGD(), "momentum", 1.0),
        (optimizers.SGD(), "weight_decay", "a"),
        (optimizers.SGD(), "learning_rate", True),
        (optimizers.RMSprop(), "rho", np.inf),
        (schedules.CosineDecay(0.1, 10), "decay_steps", 0),
        (constraints.MaxNorm(), "max_value", -1),
    ],
)
def test_setting_invalid_number_raises_and_changes_nothing(owner, name, value):
    before = getattr(owner, name)
    with pytest.raises((TypeError, ValueError), match=rf"{type(owner).__name__}: expected {name} "):
        setattr(owner, name, value)
    assert getattr(owner, name) == before


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (layers.Dropout(0.5), "rate"),
        (optimizers.SGD(momentum=0.9), "momentum"),
        (optimizers.SGD(weight_decay=0.5), "weight_decay"),
        (constraints.MaxNorm(3), "max_value"),
    ],
)
def test_checked_number_can_be_set_copied_and_pickled(owner, name):
    before = getattr(owner, name)
    for again in (copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):
        assert getattr(again, name) == before
        setattr(again, name, np.float32(0.25))
        assert (getattr(again, name), type(getattr(again, name))) == (0.25, float)
    assert getattr(owner, name) == before


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", [0, 0.5, 1, -0.0], [-1e-9, 1.1]),
        ("[0, 1)", [0, 0.5], [1, -1e-9]),
        ("(0, 1]", [1e-9, 1], [0, 1.1]),
        ("(-inf, inf)", [-1e308, 0, 1e308], [np.inf, -np.inf]),
    ],
)
def test_number_knows_the_ends_of_an_interval(interval, inside, outside):
    assert [number("f", "x", value, interval) for value in inside] == inside
    for value in [*outside, np.nan, np.float32("nan")]:
        with pytest.raises(ValueError, match=rf"f: expected x in {re.escape(interval)}, got "):
            number("f", "x", value, interval)


# ------------------------------------------------------------------------------ lists

ONE = layers.Dense(2, input_shape=(3,))


class Mine(layers.Layer):
    """A layer of the user."""

    def call(self, x):
        return x


def metrics_of(given):
    network = models.Sequential([ONE])
    network.compile("sgd", "mse", metrics=given)
    return network.metrics


def loaded(kinds, folder):
    network = models.Sequential([Mine(input_shape=(3,))])
    network.save(folder / "x.safetensors")
    return models.load(folder / "x.safetensors", custom_objects=kinds).layers


def weights_set(arrays):
    network = models.Sequential([layers.Dense(2, input_shape=(3,))])
    network.set_weights(arrays)
    return network.get_weights()


def updated(chosen):
    network = models.Sequential([layers.Dense(2, input_shape=(3,))])
    network(np.ones((1, 3))).sum().backward()
    optimizer = optimizers.SGD()
    optimizer.update(parameter for parameter in network.parameters()[: len(list(chosen))])
    return [p for p in network.parameters() if p.grad is None]


TAKES_LIST = {
    "compile": (lambda values, _: metrics_of(values), ["accuracy", metrics.Accuracy("other")]),
    "Sequential": (lambda values, _: models.Sequential(values).layers, [ONE, layers.ReLU()]),
    "load": (loaded, [Mine]),
    "set_weights": (lambda values, _: weights_set(values), [np.ones((3, 2)), np.ones(2)]),
    "update": (lambda values, _: updated(values), [0, 1]),
    "boundaries": (
        lambda values, _: schedules.PiecewiseConstantDecay(values, [1, 2, 3]).boundaries, [1, 2]
    ),
    "values": (lambda values, _: schedules.PiecewiseConstantDecay([1], values).values, [1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKES_LIST)
@pytest.mark.parametrize("form", [list, tuple, iter, lambda values: (value for value in values)])
def test_any_iterable_is_taken_for_a_list(name, form, tmp_path):
    use, values = TAKES_LIST[name]
    assert len(use(form(values), tmp_path)) == len(values)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (name, form)
        for name in ("compile", "Sequential", "load", "boundaries", "values")
        for form in (set, dict.fromkeys, lambda values: values[0], lambda values: 0)
        if (name, form) != ("load", dict.fromkeys)  # a dictionary of custom objects, as in Keras
    ],
)
def test_what_is_no_list_is_rejected(name, form, tmp_path):
    use, values = TAKES_LIST[name]
    with pytest.raises(TypeError, match=r"^\w+: expected \w+ to be a list, got .* Use \[\.\.\.\]"):
        use(form(values), tmp_path)


@pytest.mark.parametrize(
    ("use", "who"),
    [
        (Tensor, "Tensor: values"),
        (lambda masked: Tensor([1.0, 2.0]) * masked, "multiply: an operand"),
        (lambda masked: masked - Tensor([1.0, 2.0]), "subtract: an operand"),
        (lambda masked: Tensor([1.0, 2.0]) < masked, "lt"),
        (lambda masked: Tensor([1.0, 2.0])[masked], "getitem"),
        (models.Sequential([layers.Dense(1)], name="net"), "net: x"),
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
            lambda: callbacks.RemoteMonitor,
            "callbacks: expected one of .* Callback.*, got Remote",
        ),
        (lambda: losses.MSELoss(), r"losses: .* MSELoss\. Use MeanSquaredError"),
        (lambda: metrics.IoU(), "metrics: expected one of .*Metric.*, got IoU"),
        (lambda: models.load_model("x"), r"models: .* load_model\. Use models\.load"),
        (lambda: optimizers.Lion(), "optimizers: expected one of .*Optimizer.*, got Lion"),
        (lambda: layers.Conv2D, r"layers: .* Conv2D\. Use Flatten and Dense"),
        (
            lambda: layers.Dens,
            r"layers: expected one of .*, Dense, .*, got Dens\. Did you mean Dense\?$",
        ),
        (lambda: datasets.cifar10, "datasets: expected one of .*mnist.*, got cifar10"),
        (lambda: optimizers.Adan(), "optimizers: expected one of SGD, Adam, .*, got Adan"),
        (lambda: model().weights, r"Model: .* weights\. Use model\.parameters\(\)"),
        (lambda: model().state_dict(), r"Model: .* state_dict\. Use model\.save_weights"),
        (lambda: model().eval(), r"Model: .* eval\. .*minidl\.training\(\)"),
        (lambda: model().fitt, "'Sequential' object has no attribute 'fitt'"),
        (lambda: Adam().step(), r"Optimizer: .* step\. Use optimizer\.update"),
        (lambda: Adam().zero_grad(), r"Optimizer: .* zero_grad\. .*update\(\) clears"),
        (
            lambda: metrics.AUC().add_weight,
            r"Metric: .* add_weight\. Set attributes in reset_state",
        ),
        (lambda: metrics.AUC().weight, "'AUC' object has no attribute 'weight'"),
        (lambda: Tensor([1.0]).square(), r"^Tensor: minidl has no square\. Use x \* x\.$"),
        (lambda: Tensor([1.0]).squared, "'Tensor' object has no attribute 'squared'"),
        (lambda: Adam().rate, "'Adam' object has no attribute 'rate'"),
        (lambda: Adam().lr, r"Optimizer: .* lr\. Use optimizer\.learning_rate"),
        (lambda: model().layers[0].weights, r"Layer: .* weights\. .*parameters\(\)"),
        (lambda: model().layers[0].unit, "'Dense' object has no attribute 'unit'"),
    ],
)
def test_missing_name_raises_with_alternative(look_up, message):
    with pytest.raises(AttributeError, match=message):
        look_up()


@pytest.mark.parametrize(
    "look_up", [lambda: models.load_model, lambda: layers.Dens, lambda: model().weights]
)
def test_traceback_of_missing_name_has_no_guess_after_the_advice(look_up):
    with pytest.raises(AttributeError) as caught:
        look_up()
    assert "".join(traceback.format_exception(caught.value)).endswith(f"{caught.value}\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(lr=0.1), r"^Adam: expected lr to be None, got 0.1\. Use learning_rate\.$"),
        (lambda: layers.Dense(2, input_dim=3), r"^Dense: .* input_dim .*Use input_shape="),
        (lambda: model().export("x.onnx", format="tf_saved_model"), "^export: expected format to"),
    ],
)
def test_argument_of_keras_is_rejected_with_what_to_use(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("owner", "name", "who"),
    [
        (Adam(), "lr", "Optimizer"),
    ],
)
def test_setting_attribute_without_effect_raises(owner, name, who):
    with pytest.raises(AttributeError, match=rf"^{who}: minidl has no {name}\. "):
        setattr(owner, name, False)


def test_subclass_can_define_unavailable_attribute():
    class Gate(layers.Layer):
        weights = True

    gate = Gate()
    gate.weights = False
    assert not gate.weights


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


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("from minidl.layers import Conv2D", r"layers: minidl has no Conv2D\. Use Flatten"),
        (
            "from minidl.layers import Dense, Dens",
            "layers: expected one of .*, Dense, .*, got Dens",
        ),
        ("from minidl.losses import MSELoss", r"losses: .* MSELoss\. Use MeanSquaredError"),
        ("from minidl.models import load_model", r"models: .* load_model\. Use models\.load"),
        ("from minidl import utils", r"minidl: minidl has no utils\. .*np\.eye"),
        ("import minidl.utils", r"minidl: minidl has no utils\. "),
        ("from minidl.utils import to_categorical", r"minidl: minidl has no utils\. .*np\.eye"),
        ("from minidl.keras.layers import Dense", r"minidl: minidl has no keras\. Import layers"),
        ("from minidl import keras", r"minidl: minidl has no keras\. "),
    ],
)
def test_import_of_missing_name_raises_with_alternative(statement, message):
    with pytest.raises(ImportError, match=f"^{message}"):
        exec(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "from minidl.layers import Dense",
        "from minidl.layers import base",
        "from minidl.layers import *",
        "import minidl.commands.report",
        "from minidl import train",
    ],
)
def test_import_of_modules_and_names_that_exist_works(statement):
    exec(statement)


def test_private_modules_and_those_of_others_are_just_not_found():
    assert importlib.util.find_spec("minidl.layers.__main__") is None
    assert importlib.util.find_spec("tests_of_nobody") is None


def test_models_can_be_copied_and_pickled():
    first = model()
    for other in (copy.copy(first), copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert other.count_params() == first.count_params()


# ------------------------------------------------------------------------------ definitions


@pytest.mark.parametrize("base", [layers.Layer, models.Model, models.Sequential])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda self, x, mask: x, r"mask\. "),
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
    for base in (
        models.Model,
        losses.Loss,
        initializers.Initializer,
        Constraint,
        optimizers.Optimizer,
    )
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
    "use_ema": lambda m: optimizers.Adam(use_ema=True),
    "lr": lambda m: optimizers.SGD(lr=0.1),
    "activity_regularizer": lambda m: layers.Dense(2, activity_regularizer="l2"),
    "dtype": lambda m: layers.Dense(2, dtype="float64"),
    "unit": lambda m: layers.Dense(2, unit=3),
    "patience_": lambda m: callbacks.EarlyStopping("loss", patience_=1),
    "workers": lambda m: m.fit(X, Y, workers=4),
    "run_eagerly": lambda m: m.compile("adam", "mse", run_eagerly=True),
    "sample_weights": lambda m: m.evaluate(X, Y, sample_weights=Y),
    "shuffle": lambda m: m.predict(X, shuffle=False),
}


@pytest.mark.parametrize("name", UNKNOWN_ARGUMENTS)
def test_unknown_argument_raises_and_changes_nothing(name):
    trained = compiled()
    trained.fit(X, Y, verbose=0)
    optimizer, before = trained.optimizer, trained.train_state.snapshot()
    message = f"unexpected keyword argument '{name}'|: expected {name} to be "
    with pytest.raises(TypeError, match=message):
        UNKNOWN_ARGUMENTS[name](trained)
    after = trained.train_state.state()
    assert trained.optimizer is optimizer
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_equal(after[key], value, err_msg=key)


COMMON = {"loss_scale_factor": None, "use_ema": False, "ema_momentum": 0.99}
LAYER = {"trainable": True, "dtype": "float32", "activity_regularizer": None}
LOSS = {"dtype": None}
DEFAULTS = {  # a call, and arguments of Keras at their defaults
    "Dense": (lambda **k: layers.Dense(2, **k), {**LAYER, "lora_rank": None}),
    "Dropout": (lambda **k: layers.Dropout(0.5, **k), LAYER),
    "Flatten": (layers.Flatten, {**LAYER, "data_format": None}),
    "BatchNormalization": (
        layers.BatchNormalization,
        {"synchronized": False},
    ),
    "LayerNormalization": (layers.LayerNormalization, {"rms_scaling": False}),
    "Input": (lambda **k: layers.Input((2,), **k), {"batch_size": None, "sparse": False}),
    "Sequential": (models.Sequential, {"trainable": True}),
    "Model": (models.Model, {"trainable": True}),
    "SGD": (optimizers.SGD, {**COMMON, "name": "SGD"}),
    "RMSprop": (optimizers.RMSprop, {**COMMON, "centered": False, "momentum": 0.0}),
    "Adam": (optimizers.Adam, {**COMMON, "name": "adam"}),
    "AdamW": (optimizers.AdamW, COMMON),
    "Nadam": (optimizers.Nadam, {**COMMON, "amsgrad": np.False_}),
    "CosineDecay": (
        lambda **k: optimizers.schedules.CosineDecay(0.1, 9, **k),
        {"name": "CosineDecay"},
    ),
    "CategoricalCrossentropy": (
        losses.CategoricalCrossentropy,
        {**LOSS, "axis": -1, "name": "categorical_crossentropy"},
    ),
    "SparseCategoricalCrossentropy": (
        losses.SparseCategoricalCrossentropy,
        {**LOSS, "ignore_class": None},
    ),
    "MeanSquaredError": (losses.MeanSquaredError, {**LOSS, "name": "mean_squared_error"}),
    "Huber": (losses.Huber, {**LOSS, "name": "huber_loss"}),
    "Accuracy": (metrics.Accuracy, {"dtype": None}),
    "Recall": (metrics.Recall, {"dtype": None}),
    "AUC": (metrics.AUC, {"dtype": None, "multi_label": False, "thresholds": None}),
    "compile": (
        lambda **k: compiled().compile("sgd", "mse", **k),
        {"run_eagerly": False, "jit_compile": "auto"},
    ),
    "fit": (
        lambda **k: compiled().fit(X, Y, verbose=0, **k),
        {"workers": 1},
    ),
}


@pytest.mark.parametrize("who", DEFAULTS)
def test_arguments_of_keras_are_accepted_at_their_defaults_only(who):
    call, defaults = DEFAULTS[who]
    call(**defaults)
    for name, value in defaults.items():
        for other in ("other", np.ones(2), [value]):
            with pytest.raises(TypeError, match=rf"^{who}: expected {name} to be .+, got"):
                call(**{name: other})
    with pytest.raises(TypeError, match="unexpected keyword argument 'clip_norm'"):
        call(clip_norm=None)


def test_rejected_argument_of_keras_names_the_remedy():
    for argument, remedy in {
        "trainable": "its attribute trainable",
        "dtype": "model its dtype=",
    }.items():
        with pytest.raises(TypeError, match=remedy):
            layers.Dense(2, **{argument: "other"})


def test_default_arguments_change_neither_signature_nor_attributes():
    plain, explicit = layers.Dense(2), layers.Dense(2, trainable=True, lora_rank=None)
    assert vars(plain).keys() == vars(explicit).keys()
    assert "lora_rank" not in inspect.signature(layers.Dense).parameters
    assert list(inspect.signature(losses.MeanSquaredError).parameters) == ["reduction"]
    assert "x" in inspect.signature(models.Model.fit).parameters


def test_subclass_passes_default_arguments_on():
    class Mine(layers.Layer):
        def __init__(self, width, **arguments):
            super().__init__(**arguments)
            self.width = width

    assert Mine(3, trainable=True, name="a").name == "a"
    with pytest.raises(TypeError, match=r"^Mine: expected trainable to be True, got False"):
        Mine(3, trainable=False)


# ------------------------------------------------------------------------------ completeness

OWNERS = {
    **{module.__name__.removeprefix("minidl."): module for module in MODULES},
    "Layer": layers.Dense(2),
    "Metric": metrics.AUC(),
    "Model": model(),
    "Optimizer": Adam(),
    "Callback": callbacks.Callback(),
    "Tensor": Tensor([1.0]),
}
CHECKED_ELSEWHERE = {
    *("argument", "loss", "metric", "call's parameters"),
    *(place for place in ALTERNATIVES if place.startswith("methods of ")),
}


@pytest.mark.parametrize("module", MODULES)
def test_module_has_the_names_that_it_lists(module):
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("place", OWNERS)
def test_names_with_alternatives_are_missing(place):
    owner = OWNERS[place]
    found = [name for name in ALTERNATIVES.get(place, {}) if hasattr(owner, name)]
    # `minidl.sklearn` is there once a test has imported it.
    assert [name for name in found if not isinstance(getattr(owner, name), ModuleType)] == []


def test_every_place_of_alternatives_is_checked():
    assert set(ALTERNATIVES) <= set(OWNERS) | CHECKED_ELSEWHERE


def test_alternatives_name_objects_that_exist():
    texts = " ".join(text for place in ALTERNATIVES.values() for text in place.values())
    mentioned = re.findall(
        r"\b((?:minidl|rng|callbacks|losses|metrics|models|optimizers)\.[\w.]+)", texts
    )
    assert {"models.load", "models.Sequential"} <= set(mentioned)
    for path in set(mentioned):
        assert resolve_name(f"minidl.{path.removeprefix('minidl.')}") is not None
