"""Scaling of dropout: inverted dropout and the notes' form have one expectation and one accuracy.

The claim: it makes no difference whether what is kept is divided by 1 - rate in training, as
``scaling="train"`` does, or everything is multiplied by 1 - rate in inference, as the notes and
the paper do: ``scaling="inference"``. In both forms the mean over all masks in training is what
inference computes. Srivastava et al., JMLR 15 (2014), section 4 and Figure 2, and section 10.
"""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
from common import (
    THEORY,
    WITH,
    WITHOUT,
    arguments,
    classifier,
    digits,
    finish,
    loss_and_error,
    progress,
)

import minidl
from minidl import Tensor, layers, rng

RATE, IMAGES, STREAM = 0.5, 20, 0
LOOKS = {"train": WITH, "inference": WITHOUT}


def distances_to(inference: np.ndarray, outputs: Iterable[np.ndarray]) -> np.ndarray:
    """Return how far the mean of 1, 2, ... outputs is from inference, relative to inference."""
    total, found = np.zeros(inference.shape), []
    for count, output in enumerate(outputs, 1):
        total += output
        found.append(np.linalg.norm(total / count - inference))
    return np.array(found) / np.linalg.norm(inference)


def of_a_layer(scaling: str, x: np.ndarray, masks: int, chosen) -> np.ndarray:
    """Return the distances of a layer, each of whose outputs in training has another mask."""
    layer = layers.Dropout(RATE, seed=chosen.seed, stream=STREAM, scaling=scaling)
    tensor = Tensor(x, chosen.device)

    def output(step: int) -> np.ndarray:
        with minidl.training(step=step):
            return layer(tensor).numpy()

    return distances_to(layer(tensor).numpy().astype("float64"), map(output, range(masks)))


def of_the_formula(x: np.ndarray, masks: int, seed: int) -> np.ndarray:
    """Return those of the notes' formula, r * x in training and (1 - rate) x in inference."""
    address = {"seed": seed, "stream": STREAM}
    kept = (rng.keep_mask(x.shape, RATE, **address, step=step) for step in range(masks))
    return distances_to((1 - RATE) * x, (mask * x for mask in kept))


def main() -> None:
    chosen = arguments(__doc__)
    (x, y), test = digits(chosen.quick)
    masks, epochs, seeds = (400, 3, 1) if chosen.quick else (4000, 5, 3)
    k = np.arange(1, masks + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4))

    left.loglog(
        k, np.sqrt(RATE / (1 - RATE) / k), **THEORY, label="expected: sqrt(q / (1 - q) / k)"
    )
    images = test[0][:IMAGES]
    distances = {name: of_a_layer(name, images, masks, chosen) for name in LOOKS}
    formula = of_the_formula(images, masks, chosen.seed)
    often = np.unique(np.geomspace(1, masks, 13).astype(int)) - 1
    for (name, style), offset in zip(LOOKS.items(), (0, 1), strict=True):
        shown = often[offset::2]  # in turn, since the curves lie on top of each other
        look = style | {"linestyle": "", "markersize": 6}
        left.plot(k[shown], distances[name][shown], **look, label=f'scaling="{name}"')
    left.plot(k, formula, "-", color="gray", linewidth=1, label="the notes' formula, in NumPy")
    left.set(xlabel="k, masks in the mean", ylabel="distance to inference, relative")
    left.legend(loc="lower left")

    accuracies: dict[str, list[float]] = {}
    for name, style in LOOKS.items():
        curves = []
        for seed in progress(range(chosen.seed, chosen.seed + seeds)):
            hidden = [(512, RATE), (256, 0.3)]
            model = classifier(hidden, device=chosen.device, seed=seed, scaling=name)
            curves.append([])
            for _ in range(epochs):
                model.fit(x, y, epochs=1, verbose=0)
                curves[-1].append(100 - loss_and_error(model, *test)[1])
        right.plot(
            range(1, epochs + 1), np.mean(curves, axis=0), **style, label=f'scaling="{name}"'
        )
        accuracies[name] = [curve[-1] for curve in curves]
    right.set(xlabel="epoch", ylabel="test accuracy (%), mean over the seeds")
    right.set_xticks(range(1, epochs + 1))
    right.legend()
    far = {name: 100 * values[-1] for name, values in distances.items()}
    mean = {name: np.mean(values) for name, values in accuracies.items()}
    finish(
        chosen,
        figure,
        "The paper finds both ways to scale equivalent; here the mean over "
        f"{masks:,} masks is {far['train']:.2f} % from inference if training scales and "
        f"{far['inference']:.2f} % if inference scales, and the test accuracies are "
        f"{mean['train']:.2f} and {mean['inference']:.2f} %.",
        distance_after_all_masks={name: values[-1] for name, values in distances.items()},
        distance_of_the_formula=formula[-1],
        expected_distance=(RATE / (1 - RATE) / masks) ** 0.5,
        test_accuracy_percent=accuracies,
        masks=masks,
        epochs=epochs,
    )


if __name__ == "__main__":
    main()
