"""Digits to begin with, and figures about the mean of thinned networks."""

import base64
from typing import Any

import numpy as np

from minidl.commands.playground.network import CLASSES, SIDE, expectation
from minidl.models import Model

SAMPLES = 100  # thinned networks
MAX_IMAGES = 1_000  # that are searched for examples
HARD = 10
SMALLEST = np.finfo(np.float32).smallest_subnormal  # so that each logarithm is finite


def check_images(x: np.ndarray, y: np.ndarray) -> None:
    """Raise ValueError if the page cannot show the images."""
    if x.dtype != np.uint8 or x.shape[1:] != (SIDE, SIDE) or len(x) == 0:
        found = f"{x.dtype} of shape {x.shape}"
        raise expectation(
            f"images of uint8 and shape (n, {SIDE}, {SIDE})", found, "Pass bytes, not x / 255."
        )
    if y.shape != (len(x),) or not np.isin(y, range(CLASSES)).all():
        raise expectation(f"{len(x)} digits", f"shape {y.shape} or others", "Pass class numbers.")


def examples(model: Model, x: np.ndarray, y: np.ndarray, white: float) -> dict[str, Any]:
    """Return images for the page and figures, in JSON values.

    Of the first 1,000 images, one easy image of each class is the correct one with the lowest
    mutual information of 100 thinned networks, and the ten hard ones have the highest.

    Parameters
    ----------
    x : numpy.ndarray
        uint8, shape (images, 28, 28).
    y : numpy.ndarray
        Their classes, shape (images,).
    white : float
        The network's input for a white pixel.
    """
    x, y = x[:MAX_IMAGES], y[:MAX_IMAGES]
    assert model.built_for is not None, "check_network has passed"
    inputs = (x * (white / 255)).reshape(len(x), *model.built_for)
    whole = model.predict(inputs, verbose=0)
    drawn = model.predict(inputs, verbose=0, samples=SAMPLES, return_samples=True)
    logarithms = np.log(np.maximum(drawn, SMALLEST, dtype=np.float64))
    mean = drawn.mean(axis=0, dtype=np.float64)
    entropy = -(mean * np.log(np.maximum(mean, SMALLEST))).sum(axis=1)
    information = entropy + (drawn * logarithms).sum(axis=2).mean(axis=0)

    guesses, rows = whole.argmax(axis=1), np.arange(len(x))
    order = np.argsort(information, kind="stable")
    easy: list[int] = []
    for digit in range(CLASSES):
        correct = [row for row in order if y[row] == digit == guesses[row]]
        easy += correct[:1]

    geometric = np.exp(logarithms.mean(axis=0))
    geometric /= geometric.sum(axis=1, keepdims=True)
    gap = {
        "mean": float((whole - mean)[rows, guesses].mean()),
        "geometric": float(np.median(np.abs(whole - geometric)[rows, guesses])),
        "images": len(x),
    }
    return {"easy": _images(x, y, easy), "hard": _images(x, y, order[::-1][:HARD]), "gap": gap}


def _images(x: np.ndarray, y: np.ndarray, rows: Any) -> dict[str, Any]:
    pixels = base64.b64encode(x[rows].tobytes()).decode()
    return {"labels": y[rows].tolist(), "pixels": pixels}
