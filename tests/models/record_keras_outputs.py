"""Record runs of Keras on a model with several outputs, with which tests compare; it needs Keras.

``KERAS_BACKEND=torch python tests/models/record_keras_outputs.py`` writes ``keras_outputs.json``.
Each run has 20 steps: 5 epochs of 4 batches. All data and first weights are multiples of 1/16.
"""

import datetime
import json
from pathlib import Path

import numpy as np

PLACE = Path(__file__).with_name("keras_outputs.json")


def sixteenths(*shape, factor=7):
    """Return multiples of 1/16 in [-1, 1), exact in float32."""
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return ((numbers * factor % 31 - 15) / 16).astype("float32")


ROWS = 16
X = sixteenths(ROWS, 4)
CLASSES = np.arange(ROWS) * 5 % 3
VALUES = sixteenths(ROWS, 2, factor=11)
LABELS = (sixteenths(ROWS, 1, factor=3) > 0).astype("float32")
TARGETS = [CLASSES, VALUES, LABELS]
WEIGHTS = (np.arange(ROWS) % 4 + 1) / 4

KINDS = {
    "by name": {
        "loss": {"b": "mse", "c": "binary_crossentropy", "a": "sparse_categorical_crossentropy"},
        "loss_weights": {"c": 2.0, "a": 1.0, "b": 0.5},
        "metrics": {"b": ["mae", "mse"], "a": "accuracy"},
        "weighted_metrics": {"b": ["mae"], "c": ["accuracy"]},
    },
    "by position": {
        "loss": ["sparse_categorical_crossentropy", "huber", "binary_crossentropy"],
        "loss_weights": [0.25, 1.0, 0.75],
        "metrics": [["accuracy"], [], ["accuracy", "auc"]],
    },
    "without weights": {"loss": ["sparse_categorical_crossentropy", "mae", "mse"]},
}


def network(layers, model, **arguments):
    """Return a model with three outputs, of which one lies within it."""
    x = layers.Input((4,), name="x")
    h = layers.Dense(5, "tanh", kernel_regularizer="l2", name="h")(x)
    b = layers.Dense(2, name="b")(h)
    c = layers.Dense(1, "sigmoid", name="c")(layers.Concatenate(name="both")([h, b]))
    found = model(x, [layers.Dense(3, "softmax", name="a")(h), b, c], **arguments)
    found.set_weights([sixteenths(*w.shape, factor=5) for w in found.get_weights()])
    return found


def run(model, compiled, optimizer, **options):
    """Return history, evaluation and weights of one run, as numbers of JSON."""
    model.compile(optimizer, **compiled)
    targets = dict(zip("abc", TARGETS, strict=True))
    history = model.fit(
        X, TARGETS, batch_size=4, epochs=5, shuffle=False, verbose=0, sample_weight=WEIGHTS,
        validation_data=(X[:8], {name: y[:8] for name, y in targets.items()}),
        validation_batch_size=3, **options,
    ).history  # fmt: skip
    return {
        "history": {name: list(map(float, values)) for name, values in history.items()},
        "evaluation": [float(n) for n in model.evaluate(X, TARGETS, verbose=0)],
        "weights": [np.asarray(weight).tolist() for weight in model.get_weights()],
    }


def record():
    """Write the runs of Keras."""
    import keras

    runs = {
        name: run(network(keras.layers, keras.Model), compiled, keras.optimizers.Adam(0.01))
        for name, compiled in KINDS.items()
    }
    text = f"Keras {keras.__version__} on {keras.backend.backend()}, {datetime.date.today()}"
    PLACE.write_text(json.dumps({"provenance": text, "runs": runs}) + "\n")


if __name__ == "__main__":
    record()
