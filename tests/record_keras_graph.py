"""Record a functional model of Keras: its order of layers, its weights and its predictions.

``KERAS_BACKEND=torch python tests/record_keras_graph.py`` writes ``keras_graph.json`` and
``keras_graph.weights.h5`` to ``tests/formats``, on a machine that has Keras.
"""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "formats"


def inputs():
    """Return the arrays of the predictions: multiples of 1/16, exact in JSON."""
    a = (np.arange(5 * 3).reshape(5, 3) * 7 % 32 / 16).astype("float32")
    b = (np.arange(5 * 4).reshape(5, 2, 2) * 5 % 32 / 16).astype("float32")
    return [a, b]


def network(layers, model):
    """Return a model with shared layers, branches of unequal length and two outputs.

    The package of `layers` is Keras or minidl, and `model` is its class of models.
    """
    a, b = layers.Input((3,), name="a"), layers.Input((2, 2), name="b")
    shared = layers.Dense(4, activation="tanh", name="shared")
    flat = layers.Flatten(name="flat")(b)
    late = layers.Dense(4, name="late")(layers.Dense(2, "relu", name="early")(a))
    parts = [shared(a), shared(layers.Dense(3, name="adapter")(flat)), late, flat]
    x = layers.Concatenate(name="all")(parts)
    x = layers.Dense(6, activation="relu", name="wide")(x)
    y = layers.Dense(6, name="branch")(layers.Dropout(0.5, name="drop")(x))
    x = layers.Add(name="sum")([x, y])
    inner = layers.Input((6,), name="inner_input")
    scale = layers.Multiply(name="scale")([inner, layers.Dense(6, "sigmoid", name="gate")(inner)])
    gated = model(inner, scale, name="gated")
    x = layers.Subtract(name="difference")([gated(x), gated(y)])
    classes = layers.Dense(3, activation="softmax", name="classes")(x)
    return model([a, b], [classes, layers.Average(name="mean")([late, parts[1]])])


def network_with_a_layer_at_several_depths(layers, model):
    """Return a model in which one layer is called three times."""
    x, shared = layers.Input((4,)), layers.Dense(4, name="shared")
    near = shared(layers.Dense(4, name="side")(x))
    far = shared(layers.Dense(4, name="one")(shared(layers.Dense(4, name="early")(x))))
    return model(x, layers.Add(name="sum")([near, far]))


def names(model):
    """Return the names of the layers, without the inputs."""
    return [layer.name for layer in model.layers if "Input" not in type(layer).__name__]


def record():
    """Write order, weights and predictions."""
    import keras

    keras.utils.set_random_seed(1)
    model = network(keras.layers, keras.Model)
    model.save_weights(HERE / "keras_graph.weights.h5")
    facts = {
        "keras": keras.__version__,
        "layers": names(model),
        "depths": names(network_with_a_layer_at_several_depths(keras.layers, keras.Model)),
        "predictions": [y.tolist() for y in model.predict(inputs(), verbose=0)],
    }
    (HERE / "keras_graph.json").write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    record()
