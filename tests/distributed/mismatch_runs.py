"""Program for two workers: `fit` in which rank 1 differs, once for each fact.

It writes the error of each rank, and whether `fit` left anything, to ``FOLDER/found.json``.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from minidl_kernels import threads
from minidl_kernels.cpu import blas

from minidl import callbacks, layers, losses, models, optimizers
from minidl.distributed import DataParallel, WorkerError
from minidl.distributed.shared_step import SharedStep

NUMBERS = np.random.default_rng(8)
X, LABELS = NUMBERS.normal(size=(20, 6)), NUMBERS.integers(0, 3, 20)


class Idle(callbacks.Callback):
    """Does nothing."""

    def on_epoch_end(self, epoch, logs):
        pass


class OwnLoss(losses.SparseCategoricalCrossentropy):
    """The same by another name."""


class Stopping(callbacks.Callback):
    """Stops after the second batch."""

    def on_train_batch_end(self, batch, logs):
        self.model.stop_training = batch == 1


class Spoiling(callbacks.Callback):
    """Changes a weight on rank 1 in the second epoch."""

    def __init__(self, rank):
        self.rank = rank

    def on_train_batch_end(self, batch, logs):
        if self.rank == 1 and self.model.position.epoch == 1:
            self.model.parameters()[0].data[0, 0] += 1


@dataclass
class Setting:
    """What a run is made of; rank 1 changes it."""

    x: np.ndarray = field(default_factory=X.copy)
    y: np.ndarray = field(default_factory=LABELS.copy)
    held_out: np.ndarray = field(default_factory=X.copy)
    seed: int = 3
    hidden: dict[str, Any] = field(default_factory=lambda: {"units": 8, "activation": "relu"})
    rate: float = 0.5
    dtype: str = "float32"
    loss: losses.Loss = field(default_factory=losses.SparseCategoricalCrossentropy)
    optimizer: dict[str, Any] = field(default_factory=lambda: {"momentum": 0.9})
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    used: list[callbacks.Callback] = field(default_factory=list)
    frozen: int | None = None
    shards: int = 4
    options: dict[str, Any] = field(default_factory=lambda: {"batch_size": 6, "epochs": 2})

    def model(self):
        """Return the compiled model."""
        stack = layers.Dense(**self.hidden, input_shape=(6,)), layers.Dropout(self.rate)
        out = layers.Dense(3, activation="softmax")
        model = models.Sequential([*stack, out], seed=self.seed, dtype=self.dtype)
        model.compile(optimizers.SGD(0.1, **self.optimizer), self.loss, metrics=self.metrics)
        if self.frozen is not None:
            model.parameters()[self.frozen].requires_grad = False
        return model

    def fit(self, model, *used, **options):
        """Train the model."""
        model.fit(
            self.x,
            self.y,
            verbose=0,
            validation_data=(self.held_out, LABELS),
            callbacks=[*self.used, *used],
            distribution=DataParallel(self.shards),
            **self.options | options,
        )


def left_of(model):
    """Return all of a model's state as text."""
    state = model.train_state.snapshot()
    return repr({name: getattr(v, "tobytes", lambda v=v: v)() for name, v in state.items()})


def nudged_backward(step, *arguments):
    """Compute gradients that are rounded otherwise."""
    found = unchanged_backward(step, *arguments)
    gradients = step.optimizer.gradients
    gradients[...] = np.nextafter(gradients, np.float32(np.inf))
    return found


unchanged_backward, core_name = SharedStep.backward, blas.core_name


def pixel(setting):
    setting.x[7, 3] += 1e-3


def label(setting):
    setting.y[5] = (setting.y[5] + 1) % 3


def held_out(setting):
    setting.held_out[0, 0] += 1


# A part of the name of a fact, and what makes it differ: in the setting, or in the model.
OF_SETTING = {
    "seed": lambda s: setattr(s, "seed", 4),
    "training data": pixel,
    "training data ": label,
    "validation data": held_out,
    "batch_size": lambda s: s.options.update(batch_size=5),
    "epochs": lambda s: s.options.update(epochs=3),
    "first epoch": lambda s: s.options.update(initial_epoch=1),
    "shuffle": lambda s: s.options.update(shuffle=False),
    "shards": lambda s: setattr(s, "shards", 5),
    "threads": lambda s: threads.set_num_threads(2),
    "OpenBLAS": lambda s: setattr(blas, "core_name", lambda: "Another"),
    "dense.units": lambda s: s.hidden.update(units=9),
    "dense.activation": lambda s: s.hidden.update(activation="selu"),
    "dropout.rate": lambda s: setattr(s, "rate", 0.4),
    "dtype": lambda s: setattr(s, "dtype", "float64"),
    "loss": lambda s: setattr(s, "loss", OwnLoss()),
    "momentum": lambda s: s.optimizer.update(momentum=0.8),
    "nesterov": lambda s: s.optimizer.update(nesterov=True),
    "list of metrics": lambda s: s.metrics.clear(),
    "requires_grad of dense/bias": lambda s: setattr(s, "frozen", 1),
    "callbacks": lambda s: s.used.append(Idle()),
    "gradients": lambda s: setattr(SharedStep, "backward", nudged_backward),
}


OF_MODEL = {
    "dense/weight": lambda m: m.parameters()[0].data.__iadd__(1),
    "optimizer/velocity": lambda m: m.optimizer.state["velocity"].__iadd__(1),
    "learning_rate": lambda m: setattr(m.optimizer, "learning_rate", 0.2),
    "learning_rate_factor of": lambda m: setattr(m.parameters()[1], "learning_rate_factor", 2.0),
    "model/step": lambda m: setattr(m.train_state, "step", m.step + 1),
    "model/epoch": lambda m: setattr(m.train_state, "epoch", m.epoch + 1),
}


# Where the model of rank 1 is the same: it can be trained afterwards.
OF_ARGUMENTS = "training data", "validation data", "batch_size", "epochs", "first epoch"
OF_ARGUMENTS += "shuffle", "shards", "threads", "OpenBLAS", "callbacks", "gradients"


def mismatch(root, setting, model, **options):
    """Return what a `fit` in which ranks differ raised and changed."""
    before, folder, log = left_of(model), root / "checkpoints", root / "log.csv"
    used = callbacks.ModelCheckpoint(folder), callbacks.CSVLogger(log)
    try:
        setting.fit(model, *used, **options)
    except WorkerError as error:
        text = str(error)
    else:
        text = "no error"
    changed = [] if left_of(model) == before else ["the model"]
    changed += ["files"] if folder.exists() or log.exists() else []
    return {"text": text, "changed": changed}


def trained_weights(model):
    """Train a model that is the same on all workers, and return its weights."""
    Setting().fit(model)
    return [weight.tolist() for weight in model.get_weights()]


def main(root):
    """Run all cases."""
    root, found = Path(root), {}
    workers = DataParallel()
    differs = workers.rank == 1
    weights = trained_weights(Setting().model())
    for name, change in OF_SETTING.items():
        setting = Setting()
        if differs:
            change(setting)
        model = setting.model()
        found[name] = mismatch(root, setting, model)
        threads.set_num_threads(1)
        SharedStep.backward, blas.core_name = unchanged_backward, core_name
        if name.strip() in OF_ARGUMENTS:
            assert trained_weights(model) == weights, "it is trained as if nothing had been"
    for name, change in OF_MODEL.items():
        model = Setting().model()
        Setting().fit(model)
        if differs:
            change(model)
        found[name] = mismatch(root, Setting(), model)
    stopped = Setting().model()
    Setting().fit(stopped, Stopping())
    found["first batch"] = mismatch(root, Setting(), stopped, resume=differs)
    setting, model = Setting(used=[Spoiling(workers.rank)]), Setting().model()
    spoiled = mismatch(root, setting, model) | {"epoch": model.position.epoch}
    everything = workers.gather({"rejected": found, "spoiled": spoiled})
    if workers.rank == 0:
        (root / "found.json").write_text(json.dumps(everything))


if __name__ == "__main__":
    main(*sys.argv[1:])
