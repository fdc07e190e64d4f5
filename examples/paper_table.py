"""The paper's test errors on MNIST, row by row.

The claim: dropout lowers the test error of large networks, with max-norm more; L2 or max-norm alone
do less. Srivastava et al., JMLR 15 (2014), Table 2 (dropout, logistic) and Table 9 (the two last);
the row with neither is in no table of theirs: it is there to compare with.

Hyperparameters: as in Appendix B.1 hidden layers drop 0.5 and the input 0.2. Ours are Adam, batches
of 200, a learning rate that falls along a cosine to 0, and the epochs and candidates below. Each
candidate is trained on 50,000 images for 15 epochs and measured on the other 10,000; the best is
trained on all 60,000 with three seeds, and tested once for each seed. A run adds a line to
NAME.jsonl beside the picture: stop the program when you like; it will go on, on any device.
"""

import matplotlib.pyplot as plt
import numpy as np
from common import (
    CLASSES,
    PIXELS,
    WITH,
    WITHOUT,
    arguments,
    digits,
    finish,
    loss_and_error,
    once,
    progress,
)

from minidl import constraints, layers, losses, models, optimizers

BATCH, CHOICE_EPOCHS, QUICK_EPOCHS = 200, 15, 8
PLAIN, WIDE, DEEP = (1024,) * 3, (4096,) * 2, (1024, 1024, 2048)
SLOW, FAST = {"learning_rate": 3e-4}, {"learning_rate": 1e-2}  # 1e-3 otherwise
NORMS = [{"norm": 1}, {"norm": 2}]
# row: (the paper's error in percent, hidden units, activation, dropout, epochs, candidates)
ROWS = {
    "dropout + max-norm, 2x4096": (1.01, WIDE, "relu", True, 100, NORMS),
    "dropout + max-norm, 3x1024": (1.06, PLAIN, "relu", True, 100, NORMS),
    "dropout, 3x1024": (1.25, PLAIN, "relu", True, 100, [{}, SLOW]),
    "neither, 3x1024": (None, PLAIN, "relu", False, 30, [{}, SLOW]),
    "max-norm, 1024-1024-2048": (1.35, DEEP, "relu", False, 30, NORMS),
    "L2, 1024-1024-2048": (1.62, DEEP, "relu", False, 30, [{"l2": 1e-5}, {"l2": 1e-4}]),
    "logistic, 2x800": (1.60, (800, 800), "sigmoid", False, 30, [{}, FAST]),
}


class WithL2(losses.SparseCategoricalCrossentropy):
    """Add `factor` times the sum of all squared weights, biases apart, to each sample's loss."""

    def __init__(self, model: models.Model, factor: float):
        super().__init__()
        self.model, self.factor = model, factor

    def per_sample(self, y_true, y_pred):
        squares = sum((w * w).sum() for w in self.model.parameters() if w.ndim == 2)
        return super().per_sample(y_true, y_pred) + squares * self.factor


def error_of(run: dict, data, device: str) -> float:
    """Train a network; return its error in percent on the images held out."""
    (x, y), held_out = data
    _, hidden, activation, dropout, *_ = ROWS[run["row"]]
    choice, shrink = run["candidate"], 8 if run["quick"] else 1
    norm = constraints.MaxNorm(choice["norm"]) if "norm" in choice else None
    stack = [layers.Input((PIXELS,)), layers.Dropout(0.2 * dropout)]
    for units in hidden:
        stack += [layers.Dense(units // shrink, activation, kernel_constraint=norm)]
        stack += [layers.Dropout(0.5 * dropout)]
    stack += [layers.Dense(CLASSES, "softmax", kernel_constraint=norm)]
    model = models.Sequential(stack, device=device, seed=run["seed"])
    rate, steps = choice.get("learning_rate", 1e-3), run["epochs"] * len(x) // BATCH
    adam = optimizers.Adam(optimizers.schedules.CosineDecay(rate, steps))
    loss = WithL2(model, choice["l2"]) if "l2" in choice else "sparse_categorical_crossentropy"
    model.compile(adam, loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=run["epochs"], verbose=0)
    return loss_and_error(model, *held_out)[1]


def main() -> None:
    chosen = arguments(__doc__)
    train, test = digits(chosen.quick)
    cut = len(train[0]) * 5 // 6
    validation = tuple(part[:cut] for part in train), tuple(part[cut:] for part in train)
    log = chosen.picture.with_suffix(".jsonl")

    def error(data, epochs, **run) -> float:
        epochs = QUICK_EPOCHS if chosen.quick else epochs
        run |= {"quick": chosen.quick, "epochs": epochs}
        return once(log, run, lambda: error_of(run, data, chosen.device))

    figure, axes = plt.subplots(figsize=(8, 3.6))
    seeds, numbers = range(chosen.seed, chosen.seed + (1 if chosen.quick else 3)), {}
    for place, row in enumerate(progress(ROWS, "row")):
        paper, _, _, dropout, epochs, candidates = ROWS[row]
        run = {"row": row, "seed": chosen.seed, "on": "validation"}
        best = min(candidates, key=lambda c: error(validation, CHOICE_EPOCHS, candidate=c, **run))
        run = {"row": row, "candidate": best, "on": "test"}
        errors = [error((train, test), epochs, seed=seed, **run) for seed in seeds]
        numbers[row] = {"paper": paper, "mean": np.mean(errors), "errors": errors, "chosen": best}
        style = (WITH if dropout else WITHOUT) | {"linestyle": ""}
        axes.plot(errors, place + 0.12 * np.arange(-1, len(errors) - 1), **style)
        if paper:
            axes.plot(paper, place, "k|", markersize=18)
    axes.set_yticks(range(len(ROWS)), list(ROWS))
    axes.set(
        xlabel="test error (%). Circles: with dropout. Squares: without. Bars: the paper.",
        ymargin=0.08,
    )
    axes.invert_yaxis()
    row, neither = "dropout + max-norm, 3x1024", "neither, 3x1024"
    finding = (
        f"The paper finds {ROWS[row][0]} % with dropout and max-norm on 3x1024; here the mean is "
        f"{numbers[row]['mean']:.2f} %, and {numbers[neither]['mean']:.2f} % with neither."
    )
    finish(chosen, figure, finding, test_error_percent=numbers)


if __name__ == "__main__":
    main()
