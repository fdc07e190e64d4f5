"""Train a multilayer network with dropout on MNIST, or on a data set of the same form."""

import argparse
import functools
import logging
import math
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from minidl_kernels.threads import num_threads

from minidl import callbacks, console, constraints, layers, models, optimizers
from minidl.backend import DeviceError, get_backend
from minidl.batches import Samples
from minidl.commands import report
from minidl.commands.command_line import (
    EXIT_DIVERGED,
    InputError,
    discard_unwritten,
    handled_sigterm,
    report_error,
    report_interrupt,
    show,
)
from minidl.commands.run_folder import REPORT, RunFolder
from minidl.commands.train_arguments import (
    CLASSES,
    LATEST,
    LOADERS,
    check_outputs,
    command_of,
    parse_arguments,
    without_outputs,
)
from minidl.commands.watch import EventLog, Start, Watch, process_seconds
from minidl.datasets.idx_dataset import Split
from minidl.formats import checkpoint
from minidl.storage.folders import latest
from minidl.trainer.position import run_arguments
from minidl.version import __version__


def load_data(name: str | None, data_dir: str | None) -> tuple[str, str, tuple[Split, Split]]:
    """Return the name of the data set, a notice if it is not the default, and its images."""
    if name is not None:
        return name, "", LOADERS[name](data_dir)
    try:
        return "mnist", "", LOADERS["mnist"](data_dir)
    except OSError as error:
        if data_dir is not None or os.environ.get("MINIDL_DATA"):
            raise
        reason = str(error).splitlines()[0].rstrip(":")
        notice = f"MNIST could not be downloaded ({reason}); using the 5,000 digits of minidl"
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


def resume(
    arguments: argparse.Namespace, model: models.Sequential, training: Split, test: Split
) -> tuple[models.Sequential, str]:
    """Return the model to train on, and a line that names its checkpoint.

    Raises
    ------
    InputError
        If the checkpoint is damaged, or belongs to another run than that of the arguments.
    """
    path = arguments.resume
    if path == LATEST:
        folder = arguments.checkpoint_dir
        path = latest(folder) if os.path.isdir(folder) else None
        if path is None:
            return model, f"no checkpoint in {folder}: a new run"
    try:
        saved = models.load(path, arguments.device)
    except ValueError as error:
        advice = " To resume from the previous checkpoint, move this file away."
        raise InputError(f"{error}{advice * (arguments.resume == LATEST)}") from error
    samples, held_out = Samples(*training), Samples(*test)
    run = run_arguments(samples, held_out, batch_size=arguments.batch_size, shuffle=True)
    for where, expected, found in differences(model, run, saved):
        raise InputError(
            f"{path}: expected a run with {where} {expected!s:.200}, got one with "
            f"{found!s:.200}. Pass the same arguments, or begin a new run."
        )
    position = saved.position
    done = f"{position.epoch} epochs and {position.batch} steps are done"
    if (position.epoch, position.batch) > (arguments.epochs, 0):
        raise InputError(
            f"{path}: expected a run of at most --epochs {arguments.epochs}, but {done}. Pass more "
            "epochs, or begin a new run."
        )
    return saved, f"{path}: {done}"


def differences(
    model: models.Sequential, run: Mapping[str, int], saved: models.Sequential
) -> Iterator[tuple[str, Any, Any]]:
    """Yield where a saved run differs from the arguments: name, expected and saved value."""
    networks = describe(model), describe(saved)
    if networks[0] != networks[1]:
        yield "network", *networks
    yield from checkpoint.differences(model, saved)
    for name, found, expected in saved.position.differences(run):
        option = "--batch-size" if name == "batch_size" else f"--data of {name}"
        yield option, expected, found


def describe(model: models.Sequential) -> str:
    """Return the network in one line."""
    words = []
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            words.append(f"dense {layer.units}")
        elif isinstance(layer, layers.Dropout):
            words.append(f"dropout {layer.rate:g}")
    return f"{' > '.join(words)} ({model.count_params():,} weights)"


def environment() -> dict[str, Any]:
    """Return what else the results of this command depend on, on the CPU."""
    return {
        "minidl": __version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "numba": version("numba"),
        "threads": num_threads(),
    }


@handled_sigterm()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, one of ``train_arguments.EXIT_STATUSES``."""
    arguments = parse_arguments(argv, __doc__)
    logging.basicConfig(format="%(message)s")
    for package in ("minidl", "minidl_kernels"):  # other libraries log their internals
        logging.getLogger(package).setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    results: dict[str, Any] = {"seed": arguments.seed, "epochs": 0}
    log = EventLog(arguments.log_json, is_resumed=arguments.resume is not None)
    try:
        return train(arguments, log, results)
    except (InputError, OSError, MemoryError) as error:
        return report_error("minidl.train", error)
    except KeyboardInterrupt as interrupt:
        log.write("end", **results, seconds=process_seconds(), interrupted=True)
        resumable = "; to resume, add --resume latest" if arguments.checkpoint_dir else ""
        return report_interrupt(interrupt, resumable)
    finally:
        log.close()
        discard_unwritten()


def train(arguments: argparse.Namespace, log: EventLog, results: dict[str, Any]) -> int:
    """Train and evaluate; add what was reached to `results`, also if training is interrupted."""
    say = (lambda _: None) if arguments.quiet else show
    try:
        check_outputs(arguments)
        arguments.device = get_backend(arguments.device).name
        data, notice, ((x, y), (x_test, y_test)) = load_data(arguments.data, arguments.data_dir)
        arguments.data = data
        model = build_model(arguments, x.shape[1:])
        resumed = None
        if arguments.resume is not None:
            model, resumed = resume(arguments, model, (x, y), (x_test, y_test))
        recorders: list[callbacks.Callback] = []
        if arguments.checkpoint_dir is not None:
            every = arguments.checkpoint_every
            recorders.append(callbacks.ModelCheckpoint(arguments.checkpoint_dir, every_steps=every))
        if arguments.out is not None:
            repetition = {"command": command_of(arguments), "environment": environment()}
            configuration = without_outputs(arguments) | repetition
            is_resumed = resumed is not None
            recorders.append(RunFolder(arguments.out, configuration, is_resumed=is_resumed))
    except (ValueError, DeviceError) as error:
        raise InputError(error) from error
    if notice:
        show(notice)
    say(f"device   {arguments.device}")
    say(f"data     {data}: {len(x):,} training images, {len(x_test):,} test images")
    say(f"network  {describe(model)}")
    if resumed is not None:
        say(f"resume   {resumed}")
    results |= {"device": arguments.device, "data": data}

    watch = Watch(log, len(x), arguments.batch_size)
    facts = without_outputs(arguments) | {"parameters": model.count_params()}
    facts["learning_rate"] = facts.pop("lr")
    start = Start(log, facts | {"version": __version__})
    guard = callbacks.TerminateOnNaN()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TerminateOnNaN: ")  # it is printed below
            model.fit(
                x,
                y,
                batch_size=arguments.batch_size,
                epochs=arguments.epochs,
                verbose=0 if arguments.quiet else 1,
                callbacks=[watch, guard, *recorders, start],
                validation_data=(x_test, y_test),
                resume=resumed is not None,
                record=arguments.record,
            )
    finally:  # Ctrl-C does not return from fit
        results |= watch.report()
    rows = {
        "device": arguments.device,
        "data": data + " (MNIST could not be downloaded)" * bool(notice),
        "epochs": f"{watch.epochs} of {arguments.epochs}",
    }
    found, test_loss = guard.found, math.nan
    if found is None:
        test_loss, test_accuracy = model.evaluate(
            x_test, y_test, arguments.batch_size, verbose=0, record=arguments.record
        )
        results |= {"test_accuracy": test_accuracy, "test_loss": test_loss}
    if not math.isfinite(test_loss):
        found = found or "the loss of the test, after the last step"
        log.write("end", **results, seconds=process_seconds(), diverged=found)
        if arguments.out is not None:
            write_report(arguments, model, (x_test, y_test), rows | {"diverged": found})
        console.write(
            f"minidl.train: expected finite numbers, got NaN or infinity: {found}. "
            + f"{arguments.save} is not saved. " * (arguments.save is not None)
            + "Use a smaller --lr.",
            sys.stderr,
        )
        return EXIT_DIVERGED
    seconds = process_seconds()
    log.write("end", **results, seconds=seconds, interrupted=False)
    rows |= {"test accuracy": f"{test_accuracy:.2%}", "test loss": console.readable(test_loss)}
    if watch.images:
        rows |= {
            "images a second": f"{results['images_per_second']:,.0f} in training",
            "time": f"{watch.seconds:.1f} s in training, {seconds:.1f} s from start to test",
        }
    if arguments.save is not None:
        model.save(arguments.save)
        rows["saved"] = arguments.save
    if arguments.out is not None:
        rows["report"] = write_report(arguments, model, (x_test, y_test), rows)
    for title, text in rows.items():
        if failure := show(f"{title:<16} {text}"):
            raise failure
    return 0


def write_report(
    arguments: argparse.Namespace, model: models.Sequential, test: Split, rows: dict[str, str]
) -> str:
    """Write the page about a run; return its path, or what is missing for it."""
    if not report.is_possible():
        return "needs matplotlib: pip install 'minidl[plot]'"
    page = os.path.join(arguments.out, REPORT)
    facts = rows | {
        "optimizer": f"{arguments.optimizer}, learning rate {arguments.lr}",
        "batch size": f"{arguments.batch_size:,}",
        "seed": str(arguments.seed),
        "environment": ", ".join(f"{name} {value}" for name, value in environment().items()),
    }
    report.write(page, model, *test, facts=facts, command=command_of(arguments))
    return page
