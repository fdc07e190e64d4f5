"""Sides that take turns, and what their times say.

A measurement is a list of rounds. In each round every side has a number of turns, one of each side
after the other, so that what slows the machine down meets all of them. Sides are compared within
rounds, by the best of their turns; what is said at the end are medians over the rounds.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypedDict

import psutil
from tqdm import tqdm


class Round(TypedDict):
    """The seconds of each side's turns, and the cores that other processes used meanwhile."""

    seconds: dict[str, list[float]]
    load: float


def take_turns(
    sides: Mapping[str, Callable[[], float]], rounds: int, repeats: int = 1, title: str = ""
) -> list[Round]:
    """Let each side, a function that returns its seconds, have `repeats` turns in each round."""
    measured: list[Round] = []
    with tqdm(total=rounds * repeats * len(sides), desc=title, disable=None, leave=False) as bar:
        for _ in range(rounds):
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            before = processor_time()
            for _ in range(repeats):
                for name, side in sides.items():
                    seconds[name].append(side())
                    bar.update()
            measured.append({"seconds": seconds, "load": other_load(before, processor_time())})
    return measured


# ------------------------------------------------------------------------------ statistics


def best_turns(rounds: Sequence[Round], side: str) -> list[float]:
    """Return the seconds of a side's best turn in each round."""
    return [min(measured["seconds"][side]) for measured in rounds]


def ratios(rounds: Sequence[Round], side: str, other: str) -> list[float]:
    """Return, round by round, the best turn of `side` over the best turn of `other`."""
    pairs = zip(best_turns(rounds, side), best_turns(rounds, other), strict=True)
    return [mine / yours for mine, yours in pairs]


def median_turn(rounds: Sequence[Round], side: str) -> float:
    """Return the median of a side's best turns."""
    return statistics.median(best_turns(rounds, side))


def median_ratio(rounds: Sequence[Round], side: str, other: str) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(ratios(rounds, side, other))


def load_line(rounds: Sequence[Round]) -> str:
    """Return a sentence on the load of other processes."""
    loads = [measured["load"] for measured in rounds]
    return (
        f"Other processes used {statistics.median(loads):.2f} cores in the median of "
        f"{len(rounds)} rounds, {max(loads):.2f} in the busiest."
    )


# ------------------------------------------------------------------------------ other processes


class ProcessorTime(NamedTuple):
    """Seconds by the clock, of the processor for everybody, and of the processor for us."""

    clock: float
    everybody: float
    ours: float


def processor_time() -> ProcessorTime:
    """Return what has been used so far; "us" is this process and its children."""
    machine = psutil.cpu_times()._asdict()
    # Linux counts the time of guests in that of users too.
    idle = ("idle", "iowait", "guest", "guest_nice")
    everybody = sum(seconds for name, seconds in machine.items() if name not in idle)
    this = psutil.Process()
    ours = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:  # it has ended since it was listed
            continue
        # Children that have ended are counted by their parents.
        ours += used.user + used.system + used.children_user + used.children_system
    return ProcessorTime(time.perf_counter(), everybody, ours)


def other_load(before: ProcessorTime, after: ProcessorTime) -> float:
    """Return how many cores were used by others between two readings."""
    others = (after.everybody - before.everybody) - (after.ours - before.ours)
    return max(0.0, others / (after.clock - before.clock))
