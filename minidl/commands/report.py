"""Report page of a run: curves, mistakes, weights, and the command that reproduces it.

The page holds its pictures itself, so that it can be sent and opened anywhere; matplotlib, the
extra ``plot``, draws them.
"""

import base64
import html
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import rng
from minidl.callbacks import History
from minidl.engine.backward import no_grad
from minidl.engine.tensor import Tensor
from minidl.layers import Dense, Dropout
from minidl.models import Sequential
from minidl.storage.atomic import PathLike, write_atomically
from minidl.trainer.summary import summary_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISTAKES, UNITS, SAMPLES = 24, 32, 500  # numbers of shown items
PIXELS_PER_INCH = 96  # of the page; pictures have twice as many, for screens of high density
SCALED = {
    "train": "kept values are scaled up in training",
    "inference": "all values are scaled down in prediction",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h2 { margin-top: 2.5rem; } figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #555; } pre { background: #f4f4f4; padding: 0.8rem; overflow-x: auto;
       font-size: 13px; line-height: 1.25; }
.command { white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; } td { padding: 0.1rem 1.5rem 0.1rem 0; }
"""


def is_possible() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def write(
    path: PathLike,
    model: Sequential,
    x: np.ndarray,
    y: np.ndarray,
    *,
    facts: Mapping[str, str],
    command: str,
) -> None:
    """Write the page atomically.

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
    probabilities = model.predict(x, 256, verbose=0)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>A run of minidl</title>',
        '<meta name="viewport" content="width=device-width">',
        '<link rel="icon" href="data:,">',
        f"<style>{STYLE}</style></head><body><h1>A run of minidl</h1><table>",
        *(f"<tr><td>{_text(name)}</td><td>{_text(facts[name])}</td></tr>" for name in facts),
        "</table><h2>Reproduce this run</h2>",
        f'<pre class="command">{_text(command)}</pre>',
    ]
    for title, caption, figure in _figures(model, x, y, probabilities):
        parts.append(f"<h2>{_text(title)}</h2><figure>{_picture(figure, title)}")
        parts.append(f"<figcaption>{_text(caption)}</figcaption></figure>")
    table = summary_table(model.label, model.layers, model.parameters())
    parts.append(f"<h2>The network</h2><pre>{_text(table)}</pre></body></html>")
    write_atomically(path, "\n".join(parts).encode(errors="backslashreplace"))


def _text(value: str) -> str:
    return html.escape(str(value))


def _picture(figure: "Figure", title: str) -> str:
    """Return a figure as an image element that contains its data."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=2 * PIXELS_PER_INCH)
    data = base64.b64encode(content.getvalue()).decode()
    width = round(figure.get_figwidth() * PIXELS_PER_INCH)
    return f'<img alt="{_text(title)}" width="{width}" src="data:image/png;base64,{data}">'


def _figures(
    model: Sequential, x: np.ndarray, y: np.ndarray, probabilities: np.ndarray
) -> Iterator[tuple[str, str, Any]]:
    """Yield title, caption and figure of each picture for which there is data."""
    if model.history.epoch:
        caption = (
            "Training: mean over the epoch, with dropout, while the weights change. Validation: "
            f"after the epoch, without dropout, on the {len(x):,} test images."
        )
        yield "Learning curves", caption, curves(model.history)
    if not np.isfinite(probabilities).all():
        return  # the run has diverged, and NaN is no prediction
    guesses = probabilities.argmax(axis=1)
    caption = (
        f"{int((guesses == y).sum()):,} of {len(y):,} predictions are correct (on the diagonal). "
        "Colours use a square-root scale so that rare mistakes stay visible."
    )
    yield "Confusion", caption, confusion(y, guesses, probabilities.shape[1])
    if (guesses != y).any():
        caption = (
            "The images whose true class had the lowest probability: true class, predicted class "
            "and its probability. Light is ink, 0 to 255."
        )
        yield "The worst mistakes", caption, mistakes(x, y, probabilities)
    first = next((layer for layer in model.layers if isinstance(layer, Dense)), None)
    if first is not None and first.weight.shape[0] == np.prod(x.shape[1:]):
        caption = (
            f"The weights of the first {min(UNITS, first.units)} of {first.units} units of "
            f"{first.label}, one for each pixel: ink raises the output in red pixels and lowers it "
            "in blue ones."
        )
        yield "The first layer", caption, first_weights(first, x.shape[1:])
    random_layers = [layer for layer in model.layers if layer.held(rng.RandomStream)]
    if random_layers:
        scalings = {layer.scaling for layer in random_layers if isinstance(layer, Dropout)}
        caption = (
            f"Outputs of the dropout layers for {min(SAMPLES, len(x))} images, without dropout as "
            "in prediction and with dropout as in training"
            f"{''.join(f'; {SCALED[scaling]}' for scaling in sorted(scalings))}."
        )
        yield "Activations with and without dropout", caption, activations(model, x[:SAMPLES])


def _new(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="compressed")


def curves(history: History) -> "Figure":
    """Draw loss and metrics over the epochs, in training and validation."""
    names = [name for name in history.history if not name.startswith("val_")]
    figure = _new(4.5 * len(names), 3.5)
    epochs = [epoch + 1 for epoch in history.epoch]
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        for label, key in (("training", name), ("validation", f"val_{name}")):
            if key in history.history:
                values = [logs.get(key, math.nan) for logs in history.logs]
                axes.plot(epochs, values, marker=".", label=label)
        units = {"loss": "loss (nats an image)", "accuracy": "accuracy (share of the images)"}
        axes.set(xlabel="epoch", ylabel=units.get(name, name))
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def confusion(y: np.ndarray, guesses: np.ndarray, classes: int) -> "Figure":
    """Draw the confusion matrix: numbers of images by true and by predicted class."""
    from matplotlib.colors import PowerNorm

    counts = np.zeros((classes, classes), "int64")
    np.add.at(counts, (y, guesses), 1)
    figure = _new(6.5, 5.5)
    axes = figure.add_subplot()
    norm = PowerNorm(0.5, vmin=0, vmax=counts.max())
    image = axes.imshow(counts, cmap="Blues", norm=norm)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set(xticks=range(classes), yticks=range(classes))
    if classes <= 20:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if count > counts.max() / 2 else "black"
            if count:
                axes.text(column, row, str(count), ha="center", va="center", color=colour, size=8)
    ticks = np.unique(norm.inverse(np.linspace(0, 1, 6)).round())
    figure.colorbar(image, label="images", ticks=ticks)
    return figure


def mistakes(x: np.ndarray, y: np.ndarray, probabilities: np.ndarray) -> "Figure":
    """Draw the misclassified images whose true class had the lowest probability."""
    guesses = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(guesses != y)
    worst = wrong[np.argsort(probabilities[wrong, y[wrong]], kind="stable")][:MISTAKES]
    rows = -(-len(worst) // 8)
    figure = _new(9, 1.55 * rows)
    for place, index in enumerate(worst):
        axes = figure.add_subplot(rows, 8, place + 1)
        axes.imshow(x[index], cmap="gray", vmin=0, vmax=max(x.max(), 1))
        share = probabilities[index, guesses[index]]
        axes.set_title(f"{y[index]}, predicted {guesses[index]}\n{share:.1%}", size=8)
        axes.axis("off")
    return figure


def first_weights(layer: Dense, shape: tuple[int, ...]) -> "Figure":
    """Draw the weights into the first units of a layer as images."""
    weights = layer.weight.numpy()[:, :UNITS]
    bound = float(np.abs(weights).max()) or 1.0
    columns = min(8, weights.shape[1])
    rows = -(-weights.shape[1] // columns)
    figure = _new(9, max(1.1 * rows, 2.4))
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.axis("off")
        if place < weights.shape[1]:
            pixels = weights[:, place].reshape(shape)
            image = axes.imshow(pixels, cmap="RdBu_r", vmin=-bound, vmax=bound)
    figure.colorbar(image, ax=grid, label="weight (per unit of input)")
    return figure


def activations(model: Sequential, x: np.ndarray) -> "Figure":
    """Draw histograms of the dropout layers' outputs, as in prediction and as in training."""
    without = _dropout_outputs(model, x, rng.inference())
    dropping = _dropout_outputs(model, x, rng.monte_carlo(sample=0, row_offset=0))
    columns = min(2, len(without))
    rows = -(-len(without) // columns)
    figure = _new(4.5 * columns, 3.5 * rows)
    for place, name in enumerate(without):
        axes = figure.add_subplot(rows, columns, place + 1)
        both = {"without dropout": without[name], "with dropout": dropping[name]}
        joined = np.concatenate(list(both.values())).astype("float64")
        edges = np.histogram_bin_edges(joined[np.isfinite(joined)], 60)
        for label, values in both.items():
            share = np.full(values.size, 1 / values.size)
            zeros = f"{label} ({(values == 0).mean():.0%} are 0)"
            axes.hist(values, edges.tolist(), weights=share, histtype="step", label=zeros)
        axes.set(title=name, xlabel="activation", ylabel="share of the activations", yscale="log")
        axes.legend(fontsize=8)
    return figure


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
