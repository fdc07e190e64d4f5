"""Dropout rates that are learned: concrete dropout against the size of the data.

The claim: the rate that suits a layer can be found by gradient descent, and it falls as the data
grow, since a network that knows more is less uncertain. Gal, Hron & Kendall, "Concrete dropout",
NeurIPS 2017, sections 3 and 4.3, and Figure 2.

The network has concrete dropout before each of its dense layers, the first of which sees pixels. It
is trained on parts of the digits of several sizes, for the same number of steps. The regulariser is
the paper's: l^2 / (2 N) for weights and 1 / N for rates, for N images and a prior length scale l.
"""

import matplotlib.pyplot as plt
import numpy as np
from common import CLASSES, PIXELS, arguments, digits, finish, loss_and_error, progress

from minidl import layers, models

SIZES, STEPS, UNITS = (1_000, 4_000, 15_000, 60_000), 4_000, (256, 256)
QUICK = (250, 4_000), 400, (96, 96)
LENGTH_SCALE = 1e-2
FIRST_RATE, BATCH, SEEDS = 0.2, 128, 2
STYLES = (("#0072B2", "-", "o"), ("#D55E00", "--", "s"), ("#009E73", "-.", "^"))


def concrete(units: int, activation: str, images: int) -> layers.ConcreteDropout:
    """Return a dense layer with concrete dropout, regularised for a number of images."""
    return layers.ConcreteDropout(
        layers.Dense(units, activation),
        FIRST_RATE,
        weight_regularizer=LENGTH_SCALE**2 / (2 * images),
        dropout_regularizer=1 / images,
        learning_rate_factor=10.0,  # the gradient of a rate is small beside those of weights
    )


def train(
    x: np.ndarray, y: np.ndarray, hidden: tuple, steps: int, seed: int, device: str
) -> models.Sequential:
    """Return a trained network."""
    stack = [concrete(units, "relu", len(x)) for units in hidden]
    stack = [layers.Input((PIXELS,)), *stack, concrete(CLASSES, "softmax", len(x))]
    model = models.Sequential(stack, device=device, seed=seed)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    epochs = round(steps / -(-len(x) // BATCH))
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def main() -> None:
    chosen = arguments(__doc__)
    sizes, steps, hidden = QUICK if chosen.quick else (SIZES, STEPS, UNITS)
    (x, y), (x_test, y_test) = digits(chosen.quick)
    seeds = range(chosen.seed, chosen.seed + (1 if chosen.quick else SEEDS))
    found = {}
    for size in progress(sizes, "size"):
        data, device = (x[:size], y[:size]), chosen.device
        nets = [train(*data, hidden, steps, seed, device) for seed in seeds]
        rates = [[layer.learned_rate for layer in net.layers] for net in nets]
        errors = [loss_and_error(net, x_test, y_test)[1] for net in nets]
        found[size] = {"rates": rates, "test_error_percent": errors}

    figure, panel = plt.subplots(figsize=(5, 3.5))
    for layer, (colour, line, mark) in enumerate(STYLES):
        rates = np.array([found[size]["rates"] for size in sizes])[:, :, layer]
        style = {"color": colour, "linestyle": line, "marker": mark}
        panel.plot(sizes, rates.mean(axis=1), label=f"before dense layer {layer + 1}", **style)
        panel.plot(sizes, rates, **{**style, "linestyle": ""}, markersize=3, alpha=0.4)
    panel.set(xscale="log", xlabel="training images", ylabel="learned rate", ylim=(0, None))
    panel.legend()
    first, last = (np.mean(found[size]["rates"], axis=0)[0] for size in (sizes[0], sizes[-1]))
    finding = (
        "The paper finds that learned rates fall as the data grow; here the rate before the first "
        f"dense layer is {first:.2f} at {sizes[0]:,} images and {last:.2f} at {sizes[-1]:,}."
    )
    finish(chosen, figure, finding, first_rate=FIRST_RATE, steps=steps, sizes=found)


if __name__ == "__main__":
    main()
