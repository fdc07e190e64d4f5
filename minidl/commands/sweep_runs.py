"""Runs of a sweep: their folders, their results, and their processes."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidl_kernels.threads import VARIABLE

from minidl import console
from minidl.commands import cli, page
from minidl.commands.run_folder import HISTORY, REPORT
from minidl.commands.train_arguments import LATEST, without_outputs

EVENTS, PRINTED = "events.jsonl", "output.txt"  # in the folder of a run
POLL_SECONDS = 0.1
ERROR, LOSS = "test error (%)", "test cross-entropy (nats)"


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a sweep, a process of ``minidl.train``.

    Attributes
    ----------
    folder : Path
        The folder of the run, which need not exist.
    settings : dict
        The values of the options that the sweep varies, in words, without the seed.
    words : sequence of str
        The options of ``minidl.train``, without those of its log.
    arguments : argparse.Namespace
        The same options, parsed.
    """

    folder: Path
    settings: dict[str, str]
    words: Sequence[str]
    arguments: argparse.Namespace

    def end(self) -> dict[str, Any] | None:
        """Return the last event of a run that is complete or has diverged, or else None."""
        try:
            last = json.loads((self.folder / EVENTS).read_text(encoding="utf-8").splitlines()[-1])
        except (FileNotFoundError, IndexError, ValueError):  # there is none, or a part of one
            return None
        is_complete = last.get("epochs") == self.arguments.epochs and not last.get("interrupted")
        is_reported = (self.folder / REPORT).exists() or not page.is_possible()
        is_end = last["event"] == "end" and ("diverged" in last or is_complete) and is_reported
        return last if is_end else None

    def scores(self) -> dict[str, float]:
        """Return `ERROR` and `LOSS` of a complete run; of any other, nothing."""
        end = self.end() or {}
        if "test_loss" not in end:
            return {}
        return {ERROR: 100 * (1 - end["test_accuracy"]), LOSS: end["test_loss"]}

    def history(self) -> list[dict[str, Any]]:
        """Return the logs of the epochs."""
        lines = (self.folder / HISTORY).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def check(self) -> None:
        """Raise InputError if the folder has a run with other options, or of more epochs."""
        path = self.folder / "config.json"
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        except (ValueError, TypeError) as error:
            raise cli.InputError(f"{path}: expected JSON, got others. Delete the file.") from error
        for name, expected in without_outputs(self.arguments).items():
            value = found.get(name, expected)
            is_longer = name == "epochs" and value < expected
            if value != expected and name != "data_dir" and not is_longer:
                option = f"--{name.replace('_', '-')} {plain(expected)}"
                raise cli.InputError(
                    f"{self.folder}: expected a run with {option}, got one with {plain(value)}. "
                    "Pass the same options, or another --out."
                )

    def start(self, threads: int) -> subprocess.Popen:
        """Start or resume the run in a process; Ctrl-C in the terminal does not reach it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        output = ["--log-json", str(self.folder / EVENTS), "--quiet"]
        command = [sys.executable, "-m", "minidl.train", *self.words, *output, "--resume", LATEST]
        with open(self.folder / PRINTED, "wb") as printed:
            return subprocess.Popen(
                command,
                env=os.environ | {VARIABLE: str(threads)},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def result(self) -> str:
        """Return the result in words; a run that was started and has no end has failed."""
        end = self.end()
        if end is None:
            printed = (self.folder / PRINTED).read_text(encoding="utf-8", errors="replace")
            *_, last = "it was killed", *printed.splitlines()
            return f"failed ({last})"
        if "diverged" in end:
            return f"diverged: {end['diverged']}"
        accuracy, loss = end["test_accuracy"], console.readable(end["test_loss"])
        return f"test accuracy {accuracy:.2%}, test loss {loss}"


def plain(value: Any) -> str:
    """Return the value of an option as a word, or as words.

    Examples
    --------
    >>> plain(0.0), plain(1e-05), plain([512, 256])
    ('0', '1e-05', '512 256')
    """
    if isinstance(value, list):
        return " ".join(map(plain, value))
    return str(value).removesuffix(".0")


def execute(runs: Iterable[Run], jobs: int, threads: int) -> None:
    """Start or resume runs, and print their results.

    Parameters
    ----------
    runs : iterable of Run
        In the order in which they are started.
    jobs, threads : int
        The number of processes at a time, and of the threads of each.
    """
    waiting = deque(runs)
    count = len(waiting)
    running: dict[Run, subprocess.Popen] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.popleft()
                running[run] = run.start(threads)
            time.sleep(POLL_SECONDS)
            for run in [run for run, process in running.items() if process.poll() is not None]:
                del running[run]
                ended = f"{count - len(waiting) - len(running)} of {count}"
                cli.show(f"{ended}  {run.folder.name}: {run.result()}")
    finally:  # after Ctrl-C each process writes a checkpoint
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
