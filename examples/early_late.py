"""Dropout in the first steps only, or in the last steps only: early and late dropout.

The claim: dropout at the start of training makes gradients agree better, so networks that underfit
reach a lower training loss with it (early dropout), while networks that overfit generalise better
with dropout in later steps only (late dropout). Liu et al., "Dropout reduces underfitting", ICML
2023, sections 3 to 5 and Figures 1 and 8.

A small network is trained on many digits (it underfits) and a large one on few (it overfits), each
without dropout, with it in all steps, in the first half, and in the second half. Means of three
seeds. The training loss is that of the whole network, without dropout.
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from common import arguments, classifier, digits, finish, loss_and_error, progress

RATE = 0.1
SEEDS = 3
STYLES = {
    "no dropout": {"color": "black", "linestyle": ":"},
    "all steps": {"color": "#0072B2", "linestyle": "-"},
    "first half": {"color": "#009E73", "linestyle": "-."},
    "second half": {"color": "#D55E00", "linestyle": "--"},
}


def rates(rate: float, half: int) -> dict[str, float | Callable[[int], float]]:
    """Return the dropout rate of each way, a number or a function of the step."""
    return {
        "no dropout": 0.0,
        "all steps": rate,
        "first half": lambda step: rate if step < half else 0.0,
        "second half": lambda step: 0.0 if step < half else rate,
    }


def train(hidden: tuple, data: tuple, test: tuple, epochs: int, seed: int, device: str) -> tuple:
    """Return the training loss after each epoch, and the test loss and error at the end."""
    model = classifier(hidden, device=device, seed=seed)
    run = model.fit(*data, batch_size=128, epochs=epochs, validation_data=data, verbose=0)
    return run.history["val_loss"], loss_and_error(model, *test)


def main() -> None:
    chosen = arguments(__doc__)
    (x, y), test = digits(chosen.quick)
    small, large = ((24, 24), (64, 64)) if chosen.quick else ((24, 24), (512, 256))
    few, epochs = (500, (6, 12)) if chosen.quick else (2_000, (16, 60))
    cases = {f"{small}, {len(x):,} images": (small, (x, y), epochs[0], RATE)}
    cases[f"{large}, {few:,} images"] = large, (x[:few], y[:few]), epochs[1], 5 * RATE
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.5))
    numbers = {}
    for panel, (title, (units, data, count, rate)) in zip(axes, cases.items(), strict=True):
        half = count * -(-len(data[0]) // 128) // 2
        for way, scheduled in progress(rates(rate, half).items(), "way"):
            hidden = [(number, scheduled) for number in units]
            seeds = range(chosen.seed, chosen.seed + SEEDS)
            runs = [train(hidden, data, test, count, seed, chosen.device) for seed in seeds]
            curve = np.mean([losses for losses, _ in runs], axis=0)
            loss, error = np.mean([measured for _, measured in runs], axis=0)
            numbers[f"{title}, {way}"] = {
                "training_loss": float(curve[-1]),
                "training_loss_by_seed": [losses[-1] for losses, _ in runs],
                "test_loss": loss,
                "test_error_percent": error,
            }
            panel.plot(
                range(1, count + 1), curve, label=f"{way}, test {error:.2f} %", **STYLES[way]
            )
        fits = "underfits" if units is small else "overfits"
        name = f"{fits}: 784-{'-'.join(map(str, units))}-10, {len(data[0]):,} images"
        panel.set_title(name, fontsize=10)
        panel.set(xlabel="epoch", ylabel="training loss", yscale="log")
        panel.set_xticks(range(0, count + 1, count // 4))
        panel.legend(fontsize=8)
    under, over = ({way: numbers[f"{title}, {way}"] for way in STYLES} for title in cases)
    finding = (
        "The paper finds a lower training loss with early dropout where a network underfits; here "
        f"it is {under['first half']['training_loss']:.3f} with and "
        f"{under['no dropout']['training_loss']:.3f} without dropout. It finds a lower test loss "
        "with late dropout where a network overfits; here it is "
        f"{over['second half']['test_loss']:.3f} with and "
        f"{over['no dropout']['test_loss']:.3f} without dropout."
    )
    finish(chosen, figure, finding, rates=[RATE, 5 * RATE], **numbers)


if __name__ == "__main__":
    main()
