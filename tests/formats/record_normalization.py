"""Record a network with both normalisations that Keras trains, for `test_keras_normalization.py`.

    KERAS_BACKEND=torch python tests/formats/record_normalization.py

It writes ``normalization.weights.h5``, the weights after 20 steps, and ``normalization.json``, the
loss of each step and the predictions. Initial weights and data are in `initial` and `samples`.
"""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
STEPS, BATCH, FEATURES = 20, 8, 6
SHAPES = [(FEATURES, 5), (5,), (5,), (5,), (5,), (5,), (5, 4), (4,), (4,), (4,), (4, 2), (2,)]


def initial(shapes):
    """Return weights of these shapes: of both sides of 0 for matrices, and near 1 for vectors."""
    made = []
    for number, shape in enumerate(shapes):
        waves = np.sin(np.arange(np.prod(shape)) * 1.7 + number).reshape(shape)
        made.append((waves if len(shape) > 1 else 1 + 0.25 * waves).astype("float32"))
    return made


def samples():
    """Return inputs and targets of 20 batches."""
    x = np.sin(np.arange(STEPS * BATCH * FEATURES) * 0.37).reshape(-1, FEATURES) * 2 + 0.5
    y = np.stack([x[:, 0] * x[:, 1], np.abs(x[:, 2])], axis=1)
    return x.astype("float32"), y.astype("float32")


def record():
    """Train the network in Keras, and write both files."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            layers.Input((FEATURES,)),
            layers.Dense(5),
            layers.BatchNormalization(momentum=0.9),
            layers.Dense(4, activation="gelu"),
            layers.LayerNormalization(),
            layers.LeakyReLU(),
            layers.ReLU(max_value=1.25, negative_slope=0.5, threshold=0.1),
            layers.ELU(),
            layers.Dense(2, activation="silu"),
        ]
    )
    model.set_weights(initial([w.shape for w in model.get_weights()]))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    x, y = samples()
    losses = [
        float(model.train_on_batch(x[start : start + BATCH], y[start : start + BATCH]))
        for start in range(0, len(x), BATCH)
    ]
    model.save_weights(HERE / "normalization.weights.h5")
    answers = {
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "losses": losses,
        "predictions": model.predict(x[:BATCH], verbose=0).tolist(),
    }
    (HERE / "normalization.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    record()
