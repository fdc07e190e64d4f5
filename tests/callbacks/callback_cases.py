"""A small model and callbacks that the tests of the built-in callbacks share."""

import numpy as np

from minidl import layers, models, optimizers
from minidl.callbacks import Callback

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.random.default_rng(1).normal(size=(12, 2))


def network(optimizer=None, device="cpu"):
    stack = [layers.Dense(4, "relu"), layers.Dropout(0.5), layers.Dense(2, name="last")]
    model = models.Sequential(stack, seed=1, device=device)
    model.compile(optimizer or optimizers.SGD(0.1), "mse")
    return model


def fit(model, *callbacks, epochs=4, batch_size=4, **arguments):
    arguments |= {"epochs": epochs, "batch_size": batch_size, "callbacks": list(callbacks)}
    return model.fit(X, Y, verbose=0, **arguments)


class Rates(Callback):
    """Callback that records the learning rate after each epoch."""

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, epoch, logs):
        self.seen.append(self.model.optimizer.learning_rate)


WATCHED = [np.nan, 3.0, 2.0, 2.5, 2.0, 2.4, 1.0, 1.5, 1.5, 1.5, 1.4, 1.5]


class Watched(Callback):
    """Callback that replaces the loss of each epoch by a value of `WATCHED`."""

    def on_epoch_end(self, epoch, logs):
        logs["loss"] = WATCHED[epoch]


class Losses(Callback):
    """Callback that replaces the loss of each epoch by a given value."""

    def __init__(self, values):
        self.values = values

    def on_epoch_end(self, epoch, logs):
        logs["loss"] = self.values[epoch]


def curves(count, length=12):
    """Return sequences of values with ties, infinities and no NaN, each with a mode."""
    generator = np.random.default_rng(3)
    values = [-np.inf, np.inf, *np.arange(6) / 2]
    for index in range(count):
        shares = [0.1, 0.1, *[0.8 / 6] * 6]
        yield ("min", "max")[index % 2], generator.choice(values, length, p=shares).tolist()
    for mode, first in (("min", np.inf), ("max", -np.inf), ("min", -np.inf), ("max", np.inf)):
        yield mode, [first, first, first, *range(length - 3)]


def exceeds(mode, value, best, delta=0.0):
    """Return whether Keras 3 counts a value as an improvement; without a best value all do."""
    if best is None:
        return True
    return value + delta < best if mode == "min" else value - delta > best


class SaveAll(Callback):
    """Callback that saves the model within each epoch and at its end, after all others acted."""

    comes_last = True

    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        self.folder, self.files = folder, []

    def on_train_batch_end(self, batch, logs):
        if batch + 1 < self.params["steps"]:
            self.save()

    def on_epoch_end(self, epoch, logs):
        self.save()

    def save(self):
        position = self.model.position
        self.files.append(self.folder / f"{position.epoch}-{position.batch}.safetensors")
        self.model.save(self.files[-1])
