"""Kill training at random moments, resume it, and compare the bits with those of a whole run.

``python tests/checkpoints/killing.py`` kills 30 runs of the command minidl.train; the tests kill a
few. With ``--die-at STEP FOLDER`` it trains a small model and kills itself while it writes the
checkpoint of that step.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from minidl import callbacks, checkpoint, layers, models  # noqa: E402  the checkout's own
from minidl.storage.folders import STEP_FILE  # noqa: E402
from minidl.storage.tensor_file import TensorFile  # noqa: E402

RUN = ("--data", "mnist-5k", "--hidden", "24", "--epochs", "6", "--batch-size", "100")
STEPS = 6 * 40
EVERY = ("--checkpoint-every", "3")  # most files are written in the middle of an epoch
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))}


# ------------------------------------------------------------------------------ a small run

X = np.arange(60.0).reshape(20, 3) % 7
Y = X[:, :1] - X[:, 1:2]


def train(folder: Path) -> models.Sequential:
    """Begin or resume the small run in a folder; return its model."""
    newest = checkpoint.latest(folder)
    if newest is None:
        stack = [layers.Dense(8, "tanh", input_shape=(3,)), layers.Dropout(0.5), layers.Dense(1)]
        model = models.Sequential(stack, seed=6)
        model.compile("adam", "mse")
    else:
        model = models.load(newest)
    saver = callbacks.ModelCheckpoint(folder, every_steps=2)
    arguments = {"batch_size": 4, "epochs": 3, "verbose": 0}
    model.fit(X, Y, **arguments, callbacks=[saver], resume=True)
    return model


def die_at(step: int, folder: Path) -> None:
    """Train, and die of SIGKILL when the checkpoint of a step is written but not renamed."""
    replace = os.replace

    def killed(source, target):
        if Path(target).name == STEP_FILE.format(step):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = killed
    train(folder)


def start_dying(step: int, folder: Path) -> int:
    """Run `die_at` in a process of its own; return how it ended."""
    command = [sys.executable, __file__, "--die-at", str(step), str(folder)]
    return subprocess.run(command, env=ENVIRONMENT, check=False).returncode


# ------------------------------------------------------------------------------ minidl.train


def start(folder: Path) -> subprocess.Popen:
    """Start or resume the run in a folder."""
    places = ("--checkpoint-dir", str(folder), "--save", str(folder / "final.safetensors"))
    return subprocess.Popen(
        [sys.executable, "-m", "minidl.train", *RUN, *EVERY, *places, "--resume", "latest"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_step(process: subprocess.Popen, folder: Path, step: int) -> bool:
    """Wait until a run has saved at `step` or later; return whether it still runs."""
    while not any(path.stem >= f"step-{step:010d}" for path in folder.glob("step-*")):
        if process.poll() is not None:
            return False
        time.sleep(0.0002)
    return process.poll() is None


def finish(folder: Path) -> tuple[dict[str, bytes], dict]:
    """Let the run in a folder finish; return its arrays and its history."""
    process = start(folder)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    with TensorFile(folder / "final.safetensors") as file:
        arrays = {name: file.read(name).tobytes() for name in file.shapes}
        return arrays, json.loads(file.metadata["minidl"])["history"]


def kill_at(step: int, delay: float, folder: Path) -> str:
    """Kill the run in `folder` some seconds after it saved at `step`; return what it left."""
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
    """Kill and resume runs as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--die-at", nargs=2, metavar=("STEP", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.die_at:
        die_at(int(arguments.die_at[0]), Path(arguments.die_at[1]))
        return 0
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
