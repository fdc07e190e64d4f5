"""Small models and data that several test files share."""

import numpy as np

from minidl import layers, models
from minidl.optimizers import SGD

NUMBERS = np.random.default_rng(0)
X = NUMBERS.normal(size=(50, 6))
LABELS = NUMBERS.integers(0, 3, 50)
TARGETS = NUMBERS.normal(size=(50, 2))


def classifier(seed=1, optimizer=None, metrics=("accuracy",), **arguments):
    """Return a compiled model with two dropout layers for X and LABELS."""
    model = models.Sequential(
        [
            layers.Dense(16, activation="relu", input_shape=(6,)),
            layers.Dropout(0.25),
            layers.Dense(12, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ],
        seed=seed,
        **arguments,
    )
    model.compile(
        optimizer or SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=metrics
    )
    return model


def regressor(optimizer="sgd", **arguments):
    """Return a compiled model without dropout for X and TARGETS."""
    model = models.Sequential([layers.Dense(2, input_shape=(6,))], **arguments)
    model.compile(optimizer, "mse")
    return model


def bits(model):
    """Return the bytes of each weight."""
    return [weight.tobytes() for weight in model.get_weights()]


class Watch(layers.Layer):
    """Identity that keeps a copy of each input."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, x):
        self.seen.append(x.numpy())
        return x
