"""Report page of a run: results, curves, calibration, mistakes, weights, and its command.

The page holds its pictures itself, so that it can be sent and opened anywhere; matplotlib, the
extra ``plot``, draws them.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minidl import rng
from minidl.callbacks import History
from minidl.commands import page
from minidl.commands.run_folder import PLAYGROUND
from minidl.engine.backward import no_grad
from minidl.engine.tensor import Tensor
from minidl.layers import Dense, Dropout
from minidl.models import Sequential
from minidl.storage.atomic import PathLike
from minidl.trainer.summary import rate_of, summary_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN, COLUMNS, UNITS, SAMPLES = 24, 4, 32, 500  # numbers of shown items
BINS = 15  # of the confidence, as in Guo et al. 2017
CANDIDATES, DRAWS = 500, 100  # images for the mutual information, and outputs for each
SCALED = {
    "train": "kept values are scaled up in training",
    "inference": "all values are scaled down in prediction",
}
LABELS = {"loss": "cross-entropy (nats)", "accuracy": "accuracy"}


def write(
    path: PathLike,
    model: Sequential,
    x: np.ndarray,
    y: np.ndarray,
    *,
    facts: Mapping[str, str],
    command: str,
) -> None:
    """Write the page atomically; it links to the playground page if that is in the same folder.

    Parameters
    ----------
    path : path
        The file.
    model : Sequential
        The trained network; the curves show its ``history``.
    x, y : numpy.ndarray
        The images of the validation, of shape (images, height, width), and their class numbers.
    facts : mapping
        Names and values for the table at the top.
    command : str
        The command that repeats the run.
    """
    parts = [page.section("", page.facts_table(facts))]
    if Path(path).with_name(PLAYGROUND).exists():
        link = f'<a href="{PLAYGROUND}">Draw digits for this network, and see its dropout masks</a>'
        parts.append(page.section("Playground", f"<p>{link}</p>"))
    parts.append(page.section("Reproduce this run", f"<pre>{page.text(command)}</pre>"))
    parts += [page.figure_section(*part) for part in _figures(model, x, y)]
    network = summary_html(model.label, model.layers, model.parameters(), {"Rate": rate_of})
    parts.append(page.section("Network", f'<div class="table">{network}</div>'))
    page.write_page(path, "Training run of minidl", parts)


def _figures(
    model: Sequential, x: np.ndarray, y: np.ndarray
) -> Iterator[tuple[str, str, page.Figures]]:
    """Yield title, caption and figures of each section for which there is data."""
    if model.history.epoch:
        caption = (
            "Training: mean over the epoch, with dropout, while the weights change. Validation: "
            f"after the epoch, without dropout, on the {len(x):,} test images."
        )
        yield "Learning curves", caption, curves(model.history)
    probabilities = model.predict(x, 256, verbose=0)
    if not np.isfinite(probabilities).all():
        return  # the run has diverged, and NaN is no prediction
    guesses = probabilities.argmax(axis=1)
    caption = (
        f"{int((guesses == y).sum()):,} of {len(y):,} predictions are correct (on the diagonal). "
        "Colours use a square-root scale so that rare mistakes stay visible."
    )
    yield "Confusion matrix", caption, {"": confusion(y, guesses, probabilities.shape[1])}
    bins = Calibration.of(probabilities, y)
    caption = (
        f"Expected calibration error: {bins.error:.2%}, with {BINS} bins of equal width (Guo et "
        "al. 2017, equation 3). Confidence is the probability of the predicted class. Bars below "
        "the diagonal: the network is overconfident."
    )
    yield "Calibration", caption, {"": reliability(bins)}
    random_layers = [layer for layer in model.layers if layer.held(rng.RandomStream)]
    is_dropping = any(getattr(layer, "rate", True) for layer in random_layers)
    if (guesses != y).any():
        caption = (
            "The images whose true class had the lowest probability: true class, predicted class "
            "and its probability. Light is ink, 0 to 255."
        )
        yield "Worst mistakes", caption, {"": mistakes(x, y, probabilities)}
    if is_dropping:
        likely = np.argsort(_entropy(probabilities), kind="stable")[::-1][:CANDIDATES]
        information = model.predict(x[likely], 256, 0, samples=DRAWS).mutual_information
        if information is not None:
            caption = (
                "The images on which thinned networks disagree most: true class, predicted class "
                f"and mutual information (Gal 2016, section 3.3.1) of {DRAWS} outputs with "
                f"dropout, among the {len(likely):,} images of highest predictive entropy."
            )
            tiles = uncertain(x[likely], y[likely], guesses[likely], information)
            yield "Most uncertain images", caption, {"": tiles}
    first = next((layer for layer in model.layers if isinstance(layer, Dense)), None)
    if first is not None and first.weight.shape[0] == np.prod(x.shape[1:]):
        caption = (
            f"The first {min(UNITS, first.units)} of {first.units} units of the layer "
            f"{first.label}, with a weight for each pixel: ink raises the output in red pixels and "
            "lowers it in blue ones."
        )
        yield "Weights of the first layer", caption, {"": first_weights(first, x.shape[1:])}
    if random_layers:
        scalings = {layer.scaling for layer in random_layers if isinstance(layer, Dropout)}
        caption = (
            f"Outputs of the dropout layers for {min(SAMPLES, len(x))} images, without dropout as "
            "in prediction and with dropout as in training"
            f"{''.join(f'; {SCALED[scaling]}' for scaling in sorted(scalings))}."
        )
        yield "Activations with and without dropout", caption, activations(model, x[:SAMPLES])


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy of each row in nats, where 0 log 0 is 0."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1))
    return -(probabilities * logs).sum(axis=1, dtype="float64")


class Calibration(NamedTuple):
    """Confidence and accuracy in bins of the confidence, and their expected difference.

    Bin m of `BINS` has the confidences in ((m - 1) / BINS, m / BINS]. Guo et al., "On calibration
    of modern neural networks", ICML 2017, section 2.

    Attributes
    ----------
    counts : numpy.ndarray
        Numbers of images, shape (bins,).
    confidence, accuracy : numpy.ndarray
        Means over the images of each bin; NaN in empty bins.
    error : float
        Expected calibration error, equation 3: the mean of abs(accuracy - confidence) over the
        bins, weighted by their images.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float

    @classmethod
    def of(cls, probabilities: np.ndarray, y: np.ndarray) -> "Calibration":
        """Return the calibration of probabilities, of shape (images, classes), for classes `y`.

        Examples
        --------
        >>> sure = np.array([[0.75, 0.25], [0.75, 0.25]])
        >>> Calibration.of(sure, np.array([0, 1])).error  # one of two is right
        0.25
        """
        confidence = probabilities.max(axis=1).astype("float64")
        is_right = probabilities.argmax(axis=1) == y
        place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        counts, sure, right = (
            np.bincount(place, weights, BINS) for weights in (None, confidence, is_right)
        )
        error = float(np.abs(right - sure).sum() / len(y))
        with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins
            return cls(counts, sure / counts, right / counts, error)


def curves(history: History) -> page.Figures:
    """Draw loss and metrics over the epochs, in training and validation, each in a figure."""
    figures = {}
    epochs = [epoch + 1 for epoch in history.epoch]
    for name in history.history:
        if name.startswith("val_"):
            continue
        figures[name] = figure = page.new_figure(4.5, 3.5)
        axes = figure.add_subplot()
        for label, key, look in (("training", name, "o--"), ("validation", f"val_{name}", "s-")):
            if key in history.history:
                values = [logs.get(key, math.nan) for logs in history.logs]
                axes.plot(epochs, values, look, markersize=4, label=label)
        axes.set(xlabel="epoch", ylabel=LABELS.get(name, name))
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend()
    return figures


def confusion(y: np.ndarray, guesses: np.ndarray, classes: int) -> "Figure":
    """Draw the confusion matrix: numbers of images by true and by predicted class."""
    from matplotlib.colors import PowerNorm

    counts = np.zeros((classes, classes), "int64")
    np.add.at(counts, (y, guesses), 1)
    figure = page.new_figure(4.8, 4.2)
    axes = figure.add_subplot()
    norm = PowerNorm(0.5, vmin=0, vmax=counts.max())
    image = axes.imshow(counts, cmap="Blues", norm=norm)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set(xticks=range(classes), yticks=range(classes))
    if classes <= 20:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if count > counts.max() / 2 else "black"
            if count:
                axes.text(column, row, str(count), ha="center", va="center", color=colour, size=7)
    ticks = np.unique(norm.inverse(np.linspace(0, 1, 6)).round())
    figure.colorbar(image, label="images", ticks=ticks)
    return figure


def reliability(bins: Calibration) -> "Figure":
    """Draw accuracy over confidence, above the numbers of images."""
    figure = page.new_figure(4.5, 4.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middles = (np.arange(BINS) + 0.5) / BINS
    upper.bar(middles, bins.accuracy, 1 / BINS, edgecolor="white", label="accuracy")
    upper.plot(bins.confidence, bins.accuracy, "k.", label="mean confidence of a bin")
    upper.plot([0, 1], [0, 1], "k--", linewidth=1, label="perfect calibration")
    upper.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="accuracy")
    upper.legend(fontsize=8, loc="upper left")
    lower.bar(middles, bins.counts, 1 / BINS, color="#888", edgecolor="white")
    lower.set(xlabel="confidence", ylabel="images", yscale="log")
    return figure


def mistakes(x: np.ndarray, y: np.ndarray, probabilities: np.ndarray) -> "Figure":
    """Draw the misclassified images whose true class had the lowest probability."""
    guesses = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(guesses != y)
    worst = wrong[np.argsort(probabilities[wrong, y[wrong]], kind="stable")][:SHOWN]
    sure = probabilities[worst, guesses[worst]]
    return _tiles(x[worst], y[worst], guesses[worst], [f"{share:.1%}" for share in sure])


def uncertain(
    x: np.ndarray, y: np.ndarray, guesses: np.ndarray, information: np.ndarray
) -> "Figure":
    """Draw the images with the highest mutual information, which is in nats."""
    most = np.argsort(information, kind="stable")[::-1][:SHOWN]
    return _tiles(
        x[most], y[most], guesses[most], [f"{nats:.2f} nats" for nats in information[most]]
    )


def _tiles(x: np.ndarray, y: np.ndarray, guesses: np.ndarray, notes: list[str]) -> "Figure":
    """Draw images with true class, predicted class and a note."""
    rows = -(-len(x) // COLUMNS)
    figure = page.new_figure(4.5, 1.45 * rows)
    for place, image in enumerate(x):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=max(x.max(), 1))
        axes.set_title(f"{y[place]}, predicted {guesses[place]}\n{notes[place]}", size=8)
        axes.axis("off")
    return figure


def first_weights(layer: Dense, shape: tuple[int, ...]) -> "Figure":
    """Draw the weights into the first units of a layer as images."""
    weights = layer.weight.numpy()[:, :UNITS]
    bound = float(np.abs(weights).max()) or 1.0
    columns = min(8, weights.shape[1])
    rows = -(-weights.shape[1] // columns)
    figure = page.new_figure(9, max(1.1 * rows, 2.4))
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.axis("off")
        if place < weights.shape[1]:
            pixels = weights[:, place].reshape(shape)
            image = axes.imshow(pixels, cmap="RdBu_r", vmin=-bound, vmax=bound)
    figure.colorbar(image, ax=grid, label="weight (per unit of input)")
    return figure


def activations(model: Sequential, x: np.ndarray) -> page.Figures:
    """Draw histograms of the outputs of each dropout layer, as in prediction and in training."""
    without = _dropout_outputs(model, x, rng.inference())
    dropping = _dropout_outputs(model, x, rng.monte_carlo(sample=0, row_offset=0))
    figures = {}
    for name in without:
        figures[name] = figure = page.new_figure(4.5, 3.5)
        axes = figure.add_subplot()
        both = {"without dropout": without[name], "with dropout": dropping[name]}
        joined = np.concatenate(list(both.values())).astype("float64")
        edges = np.histogram_bin_edges(joined[np.isfinite(joined)], 60)
        for (label, values), line in zip(both.items(), ("-", "--"), strict=True):
            share = np.full(values.size, 1 / values.size)
            zeros = f"{label} ({(values == 0).mean():.0%} are 0)"
            bins = edges.tolist()
            axes.hist(values, bins, weights=share, histtype="step", linestyle=line, label=zeros)
        axes.set(title=name, xlabel="activation", ylabel="relative frequency", yscale="log")
        axes.legend(fontsize=8)
    return figures


def _dropout_outputs(
    model: Sequential, x: np.ndarray, mode: AbstractContextManager
) -> dict[str, np.ndarray]:
    """Return the flattened outputs of the dropout layers, by name."""
    found = {}
    values = Tensor.of(model.backend.asarray(x), model.backend).astype(model.dtype)
    with mode, no_grad():
        for layer in model.layers:
            values = layer(values)
            if layer.held(rng.RandomStream):
                found[layer.path] = values.numpy().ravel()
    return found
