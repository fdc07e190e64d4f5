"""Runs of a sweep: their folders, their results, and their processes."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidl_kernels.threads import VARIABLE

from minidl import console
from minidl.commands import page
from minidl.commands.command_line import EXIT_DIVERGED, InputError, show
from minidl.commands.run_folder import REPORT
from minidl.commands.train_arguments import LATEST, without_outputs

EVENTS, PRINTED = "events.jsonl", "output.txt"  # in the folder of a run
POLL_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a sweep, a process of ``minidl.train``.

    Attributes
    ----------
    folder : Path
        The folder of the run, which need not exist.
    settings : mapping
        The values of the options that the sweep varies, by name; ``seed`` is the last.
    words : sequence of str
        The options of ``minidl.train``, without those of its output.
    arguments : argparse.Namespace
        The same options, parsed.
    """

    folder: Path
    settings: Mapping[str, Any]
    words: Sequence[str]
    arguments: argparse.Namespace

    @property
    def label(self) -> str:
        """The settings in words."""
        return ", ".join(f"{name} {plain(value)}" for name, value in self.settings.items())

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events of the log; a killed process may have left a part of one."""
        path = self.folder / EVENTS
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                yield json.loads(line)
            except ValueError:
                yield {"event": "cut"}

    def end(self) -> dict[str, Any] | None:
        """Return the last event of a run that is complete or has diverged, or else None."""
        *_, last = {"event": "none"}, *self.events()
        is_complete = last.get("epochs") == self.arguments.epochs and not last.get("interrupted")
        is_reported = (self.folder / REPORT).exists() or not page.is_possible()
        is_end = last["event"] == "end" and ("diverged" in last or is_complete) and is_reported
        return last if is_end else None

    def history(self) -> list[dict[str, Any]]:
        """Return the logs of the epochs."""
        lines = (self.folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def check(self) -> None:
        """Raise InputError if the folder has a run with other options, or of more epochs."""
        path = self.folder / "config.json"
        if not path.exists():
            return
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: expected JSON, got a damaged file. Delete it.") from error
        for name, expected in without_outputs(self.arguments).items():
            is_longer = name == "epochs" and found.get(name, 0) <= expected
            if name != "data_dir" and not is_longer and found.get(name) != expected:
                raise InputError(
                    f"{self.folder}: expected a run with {name} {expected}, got one with "
                    f"{found.get(name)}. Pass the same options, or another --out."
                )

    def start(self, threads: int) -> subprocess.Popen:
        """Start or resume the run in a process; Ctrl-C in the terminal does not reach it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        output = ["--out", str(self.folder), "--log-json", str(self.folder / EVENTS), "--quiet"]
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

    def result(self, status: int) -> tuple[str, bool]:
        """Return the result of an ended process in words, and whether it failed."""
        end = self.end()
        if end is None or status not in (0, EXIT_DIVERGED):
            printed = (self.folder / PRINTED).read_text(encoding="utf-8", errors="replace")
            *_, last = f"status {status}", *printed.splitlines()
            return f"failed ({last})", True
        if "diverged" in end:
            return f"diverged: {end['diverged']}", False
        accuracy, loss = end["test_accuracy"], console.readable(end["test_loss"])
        return f"test accuracy {accuracy:.2%}, test loss {loss}", False


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


def execute(runs: Iterable[Run], jobs: int, threads: int) -> dict[Run, str]:
    """Run several processes at a time, and print each result.

    Parameters
    ----------
    runs : iterable of Run
        The runs to start or resume.
    jobs, threads : int
        The number of processes at a time, and of the threads of each.

    Returns
    -------
    dict
        What was printed of the runs that failed.
    """
    waiting, failed = deque(runs), {}
    running: dict[Run, subprocess.Popen] = {}
    count = len(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.popleft()
                running[run] = run.start(threads)
            time.sleep(POLL_SECONDS)
            for run in [run for run, process in running.items() if process.poll() is not None]:
                text, has_failed = run.result(running.pop(run).returncode)
                show(f"{count - len(waiting) - len(running)} of {count}  {run.label}: {text}")
                if has_failed:
                    failed[run] = text
    finally:  # after Ctrl-C each process writes a checkpoint
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return failed
