"""The family of dropout side by side: test error and calibration of each member.

The notes' network (512 and 256 units) is trained without noise, and with members of the family:
dropout and its Gaussian form (Srivastava et al., JMLR 15 (2014), section 10), also with a rate that
grows (Morerio et al., ICCV 2017), additive noise, alpha dropout (Klambauer et al., NIPS 2017),
DropConnect (Wan et al., ICML 2013), and stochastic depth (Huang et al., ECCV 2016).

The best of three rates has the lowest loss on images held out of the training set. The test set is
used once. Calibration is by how much confidence and accuracy differ (`calibration_error`).
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from common import (
    CLASSES,
    PIXELS,
    WITH,
    WITHOUT,
    arguments,
    calibration_error,
    digits,
    finish,
    progress,
)

from minidl import layers, models

SEEDS, UNITS, RATES = 3, (512, 256), (0.1, 0.3, 0.5)


class Residual(layers.Layer):
    """x + relu(x @ W + b), whose second term is dropped as a whole for some samples."""

    recordable = True

    def __init__(self, units: int, rate: float, **arguments: object):
        super().__init__(**arguments)
        self.dense, self.drop = layers.Dense(units, "relu"), layers.DropPath(rate)

    def call(self, x):
        return x + self.drop(self.dense(x))


def growing(rate: float) -> layers.Dropout:
    """Return curriculum dropout, whose rate is rate (1 - exp(-step / 500)), their equation 2."""
    return layers.Dropout(lambda step: rate * (1 - np.exp(-step / 500)))


def after(noise: Callable, activation: str = "relu", start: str = "glorot_uniform") -> Callable:
    """Return a function of units and rate, which returns a dense layer and noise after it."""
    arguments = {"activation": activation, "kernel_initializer": start}
    return lambda units, rate: [layers.Dense(units, **arguments), noise(rate)]


MEMBERS = {
    "no noise": after(lambda rate: layers.Dropout(0)),
    "Dropout": after(layers.Dropout),
    "Dropout, rate grows": after(growing),
    "GaussianDropout": after(layers.GaussianDropout),
    "GaussianNoise": after(layers.GaussianNoise),
    "AlphaDropout, SELU": after(lambda rate: layers.AlphaDropout(rate / 2), "selu", "lecun_normal"),
    "DropConnect": lambda units, rate: [layers.DropConnect(units, rate, activation="relu")],
    "DropPath": lambda units, rate: [layers.Dense(units, "relu"), Residual(units, rate)],
}


def train(member: Callable, rate: float, data: tuple, epochs: int, seed: int, device: str):
    """Return a trained network."""
    stack = [layer for units in UNITS for layer in member(units, rate)]
    stack = [layers.Input((PIXELS,)), *stack, layers.Dense(CLASSES, activation="softmax")]
    model = models.Sequential(stack, device=device, seed=seed)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*data, batch_size=128, epochs=epochs, verbose=0)
    return model


def main() -> None:
    chosen = arguments(__doc__)
    (x, y), (x_test, y_test) = digits(chosen.quick)
    held_out, epochs = len(x) // 6, 4 if chosen.quick else 5
    seeds = range(chosen.seed, chosen.seed + (1 if chosen.quick else SEEDS))
    data, (x_held, y_held) = (x[:-held_out], y[:-held_out]), (x[-held_out:], y[-held_out:])
    found = {}
    for name, member in progress(MEMBERS.items(), "member"):
        tried = []
        for rate in RATES if name != "no noise" else RATES[:1]:
            nets = [train(member, rate, data, epochs, seed, chosen.device) for seed in seeds]
            loss = np.mean([net.evaluate(x_held, y_held, 1000, verbose=0) for net in nets])
            tried.append((loss, rate, nets))
        _, rate, nets = min(tried, key=lambda each: each[0])
        outputs = [net.predict(x_test, 1000, verbose=0) for net in nets]
        errors = [100 * float((p.argmax(axis=1) != y_test).mean()) for p in outputs]
        gaps = [calibration_error(p, y_test) for p in outputs]
        found[name] = {"rate": rate, "test_error_percent": errors, "calibration_percent": gaps}
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    shown = {"test_error_percent": "test error (%)", "calibration_percent": "calibration error (%)"}
    for panel, (key, label) in zip(panels, shown.items(), strict=True):
        for row, (name, numbers) in enumerate(found.items()):
            style = {**(WITHOUT if name == "no noise" else WITH), "linestyle": ""}
            panel.plot(np.mean(numbers[key]), row, **{**style, "markersize": 8})
            panel.plot(numbers[key], [row] * len(numbers[key]), **style, alpha=0.4)
        panel.set(xlabel=label)
    names = [n if n == "no noise" else f"{n} ({found[n]['rate']:g})" for n in found]
    panels[0].set_yticks(range(len(found)), names)
    panels[0].invert_yaxis()
    without, *errors = (np.mean(numbers["test_error_percent"]) for numbers in found.values())
    finding = (
        "The papers of dropout, DropConnect and stochastic depth find lower test errors with them; "
        f"here the mean test error is {without:.2f} % without noise and, by member, "
        f"{min(errors):.2f} to {max(errors):.2f} % with it."
    )
    finish(chosen, figure, finding, epochs=epochs, seeds=len(seeds), members=found)


if __name__ == "__main__":
    main()
