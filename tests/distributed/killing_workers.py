"""Kill one of several workers at random moments, resume with others, and compare all files.

``python tests/distributed/killing_workers.py`` kills 20 runs of `failing`; the tests kill a few.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

PROGRAM = Path(__file__).with_name("failing.py")
ROOT = PROGRAM.parents[2]
EPOCHS, STEPS = 40, 40 * 5
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels"))),
    "EPOCHS": str(EPOCHS),
}
LIMIT = 120  # seconds


class Kill(NamedTuple):
    """What is killed when, and how many workers go on."""

    rank: int
    workers: int
    step: int
    delay: float  # seconds after that step is saved, or after the start for step 0
    others: int

    @classmethod
    def drawn(cls, chance: random.Random) -> "Kill":
        """Return a random one; every fifth is in the first seconds, before the first step."""
        workers = chance.choice((2, 3, 4))
        others = chance.choice([n for n in (1, 2, 3, 4) if n != workers])
        step = 0 if chance.random() < 0.2 else chance.randrange(1, STEPS)
        delay = chance.uniform(0, 0.03 if step else 3)
        return cls(chance.randrange(workers), workers, step, delay, others)


def start(folder: Path, workers: int) -> subprocess.Popen:
    """Begin or resume the run in a folder."""
    launcher = [shutil.which("mpiexec") or "mpiexec", "-n", str(workers)] if workers > 1 else []
    return subprocess.Popen(
        [*launcher, sys.executable, str(PROGRAM), "none", str(folder)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(folder: Path) -> dict[str, bytes]:
    """Return the checkpoints of a folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def finish(folder: Path, workers: int = 1) -> dict[str, bytes]:
    """Let the run in a folder finish; return its checkpoints."""
    folder.mkdir(exist_ok=True)
    process = start(folder, workers)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    return files(folder)


def workers_of(process: subprocess.Popen) -> list[int]:
    """Return the processes of the workers, by rank: the grandchildren of mpiexec."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    proxies = [pid for pid, parent in parents.items() if parent == process.pid]
    return sorted(pid for pid, parent in parents.items() if parent in proxies)


def kill(folder: Path, moment: Kill) -> str:
    """Kill a worker; return what the run left."""
    folder.mkdir(exist_ok=True)
    process = start(folder, moment.workers)
    try:
        name = f"step-{moment.step:010}"
        while moment.step and process.poll() is None:
            if any(path.stem >= name for path in folder.glob("step-*")):
                break
            time.sleep(0.0002)
        time.sleep(moment.delay)
        running = workers_of(process)[moment.rank :][:1]
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    saved = sorted(path.stem for path in folder.glob("step-*"))
    end = f"status {process.returncode}" if running else "after its end"
    return f"{saved[-1] if saved else 'nothing saved':15}, {end}"


def main() -> int:
    """Kill and resume runs as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        expected = finish(Path(name, "whole"))
        for number in range(arguments.kills):
            moment, folder = Kill.drawn(chance), Path(name, str(number))
            left = kill(folder, moment)
            same = finish(folder, moment.others) == expected
            rank, workers, step, delay, others = moment
            print(
                f"{number + 1:3} killed rank {rank} of {workers}, {1000 * delay:6.1f} ms after "
                f"step {step:3}: {left}; resumed by {others}; same bits: {same}",
                flush=True,
            )
            if not same:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
