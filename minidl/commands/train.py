"""Train a multilayer network with dropout on MNIST, or on a data set of the same form."""

import argparse
import contextlib
import functools
import logging
import math
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from minidl_kernels.threads import num_threads

from minidl import callbacks, console, constraints, layers, models, optimizers
from minidl.backend import DeviceError, get_backend
from minidl.batches import Samples
from minidl.commands import page, report
from minidl.commands.command_line import (
    EXIT_DIVERGED,
    InputError,
    discard_unwritten,
    handled_sigterm,
    ignore_signals,
    print_line,
    report_error,
    report_interrupt,
    show,
    silent,
)
from minidl.commands.machine import machine
from minidl.commands.playground import page as playground
from minidl.commands.run_folder import PLAYGROUND, REPORT, RunFolder
from minidl.commands.train_arguments import (
    CLASSES,
    LATEST,
    LOADERS,
    SHARDS,
    check_outputs,
    command_of,
    leave_outputs_out,
    parse_arguments,
    without_outputs,
)
from minidl.commands.watch import EventLog, Start, Watch, process_seconds
from minidl.datasets.idx_dataset import Split
from minidl.distributed import DataParallel, WorkerError
from minidl.distributed.mpi import launched_size
from minidl.formats import checkpoint
from minidl.storage.folders import latest
from minidl.trainer.distribution import Distribution
from minidl.trainer.position import run_arguments
from minidl.version import __version__

OPTIONS = {  # by names in checkpoints
    "seed": "--seed",
    "training optimizer class": "--optimizer",
    "training optimizer arguments learning_rate": "--lr",
    "batch_size": "--batch-size",
    "shards": "--shards",
}
DIGITS = ("mnist", "mnist-5k")  # the data sets that the playground is for


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
        raise InputError(f"{error}{advice * (arguments.resume == LATEST)}") from error
    samples, held_out = (Samples(*split) for split in data)
    size, shards = arguments.batch_size, arguments.shards or 1
    run = run_arguments(samples, held_out, batch_size=size, shuffle=True, shards=shards)
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
    try:
        together = started_together()
    except (ImportError, RuntimeError) as error:  # of each process: they cannot agree
        return report_error("minidl.train", error)
    except KeyboardInterrupt as interrupt:
        return report_interrupt(interrupt)
    with contextlib.nullcontext() if together.rank == 0 else silent():
        return run(argv, together)


def started_together() -> Distribution:
    """Return the distribution over the processes that ``mpiexec`` started, if there are several."""
    size = launched_size()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "suspicious MPI")  # it becomes an error
        return DataParallel(max(size, SHARDS)) if size > 1 else Distribution()


def run(argv: Sequence[str] | None, together: Distribution) -> int:
    """Run the command in one of the processes that were started together."""
    try:
        with together.guarded(), together.agreed():
            arguments = parse_arguments(argv, __doc__)
            distribution = DataParallel(arguments.shards) if arguments.shards else together
    except (ValueError, WorkerError) as error:
        return report_error("minidl.train", error)
    except KeyboardInterrupt as interrupt:
        return report_interrupt(interrupt)
    if distribution.rank > 0:
        leave_outputs_out(arguments)
    logging.basicConfig(format="%(message)s")
    for package in ("minidl", "minidl_kernels"):  # other libraries log their internals
        logging.getLogger(package).setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    results: dict[str, Any] = {"seed": arguments.seed, "epochs": 0}
    log = EventLog(arguments.log_json, is_resumed=arguments.resume is not None)
    try:
        status = train(arguments, distribution, log, results)
    except (InputError, OSError, MemoryError, WorkerError) as error:
        status = report_error("minidl.train", error)
    except KeyboardInterrupt as interrupt:
        if distribution.size > 1:
            ignore_signals()
        log.write("end", **results, seconds=process_seconds(), interrupted=True)
        resumable = "; to resume, add --resume latest" if arguments.checkpoint_dir else ""
        status = report_interrupt(interrupt, resumable)
    finally:
        log.close()
        discard_unwritten()
    with contextlib.suppress(WorkerError):  # another one has ended before
        status = distribution.gather(status)[0]
    return status


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


def train(
    arguments: argparse.Namespace,
    distribution: Distribution,
    log: EventLog,
    results: dict[str, Any],
) -> int:
    """Train and evaluate; add what was reached to `results`, also if training is interrupted."""
    try:
        with distribution.guarded():
            prepared = prepare(arguments, distribution)
            announce(arguments, distribution, prepared)
    except (ValueError, DeviceError) as error:
        raise InputError(error) from error
    results |= {"device": arguments.device, "data": arguments.data}
    (x, y), test = prepared.data
    watch, guard = Watch(log, len(x), arguments.batch_size), callbacks.TerminateOnNaN()
    facts = without_outputs(arguments) | {"parameters": prepared.model.count_params()}
    facts["learning_rate"] = facts.pop("lr")
    start = Start(log, facts | {"version": __version__})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TerminateOnNaN: ")  # it is printed below
            prepared.model.fit(
                x,
                y,
                batch_size=arguments.batch_size,
                epochs=arguments.epochs,
                verbose=0 if arguments.quiet else 1,
                callbacks=[watch, guard, *prepared.recorders, start],
                validation_data=test,
                resume=prepared.resumed is not None,
                record=arguments.record,
                distribution=distribution,
            )
    finally:  # Ctrl-C does not return from fit
        results |= watch.report()
    if distribution.rank > 0:
        ignore_signals()  # the first process alone has something left to do
        return 0
    return finish(arguments, prepared, log, results, watch, guard.found)


def announce(arguments: argparse.Namespace, distribution: Distribution, prepared: Prepared) -> None:
    """Print what is about to be trained."""
    if prepared.notice:
        show(prepared.notice)
    lines = {
        "device": arguments.device,
        "data": describe_data(arguments.data, prepared.data),
        "network": describe(prepared.model),
    }
    if arguments.shards is not None:
        threads, shards = num_threads(), arguments.shards
        lines["workers"] = (
            f"{distribution.size} with {threads} thread{'s' * (threads > 1)} each, "
            f"{shards} shard{'s' * (shards > 1)}"
        )
    if prepared.resumed is not None:
        lines["resume"] = prepared.resumed
    if not arguments.quiet:
        for title, text in lines.items():
            show(f"{title:<8} {text}")


def finish(
    arguments: argparse.Namespace,
    prepared: Prepared,
    log: EventLog,
    results: dict[str, Any],
    watch: Watch,
    found: str | None,
) -> int:
    """Evaluate, save and report; return the exit status."""
    model, (x_test, y_test) = prepared.model, prepared.data[1]
    rows = {
        "device": arguments.device,
        "data": arguments.data + " (MNIST could not be downloaded)" * bool(prepared.notice),
        "epochs": f"{watch.epochs} of {arguments.epochs}",
    }
    test_loss = math.nan
    if found is None:
        test_loss, test_accuracy = model.evaluate(
            x_test, y_test, arguments.batch_size, verbose=0, record=arguments.record
        )
        results |= {"test_accuracy": test_accuracy, "test_loss": test_loss}
    if not math.isfinite(test_loss):
        found = found or "the loss of the test, after the last step"
        log.write("end", **results, seconds=process_seconds(), diverged=found)
        if arguments.out is not None:
            write_report(arguments, prepared, rows | {"diverged": found})
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
            "throughput": f"{results['images_per_second']:,.0f} images/s in training",
            "time": f"{watch.seconds:.1f} s in training, {seconds:.1f} s from start to test",
        }
    if arguments.save is not None:
        model.save(arguments.save)
        rows["saved"] = arguments.save
    if arguments.out is not None:
        if arguments.data in DIGITS:
            rows["playground"] = write_playground(arguments, model, (x_test, y_test))
        rows["report"] = write_report(arguments, prepared, rows)
    for title, text in rows.items():
        print_line(f"{title:<16} {text}")
    return 0


def write_playground(arguments: argparse.Namespace, model: models.Sequential, test: Split) -> str:
    """Write the page to draw digits on; return its path, or why it cannot show the network."""
    path = os.path.join(arguments.out, PLAYGROUND)
    try:
        playground.write(path, model, *test)
    except ValueError as error:
        return f"not written; {error}"
    return path


def write_report(arguments: argparse.Namespace, prepared: Prepared, rows: dict[str, str]) -> str:
    """Write the page about a run; return its path, or what is missing for it."""
    if not page.is_possible():
        return page.MISSING
    path = os.path.join(arguments.out, REPORT)
    model, data = prepared.model, prepared.data
    facts = rows | {
        "data": describe_data(rows["data"], data),
        "network": describe(model),
        "optimizer": f"{arguments.optimizer}, learning rate {arguments.lr}",
        "maximum norm": str(arguments.max_norm or "none"),
        "batch size": f"{arguments.batch_size:,}",
        "seed": str(arguments.seed),
        "machine": machine(model.backend.facts()),
        "environment": ", ".join(f"{name} {value}" for name, value in environment().items()),
    }
    report.write(path, model, *data[1], facts=facts, command=command_of(arguments))
    return path
