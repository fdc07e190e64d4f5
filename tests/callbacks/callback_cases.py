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
