"""What Keras and PyTorch have and minidl has not is refused by name, with the nearest way."""

import copy
import pickle

import pytest

import minidl
from minidl import callbacks, datasets, layers, losses, metrics, models, optimizers
from minidl.optimizers import Adam

MODULES = [minidl, callbacks, datasets, layers, losses, metrics, models, optimizers]


def model():
    return models.Sequential([layers.Dense(2, input_shape=(3,))])


@pytest.mark.parametrize(
    ("look", "message"),
    [
        (lambda: minidl.Sequential, "minidl: Sequential is not in minidl: use models.Sequential"),
        (lambda: minidl.manual_seed(0), "minidl: manual_seed is not .* give the model its seed="),
        (lambda: callbacks.LambdaCallback, "callbacks: LambdaCallback is not .*: subclass callb"),
        (lambda: losses.BinaryCrossentropy(), "losses: BinaryCrossentropy is not .*: end with Den"),
        (lambda: metrics.AUC(), "metrics: AUC is not in minidl: subclass metrics.Metric"),
        (lambda: models.load_model("x"), "models: load_model is not in minidl: use models.load"),
        (lambda: optimizers.Nadam(), "optimizers: Nadam is not in minidl: subclass optimizers"),
        (
            lambda: datasets.cifar10,
            "datasets: cifar10 is none of fashion_mnist, idx, kmnist, mnist",
        ),
        (lambda: optimizers.Adan(), "optimizers: Adan is none of SGD, Adam, AdamW, Optimizer, RMS"),
        (lambda: model().weights, r"Model: weights is not in minidl: use model.parameters\(\), or"),
        (
            lambda: model().state_dict(),
            "Model: state_dict is not in minidl: use model.save_weights",
        ),
        (lambda: model().eval(), "Model: eval is not in minidl: a model is in inference mode but"),
        (lambda: model().fitt, "'Sequential' object has no attribute 'fitt'"),
        (lambda: Adam().step(), "Optimizer: step is not in minidl: use optimizer.update"),
        (lambda: Adam().zero_grad(), "Optimizer: zero_grad is not .*: update clears the gradients"),
        (lambda: Adam().rate, "'Adam' object has no attribute 'rate'"),
        (lambda: model().layers[0].get_weights(), r"Layer: get_weights is not .* layer.parameters"),
        (lambda: model().layers[0].kernel, "Layer: kernel is not in minidl: use layer.weight"),
        (lambda: model().layers[0].unit, "'Dense' object has no attribute 'unit'"),
        (lambda: model().trainable, "Layer: trainable is not .*: set requires_grad of each"),
        (lambda: Adam().lr, "Optimizer: lr is not in minidl: use optimizer.learning_rate"),
    ],
)
def test_a_name_that_is_missing_names_the_nearest_way(look, message):
    with pytest.raises(AttributeError, match=message):
        look()


@pytest.mark.parametrize(
    ("owner", "name", "message"),
    [
        (model(), "trainable", "Layer: trainable is not in minidl: set requires_grad of each of"),
        (layers.Dense(2), "trainable", "Layer: trainable is not in minidl: set requires_grad of"),
        (Adam(), "lr", "Optimizer: lr is not in minidl: use optimizer.learning_rate"),
    ],
)
def test_an_attribute_that_would_do_nothing_is_not_set(owner, name, message):
    with pytest.raises(AttributeError, match=message):
        setattr(owner, name, False)


def test_a_subclass_may_have_such_an_attribute_of_its_own():
    class Gate(layers.Layer):
        trainable = True

    gate = Gate()
    gate.trainable = False
    assert not gate.trainable


@pytest.mark.parametrize("base", [layers.Layer, models.Model, models.Sequential])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda self, x, training=None: x, r"training is not in minidl: ask .*current_block\(\)"),
        (lambda self, x, training: x, "training is not in minidl"),
        (lambda self, x, *, mask=None: x, "mask is not in minidl: leave it out"),
    ],
)
def test_a_call_that_wants_what_it_is_never_told_is_refused(base, call, message):
    with pytest.raises(TypeError, match=rf"^Net\.call: {message}"):
        type("Net", (base,), {"call": call})


def test_a_call_asks_for_the_mode():
    class Mode(layers.Layer):
        def call(self, x, *, scale=1.0):
            return x * (scale if minidl.rng.current_block() is None else 0.0)

    layer, x = Mode(), minidl.Tensor([3.0])
    with minidl.training():
        assert layer(x).item() == 0.0
    assert layer(x).item() == 3.0


@pytest.mark.parametrize("name", sorted(NEAREST["Callback"]))
def test_a_callback_for_what_is_never_told_is_refused(name):
    assert not hasattr(callbacks.Callback, name)
    mixin = type("Mixin", (), {name: lambda self, *arguments: None})
    for bases, body in (((callbacks.Callback,), vars(mixin)), ((mixin, callbacks.Callback), {})):
        with pytest.raises(TypeError, match=f"^Mine: {name} is not in minidl: "):
            type("Mine", bases, {key: body[key] for key in body if key == name})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(lr=0.1), "Adam: lr is not in minidl: use learning_rate"),
        (lambda: optimizers.SGD(momentums=0.9), "SGD: got an unexpected argument 'momentums'"),
        (
            lambda: callbacks.LearningRateScheduler(lambda epoch, rate: rate, verbose=1),
            "LearningRateScheduler: verbose is not in minidl: read model.optimizer.learning_rate",
        ),
        (
            lambda: callbacks.ReduceLROnPlateau("loss", verbose=1),
            "ReduceLROnPlateau: verbose is not in minidl: read model.optimizer.learning_rate",
        ),
        (
            lambda: callbacks.ModelCheckpoint("best.keras", save_best_only=True),
            "ModelCheckpoint: save_best_only is not in minidl: use monitor",
        ),
        (lambda: model().evaluate([], steps=2), "evaluate: steps is not in minidl: slice x and y"),
        (lambda: model().predict([], callbacks=[1]), "predict: callbacks is not in minidl: leave"),
        (lambda: model().evaluate([], shape=None), "evaluate: got an unexpected argument 'shape'"),
    ],
)
def test_an_argument_that_is_missing_names_the_nearest_way(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("get", "name", "remedy"),
    [
        (losses.get, "binary_crossentropy", "end with Dense.* sparse_categorical_crossentropy"),
        (losses.get, "MAE", "subclass losses.Loss"),
        (optimizers.get, "Nadam", "subclass optimizers.Optimizer"),
        (metrics.get, "mse", "subclass metrics.Metric, or use the loss that fit reports"),
    ],
)
def test_a_loss_or_metric_that_is_missing_names_the_nearest_way(get, name, remedy):
    with pytest.raises(ValueError, match=f"expected an? .* received '{name}'; {remedy}"):
        get(name)


@pytest.mark.parametrize("module", MODULES)
def test_the_names_that_a_module_lists_are_there(module):
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize(
    ("place", "owner"),
    [
        *((module.__name__.removeprefix("minidl."), module) for module in MODULES),
        ("Layer", layers.Dense(2)),
        ("Model", model()),
        ("Optimizer", Adam()),
    ],
)
def test_what_is_said_to_be_missing_is_missing(place, owner):
    assert [name for name in NEAREST.get(place, {}) if hasattr(owner, name)] == []


def test_an_attribute_that_fails_inside_a_subclass_says_its_own_reason():
    class Net(models.Model):
        @property
        def weights(self):  # which models have not
            return self.blocks

    with pytest.raises(AttributeError, match="'Net' object has no attribute 'blocks'"):
        Net().weights  # noqa: B018


def test_models_are_copied_as_ever():
    first = model()
    for other in (copy.copy(first), copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert other.count_params() == first.count_params()
