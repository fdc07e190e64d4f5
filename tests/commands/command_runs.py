"""Runs of the commands, in this process and in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**changes):
    """Return the environment of a command that imports the checkout and finds no data folder."""
    kept = {name: value for name, value in os.environ.items() if name != "MINIDL_DATA"}
    path = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    return kept | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | changes


def run_python(*arguments):
    """Run Python in that environment and return the ended process."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def rejection(command, capsys, *arguments):
    """Run a command on input that it rejects, and return its one line."""
    capsys.readouterr()
    assert command.main(list(map(str, arguments))) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{command.__name__.replace('.commands', '')}: ")
    assert printed.err.count("\n") == 1
    return printed.err
