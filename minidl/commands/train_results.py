"""Results of a training run: test, saved network, table and pages."""

import argparse
import math
import os
import sys
from typing import Any

from minidl import console, models
from minidl.commands import cli, page, report
from minidl.commands.machine import environment, machine
from minidl.commands.playground import page as playground
from minidl.commands.run_folder import PLAYGROUND, REPORT
from minidl.commands.train_arguments import EXIT_DIVERGED, command_of
from minidl.commands.train_preparation import Prepared, describe, describe_data
from minidl.commands.watch import EventLog, Watch, process_seconds
from minidl.datasets.idx_dataset import Split

DIGITS = ("mnist", "mnist-5k")  # the data sets that the playground is for


def finish(
    arguments: argparse.Namespace,
    prepared: Prepared,
    log: EventLog,
    results: dict[str, Any],
    watch: Watch,
    found: str | None,
) -> int:
    """Evaluate, save and report; return the exit status."""
    model, test = prepared.model, prepared.data[1]
    rows = {
        "device": arguments.device,
        "data": arguments.data + " (MNIST could not be downloaded)" * bool(prepared.notice),
        "epochs": f"{watch.epochs} of {arguments.epochs}",
    }
    if found is None:
        test_loss, test_accuracy = model.evaluate(
            *test, arguments.batch_size, verbose=0, record=arguments.record
        )
        results |= {"test_accuracy": test_accuracy, "test_loss": test_loss}
        if not math.isfinite(test_loss):
            found = "the loss of the test, after the last step"
    if found is not None:
        log.write("end", **results, seconds=process_seconds(), diverged=found)
        if arguments.out is not None:
            write_report(arguments, prepared, rows | {"diverged": found})
        unsaved = "" if arguments.save is None else f"{arguments.save} is not saved. "
        console.write(
            f"minidl.train: expected finite numbers, got NaN or infinity: {found}. {unsaved}"
            "Use a smaller --lr.",
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
            rows["playground"] = write_playground(arguments, model, test)
        rows["report"] = write_report(arguments, prepared, rows)
    for title, text in rows.items():
        cli.print_line(f"{title:<16} {text}")
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
