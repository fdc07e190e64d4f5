"""Start: how long `import minidl` and the first training step take, in new processes.

    python -m bench.startup [--rounds 7]

The first step is that of the main command, from the start of its process; cold is with an empty
cache of compiled kernels, warm with the cache that an earlier run has filled.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.memory import COMMAND, QUICK_COMMAND
from bench.report import command_parser, made_with, numbers, table
from bench.rounds import Round, best_turns, load_line, median_turn, take_turns

QUICK = {"rounds": 2, "command": QUICK_COMMAND}
NUMPY, MINIDL = "`import numpy`", "`import minidl`"
COLD, WARM = "first step, cold cache", "first step, warm cache"


def import_seconds(module: str) -> float:
    """Return how long a new process takes to import a module."""
    program = (
        "import time; began = time.perf_counter(); "
        f"import {module}; print(time.perf_counter() - began)"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return float(ran.stdout)


def first_step_seconds(command: Sequence[str], cache: Path) -> float:
    """Return what the command says of its first step, with its compiler's cache in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        subprocess.run(
            [sys.executable, *command, "--log-json", log],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
        )
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return events[-1]["first_step_seconds"]


def measure(rounds: int = 7, command: Sequence[str] = COMMAND) -> dict[str, Any]:
    """Return what was measured, as JSON can hold it."""
    with tempfile.TemporaryDirectory() as warm:

        def cold_step() -> float:
            with tempfile.TemporaryDirectory() as cold:
                return first_step_seconds(command, Path(cold))

        def warm_step() -> float:
            return first_step_seconds(command, Path(warm))

        warm_step()  # fills the cache; and all files have been read from the disk once
        sides = {
            NUMPY: lambda: import_seconds("numpy"),
            MINIDL: lambda: import_seconds("minidl"),
            COLD: cold_step,
            WARM: warm_step,
        }
        measured = take_turns(sides, rounds, title="start")
    return {"made_with": made_with(), "command": " ".join(command), "rounds": measured}


def beyond_numpy(rounds: Sequence[Round]) -> list[float]:
    """Return, round by round, the seconds that `import minidl` takes more than `import numpy`."""
    pairs = zip(best_turns(rounds, MINIDL), best_turns(rounds, NUMPY), strict=True)
    return [minidl - numpy for minidl, numpy in pairs]


def section(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    rounds = result["rounds"]
    beyond = beyond_numpy(rounds)
    times = {name: best_turns(rounds, name) for name in rounds[0]["seconds"]}
    yield "## Start: seconds"
    yield ""
    yield (
        "Seconds from the start of a process to the end of the import, or to the end of the first "
        f"training step of `python {result['command']}`. With a cold cache, the kernels are "
        "compiled. With a warm cache, an earlier run has compiled them. Made by "
        f"`python -m bench.startup`. {result['made_with']}"
    )
    yield ""
    yield from table(
        ("what", "median", "in each round"),
        [
            *(
                (name, f"{median_turn(rounds, name):.2f}", numbers(seconds))
                for name, seconds in times.items()
            ),
            (
                "`import minidl` minus `import numpy`",
                f"{statistics.median(beyond):.2f}",
                numbers(beyond),
            ),
        ],
    )
    yield ""
    yield load_line(rounds)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the report."""
    parser = command_parser("bench.startup", __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    for line in section(measure(**vars(parser.parse_args(argv)))):
        print(line)


if __name__ == "__main__":
    main()
