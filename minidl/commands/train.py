"""Train a multilayer network with dropout on MNIST, or on a data set of the same form."""

import argparse
import contextlib
import logging
import warnings
from collections.abc import Sequence
from typing import Any

from minidl_kernels.threads import num_threads

from minidl import callbacks
from minidl.commands import cli
from minidl.commands.train_arguments import SHARDS, parse_arguments, without_outputs, write_nothing
from minidl.commands.train_preparation import Prepared, describe, describe_data, prepare
from minidl.commands.train_results import finish
from minidl.commands.watch import EventLog, Start, Watch, process_seconds
from minidl.distributed import DataParallel, WorkerError
from minidl.distributed.mpi import launched_size
from minidl.trainer.distribution import Distribution
from minidl.version import __version__

MODULE = "minidl.train"


@cli.command(MODULE)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; ``--help`` lists them."""
    together = started_together()
    with contextlib.nullcontext() if together.rank == 0 else cli.silent():
        return run(argv, together)


def started_together() -> Distribution:
    """Return the distribution over the processes that ``mpiexec`` started, if there are several."""
    size = launched_size()
    if size == 1:
        return Distribution()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "suspicious MPI")  # it becomes an error
        try:
            return DataParallel(max(size, SHARDS))
        except RuntimeError as error:  # of each process: they cannot agree
            raise cli.InputError(error) from error


@cli.command(MODULE)
def run(argv: Sequence[str] | None, together: Distribution) -> int:
    """Run the command in one of the processes that were started together."""
    with cli.input_checks(), together.guarded(), together.agreed():
        arguments = parse_arguments(argv, __doc__)
        distribution = DataParallel(arguments.shards) if arguments.shards else together
    if distribution.rank > 0:
        write_nothing(arguments)
    logging.basicConfig(format="%(message)s")
    for package in ("minidl", "minidl_kernels"):  # other libraries log their internals
        logging.getLogger(package).setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    status = log_training(arguments, distribution)
    with contextlib.suppress(WorkerError):  # another one has ended before
        status = distribution.gather(status)[0]
    return status


@cli.command(MODULE)
def log_training(arguments: argparse.Namespace, distribution: Distribution) -> int:
    """Train, and log the end also if it is interrupted."""
    results: dict[str, Any] = {"seed": arguments.seed, "epochs": 0}
    log = EventLog(arguments.log_json, is_resumed=arguments.resume is not None)
    try:
        return train(arguments, distribution, log, results)
    except KeyboardInterrupt as interrupt:
        if distribution.size > 1:
            cli.ignore_signals()
        log.write("end", **results, seconds=process_seconds(), interrupted=True)
        if arguments.checkpoint_dir:
            interrupt.add_note("to resume, add --resume latest")
        raise
    finally:
        log.close()


def train(
    arguments: argparse.Namespace,
    distribution: Distribution,
    log: EventLog,
    results: dict[str, Any],
) -> int:
    """Train and evaluate; add what was reached to `results`, also if training is interrupted."""
    with cli.input_checks(), distribution.guarded():
        prepared = prepare(arguments, distribution)
        announce(arguments, distribution, prepared)
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
        cli.ignore_signals()  # the first process alone has something left to do
        return 0
    return finish(arguments, prepared, log, results, watch, guard.found)


def announce(arguments: argparse.Namespace, distribution: Distribution, prepared: Prepared) -> None:
    """Print what is about to be trained."""
    if prepared.notice:
        cli.show(prepared.notice)
    lines = {
        "device": arguments.device,
        "data": describe_data(arguments.data, prepared.data),
        "network": describe(prepared.model),
    }
    if arguments.shards is not None:
        threads = cli.counted(num_threads(), "thread")
        shards = cli.counted(arguments.shards, "shard")
        lines["workers"] = f"{distribution.size} with {threads} each, {shards}"
    if prepared.resumed is not None:
        lines["resume"] = prepared.resumed
    if not arguments.quiet:
        for title, text in lines.items():
            cli.show(f"{title:<8} {text}")
