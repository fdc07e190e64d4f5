"""Record what callbacks of Keras do, with which tests compare; it needs Keras.

``keras.json`` has the answers of Keras 3.15.1 with PyTorch 2.13.0, recorded on 27 November 2026.
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np

PLACE = Path(__file__).with_name("keras.json")
VALUES = np.random.default_rng(5).choice(np.arange(6) / 2, (15, 10)).tolist()
STARTS = [0, 1, 3]
X, Y = np.ones((12, 3), "float32"), np.ones((12, 2), "float32")
PAIRS = [(X[n : n + 4], Y[n : n + 4]) for n in range(0, 12, 4)]
MOMENTS = ["begin", "end", "batch_begin", "batch_end"]
NAMES = [f"on_{kind}_{moment}" for kind in ("train", "test", "predict") for moment in MOMENTS]
NAMES += ["on_epoch_begin", "on_epoch_end"]


def endless():
    while True:
        yield from PAIRS


def recorder(callbacks, seen):
    """Return a LambdaCallback-like callback that records the name of each moment."""

    class Seen(callbacks.Callback):
        pass

    for name in NAMES:

        def method(self, *arguments, name=name, **options):
            seen.append(name)

        setattr(Seen, name, method)
    return Seen()


def scripted(callbacks, values):
    """Return a callback that replaces the loss of each epoch."""

    class Scripted(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["loss"] = values[epoch]

    return Scripted()


def answers(make, callbacks, weights_ending):
    """Return what the callbacks of a library do; `make` returns a compiled model."""
    found = {"stops": [], "moments": {}, "files": {}}
    quiet = {"verbose": 0}
    for start in STARTS:
        for values in VALUES:
            stopping = callbacks.EarlyStopping(
                monitor="loss", mode="min", patience=2, start_from_epoch=start
            )
            used = [scripted(callbacks, values), stopping]
            make().fit(X, Y, batch_size=12, epochs=10, callbacks=used, **quiet)
            found["stops"].append(int(stopping.stopped_epoch))
    for name, call in {
        "fit": lambda model, used: model.fit(
            X, Y, batch_size=4, epochs=2, validation_data=(X, Y), callbacks=used, **quiet
        ),
        "fit, validation_freq": lambda model, used: model.fit(
            X,
            Y,
            batch_size=12,
            epochs=5,
            validation_data=(X[:4], Y[:4]),
            validation_freq=2,
            callbacks=used,
            **quiet,
        ),
        "fit, steps": lambda model, used: model.fit(
            endless(), steps_per_epoch=2, epochs=3, callbacks=used, **quiet
        ),
        "evaluate": lambda model, used: model.evaluate(X, Y, batch_size=4, callbacks=used, **quiet),
        "evaluate, steps": lambda model, used: model.evaluate(
            endless(), steps=5, callbacks=used, **quiet
        ),
        "predict": lambda model, used: model.predict(X, batch_size=4, callbacks=used, **quiet),
    }.items():
        seen = found["moments"][name] = []
        call(make(), [recorder(callbacks, seen)])
    for name, template, options in (
        ("each", "{epoch:02d}-{loss:.2f}", {}),
        ("best", "{epoch}", {"monitor": "loss", "save_best_only": True}),
        ("steps", "{epoch}-{batch}", {"save_freq": 4}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, template + weights_ending)
            saver = callbacks.ModelCheckpoint(filepath=path, save_weights_only=True, **options)
            used = [scripted(callbacks, VALUES[0]), saver]
            make().fit(X, Y, batch_size=4, epochs=10, callbacks=used, **quiet)
            files = [file.removesuffix(weights_ending) for file in os.listdir(folder)]
            found["files"][name] = sorted(files)
    return found


def main():
    """Write the answers of Keras."""
    import keras

    def make():
        model = keras.Sequential([keras.layers.Dense(2)])
        model.compile("sgd", "mse")
        return model

    PLACE.write_text(json.dumps(answers(make, keras.callbacks, ".weights.h5")) + "\n")


if __name__ == "__main__":
    main()
