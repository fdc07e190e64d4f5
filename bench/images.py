"""The images that the benchmarks train on."""

from pathlib import Path

import numpy as np

from minidl import datasets

PIXELS, CLASSES = 28 * 28, 10
BLOCK = 10_000


def sixty_thousand() -> tuple[str, np.ndarray, np.ndarray]:
    """Return a name, images and labels: MNIST where it can be had, else as many synthetic ones."""
    try:
        (images, labels), _ = datasets.mnist.load_data()
    except OSError:
        return "synthetic images, since MNIST could not be had", *synthetic(60_000)
    return "MNIST", images, labels


def synthetic(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return images of shape (count, 28, 28) and labels, uint8: a noisy pattern for each class."""
    patterns = np.random.default_rng(0).integers(0, 200, (CLASSES, 28, 28), dtype="uint8")
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count, dtype="uint8")
    noise = generator.integers(0, 56, (count, 28, 28), dtype="uint8")
    return patterns[labels] + noise, labels


def write_synthetic(folder: Path, count: int) -> None:
    """Write synthetic images and labels as files that `mapped` reads."""
    shape = (count, 28, 28)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", "uint8", shape)
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", "uint8", (count,))
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, count))
        images[rows], labels[rows] = synthetic(rows.stop - rows.start, seed=start)


def mapped(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images and labels of files, mapped into memory and not read."""
    images, labels = (np.load(folder / f"{name}.npy", "r") for name in ("images", "labels"))
    return images[:count], labels[:count]
