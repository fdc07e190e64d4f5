"""The paper's test errors on MNIST, row by row, as far as two cores can train them.

The claim: dropout lowers the test error of large networks, with max-norm more; L2 or max-norm alone
do less. Srivastava et al., JMLR 15 (2014), Table 2 (the first three rows here) and Table 9.

Hyperparameters: as in Appendix B.1 hidden layers drop 0.5 and the input 0.2, the momentum is 0.95;
ours, since it does not say, are batches of 100, 100 epochs, a learning rate that falls along a
cosine to 0, and the candidates below. Each candidate is trained on 50,000 images and judged on the
other 10,000; the best is trained on all 60,000 with three seeds, and meets the test set once each.
A run adds a line to NAME.jsonl beside the picture: stop the program when you like; it will go on.
"""

import json

import numpy as np
from common import CLASSES, PIXELS, WITH, arguments, digits, finish, loss_and_error, plt

from minidl import constraints, layers, losses, models, optimizers

# row: (the paper's error in percent, hidden units, activation, dropout, candidates), each
# candidate [learning rate, the norm's bound or None, the factor of L2 or None]
PLAIN, DEEP = (1024,) * 3, (1024, 1024, 2048)
ROWS = {
    "dropout + max-norm, 3x1024": (1.06, PLAIN, "relu", True, [[0.1, 2, None], [0.1, 3, None]]),
    "dropout, 3x1024": (1.25, PLAIN, "relu", True, [[0.03, None, None], [0.1, None, None]]),
    "logistic, 2x800": (1.60, (800,) * 2, "sigmoid", False, [[0.1, None, None], [0.3, None, None]]),
    "max-norm, 1024-1024-2048": (1.35, DEEP, "relu", False, [[0.03, 2, None], [0.03, 3, None]]),
    "L2, 1024-1024-2048": (1.62, DEEP, "relu", False, [[0.01, None, 1e-5], [0.01, None, 1e-4]]),
}


class WithL2(losses.SparseCategoricalCrossentropy):
    """Add `factor` times the sum of all squared weights, biases apart, to each sample's loss."""

    def __init__(self, model: models.Model, factor: float):
        super().__init__()
        self.model, self.factor = model, factor

    def per_sample(self, y_true, y_pred):
        squares = sum((w * w).sum() for w in self.model.parameters() if w.ndim == 2)
        return super().per_sample(y_true, y_pred) + squares * self.factor


def error_of(run: dict, data) -> float:
    """Train a network; return its error in percent on the images held out."""
    (x, y), held_out = data
    _, hidden, activation, dropout, _ = ROWS[run["row"]]
    learning_rate, bound, factor = run["candidate"]
    norm = constraints.MaxNorm(bound) if bound else None
    shrink = 8 if run["quick"] else 1
    stack = [layers.Input((PIXELS,)), layers.Dropout(0.2 * dropout)]
    for units in hidden:
        stack.append(layers.Dense(units // shrink, activation, kernel_constraint=norm))
        stack.append(layers.Dropout(0.5 * dropout))
    stack.append(layers.Dense(CLASSES, "softmax", kernel_constraint=norm))
    model = models.Sequential(stack, device=run["device"], seed=run["seed"])
    fall = optimizers.schedules.CosineDecay(learning_rate, run["epochs"] * len(x) // 100)
    loss = WithL2(model, factor) if factor else "sparse_categorical_crossentropy"
    model.compile(optimizers.SGD(fall, momentum=0.95), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=100, epochs=run["epochs"], verbose=0)
    return loss_and_error(model, *held_out)[1]


def main() -> None:
    chosen = arguments(__doc__)
    train, test = digits(chosen.quick)
    cut = len(train[0]) * 5 // 6
    validation = tuple(part[:cut] for part in train), tuple(part[cut:] for part in train)
    log = chosen.picture.with_suffix(".jsonl")
    lines = log.read_text().splitlines() if log.exists() else []
    same = {"quick": chosen.quick, "device": chosen.device, "epochs": 3 if chosen.quick else 100}

    def error(data, **run) -> float:
        run |= same
        for known in map(json.loads, lines):
            if run.items() <= known.items():
                return known["error_percent"]
        found = error_of(run, data)
        with log.open("a") as file:
            print(json.dumps(run | {"error_percent": found}), file=file)
        return found

    seeds = range(chosen.seed, chosen.seed + (1 if chosen.quick else 3))
    figure, axes = plt.subplots(figsize=(8, 3.6))
    numbers = {}
    for place, (row, (paper, *_, candidates)) in enumerate(ROWS.items()):
        run = {"row": row, "seed": chosen.seed, "on": "validation"}
        best = min(candidates, key=lambda c: error(validation, candidate=c, **run))
        errors = [error((train, test), row=row, candidate=best, seed=s, on="test") for s in seeds]
        numbers[row] = {"paper": paper, "mean": np.mean(errors), "errors": errors, "chosen": best}
        axes.plot(errors, [place] * len(errors), **WITH | {"linestyle": ""})
        axes.plot(paper, place, "k|", markersize=18)
    axes.set_yticks(range(len(ROWS)), list(ROWS))
    axes.set(xlabel="test error (%)", title="dots: ours, one a seed; bars: the paper's")
    finish(chosen, figure, test_error_percent=numbers)


if __name__ == "__main__":
    main()
