"""Preparation of a training run: checks, data, network, checkpoint and files."""

import argparse
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from minidl import callbacks, constraints, layers, models, optimizers
from minidl.backend import get_backend
from minidl.batches import Samples
from minidl.commands import cli
from minidl.commands.machine import environment
from minidl.commands.run_folder import PLAYGROUND, REPORT, RunFolder, check_no_run
from minidl.commands.train_arguments import LATEST, LOADERS, command_of, without_outputs
from minidl.datasets.idx_dataset import Split
from minidl.formats import checkpoint
from minidl.storage import registry
from minidl.storage.atomic import check_writable
from minidl.storage.folders import check_folder, latest
from minidl.trainer.distribution import Distribution
from minidl.trainer.position import run_arguments

CLASSES = 10
OPTIONS = {  # by names in checkpoints
    "seed": "--seed",
    "training optimizer class": "--optimizer",
    "training optimizer arguments learning_rate": "--lr",
    "batch_size": "--batch-size",
    "shards": "--shards",
}


class Prepared(NamedTuple):
    """What a run begins with."""

    model: models.Sequential
    data: tuple[Split, Split]
    notice: str  # if the data are not the default
    resumed: str | None  # a line about the checkpoint
    recorders: list[callbacks.Callback]


def prepare(arguments: argparse.Namespace, distribution: Distribution) -> Prepared:
    """Check the arguments and load what they name; an error of one process is one of all."""
    with distribution.agreed():
        check_outputs(arguments)
        arguments.device = get_backend(distribution.device(arguments.device)).name
        path = checkpoint_of(arguments) if distribution.rank == 0 else None
    is_resumed, path = distribution.gather((arguments.resume is not None, path))[0]
    with distribution.agreed(), distribution.first_on_machine():
        arguments.data, notice, data = load_data(arguments.data, arguments.data_dir)
    with distribution.agreed():
        model, resumed = build_model(arguments, data[0][0].shape[1:]), None
        if path is not None:
            model, resumed = resume(arguments, path, model, data)
        elif is_resumed:
            resumed = f"no checkpoint in {arguments.checkpoint_dir}: a new run"
        recorders: list[callbacks.Callback] = []
        if arguments.checkpoint_dir is not None:
            every = arguments.checkpoint_every
            recorders.append(callbacks.ModelCheckpoint(arguments.checkpoint_dir, every_steps=every))
        if arguments.out is not None:
            repetition = {"command": command_of(arguments), "environment": environment()}
            configuration = without_outputs(arguments) | repetition
            recorders.append(RunFolder(arguments.out, configuration, is_resumed=is_resumed))
    return Prepared(model, data, notice, resumed, recorders)


def check_outputs(arguments: argparse.Namespace) -> None:
    """Raise ValueError or OSError if the files of the run could not be written."""
    if arguments.log_json is not None:
        if os.path.exists(arguments.log_json):  # it may be a device
            open(arguments.log_json, "a", encoding="utf-8").close()
        else:
            check_writable(arguments.log_json)
        cli.check_distinct(arguments.log_json, (arguments.resume, arguments.save))
    if arguments.save is not None:
        check_writable(arguments.save)
        registry.find("model", arguments.save)
    if arguments.out is not None and arguments.resume is None:
        check_no_run(arguments.out)
    if arguments.out is not None and os.path.isdir(arguments.out):
        for page in (REPORT, PLAYGROUND):
            check_writable(os.path.join(arguments.out, page))
    for folder in (arguments.out, arguments.checkpoint_dir):
        if folder is not None:
            check_folder(folder)


def load_data(name: str | None, data_dir: str | None) -> tuple[str, str, tuple[Split, Split]]:
    """Return the name of the data set, a notice if it is not the default, and its images."""
    if name is not None:
        return name, "", LOADERS[name](data_dir)
    try:
        return "mnist", "", LOADERS["mnist"](data_dir)
    except OSError:
        if data_dir is not None or os.environ.get("MINIDL_DATA"):
            raise
        notice = "MNIST could not be downloaded. Using the 5,000 digits that come with minidl. "
        notice += "To see the reason, add --data mnist."
        return "mnist-5k", notice, LOADERS["mnist-5k"](None)


def build_model(arguments: argparse.Namespace, image_shape: tuple[int, ...]) -> models.Sequential:
    """Return the compiled network of the arguments."""
    norm = constraints.MaxNorm(arguments.max_norm) if arguments.max_norm else None
    dense = functools.partial(layers.Dense, kernel_constraint=norm)
    dropout = functools.partial(layers.Dropout, scaling=arguments.scaling)

    stack: list[layers.Layer] = [
        layers.Rescaling(1 / 255, input_shape=image_shape),
        layers.Flatten(),
    ]
    if arguments.input_dropout:
        stack.append(dropout(arguments.input_dropout))
    for units, rate in zip(arguments.hidden, arguments.dropout, strict=True):
        stack += [dense(units, "relu"), dropout(rate)]
    stack.append(dense(CLASSES, "softmax"))

    model = models.Sequential(stack, device=arguments.device, seed=arguments.seed)
    optimizer = type(optimizers.get(arguments.optimizer))
    model.compile(optimizer(arguments.lr), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def checkpoint_of(arguments: argparse.Namespace) -> str | None:
    """Return the path of the checkpoint to resume from, or None."""
    folder = arguments.checkpoint_dir
    if arguments.resume != LATEST:
        return arguments.resume
    path = latest(folder) if os.path.isdir(folder) else None
    return None if path is None else str(path)


def resume(
    arguments: argparse.Namespace, path: str, model: models.Sequential, data: tuple[Split, Split]
) -> tuple[models.Sequential, str]:
    """Return the model to train on, and a line that names its checkpoint.

    Raises
    ------
    InputError
        If the checkpoint is damaged, or belongs to another run than that of the arguments.
    """
    try:
        saved = models.load(path, arguments.device)
    except ValueError as error:
        advice = " To resume from the previous checkpoint, move this file away."
        raise cli.InputError(f"{error}{advice * (arguments.resume == LATEST)}") from error
    samples, held_out = (Samples(*split) for split in data)
    size, shards = arguments.batch_size, arguments.shards or 1
    run = run_arguments(samples, held_out, batch_size=size, shuffle=True, shards=shards)
    for where, expected, found in differences(model, run, saved):
        raise cli.InputError(
            f"{path}: expected a run with {where} {expected!s:.200}, got one with "
            f"{found!s:.200}. Pass the same arguments, or begin a new run."
        )
    position = saved.position
    epochs, steps = cli.counted(position.epoch, "epoch"), cli.counted(position.batch, "step")
    done = f"{epochs} and {steps} are done"
    if (position.epoch, position.batch) > (arguments.epochs, 0):
        raise cli.InputError(
            f"{path}: expected a run of at most --epochs {arguments.epochs}, but {done}. Pass more "
            "epochs, or begin a new run."
        )
    return saved, f"{path}: {done}"


def differences(
    model: models.Sequential, run: Mapping[str, int], saved: models.Sequential
) -> Iterator[tuple[str, Any, Any]]:
    """Yield where a saved run differs from the arguments: option, expected and saved value."""
    networks = describe(model), describe(saved)
    if networks[0] != networks[1]:
        yield "network", *networks
    for name, expected, found in checkpoint.differences(model, saved):
        yield OPTIONS.get(name, name), expected, found
    for name, found, expected in saved.position.differences(run):
        yield OPTIONS.get(name, f"--data of {name}"), expected, found


def describe(model: models.Sequential) -> str:
    """Return the network in one line."""
    words = []
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            words.append(f"dense {layer.units}")
        elif isinstance(layer, layers.Dropout):
            words.append(f"dropout {layer.rate:g}")
    return f"{' > '.join(words)} ({model.count_params():,} weights)"


def describe_data(name: str, data: tuple[Split, Split]) -> str:
    """Return the name of the data and their numbers of images."""
    training, test = (len(x) for x, _ in data)
    return f"{name}: {training:,} training images, {test:,} test images"
