"""First-layer features of an autoencoder, with and without dropout, and how they co-adapt.

The claim: without dropout hidden units co-adapt: they correct the mistakes of others, and no unit
alone detects a meaningful feature. With dropout they detect edges, strokes and spots. Srivastava et
al., JMLR 15 (2014), section 7.1 and Figure 7: 256 rectified linear units, rate 0.5.

Co-adaptation is measured by the share of the units' contributions to the pixels that cancels out:
1 - |sum of contributions| / sum of |contributions|, biases aside, over all pixels of the test set.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from common import PIXELS, arguments, digits, finish, progress

from minidl import layers, models

UNITS = 256
SHOWN = 64  # of the features, the first ones


def autoencoder(rate: float, x: np.ndarray, epochs: int, chosen: argparse.Namespace):
    """Return a trained autoencoder with dropout on its hidden layer, and that layer as a model."""
    hidden = layers.Dense(UNITS, activation="relu")
    stack = [layers.Input((PIXELS,)), hidden, layers.Dropout(rate), layers.Dense(PIXELS, "sigmoid")]
    model = models.Sequential(stack, device=chosen.device, seed=chosen.seed)
    # Small first weights, so that features show what was learned and not where it began.
    model.set_weights([0.1 * weight for weight in model.get_weights()])
    model.compile("adam", "mean_squared_error")
    model.fit(x, x, batch_size=128, epochs=epochs, verbose=0)
    return model, models.Sequential([hidden], device=chosen.device)


def taken_away(activations: np.ndarray, weight: np.ndarray) -> float:
    """Return the share of the units' contributions to the pixels that cancels out."""
    return 1 - np.abs(activations @ weight).sum() / (activations @ np.abs(weight)).sum()


def main() -> None:
    chosen = arguments(__doc__)
    (x, _), (x_test, _) = digits(chosen.quick)
    epochs = 8 if chosen.quick else 12
    numbers = {}
    figure, panels = plt.subplots(1, 2, figsize=(6.6, 3.7))
    ways = list(zip(panels, {"without": 0.0, "with": 0.5}.items(), strict=True))
    for panel, (name, rate) in progress(ways):
        model, hidden = autoencoder(rate, x, epochs, chosen)
        encoder, _, decoder, _ = model.get_weights()
        features = encoder.T.reshape(UNITS, 28, 28)
        numbers[f"{name} dropout"] = {
            "share_taken_away": taken_away(hidden.predict(x_test, verbose=0), decoder),
            "test_squared_error": model.evaluate(x_test, x_test, batch_size=1000, verbose=0),
        }
        # Grey is 0; the largest weights are black and white, and units that are not used stay grey.
        shown = features[:SHOWN] / np.quantile(np.abs(features), 0.999)
        tiles = np.pad(shown, ((0, 0), (0, 2), (0, 2)), constant_values=1.0)
        grid = tiles.reshape(8, 8, 30, 30).swapaxes(1, 2).reshape(240, 240)
        panel.imshow(grid, cmap="gray", vmin=-1, vmax=1)
        panel.set(title=f"{name} dropout", xticks=[], yticks=[])
        panel.set_xlabel(f"{SHOWN} units, 28 x 28 weights each (0: grey)")
    shares = [100 * each["share_taken_away"] for each in numbers.values()]
    finding = (
        "The paper finds that units co-adapt less with dropout; here, of their contributions, "
        f"{shares[0]:.0f} % cancel out without and {shares[1]:.0f} % with it."
    )
    finish(chosen, figure, finding, **numbers, epochs=epochs, images=len(x))


if __name__ == "__main__":
    main()
