"""Record weights and predictions of Keras, on a machine that has it.

``python tests/formats/record_keras.py record`` trains a small network, and writes
``keras.weights.h5`` and ``keras.json``; ``... check FILE`` loads weights saved by minidl into the
same network and prints its predictions as JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def inputs():
    """Return the inputs of the predictions: multiples of 1/16, exact in JSON."""
    return (np.arange(5 * 4 * 3).reshape(5, 4, 3) * 7 % 32 / 16).astype("float32")


def network():
    """Return a network that holds another one and a layer without bias."""
    import keras

    inner = keras.Sequential([keras.layers.Dense(6, activation="tanh"), keras.layers.Dropout(0.2)])
    return keras.Sequential(
        [
            keras.layers.Input((4, 3)),
            keras.layers.Rescaling(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.5),
            inner,
            keras.layers.Dense(7, use_bias=False),
            keras.layers.Dense(5, activation="softmax", name="classes"),
        ]
    )


def record():
    """Train, and write weights and predictions."""
    import keras

    keras.utils.set_random_seed(1)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(200, 4, 3))
    model.fit(x, (x[:, 0, 0] > 0) + 2 * (x[:, 1, 1] > 0.5), epochs=20, verbose=0)
    plain = network()  # without an optimizer, whose state would be in the file
    plain.set_weights(model.get_weights())
    plain.save_weights(HERE / "keras.weights.h5")
    predictions = model.predict(inputs(), verbose=0)
    texts = {"keras": keras.__version__, "predictions": predictions.tolist()}
    (HERE / "keras.json").write_text(json.dumps(texts) + "\n")


def check(path):
    """Load weights and print predictions."""
    model = network()
    model.load_weights(path)
    print(json.dumps(model.predict(inputs(), verbose=0).tolist()))


if __name__ == "__main__":
    record() if sys.argv[1] == "record" else check(sys.argv[2])
