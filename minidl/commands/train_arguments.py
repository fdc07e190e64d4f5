"""Arguments of the training command."""

import argparse
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minidl import datasets, optimizers
from minidl.commands import cli
from minidl.commands.run_folder import CHECKPOINTS
from minidl.datasets.idx_dataset import Split
from minidl.distributed.mpi import launched_size

LATEST = "latest"
HIDDEN, DROPOUT = [512, 256], [0.5, 0.3]
MAX_UNITS = 2**20
SHARDS = 8  # if several processes were started
# The arguments that change no result: what is kept and printed, and where.
OUTPUT = {"out", "checkpoint_dir", "checkpoint_every", "resume", "save", "quiet", "log_json"}
EXIT_DIVERGED = 3
DIVERGED = "training diverged: a loss or a weight is NaN or infinite; --save writes nothing"
LOADERS: dict[str, Callable[[str | None], tuple[Split, Split]]] = {
    "mnist": datasets.mnist.load_data,
    "fashion-mnist": datasets.fashion_mnist.load_data,
    "kmnist": datasets.kmnist.load_data,
    "mnist-5k": lambda _: datasets.mnist_5k.load_data(),
}


def parse_arguments(
    argv: Sequence[str] | None, description: str | None = None, module: str = "minidl.train"
) -> argparse.Namespace:
    """Return the arguments of a run; exit with one line of `module` if they are invalid."""
    parser = cli.Parser(module, description, cli.exit_statuses({EXIT_DIVERGED: DIVERGED}))
    add_options(parser.add_argument)
    arguments = parser.parse_args(argv)
    if arguments.lr is None:
        arguments.lr = optimizers.get(arguments.optimizer).learning_rate
    if arguments.data == "mnist-5k" and arguments.data_dir is not None:
        parser.error("argument --data-dir: mnist-5k comes with minidl. Leave --data-dir out.")
    if arguments.shards is None and launched_size() > 1:
        arguments.shards = SHARDS
    if arguments.out is not None and arguments.checkpoint_dir is None:
        arguments.checkpoint_dir = os.path.join(arguments.out, CHECKPOINTS)
    if arguments.checkpoint_dir is None:
        is_latest = arguments.resume == LATEST
        if is_latest or arguments.checkpoint_every is not None:
            option = "--resume" if is_latest else "--checkpoint-every"
            parser.error(
                f"argument {option}: expected a folder. Add --checkpoint-dir DIR or --out DIR."
            )
    _fit_rates(parser, arguments)
    return arguments


def add_options(add: Callable[..., Any]) -> None:
    """Add all options; `add` is `add_argument` of a parser, or a function with its parameters."""
    positive, rate = cli.number(int, 1), cli.number(float, 0, 1)
    above_0 = cli.number(float, 0, above=True)
    add("--device", default="cpu", help="cpu, cuda, cuda:N or auto (default: cpu)")
    add("--epochs", type=positive, default=10, help="default: 10")
    add("--batch-size", type=positive, default=128, help="default: 128")
    add(
        "--shards",
        type=positive,
        help="parts of each batch, divided among the processes of mpiexec; the results depend on "
        f"the number of parts, not of processes (default: none, or {SHARDS} under mpiexec)",
    )
    add(
        "--hidden",
        type=cli.number(int, 1, MAX_UNITS),
        nargs="*",
        default=HIDDEN,
        metavar="UNITS",
        help="units of each hidden layer (default: 512 256)",
    )
    add(
        "--dropout",
        type=rate,
        nargs="*",
        metavar="RATE",
        help="dropout rate: one for all hidden layers, or one per layer (default: 0.5 0.3 for two "
        "hidden layers, else 0.5)",
    )
    add(
        "--input-dropout",
        type=rate,
        default=0.0,
        metavar="RATE",
        help="probability that a pixel is dropped (default: 0)",
    )
    add(
        "--scaling",
        choices=("train", "inference"),
        default="train",
        help="whether dropout scales in training (default) or in inference",
    )
    add(
        "--optimizer",
        choices=("sgd", "rmsprop", "adam", "adamw"),
        default="adam",
        help="default: adam",
    )
    add("--lr", type=above_0, help="learning rate (default: the optimizer's)")
    add(
        "--max-norm",
        type=above_0,
        help="maximum norm of each unit's incoming weights (default: none)",
    )
    add("--seed", type=cli.number(int, 0, 2**64 - 1), default=0, help="default: 0")
    add(
        "--data",
        choices=tuple(LOADERS),
        help="data set (default: mnist, or mnist-5k if the download fails)",
    )
    add("--data-dir", metavar="DIR", help="folder with a sub-folder for each data set")
    add(
        "--out",
        metavar="DIR",
        help="folder for the run: configuration, history, checkpoints, report, playground",
    )
    add("--checkpoint-dir", metavar="DIR", help="folder for checkpoints of the run")
    add(
        "--checkpoint-every",
        type=positive,
        metavar="STEPS",
        help="steps between checkpoints (default: an epoch; the last epoch is always saved)",
    )
    add(
        "--resume",
        metavar="PATH",
        help="resume the run of this checkpoint; latest: the newest in --checkpoint-dir or --out",
    )
    add("--save", metavar="FILE", help="save the trained network for minidl.predict")
    add(
        "--no-record",
        dest="record",
        action="store_false",
        help="neither record nor replay steps: the same results in more time",
    )
    add("--quiet", action="store_true", help="print only the final table")
    add("--log-json", metavar="FILE", help="write one JSON object for each event")


def _fit_rates(parser: cli.Parser, arguments: argparse.Namespace) -> None:
    """Set one dropout rate for each hidden layer, or exit."""
    count = len(arguments.hidden)
    if arguments.dropout is None:
        arguments.dropout = DROPOUT if count == len(DROPOUT) else [0.5]
    elif count == 0 and arguments.dropout:
        parser.error("argument --dropout: expected hidden layers, got none. Leave --dropout out.")
    if len(arguments.dropout) == 1:
        arguments.dropout *= count
    if len(arguments.dropout) != count:
        parser.error(
            f"argument --dropout: expected 1 rate, or {count} for the hidden layers, got "
            f"{len(arguments.dropout)}."
        )


def write_nothing(arguments: argparse.Namespace) -> None:
    """Write and print nothing: the first worker does."""
    arguments.out = arguments.checkpoint_dir = arguments.save = arguments.log_json = None
    arguments.quiet = True


def without_outputs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments on which the results depend."""
    others = OUTPUT | {"record"}  # recorded steps have the same bits
    return {name: value for name, value in vars(arguments).items() if name not in others}


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Return options with values as words of a command line, without those that are None."""
    words = []
    for name, value in options.items():
        if value is not None:
            words.append(f"--{name.replace('_', '-')}")
            words += map(str, value if isinstance(value, list) else [value])
    return words


def command_of(arguments: argparse.Namespace) -> str:
    """Return a command that repeats the run from the beginning and writes no files."""
    return shlex.join(["python", "-m", "minidl.train", *words_of(without_outputs(arguments))])
