"""Losses and metrics of Keras on random inputs: the cases, and the record of their numbers.

``KERAS_BACKEND=torch python tests/keras_numbers.py`` writes ``keras_numbers.json``, on a machine
that has Keras. `test_keras_numbers.py` gives the same inputs to minidl. A case takes the package,
since names and arguments are the same in both.
"""

import datetime
import json
import platform
from pathlib import Path

import numpy as np

RECORD = Path(__file__).with_suffix(".json")
INPUTS = 100  # of each case


def probabilities(state, columns):
    """Return outputs in [0, 1], some of them 0 or 1."""
    p = state.random_sample((16, columns))
    return np.where(state.random_sample(p.shape) < 0.05, np.round(p), p)


def labels(state, columns):
    return (state.random_sample((16, columns)) < 0.4).astype("float64")


def binary(columns):
    return lambda state: (labels(state, columns), probabilities(state, columns))


def distinct(columns):
    """Return outputs of which no two are equal: others count those at the limit otherwise."""
    return lambda state: (labels(state, columns), state.random_sample((16, columns)))


def logits(columns):
    return lambda state: (labels(state, columns), state.normal(0, 4, (16, columns)))


def classes(state):
    p = state.random_sample((16, 5))
    return state.randint(0, 5, 16), p / p.sum(axis=1, keepdims=True)


def one_hot(state):
    numbers, p = classes(state)
    return np.eye(5)[numbers], p


def real(state):
    return state.normal(size=(16, 3)), state.normal(0, 2, (16, 3))


# The class of a loss or metric in a package, and inputs.
LOSSES = {
    "bce": (lambda k: k.losses.BinaryCrossentropy(), binary(1)),
    "bce of labels": (lambda k: k.losses.BinaryCrossentropy(), binary(4)),
    "bce of logits": (lambda k: k.losses.BinaryCrossentropy(from_logits=True), logits(4)),
    "bce smoothed": (lambda k: k.losses.BinaryCrossentropy(label_smoothing=0.2), binary(4)),
    "cce smoothed": (lambda k: k.losses.CategoricalCrossentropy(label_smoothing=0.1), one_hot),
    "mae": (lambda k: k.losses.MeanAbsoluteError(), real),
    "mse summed": (lambda k: k.losses.MeanSquaredError(reduction="sum"), real),
    "cce summed": (lambda k: k.losses.CategoricalCrossentropy(reduction="sum"), one_hot),
    "huber": (lambda k: k.losses.Huber(), real),
    "huber of 0.3": (lambda k: k.losses.Huber(delta=0.3), real),
    "huber summed": (lambda k: k.losses.Huber(2.0, reduction="sum"), real),
}
METRICS = {
    "binary accuracy": (lambda k: k.metrics.BinaryAccuracy(), binary(1)),
    "binary accuracy of labels": (lambda k: k.metrics.BinaryAccuracy(threshold=0.3), binary(4)),
    "mae": (lambda k: k.metrics.MeanAbsoluteError(), real),
    "mse": (lambda k: k.metrics.MeanSquaredError(), real),
    "rmse": (lambda k: k.metrics.RootMeanSquaredError(), real),
    "top 2": (lambda k: k.metrics.TopKCategoricalAccuracy(k=2), one_hot),
    "sparse top 3": (lambda k: k.metrics.SparseTopKCategoricalAccuracy(k=3), classes),
    "precision": (lambda k: k.metrics.Precision(), binary(1)),
    "precision of labels": (lambda k: k.metrics.Precision(thresholds=0.7), binary(4)),
    "precision without positives": (lambda k: k.metrics.Precision(thresholds=1.0), binary(1)),
    "precision of the top 2": (lambda k: k.metrics.Precision(top_k=2), distinct(4)),
    "precision of the top 2 above 0.6": (lambda k: k.metrics.Precision(0.6, top_k=2), distinct(4)),
    "precision of a class": (lambda k: k.metrics.Precision(class_id=2), distinct(4)),
    "recall of a class in the top 3": (
        lambda k: k.metrics.Recall(top_k=3, class_id=1),
        distinct(4),
    ),
    "recall": (lambda k: k.metrics.Recall(), binary(1)),
    "recall of labels": (lambda k: k.metrics.Recall(thresholds=0.2), binary(4)),
    "f1": (lambda k: k.metrics.F1Score(threshold=0.5), binary(1)),
    "f1 micro": (lambda k: k.metrics.F1Score(average="micro", threshold=0.4), binary(4)),
    "f1 macro": (lambda k: k.metrics.F1Score(average="macro"), one_hot),
    "f1 weighted": (lambda k: k.metrics.F1Score(average="weighted"), one_hot),
    "auc": (lambda k: k.metrics.AUC(), binary(1)),
    "auc of labels": (lambda k: k.metrics.AUC(num_thresholds=20), binary(4)),
    "auc pr": (lambda k: k.metrics.AUC(curve="PR"), binary(1)),
}


def inputs(make):
    """Yield targets, outputs and weights; every other time, there are no weights."""
    for seed in range(INPUTS):
        state = np.random.RandomState(seed)  # its numbers never change
        y_true, y_pred = make(state)
        yield y_true, y_pred, state.random_sample(16) * 3 if seed % 2 else None


def loss_values(loss, make, convert=np.asarray):
    """Return the loss for each of the inputs."""
    return [float(loss(y, convert(p), weight)) for y, p, weight in inputs(make)]


def metric_values(make_metric, make, convert=np.asarray):
    """Return the result for each of the inputs, in two batches."""
    found = []
    for y, p, weight in inputs(make):
        metric = make_metric()
        for rows in (slice(0, 9), slice(9, 16)):
            weights = None if weight is None else convert(weight[rows])
            metric.update_state(convert(y[rows]), convert(p[rows]), weights)
        found.append(float(metric.result()))
    return found


def record():
    """Write the numbers of Keras, in float64."""
    import keras

    keras.config.set_floatx("float64")
    answers = {
        "provenance": f"Keras {keras.__version__} on {keras.backend.backend()}, float64, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, by tests/keras_numbers.py, "
        f"{datetime.date.today()}",
        "losses": {n: loss_values(make(keras), data) for n, (make, data) in LOSSES.items()},
        "metrics": {
            name: metric_values(lambda make=make: make(keras), data)
            for name, (make, data) in METRICS.items()
        },
    }
    for part in ("losses", "metrics"):
        for name, values in answers[part].items():
            answers[part][name] = [float(f"{value:.10g}") for value in values]
    RECORD.write_text(json.dumps(answers) + "\n")


if __name__ == "__main__":
    record()
