"""Classify images with a saved network.

Drawn digits in a PNG or JPEG are found, and prepared as MNIST's images were made: paper tone
removed, cropped, fitted, centred. Several digits are read in lines, from left to right.
"""

import argparse
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from minidl import console, images, models
from minidl.commands import cli
from minidl.storage.atomic import check_writable
from minidl.trainer.uncertainty import Uncertainty

DRAWS = 100  # of each prepared image, to see whether the network is sure
# Mutual information, in nats. For the README's network, trained on MNIST, this finds all wrong
# answers on MNIST's first 1,000 test images, all pictures of noise, and 82 % of drawn letters and
# doodles. It doubts 13 % of the right answers there, and 8 % of those on drawn digits.
UNSURE = 0.1


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command's arguments; exit with one line if they are invalid."""
    parser = cli.Parser("minidl.predict", __doc__, cli.exit_statuses())
    add = parser.add_argument
    add("model", metavar="MODEL", help="a file that minidl.train saved")
    add(
        "images",
        metavar="FILE",
        nargs="+",
        help="PNG, JPEG, IDX or NPY file; arrays (IDX, NPY) are not scaled: networks of "
        "minidl.train expect 0 to 255",
    )
    add("--device", default="cpu", help="cpu, cuda, cuda:N or auto (default: cpu)")
    add("--batch-size", type=cli.number(int, 1), default=128, help="default: 128")
    add(
        "--samples",
        type=cli.number(int, 2, 2**32),
        metavar="N",
        help="print the uncertainty from N outputs drawn with dropout: standard deviation, and "
        "entropy and mutual information in nats. A drawn digit is unsure if its mutual information "
        f"is above {UNSURE}, with or without this option (default: {DRAWS} outputs, not printed)",
    )
    add(
        "--invert",
        action="store_true",
        help="PNG and JPEG have dark ink on light paper (default: detected; with --no-prepare, "
        "light ink)",
    )
    add(
        "--no-prepare",
        action="store_true",
        help="only resize PNG and JPEG: for networks trained on other images than drawn digits",
    )
    shown = f"write the first {images.MAX_SHOWN} images that the network sees to a PNG"
    add("--show", metavar="FILE", help=shown)
    return parser.parse_args(argv)


@cli.command("minidl.predict")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and return its exit status; ``--help`` lists them."""
    for line in predict(parse_arguments(argv)):
        cli.print_line(line)


def predict(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of a table with one line for each image."""
    with cli.input_checks():
        if arguments.show is not None:
            check_writable(arguments.show)
            cli.check_distinct(arguments.show, (arguments.model, *arguments.images))
        model = models.load(arguments.model, arguments.device)
        names, x, has_drawings = read_images(arguments, model)
        if arguments.show is not None:
            images.write(arguments.show, x)
    predicted = functools.partial(model.predict, x, arguments.batch_size, verbose=0)
    draws = arguments.samples or DRAWS * has_drawings
    drawn = predicted(samples=draws) if draws else None
    shown = drawn if arguments.samples else None
    probabilities = predicted() if shown is None else shown.mean
    finite = np.isfinite(probabilities).all(axis=tuple(range(1, probabilities.ndim)))
    if not finite.all():
        raise cli.InputError(
            f"{names[finite.argmin()]}: expected finite outputs of the network in "
            f"{arguments.model}, got NaN or infinity. Scale the image like the training images, "
            "or retrain the network."
        )
    information = None if drawn is None else drawn.mutual_information
    if not are_probabilities(probabilities) or (shown is not None and information is None):
        raise cli.InputError(
            f"{arguments.model}: expected probabilities of classes as outputs, got other numbers. "
            "End the network with a softmax, or use model.predict."
        )
    is_unsure = np.zeros(len(x), bool) if information is None else information > UNSURE
    doubt = "unsure, or no digit" if has_drawings else "unsure"
    notes = [doubt if unsure else "" for unsure in is_unsure]
    yield from table(names, probabilities, shown, notes)


def read_images(
    arguments: argparse.Namespace, model: models.Model
) -> tuple[list[str], np.ndarray, bool]:
    """Return names of all images, the images, and whether there are drawn digits among them.

    The images are one array, because the row of an image is part of the address of each draw.
    """
    if model.built_for is None:
        raise ValueError(f"{arguments.model}: expected a built network, got one that is not.")
    prepared = not arguments.no_prepare and model.built_for == images.PREPARED_SHAPE
    read = [
        images.read(path, model.built_for, invert=arguments.invert or None, prepared=prepared)
        for path in arguments.images
    ]
    names = [
        console.printable(path) + f"[{place}]" * (len(array) > 1)
        for path, array in zip(arguments.images, read, strict=True)
        for place in range(len(array))
    ]
    x = read[0] if len(read) == 1 else np.concatenate(read)
    check_images(names, x, model.dtype)
    return names, x, prepared and any(map(images.is_picture, arguments.images))


def are_probabilities(outputs: np.ndarray) -> bool:
    """Return whether each row of outputs can be the probabilities of two or more classes."""
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return False
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-2))


def check_images(names: Sequence[str], x: np.ndarray, dtype: np.dtype) -> None:
    """Raise InputError if an image holds NaN, infinity, or numbers outside of the dtype's range."""
    limit = np.float64(np.finfo(dtype).max)
    axes = tuple(range(1, x.ndim))
    good = (x.min(axis=axes) >= -limit) & (x.max(axis=axes) <= limit)  # NaN compares as False
    if not good.all():
        raise cli.InputError(
            f"{names[good.argmin()]}: expected finite numbers in the range of the network's "
            f"{dtype}, got others. Scale the image."
        )


def table(
    names: Sequence[str],
    probabilities: np.ndarray,
    uncertainty: Uncertainty | None,
    notes: Sequence[str],
) -> Iterator[str]:
    """Yield the lines of the table."""
    width = max(len("image"), *map(len, names))
    title = f"{'image':<{width}}  class  probability"
    if uncertainty is not None:
        title += "     std  entropy  mutual information"
    others = min(3, probabilities.shape[1]) - 1  # top three
    yield title + "".join(f"  {name:>11}" for name in ("second", "third")[:others])
    for row, name in enumerate(names):
        best, *next_ones = np.argsort(-probabilities[row], kind="stable")[: others + 1]
        line = f"{name:<{width}}  {best:>5}  {probabilities[row, best]:>11.2%}"
        if uncertainty is not None:
            _, std, entropy, information = uncertainty
            assert entropy is not None, "there are probabilities"
            assert information is not None, "there are probabilities"
            line += f"  {std[row, best]:.4f}  {entropy[row]:>7.4f}  {information[row]:>18.4f}"
        line += "".join(f"  {other:>3} {probabilities[row, other]:>7.2%}" for other in next_ones)
        yield f"{line}  {notes[row]}".rstrip()
