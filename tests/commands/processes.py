"""The commands in processes of their own."""

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
