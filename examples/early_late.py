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

from minidl import callbacks

RATE = 0.1
SEEDS = 3
STYLES = {
    "no dropout": {"color": "black", "linestyle": ":"},
    "all steps": {"color": "#0072B2", "linestyle": "-"},
    "early": {"color": "#009E73", "linestyle": "-."},
    "late": {"color": "#D55E00", "linestyle": "--"},
}


def rates(rate: float, half: int) -> dict[str, float | Callable[[int], float]]:
    """Return the dropout rate of each way, a number or a function of the step."""
    return {
        "no dropout": 0.0,
        "all steps": rate,
        "early": lambda step: rate if step < half else 0.0,
        "late": lambda step: 0.0 if step < half else rate,
    }


def train(hidden: tuple, data: tuple, test: tuple, epochs: int, seed: int, device: str) -> tuple:
    """Return training loss, test loss and test error, each a list with a number for each epoch."""
    model = classifier(hidden, device=device, seed=seed)
    tested: list[tuple[float, float]] = []
    after_epoch = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: tested.append(loss_and_error(model, *test))
    )
    run = model.fit(
        *data,
        batch_size=128,
        epochs=epochs,
        validation_data=data,
        callbacks=[after_epoch],
        verbose=0,
    )
    return run.history["val_loss"], *zip(*tested, strict=True)


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
            training, test_loss, error = np.mean(runs, axis=0)
            numbers[f"{title}, {way}"] = {
                "training_loss": training[-1],
                "training_loss_by_seed": [losses[-1] for losses, *_ in runs],
                "test_loss": test_loss[-1],
                "test_error_percent": error[-1],
            }
            curve = training if units is small else test_loss
            label = f"{way}, test error {error[-1]:.2f} %"
            panel.plot(range(1, count + 1), curve, label=label, **STYLES[way])
        fits, axis = ("underfits", "training") if units is small else ("overfits", "test")
        name = f"{fits}: 784-{'-'.join(map(str, units))}-10, {len(data[0]):,} images"
        panel.set_title(name, fontsize=10)
        panel.set(xlabel="epoch", ylabel=f"{axis} loss (nats)", yscale="log")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}")
        panel.set_xticks(range(0, count + 1, count // 4))
        panel.legend(fontsize=8)
    under, over = ({way: numbers[f"{title}, {way}"] for way in STYLES} for title in cases)
    finding = (
        "The paper finds a lower training loss with early dropout where a network underfits; here "
        f"it is {under['early']['training_loss']:.3f} with and "
        f"{under['no dropout']['training_loss']:.3f} without dropout. It finds a lower test loss "
        "with late dropout where a network overfits; here it is "
        f"{over['late']['test_loss']:.3f} with and "
        f"{over['no dropout']['test_loss']:.3f} without dropout."
    )
    finish(chosen, figure, finding, rates=[RATE, 5 * RATE], **numbers)


if __name__ == "__main__":
    main()
