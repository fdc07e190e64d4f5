"""Runs of `fit` that must end with the same bits for every number of workers."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import callbacks, layers, losses, models, optimizers, rng
from minidl.constraints import MaxNorm
from minidl.metrics import Metric
from minidl.optimizers import schedules

NUMBERS = np.random.default_rng(5)
ROWS, BATCH, EPOCHS = 44, 13, 5  # in an epoch, 3 whole batches come before one of 5 samples
X = NUMBERS.normal(size=(ROWS, 6))
STEPS = NUMBERS.normal(size=(ROWS, 5, 4))
WIDE = NUMBERS.normal(size=(256, 200))
LABELS = NUMBERS.integers(0, 3, ROWS)
TARGETS = NUMBERS.normal(size=(ROWS, 2))
WEIGHTS = NUMBERS.uniform(0.5, 2.0, ROWS)
HELD_OUT = NUMBERS.normal(size=(29, 6)), NUMBERS.integers(0, 3, 29)
FALLING = schedules.PolynomialDecay(0.5, decay_steps=12, end_learning_rate=0.0)


# ------------------------------------------------------------------------- parts of a user's own


class DropSample(layers.Layer):
    """Dropout of whole samples, by a random stream of its own."""

    def __init__(self, rate, seed=None, **arguments):
        super().__init__(**arguments)
        self.rate, self.seed, self.stream = rate, seed, rng.RandomStream(seed)

    def call(self, x):
        if not rng.is_training():
            return x
        address = self.stream.next_address(x.shape)
        keep = x.backend.keep_mask((len(x), 1), self.rate, address)
        return x * x.like(keep).astype(x.dtype) / (1 - self.rate)


class Residual(layers.Layer):
    """A residual connection: the input, and a branch that `DropPath` may drop."""

    def __init__(self, per="sample", **arguments):
        super().__init__(**arguments)
        self.per = per
        self.dense, self.drop = layers.Dense(6, activation="relu"), layers.DropPath(0.4, per)

    def call(self, x):
        return x + self.drop(self.dense(x))


class SmallOutputs(layers.Layer):
    """Identity that adds the mean square of its input to the loss."""

    def call(self, x):
        self.add_loss(0.1 * (x * x).mean())
        return x


class Net(models.Model):
    """A model with a `call` of its own, which is not recorded."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.hidden, self.drop = layers.Dense(8, activation="relu"), layers.Dropout(0.5)
        self.out = layers.Dense(3, activation="softmax")

    def call(self, x):
        return self.out(self.drop(self.hidden(x)))


class Sometimes(layers.Layer):
    """A layer whose weights have no gradient in every other step."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense, self.stream = layers.Dense(6), rng.RandomStream()

    def call(self, x):
        is_used = not rng.is_training() or self.stream.next_address(x.shape).step % 2
        return self.dense(x) if is_used else x


class Margin(Metric):
    """Mean of the largest output."""

    name = "margin"

    def per_sample(self, y_true, y_pred):
        return y_pred.data.max(axis=-1)


class Spread(Metric):
    """Largest minus smallest output, and the sum of all in the order of the samples."""

    name = "spread"

    def reset_state(self):
        self.low, self.high, self.total = 0.0, 0.0, 0.0

    def update_state(self, y_true, y_pred, sample_weight=None):
        outputs = y_pred.numpy().astype("float64")
        self.low, self.high = min(self.low, outputs.min()), max(self.high, outputs.max())
        self.total += float((outputs.T * y_true.numpy().ravel()[: len(outputs)]).sum())

    def result(self):
        return self.high - self.low + self.total


class Quartic(losses.Loss):
    """A loss of one's own."""

    recordable = True

    def per_sample(self, y_true, y_pred):
        difference = y_pred - y_true.astype(y_pred.dtype)
        return (difference * difference * (difference * difference)).mean(axis=-1)


class Freezing(callbacks.Callback):
    """Freezes the first layer from the third epoch on."""

    def on_epoch_begin(self, epoch, logs):
        if epoch == 2:
            for parameter in self.model.parameters()[:2]:
                parameter.requires_grad = False
            self.model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])


class Slowing(callbacks.Callback):
    """Changes the learning rate within an epoch."""

    def on_train_batch_end(self, batch, logs):
        if batch == 1:
            self.model.optimizer.learning_rate *= 0.9


class Adding(callbacks.Callback):
    """Adds a value to the logs, and asks the model for another one."""

    def on_epoch_end(self, epoch, logs):
        logs["doubled"] = 2 * logs["loss"]
        logs["elsewhere"] = self.model.evaluate(*HELD_OUT, verbose=0, return_dict=True)["loss"]


class LogsOfBatches(callbacks.Callback):
    """Keeps the logs of each batch."""

    def on_train_begin(self, logs):
        self.seen = []

    def on_train_batch_end(self, batch, logs):
        self.seen.append(sorted(dict(logs).items()))


# ------------------------------------------------------------------------- cases

CASES: dict[str, Callable[[], "Case"]] = {}
CUSTOM = [DropSample, Residual, SmallOutputs, Sometimes, Margin, Spread, Quartic]


@dataclass
class Case:
    """A compiled model, and what it is fitted with; `saved` are arguments of ModelCheckpoint."""

    model: models.Model
    x: Any = field(default_factory=lambda: X)
    y: Any = field(default_factory=lambda: LABELS)
    used: list[callbacks.Callback] = field(default_factory=list)
    shards: int = 8
    options: dict[str, Any] = field(default_factory=dict)
    saved: dict[str, Any] | None = field(default_factory=lambda: {"every_epochs": 4})
    is_recorded: bool = False

    def fit(self, *used, distribution=None, **options):
        """Train; return the warnings."""
        arguments = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0} | self.options | options
        with warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore"):
            warnings.simplefilter("always")
            listed = [*self.used, *used]
            self.model.fit(self.x, self.y, callbacks=listed, distribution=distribution, **arguments)
        return [str(each.message) for each in caught]


def case(make):
    """Add a case by its name, which the function has."""
    CASES[make.__name__] = make
    return make


def network(*stack, optimizer=None, loss="sparse_categorical_crossentropy", **arguments):
    """Return a compiled classifier."""
    metrics = arguments.pop("metrics", ["accuracy"])
    layers_of_it = [*stack, layers.Dense(3, activation="softmax")] if stack else default_stack()
    model = models.Sequential(layers_of_it, seed=3, **arguments)
    model.compile(optimizer or optimizers.SGD(0.1, momentum=0.9), loss, metrics=metrics)
    return model


def default_stack():
    """Return layers with dropout, also of the inputs."""
    return [
        layers.Dropout(0.2, input_shape=(6,)),
        layers.Dense(8, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(3, activation="softmax"),
    ]


def hidden(units=8, **arguments):
    """Return a hidden layer."""
    return layers.Dense(units, activation="relu", **arguments)


@case
def dropout():
    return Case(network(), is_recorded=True)


@case
def eager():
    return Case(network(), options={"record": False})


def with_shards(number):
    """Return a case with another number of shards; it is left out if there are more workers."""
    return Case(network(), shards=number, is_recorded=True)


for number in (2, 6, 7, 17):
    CASES[f"shards_{number}"] = functools.partial(with_shards, number)


@case
def small_batches():
    return Case(network(), options={"batch_size": 3, "epochs": 2}, is_recorded=True)


@case
def one_sample_last():
    return Case(network(), X[:40], LABELS[:40])


@case
def batch_logs():
    return Case(network(), used=[LogsOfBatches()], options={"validation_data": HELD_OUT})


@case
def unshuffled():
    options = {"shuffle": False, "validation_split": 0.25, "initial_epoch": 1}
    return Case(network(), options=options, saved={"every_steps": 5, "keep": 9})


@case
def spatial_dropout():
    model = network(layers.SpatialDropout1D(0.4, input_shape=(5, 4)), layers.Flatten(), hidden())
    return Case(model, STEPS)


@case
def images():
    model = network(
        layers.Rescaling(1 / 255, input_shape=(2, 2, 5)), layers.SpatialDropout2D(0.4),
        layers.Flatten(), hidden(), layers.Dropout(0.5),
    )  # fmt: skip
    pixels = (STEPS.reshape(ROWS, 2, 2, 5) * 50 + 128).clip(0, 255).astype("uint8")
    return Case(model, pixels)


@case
def alpha_dropout():
    stack = layers.Dense(8, activation="selu", input_shape=(6,)), layers.AlphaDropout(0.3)
    return Case(network(*stack))


@case
def gaussian():
    stack = (
        layers.GaussianNoise(0.2, input_shape=(6,)), hidden(), layers.GaussianDropout(0.3)
    )  # fmt: skip
    return Case(network(*stack), is_recorded=True)


@case
def drop_path():
    return Case(network(Residual(input_shape=(6,)), Residual("step")))


@case
def drop_connect():
    stack = (
        layers.DropConnect(8, 0.4, activation="relu", input_shape=(6,)),
        layers.DropConnect(8, 0.3, per_sample=True),
    )
    return Case(network(*stack))


@case
def drop_connect_per_step():
    stack = layers.DropConnect(8, 0.4, activation="relu", input_shape=(6,)), hidden()
    return Case(network(*stack), is_recorded=True)


@case
def concrete_dropout():
    stack = layers.ConcreteDropout(hidden(), 0.2, learning_rate_factor=3.0, input_shape=(6,))
    return Case(network(stack, optimizer="adam"))


@case
def noise_shapes():
    stack = (
        hidden(input_shape=(6,)), layers.Dropout(0.5, noise_shape=(1, None)),
        hidden(), layers.Dropout(0.2, noise_shape=(None, 1)),
        layers.AlphaDropout(0.1, noise_shape=(1, None)),
    )  # fmt: skip
    return Case(network(*stack))


@case
def scheduled_rates():
    stack = (
        layers.Dropout(FALLING, input_shape=(6,)), hidden(), layers.GaussianDropout(FALLING),
        layers.DropConnect(8, FALLING, activation="relu"),
        layers.DropPath(FALLING), layers.AlphaDropout(FALLING),
    )  # fmt: skip
    return Case(network(*stack), is_recorded=True)


@case
def own_random_layer():
    return Case(network(DropSample(0.3, input_shape=(6,)), hidden(), layers.Dropout(0.5)))


@case
def max_norm():
    stack = hidden(kernel_constraint=MaxNorm(0.9), input_shape=(6,)), layers.Dropout(0.5)
    return Case(network(*stack, optimizer=optimizers.SGD(0.5)))


@case
def rmsprop():
    return Case(network(optimizer="rmsprop"), is_recorded=True)


@case
def adamw():
    rate = schedules.CosineDecay(0.01, 20)
    return Case(network(optimizer=optimizers.AdamW(rate, weight_decay=0.01)), is_recorded=True)


@case
def rate_factors():
    model = network(optimizer="adam")
    for parameter, factor in zip(model.parameters(), (0.5, 2.0, 0.0, 1.0), strict=True):
        parameter.learning_rate_factor = factor
    return Case(model, is_recorded=True)


@case
def double():
    return Case(network(dtype="float64"), is_recorded=True)


@case
def sample_weights():
    held_out = *HELD_OUT, np.linspace(0.1, 2, 29)
    return Case(network(), options={"sample_weight": WEIGHTS, "validation_data": held_out})


@case
def frozen():
    model = network()
    model.parameters()[0].requires_grad = False
    return Case(model, is_recorded=True)


@case
def freezing():
    return Case(network(optimizer="rmsprop"), used=[Freezing()])


@case
def own_metrics():
    model = network(metrics=["accuracy", Margin(), Spread()])
    options = {"validation_data": HELD_OUT}
    return Case(model, used=[LogsOfBatches()], options=options, saved={"every_steps": 3})


@case
def several_outputs():
    x = layers.Input((6,))
    h = layers.Dropout(0.5)(hidden()(x))
    outputs = [layers.Dense(3, "softmax", name="a")(h), layers.Dense(2, name="b")(h)]
    model = models.Model(x, outputs, seed=3)
    measured = {"metrics": {"a": ["accuracy"]}, "weighted_metrics": {"b": ["mae", Spread()]}}
    of_each = ["sparse_categorical_crossentropy", "mse"]
    model.compile(optimizers.SGD(0.1), of_each, loss_weights=[1.0, 0.5], **measured)
    held_out = X[:9], {"a": LABELS[:9], "b": TARGETS[:9]}
    options = {"validation_data": held_out, "sample_weight": WEIGHTS}
    return Case(model, y=[LABELS, TARGETS], options=options, saved={"every_steps": 3})


@case
def own_mean():
    model = network(metrics=[Margin(), "accuracy"])
    return Case(model, options={"validation_data": HELD_OUT})


@case
def added_losses():
    model = network(hidden(input_shape=(6,)), SmallOutputs())
    return Case(model, options={"validation_data": HELD_OUT})


@case
def validation():
    return Case(network(), options={"validation_data": HELD_OUT, "batch_size": 4, "epochs": 3})


@case
def one_hot():
    model = network(loss="categorical_crossentropy")
    return Case(model, y=np.eye(3, dtype="float32")[LABELS])


@case
def regression():
    model = models.Sequential([hidden(input_shape=(6,)), layers.Dropout(0.3), layers.Dense(2)])
    model.compile("adam", "mse")
    return Case(model, y=TARGETS)


@case
def own_loss():
    model = models.Sequential([hidden(input_shape=(6,)), layers.Dense(2)])
    model.compile("adam", Quartic())
    return Case(model, y=TARGETS)


@case
def own_model():
    model = Net(seed=4)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, options={"validation_data": HELD_OUT}, saved=None)


@case
def without_gradient():
    return Case(network(Sometimes(input_shape=(6,)), hidden(), optimizer="adam"))


@case
def early_stopping():
    stop = callbacks.EarlyStopping("val_accuracy", patience=2, restore_best_weights=True)
    options = {"validation_data": HELD_OUT, "epochs": 12}
    saved = {"monitor": "val_loss", "every_epochs": 1}
    return Case(network(), used=[stop], options=options, saved=saved)


@case
def rates_by_callbacks():
    used = [
        callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1),
        callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.8),
        Slowing(),
        Adding(),
    ]
    return Case(network(), used=used, options={"validation_data": HELD_OUT})


@case
def divergence():
    model = models.Sequential([hidden(input_shape=(6,)), layers.Dense(2)], seed=1)
    model.compile(optimizers.SGD(1e4, momentum=0.9), "mse")
    return Case(model, y=TARGETS, used=[callbacks.TerminateOnNaN(every=3)])


@case
def divergence_by_the_data():
    model = network(optimizer="adam")
    spoiled = X.copy()
    spoiled[20, 3] = np.nan
    options = {"validation_data": HELD_OUT}
    return Case(model, spoiled, used=[callbacks.TerminateOnNaN()], options=options)


@case
def not_a_number():
    """NaNs of several shards, with other bits each, which a sum in another order would exchange."""
    spoiled = X.copy()
    payloads = np.arange(1, 1 + ROWS * 6, dtype="uint64").reshape(X.shape) << np.uint64(32)
    spoiled.view("uint64")[:] = np.uint64(0x7FF8000000000000) | payloads
    model = models.Sequential([layers.Dense(2, input_shape=(6,))], dtype="float64")
    model.compile("sgd", "mse")
    return Case(model, spoiled, TARGETS)


@case
def wide():
    """A network whose products several threads share."""
    model = network(
        hidden(300, input_shape=(200,)), layers.Dropout(0.5), hidden(100), optimizer="adam"
    )
    return Case(model, WIDE, LABELS[np.arange(256) % ROWS], options={"batch_size": 100})
