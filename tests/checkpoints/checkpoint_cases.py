"""A model with every kind of state, and changes of its files."""

import json

import numpy as np

from minidl import callbacks, constraints, initializers, layers, models, optimizers
from minidl.optimizers import schedules
from minidl.storage import tensor_file
from minidl.storage.tensor_file import TensorFile

X = np.random.default_rng(0).integers(0, 256, (50, 4, 3)).astype("uint8")
Y = np.random.default_rng(1).integers(0, 5, 50)
FIT = {"batch_size": 16, "epochs": 4, "verbose": 0, "validation_split": 0.2}
STEPS = 3  # of an epoch: 40 of the 50 samples are trained on


def network(optimizer=None, device="cpu", seed=2**63 + 5):
    inner = models.Sequential(
        [layers.Dense(6, "tanh", name="inside"), layers.Dropout(0.25, seed=9)], name="nested"
    )
    model = models.Sequential(
        [
            layers.Rescaling(1 / 255, input_shape=(4, 3)),
            layers.Flatten(),
            layers.Dense(
                8,
                "relu",
                kernel_initializer=initializers.HeNormal(seed=4),
                kernel_constraint=constraints.MaxNorm(1.5),
            ),
            layers.Dropout(0.5),
            inner,
            layers.Dropout(0.1, scaling="inference"),
            layers.Dense(5, activation="softmax", name="classes"),
        ],
        device=device,
        seed=seed,
    )
    model.compile(
        optimizer or optimizers.AdamW(schedules.CosineDecay(0.01, 40), weight_decay=0.1),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


class SaveAndStop(callbacks.Callback):
    """Callback that saves the model after a step, and stops training."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, batch, logs):
        if self.model.step == self.step:
            self.model.save(self.path)
            self.model.stop_training = True


SMALL = np.ones((6, 4)), np.ones((6, 4))


def small(*more, optimizer="adam", epochs=1):
    """Return a trained model of two layers of equal size, and `more`."""
    stack = [layers.Dense(4, name=name) for name in "ab"]
    model = models.Sequential([layers.Input((4,)), *stack, *more], seed=1)
    model.compile(optimizer, "mse")
    model.fit(*SMALL, epochs=epochs, verbose=0)
    return model


def joined():
    """Return a model of built layers, two of which have one name."""
    parts = [models.Sequential([layers.Dense(4, input_shape=(4,))], seed=n) for n in range(2)]
    model = models.Sequential([layer for part in parts for layer in part.layers])
    model.predict(SMALL[0])
    return model


def rewritten(path, change=None, drop=(), **arrays):
    """Write the file again with a changed header and changed arrays, and a right checksum."""
    with TensorFile(path) as file:
        header = json.loads(file.metadata["minidl"])
        kept = {name: file.read(name) for name in file.shapes if name not in drop}
    if change is not None:
        change(header)
    tensor_file.write(path, kept | arrays, {"minidl": json.dumps(header)})


def setter(*keys, value):
    """Return a change of a header that sets the value at some keys."""

    def change(header):
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change
