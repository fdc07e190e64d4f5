"""Groups of processes that train one network together, each process with one thread.

The program of each process is this file; the first one prints the answer of its group. minidl's
groups are started by `mpiexec`, those of PyTorch find one another by a file, for gloo.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from bench import epochs, images
from bench.workers import Unavailable

ONE_THREAD = dict.fromkeys(("MINIDL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
UNITS = epochs.UNITS


class Task(NamedTuple):
    """What each process of a group trains: the network at some batch sizes, one after the other."""

    batch_sizes: Sequence[int]
    images: int
    epochs: int
    """Those that are timed; one comes before, in which kernels are compiled and recorded."""
    units: Sequence[int] = UNITS
    is_synthetic: bool = False

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels."""
        if self.is_synthetic:
            return images.synthetic(self.images)
        _, x, y = images.sixty_thousand()
        return x[: self.images], y[: self.images]


class Group(NamedTuple):
    """Processes that train together.

    Parameters
    ----------
    train : {"minidl", "torch"}
        A row of `TRAININGS`.
    size : int
        The number of processes.
    options : dict
        Further arguments of the row's function.
    """

    train: str
    size: int = 1
    options: dict[str, Any] = {}  # noqa: RUF012  never changed

    def check(self) -> None:
        """Raise Unavailable if the group cannot run here."""
        needs = [self.train] + ["mpi4py"] * (self.train == "minidl" and self.size > 1)
        for module in needs:
            if find_spec(module) is None:
                raise Unavailable(f"{module} is not installed (pip install -e '.[bench]')")
        if "mpi4py" in needs and mpiexec() is None:
            raise Unavailable("mpiexec is not installed (pip install mpich)")

    def commands(self, task: Task, folder: str) -> list[list[str]]:
        """Return the commands that start the processes, which may meet in a folder."""
        order = {"train": self.train, "task": task._asdict(), "options": self.options}
        program = [sys.executable, "-m", "bench.groups"]
        if self.train == "torch":
            place = {"size": self.size, "file": str(Path(folder, "gloo"))}
            return [
                [*program, json.dumps(order | {"place": place | {"rank": rank}})]
                for rank in range(self.size)
            ]
        start = [mpiexec() or "mpiexec", "-n", str(self.size)] if self.size > 1 else []
        return [[*start, *program, json.dumps(order)]]

    def __call__(self, task: Task, limit: float = 600.0) -> dict[str, Any]:
        """Start the processes and return their answer, see `TRAININGS`.

        Raises
        ------
        RuntimeError
            If one of them fails, or they need more seconds than `limit`.
        """
        with tempfile.TemporaryDirectory() as folder, Path(folder, "errors").open("w+") as errors:
            processes = [
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if n == 0 else subprocess.DEVNULL,
                    stderr=errors,
                    text=True,
                    env=os.environ | ONE_THREAD,
                )
                for n, command in enumerate(self.commands(task, folder))
            ]
            try:
                deadline = time.monotonic() + limit
                output, _ = processes[0].communicate(timeout=limit)
                for process in processes:
                    process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise RuntimeError(f"{self}: expected to end within {limit:g} s.") from error
            finally:
                for process in processes:
                    end(process)
                    if process.stdout:
                        process.stdout.close()
            if any(process.returncode for process in processes):
                errors.seek(0)
                raise RuntimeError(f"{self}: its processes failed.\n{errors.read()}")
        return json.loads(output.splitlines()[-1])


def mpiexec() -> str | None:
    """Return the path of `mpiexec`: the one beside Python, if there is one."""
    return shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process that still runs, and all below it."""
    if process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        process.kill()
        process.wait()


# ------------------------------------------------------------------------------ in a process


def minidl_training(task: Task, shards: int | None = None) -> list[dict[str, Any]]:
    """Train by `fit`: plain, or by `DataParallel`."""
    from minidl import callbacks
    from minidl.distributed import DataParallel

    class Clock(callbacks.Callback):
        """The times at which epochs begin and end."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            times.append(time.perf_counter())

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            times.append(time.perf_counter())

    distribution = None if shards is None else DataParallel(shards)
    x, y = task.data()
    answers = []
    for batch_size in task.batch_sizes:
        times: list[float] = []
        sent = 0 if distribution is None else -distribution.bytes_sent
        model = epochs.minidl_network(x.shape[1:], units=task.units)
        history = model.fit(
            *(x, y, batch_size, 1 + task.epochs),
            verbose=0,
            callbacks=[Clock()],
            distribution=distribution,
        )
        epochs.require_recorded(model, record=True)
        sent += 0 if distribution is None else distribution.bytes_sent
        weights = b"".join(weight.tobytes() for weight in model.get_weights())
        answers.append(
            {
                "seconds": [float(s) for s in np.diff(times)[2::2]],
                "loss": history.history["loss"][-1],
                "sent": sent / model.step / len(weights),
                "checksum": zlib.crc32(weights),
            }
        )
    return answers if distribution is None or distribution.rank == 0 else []


def torch_training(
    task: Task, rank: int, size: int, file: str, fused: bool = False
) -> list[dict[str, Any]]:
    """Train by `DistributedDataParallel` on gloo; each process has a part of every batch."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    x, y = task.data()
    answers = []
    for batch_size in task.batch_sizes:
        epoch = epochs.torch_epoch(x, y, batch_size, fused=fused, parallel=True)
        turns = [epoch() for _ in range(1 + task.epochs)][1:]
        seconds, losses = zip(*turns, strict=True)
        answers.append({"seconds": seconds, "loss": losses[-1]})
    distributed.destroy_process_group()
    return answers if rank == 0 else []


TRAININGS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "minidl": minidl_training,
    "torch": torch_training,
}


def answer_lines(order: dict[str, Any]) -> Iterator[str]:
    """Do what a group's command says, and yield the answer if this process is the first."""
    task = Task(**order["task"])
    answers = TRAININGS[order["train"]](task, **order["options"], **order.get("place", {}))
    if answers:
        yield json.dumps(dict(zip(map(str, task.batch_sizes), answers, strict=True)))


if __name__ == "__main__":
    for line in answer_lines(json.loads(sys.argv[1])):
        print(line, flush=True)
