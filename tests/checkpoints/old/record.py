"""Write the checkpoints of this folder; they were written by the minidl of commit 65152fb.

    python tests/checkpoints/old/record.py

`test_old_checkpoints.py` loads and resumes them with today's minidl, so they are never written
again. The data are a formula, so that no library's random generator has a part in them.
"""

from pathlib import Path

import numpy as np

from minidl import callbacks, layers, models, optimizers

FOLDER = Path(__file__).parent


def data():
    """Return 60 samples of shape (2, 3), their classes and a regression target."""
    x = (np.arange(360).reshape(60, 2, 3) * 37 % 101).astype("uint8")
    y = np.arange(60) * 7 % 4
    return x, y, (x.sum(axis=(1, 2)) / 500.0)[:, None]


class StopAt(callbacks.Callback):
    """Break a run off after a number of updates."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, batch, logs):
        """Stop when the step is reached."""
        if self.model.step == self.step:
            self.model.stop_training = True


def main():
    """Write the files."""
    x, y, target = data()
    classifier = models.Sequential(
        [
            layers.Rescaling(1 / 100, input_shape=(2, 3)),
            layers.Flatten(),
            layers.Dense(8, activation="relu", kernel_constraint="max_norm"),
            layers.Dropout(0.5),
            models.Sequential([layers.Dense(6, activation="tanh"), layers.Dropout(0.25, seed=9)]),
            layers.Dense(4, activation="softmax", name="classes"),
        ],
        seed=2**63 + 1,
    )
    classifier.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    classifier.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[StopAt(12)])
    classifier.save(FOLDER / "interrupted.safetensors")

    regression = models.Sequential(
        [layers.Flatten(input_shape=(2, 3)), layers.Dense(1), layers.Dropout(0.1)],
        dtype="float64",
        seed=4,
    )
    rate = optimizers.schedules.ExponentialDecay(1e-4, 10, 0.9)
    regression.compile(optimizers.SGD(rate, momentum=0.9, nesterov=True), "mse")
    regression.fit(x, target, epochs=2, verbose=0, validation_data=(x[:9], target[:9]))
    regression.save(FOLDER / "finished.safetensors")

    frozen = models.Sequential([layers.Dense(3, input_shape=(6,)), layers.Dense(2)], seed=5)
    frozen.layers[0].weight.requires_grad = False
    frozen.save(FOLDER / "untrained.safetensors")


if __name__ == "__main__":
    main()
