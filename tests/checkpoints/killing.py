"""Kill training at random instants and resume it: the weights come out the same, bit for bit.

``python tests/checkpoints/killing.py`` kills 30 runs; the ordinary tests kill a few.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from minidl.storage.tensor_file import TensorFile  # noqa: E402  the checkout's own

RUN = ("--data", "mnist-5k", "--hidden", "24", "--epochs", "12", "--batch-size", "100")
STEPS = 12 * 40
EVERY = ("--checkpoint-every", "3")  # so that most saves fall into the middle of an epoch


def start(folder: Path) -> subprocess.Popen:
    """Start, or go on with, the run in a folder."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    places = ("--checkpoint-dir", str(folder), "--save", str(folder / "final.safetensors"))
    return subprocess.Popen(
        [sys.executable, "-m", "minidl.train", *RUN, *EVERY, *places, "--resume", "latest"],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_step(process: subprocess.Popen, folder: Path, step: int) -> bool:
    """Wait until a run has saved at `step` or later; tell whether it still runs."""
    while not any(path.stem >= f"step-{step:010d}" for path in folder.glob("step-*")):
        if process.poll() is not None:
            return False
        time.sleep(0.0002)
    return process.poll() is None


def finish(folder: Path) -> tuple[dict[str, bytes], dict]:
    """Let the run in a folder come to its end; return its arrays and its history."""
    process = start(folder)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    with TensorFile(folder / "final.safetensors") as file:
        arrays = {name: file.read(name).tobytes() for name in file.shapes}
        return arrays, json.loads(file.metadata["minidl"])["history"]


def kill_at(step: int, delay: float, folder: Path) -> str:
    """Kill the run in `folder` some seconds after it saved at `step`, and say what it left."""
    process = start(folder)
    try:
        running = await_step(process, folder, step)
        time.sleep(delay)
    finally:
        process.kill()
        process.communicate()
    saved = sorted(path.stem for path in folder.glob("step-*"))
    half = len(list(folder.glob(".*.tmp")))
    end = "" if running else ", after its end"
    return f"{saved[-1] if saved else 'nothing saved'}, {half} half-written{end}"


def main() -> int:
    """Kill and resume as often as is asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name, "whole")
        whole.mkdir()
        expected = finish(whole)
        for kill in range(arguments.kills):
            folder = Path(name, str(kill))
            folder.mkdir()
            step, delay = chance.randrange(STEPS), chance.uniform(0, 0.03)
            left = kill_at(step, delay, folder)
            same = finish(folder) == expected
            place = f"{1000 * delay:4.1f} ms after step {step:3}"
            print(f"{kill + 1:3} killed {place}: {left}; same bits: {same}", flush=True)
            if not same:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
