"""Common code of the examples: arguments, digits, networks, and the output of results."""

import argparse
import io
import json
import platform
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image  # matplotlib brings it
from tqdm import tqdm

import minidl
from minidl import datasets, layers, models, optimizers

Item = TypeVar("Item")
PIXELS, CLASSES = 28 * 28, 10
COLOURS = 64  # in a picture

# Okabe & Ito's colours, which the colour-blind can tell apart; lines and marks differ as well, so
# that a picture can be read in black and white.
WITH = {"color": "#0072B2", "linestyle": "-", "marker": "o", "markersize": 4}
WITHOUT = {"color": "#D55E00", "linestyle": "--", "marker": "s", "markersize": 4}
THEORY = {"color": "black", "linestyle": ":", "linewidth": 1.5}
plt.switch_backend("Agg")  # pictures go into files; no screen is needed
plt.rcParams.update(
    {"axes.grid": True, "grid.alpha": 0.3, "font.size": 10, "figure.constrained_layout.use": True}
)


def arguments(description: str) -> argparse.Namespace:
    """Return what the user chose, and when the program began."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small form, on 5,000 digits that come with minidl"
    )
    parser.add_argument("--device", default="cpu", help='"cpu", "cuda", "cuda:N" or "auto"')
    parser.add_argument("--seed", type=int, default=0, help="decides all that is random")
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path(f"{Path(sys.argv[0]).stem}.png"),
        help="where the picture goes",
    )
    chosen = parser.parse_args(namespace=argparse.Namespace(began=time.perf_counter()))
    if chosen.picture.suffix != ".png" or not chosen.picture.parent.is_dir():
        parser.error(f"--picture: expected NAME.png in an existing folder, got {chosen.picture}")
    return chosen


def progress(items: Collection[Item], unit: str = "network") -> Iterable[Item]:
    """Return the items, which a bar counts on the terminal."""
    return tqdm(items, unit=unit, disable=None)  # None: no bar in files and pipes


def digits(quick: bool) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (x_train, y_train), (x_test, y_test): rows of 784 pixels in [0, 1], and labels."""
    source = datasets.mnist_5k if quick else datasets.mnist
    train, test = source.load_data()
    return (_rows(train[0]), train[1]), (_rows(test[0]), test[1])


def _rows(images: np.ndarray) -> np.ndarray:
    return (images / np.float32(255)).reshape(len(images), PIXELS)


def classifier(
    hidden: Sequence[tuple[int, float]],
    *,
    device: str,
    seed: int,
    scaling: str = "train",
    learning_rate: float | optimizers.schedules.LearningRateSchedule = 0.001,
) -> models.Sequential:
    """Return a network with ReLU layers of (units, dropout rate), compiled with Adam.

    A rate of 0 is a network without dropout, and starts from the same weights.
    """
    stack: list[layers.Layer] = [layers.Input((PIXELS,))]
    for units, rate in hidden:
        stack += [layers.Dense(units, activation="relu"), layers.Dropout(rate, scaling=scaling)]
    stack += [layers.Dense(CLASSES, activation="softmax")]
    model = models.Sequential(stack, device=device, seed=seed)
    adam = optimizers.Adam(learning_rate)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def loss_and_error(model: models.Sequential, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the cross-entropy in nats and the share of wrong answers in percent."""
    loss, accuracy = model.evaluate(x, y, batch_size=1000, verbose=0)
    return loss, 100 * (1 - accuracy)


def calibration_error(probabilities: np.ndarray, y: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error in percent (Guo et al., ICML 2017, equation 3)."""
    confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=is_right - confidence, minlength=bins)
    return 100 * float(np.abs(gaps).sum() / len(y))


def once(log: Path, run: dict[str, object], find: Callable[[], float]) -> float:
    """Return a run's number: from the log, a line of JSON for each run, or found now and added."""
    for line in log.read_text().splitlines() if log.exists() else []:
        known = json.loads(line)
        number = known.pop("number")
        if known == run:
            return number
    number = find()
    with log.open("a") as file:
        print(json.dumps(run | {"number": number}), file=file)
    return number


def finish(chosen: argparse.Namespace, figure: plt.Figure, finding: str, **numbers: object) -> None:
    """Save the picture; print the finding, and a line of JSON: the numbers, how they were made."""
    drawn = io.BytesIO()
    figure.savefig(drawn, bbox_inches="tight")
    # A palette makes the file a third as large.
    image = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(chosen.picture, optimize=True)
    made = {
        "program": Path(sys.argv[0]).stem,
        "quick": chosen.quick,
        "device": chosen.device,
        "seed": chosen.seed,
        "seconds": round(time.perf_counter() - chosen.began, 1),
        "minidl": minidl.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "picture": str(chosen.picture),
    }
    exact = json.dumps(numbers, default=lambda value: value.tolist(), allow_nan=False)
    rounded = json.loads(exact, parse_float=lambda digits: float(f"{float(digits):.6g}"))
    print(finding)
    print(json.dumps(made | rounded))
