"""Scaling: time and memory against width, depth, batch and the number of images.

    python -m bench.scaling [--quick]

Each point trains a network of its own by `fit`, in a new process, on synthetic images; in the sweep
over their number the images lie in a file that is mapped into memory. A straight line through the
origin, time in proportion to the work, shows as a constant rate of floating-point operations.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from bench import images
from bench.report import command_parser, made_with, table
from bench.rounds import other_load, processor_time
from bench.workers import Side, Worker

HIDDEN, BATCH_SIZE = (512, 256), 128
STEPS, SAMPLES = 10, 4096  # an epoch has at least so many of both
TURNS = 3
SWEEPS = {
    "width": (256, 512, 1024, 2048, 4096, 8192),
    "depth": (1, 2, 4, 8, 16, 32),
    "batch": (1, 8, 32, 128, 512, 2048, 8192),
    "images": (10_000, 60_000, 250_000, 1_000_000),
}
QUICK = {
    "sweeps": {
        "width": (256, 512, 1024),
        "depth": (1, 2, 4),
        "batch": (8, 32, 128),
        "images": (10_000, 60_000),
    }
}
VARIED = "width, depth, batch or images: see the legend"
# sweep: what its values count, and a mark that can be told apart without colours
LOOKS = {
    "width": {"label": "width: units a layer", "marker": "o"},
    "depth": {"label": "depth: hidden layers", "marker": "s"},
    "batch": {"label": "batch: images a batch", "marker": "^"},
    "images": {"label": "images: images an epoch", "marker": "x"},
}
WHY = {
    "width": (
        "Two hidden layers of this width, batch 128. With narrow layers, the fixed costs of a step "
        "(Python, small kernels) take most of the time. With wide layers, the weights no longer "
        "fit into a cache, and Adam reads and writes 28 bytes of memory for each weight."
    ),
    "depth": (
        "Hidden layers of 256 units, batch 128. Each layer adds the same work. The fixed costs of "
        "a step and the first layer, which is three times as large, weigh less and less."
    ),
    "batch": (
        "The network of the README. The update of the weights and the fixed costs of a step do not "
        "depend on the batch. A small batch shares them among few images."
    ),
    "images": (
        "The network of the README, batch 128. The time of an epoch grows in proportion. The "
        "images are in a file mapped into memory, and a shuffled batch reads rows from all over "
        "it. This makes little difference while the system keeps the file in memory. For a larger "
        "file, each image is an access to the disk."
    ),
}


class Point(NamedTuple):
    """What is trained at one value of a sweep."""

    hidden: tuple[int, ...] = HIDDEN
    batch_size: int = BATCH_SIZE
    images: int = 0  # in the file; without, as many as make an epoch, in memory

    @classmethod
    def of(cls, sweep: str, value: int) -> "Point":
        """Return the point of a sweep at a value."""
        return {
            "width": lambda: cls(hidden=(value, value)),
            "depth": lambda: cls(hidden=(256,) * value),
            "batch": lambda: cls(batch_size=value),
            "images": lambda: cls(images=value),
        }[sweep]()

    @property
    def samples(self) -> int:
        """The images of an epoch."""
        return self.images or max(STEPS * self.batch_size, SAMPLES)

    @property
    def units(self) -> tuple[int, ...]:
        """The width of each layer, the input among them."""
        return (images.PIXELS, *self.hidden, images.CLASSES)

    @property
    def weights(self) -> int:
        """The number of weights and biases."""
        return sum((a + 1) * b for a, b in itertools.pairwise(self.units))

    @property
    def operations(self) -> int:
        """Floating-point operations of an epoch's matrix products, forward and backward."""
        matrices = [a * b for a, b in itertools.pairwise(self.units)]
        products = 3 * sum(matrices) - matrices[0]  # the images need no gradient
        return 2 * products * self.samples


def fit_epoch(point: Point, folder: Path) -> Callable[[], float]:
    """Return a worker's turn: the seconds of an epoch of `fit`."""
    from minidl import layers, models

    if point.images:
        x, y = images.mapped(folder, point.images)
    else:
        x, y = images.synthetic(point.samples)
    model = models.Sequential(
        [layers.Rescaling(1 / 255, input_shape=(28, 28)), layers.Flatten()]
        + [
            layer
            for units in point.hidden
            for layer in (layers.Dense(units, activation="relu"), layers.Dropout(0.5))
        ]
        + [layers.Dense(images.CLASSES, activation="softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    few = slice(2 * point.batch_size)
    model.fit(x[few], y[few], batch_size=point.batch_size, verbose=0)  # compiles

    def turn() -> float:
        began = time.perf_counter()
        model.fit(x, y, batch_size=point.batch_size, verbose=0)
        return time.perf_counter() - began

    return turn


def measure(sweeps: Mapping[str, Sequence[int]] = SWEEPS, turns: int = TURNS) -> dict[str, Any]:
    """Return what was measured, as JSON can hold it."""
    before = processor_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images.write_synthetic(folder, max(sweeps["images"]))
        measured = {
            sweep: [
                measure_point(sweep, value, folder, turns)
                for value in tqdm(values, sweep, disable=None)
            ]
            for sweep, values in sweeps.items()
        }
    load = other_load(before, processor_time())
    return {"made_with": made_with(), "sweeps": measured, "load": load, "turns": turns}


def measure_point(sweep: str, value: int, folder: Path, turns: int) -> dict[str, Any]:
    """Return the seconds of an epoch and the memory of its process, at the peak."""
    point = Point.of(sweep, value)
    with Worker(Side(fit_epoch), point, folder) as worker:
        epochs = [worker.watched() for _ in range(turns)]
    return {
        "value": value,
        "seconds": [seconds for seconds, _ in epochs],
        "memory": max(memory for _, memory in epochs),
    }


def section(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield "## Scaling of `fit`"
    yield ""
    yield (
        f"Each row is a new process, and the fastest of {result['turns']} epochs. Operations are "
        "those of the matrix products. Memory is the peak, without files mapped into memory. In "
        f"the first three tables, an epoch has {SAMPLES:,} images, or {STEPS} batches if that is "
        "more. So the fixed costs of an epoch weigh more there. Other processes used "
        f"{result['load']:.2f} cores. Made by `python -m bench.scaling`. {result['made_with']}"
    )
    for sweep, points in result["sweeps"].items():
        yield ""
        yield f"### Against {sweep}"
        yield ""
        yield WHY[sweep]
        yield ""
        head = (sweep, "weights", "ms a step", "us an image", "billion operations a second", "MB")
        yield from table(head, [row(sweep, measured) for measured in points])


def row(sweep: str, measured: Mapping[str, Any]) -> list[str]:
    """Return the cells of a point."""
    point, seconds = Point.of(sweep, measured["value"]), min(measured["seconds"])
    steps = -(-point.samples // point.batch_size)
    return [
        f"{measured['value']:,}",
        f"{point.weights:,}",
        f"{seconds / steps * 1e3:.2f}",
        f"{seconds / point.samples * 1e6:.1f}",
        f"{point.operations / seconds / 1e9:.0f}",
        f"{measured['memory'] / 1e6:.0f}",
    ]


def draw(result: Mapping[str, Any], axes: Any) -> None:
    """Draw the rate of operations against each value; a straight line is level."""
    for sweep, points in result["sweeps"].items():
        rates = [
            Point.of(sweep, measured["value"]).operations / min(measured["seconds"]) / 1e9
            for measured in points
        ]
        axes.semilogx([measured["value"] for measured in points], rates, **LOOKS[sweep])
    axes.set(title="scaling of fit", xlabel=VARIED, ylabel="billion operations a second", ylim=0)
    axes.legend(fontsize="x-small", loc="lower right")


def draw_memory(result: Mapping[str, Any], axes: Any) -> None:
    """Draw the memory at the peak against each value."""
    for sweep, points in result["sweeps"].items():
        memory = [measured["memory"] / 1e6 for measured in points]
        axes.loglog([measured["value"] for measured in points], memory, **LOOKS[sweep])
    axes.set(title="memory of fit", xlabel=VARIED, ylabel="MB at the peak")
    axes.legend(fontsize="x-small", loc="upper left")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the report."""
    parser = command_parser("bench.scaling", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer points")
    arguments = parser.parse_args(argv)
    for line in section(measure(**(QUICK if arguments.quick else {}))):
        print(line)


if __name__ == "__main__":
    main()
