"""Record what Keras computes, on a machine that has it.

``KERAS_BACKEND=torch python tests/optimizers/keras_answers.py`` writes ``keras_answers.json``:
weights after 20 updates, learning rates, penalties, constrained weights, and losses of a
regularised training. All numbers are float64.
"""

import json
import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "keras_answers.json"
STEPS = 20
SHAPES = {"dense/weight": (4, 3), "dense/bias": (3,)}
RATE_STEPS = [0, 1, 3, 5, 6, 10, 14, 15, 16, 24, 30, 35, 36, 80, 500]

# Class, arguments, and patterns of names that are not decayed.
OPTIMIZERS = {
    "clipnorm": ("SGD", {"learning_rate": 0.1, "clipnorm": 1.2}, []),
    "clipvalue": ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "clipvalue": 0.4}, []),
    "global_clipnorm": ("RMSprop", {"learning_rate": 0.01, "global_clipnorm": 2.5}, []),
    "excluded": ("AdamW", {"learning_rate": 0.01, "weight_decay": 0.3}, ["bias"]),
    "accumulated": (
        "Adam",
        {"learning_rate": 0.01, "gradient_accumulation_steps": 3, "weight_decay": 0.1},
        [],
    ),
    "accumulated_clipped": (
        "SGD",
        {"learning_rate": 0.1, "gradient_accumulation_steps": 4, "clipnorm": 0.5},
        [],
    ),
    "amsgrad": ("Adam", {"learning_rate": 0.05, "beta_2": 0.7, "amsgrad": True}, []),
    "amsgrad_decayed": ("AdamW", {"learning_rate": 0.05, "beta_2": 0.7, "amsgrad": True}, []),
    "nadam": ("Nadam", {"learning_rate": 0.01}, []),
    "nadam_options": (
        "Nadam",
        {"learning_rate": 0.02, "beta_1": 0.7, "beta_2": 0.9, "epsilon": 0.1, "weight_decay": 0.2},
        [],
    ),
}
SCHEDULES = {
    "cosine": ("CosineDecay", [0.1, 10, 0.2], {}),
    "warm": ("CosineDecay", [0.01, 20, 0.1], {"warmup_target": 0.2, "warmup_steps": 15}),
    "warm_from_zero": ("CosineDecay", [0.0, 10], {"warmup_target": 0.1, "warmup_steps": 5}),
    "target_alone": ("CosineDecay", [0.01, 20], {"warmup_target": 0.2}),
    "restarts": ("CosineDecayRestarts", [0.1, 5], {}),
    "restarts_equal": ("CosineDecayRestarts", [0.1, 5, 1.0, 0.9, 0.1], {}),
    "restarts_longer": ("CosineDecayRestarts", [0.1, 5, 3.0, 0.5, 0.05], {}),
    "polynomial": ("PolynomialDecay", [0.1, 15, 0.01, 2.0, True], {}),
}
REGULARIZERS = {
    "L1": ("L1", {"l1": 0.3}),
    "L2": ("L2", {"l2": 0.7}),
    "L1L2": ("L1L2", {"l1": 0.02, "l2": 0.05}),
    "l1": ("L1", {}),
    "l2": ("L2", {}),
    "l1_l2": ("L1L2", {}),
}
CONSTRAINTS = {"NonNeg": {}, "UnitNorm": {}, "UnitNorm_1": {"axis": 1}}


def numbers(shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


def weights():
    """Return a weight for each of 100 seeds."""
    return [numbers((3, 4), seed) for seed in range(100)]


def samples():
    """Return samples and targets of a training, and others to validate it."""
    return numbers((12, 4), 1), numbers((12, 2), 2), numbers((6, 4), 3), numbers((6, 2), 4)


def updated(keras, kind, options, patterns):
    variables = [
        keras.Variable(numbers(shape, n), name=name.split("/")[1])
        for n, (name, shape) in enumerate(SHAPES.items())
    ]
    optimizer = getattr(keras.optimizers, kind)(**options)
    if patterns:
        optimizer.exclude_from_weight_decay(var_names=patterns)
    optimizer.build(variables)
    for step in range(STEPS):
        gradients = [numbers(shape, 100 + step) for shape in SHAPES.values()]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    return [keras.ops.convert_to_numpy(v.value).tolist() for v in variables]


def trained(keras):
    """Return the history of a training with penalties, and the weights after it."""
    L2, L1L2 = keras.regularizers.L2, keras.regularizers.L1L2
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(
                3, "tanh", kernel_regularizer=L2(0.05), bias_regularizer=L1L2(0.01, 0.02)
            ),
            keras.layers.Dense(2, kernel_regularizer="l1", bias_constraint="non_neg"),
        ]
    )
    model.set_weights([numbers(w.shape, n) for n, w in enumerate(model.get_weights())])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y, *validation = samples()
    history = model.fit(
        x, y, batch_size=12, epochs=STEPS, validation_data=tuple(validation), verbose=0
    )
    return {"history": history.history, "weights": [w.tolist() for w in model.get_weights()]}


def record():
    import keras

    keras.config.set_floatx("float64")
    found = {"keras": keras.__version__, "backend": keras.config.backend()}
    found["optimizers"] = {name: updated(keras, *row) for name, row in OPTIMIZERS.items()}
    found["schedules"] = {
        name: [
            float(getattr(keras.optimizers.schedules, kind)(*arguments, **options)(step))
            for step in RATE_STEPS
        ]
        for name, (kind, arguments, options) in SCHEDULES.items()
    }
    found["regularizers"] = {
        name: [float(getattr(keras.regularizers, kind)(**options)(w)) for w in weights()]
        for name, (kind, options) in REGULARIZERS.items()
    }
    found["constraints"] = {
        name: [
            float((w2 * (1 + np.arange(12).reshape(3, 4))).sum())
            for w in weights()
            for w2 in [
                keras.ops.convert_to_numpy(
                    getattr(keras.constraints, name.split("_")[0])(**options)(
                        keras.ops.convert_to_tensor(w)
                    )
                )
            ]
        ]
        for name, options in CONSTRAINTS.items()
    }
    found["training"] = trained(keras)
    FILE.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    sys.exit(record())
