"""Accuracy and time beside scikit-learn's MLPClassifier: ``python -m bench.sklearn_mlp``.

Full MNIST as float32, hidden layers (512, 256), batches of 200, 5 epochs, else the defaults. The
sides take turns, each turn with a seed of its own. Accuracies are those of the test images, means
over the turns; times are those of `fit`, the median ratio of the turns.
"""

import os
import statistics
import time
import warnings

from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier as TheirClassifier

from minidl import datasets
from minidl.sklearn import MLPClassifier

TURNS = 3
COMMON = {"hidden_layer_sizes": (512, 256), "batch_size": 200, "max_iter": 5}
THEIRS = "scikit-learn"
SIDES = {
    THEIRS: TheirClassifier(**COMMON),
    "minidl": MLPClassifier(**COMMON),
    "minidl, dropout=0.3": MLPClassifier(**COMMON, dropout=0.3),
    "minidl, dropout=0.5": MLPClassifier(**COMMON, dropout=0.5),
}


def main() -> None:
    """Print a line for each side."""
    (x, y), (x_test, y_test) = datasets.mnist.load_data()
    x, x_test = ((part.reshape(len(part), -1) / 255).astype("float32") for part in (x, x_test))
    warnings.simplefilter("ignore", ConvergenceWarning)
    MLPClassifier(**COMMON, dropout=0.5).fit(x[:1000], y[:1000])  # compiles the kernels
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    accuracies: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(TURNS):
        for name, estimator in SIDES.items():
            begin = time.perf_counter()
            estimator.set_params(random_state=turn).fit(x, y)
            seconds[name].append(time.perf_counter() - begin)
            accuracies[name].append(estimator.score(x_test, y_test))
    print(f"load average {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")
    for name in SIDES:
        ratio = statistics.median(
            theirs / mine for theirs, mine in zip(seconds[THEIRS], seconds[name], strict=True)
        )
        accuracy, shortest = statistics.mean(accuracies[name]), min(seconds[name])
        print(f"{name:20} accuracy {accuracy:.4f}, {shortest:5.1f} s, ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
