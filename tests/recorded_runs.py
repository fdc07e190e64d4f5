"""Runs that are done twice, recorded and with ``record=False``, and compared bit for bit."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from small_models import bits

from minidl import layers, models, optimizers

NUMBERS = np.random.default_rng(7)
X = NUMBERS.normal(size=(14, 6))
LABELS = NUMBERS.integers(0, 3, 14)
FULL, STEPS, EPOCHS = 3, 4, 4  # in an epoch, 3 batches of 4 samples come before one of 2
SPENT = 3  # batches of a size before the first replay: eager, recorded, trial
REPLAYS = (FULL * EPOCHS - SPENT) + (EPOCHS - SPENT)


RARE = pytest.mark.exhaustive_on("cuda-double")


def quick(cases, *on_double):
    """Return the cases; on the double all but a few are slow, and every second one exhaustive."""
    marks = pytest.mark.slow_on("cuda-double"), RARE
    return [
        case if case in on_double else pytest.param(case, marks=marks[number % 2])
        for number, case in enumerate(cases)
    ]


def network(device="cpu", optimizer=None, stack=None, dtype="float32", **compiled):
    """Return a compiled classifier that is recorded on both devices."""
    model = models.Sequential(
        stack
        or [
            layers.Dropout(0.2, input_shape=(6,)),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ],
        seed=3,
        device=device,
        dtype=dtype,
    )
    options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]} | compiled
    model.compile(optimizer or optimizers.SGD(0.1, momentum=0.9), **options)
    return model


def fit(model, *used, record=True, **options):
    """Train a model, and return it."""
    arguments = {"batch_size": 4, "epochs": EPOCHS, "verbose": 0} | options
    model.fit(X, LABELS, callbacks=list(used), record=record, **arguments)
    return model


def outcome(model, folder):
    """Return everything that training leaves, as comparable values."""
    path = folder / "model.safetensors"
    model.save(path)
    state = {name: model.backend.to_numpy(a).tobytes() for name, a in model.optimizer.state.items()}
    return {
        "weights": bits(model),
        "optimizer": (model.optimizer.iterations, state),
        "history": repr(model.history.history),
        "random": [stream.step for stream in model.streams()],
        "file": path.read_bytes(),
    }


def assert_outcome(model, expected, folder):
    """Assert that training left these bits."""
    found = outcome(model, folder)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def assert_equal(recorded, eager, folder):
    """Assert that two models have the same bits, and that the second one was not recorded."""
    assert_outcome(recorded, outcome(eager, folder), folder)
    assert (eager.recording.recordings, eager.recording.replays) == (0, 0)


@functools.cache
def eager_outcome(device):
    """Return what an eager run of the network leaves, without callbacks."""
    with tempfile.TemporaryDirectory() as folder:
        return outcome(fit(network(device), record=False), Path(folder))


def check(make, folder, replays=REPLAYS, train=fit):
    """Train two models, one of them recorded; compare them, and return the recorded one.

    ``make()`` returns a model, or a model and the callbacks to train it with.
    """
    trained = []
    for record in (True, False):
        made = make()
        model, *used = made if isinstance(made, tuple) else (made,)
        trained.append(train(model, *used, record=record))
    assert trained[0].recording.replays == replays
    assert_equal(*trained, folder)
    return trained[0]
