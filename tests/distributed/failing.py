"""A small run of several workers, in which one fails.

``mpiexec -n 2 python failing.py FAILURE FOLDER [RANK]`` trains with the failure of a name, such as
``raise-step``, or without one for ``none``; rank -1 is all of them. With several names that commas
separate, each has a run and a folder of its own, and the errors are caught; they must be errors of
all workers.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from minidl import callbacks, checkpoint, layers, models, set_num_threads
from minidl.distributed import DataParallel

X = np.arange(180.0).reshape(60, 3) % 7
Y = X[:, :1] - X[:, 1:2]
SHARDS, EPOCHS = 4, int(os.environ.get("EPOCHS", "3"))


class Failing(layers.Layer):
    """A layer that fails in the second step of worker `rank`."""

    def __init__(self):
        super().__init__()
        self.calls, self.action = 0, None

    def call(self, x):
        """Return `x`."""
        self.calls += 1
        if self.action and self.calls > 1:
            self.action()
        return x


class Fail(callbacks.Callback):
    """A callback that does something at a moment."""

    def __init__(self, moment, action, at=None):
        self.at, self.action = at, action
        setattr(self, moment, self._act)

    def _act(self, *arguments):
        if self.at is None or self.at == self.model.step:
            self.action()


def network(layer=None):
    """Return a new model."""
    stack = [layers.Dense(8, "tanh", input_shape=(3,)), layers.Dropout(0.5), layers.Dense(1)]
    model = models.Sequential([*stack[:1], *([layer] if layer else []), *stack[1:]], seed=6)
    model.compile("adam", "mse")
    return model


def train(folder, *others, model=None, **changes):
    """Begin or resume the run in a folder; return its model."""
    newest = checkpoint.latest(folder)
    model = model or (network() if newest is None else models.load(newest))
    every = {"every_steps": 1} if folder.name != "epochs" else {}
    saver = callbacks.ModelCheckpoint(folder, **every)
    arguments = {"batch_size": 12, "epochs": EPOCHS, "verbose": 0, "validation_data": (X, Y)}
    arguments |= {"callbacks": [*others, saver], "resume": True} | changes
    model.fit(X, Y, **arguments)
    return model


def raising(error):
    """Return a function that raises."""

    def act():
        raise error

    return act


def sleep_for_ever():
    """Hang."""
    time.sleep(1000)


def loop_for_ever():
    """Hang, and compute."""
    while True:
        pass


def start_mpi_and_exit():
    """End after MPI has started, and before minidl knows of it."""
    import mpi4py.MPI  # noqa: F401

    sys.exit(0)


def fill_disk():
    """Let files have 1000 bytes at most."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


def vanish():
    """End without a word, and keep the launcher from ending the others before one has spoken."""
    wake = f"""
import os, time
began = time.monotonic()
while not os.path.getsize({os.environ["STDERR"]!r}) and time.monotonic() - began < 60:
    time.sleep(0.1)
os.kill({os.getppid()}, {int(signal.SIGCONT)})
"""
    subprocess.Popen([sys.executable, "-c", wake])
    os.kill(os.getppid(), signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL)


def send(number, times=1):
    """Return a function that sends a signal to this process."""

    def act():
        for _ in range(times):
            signal.raise_signal(number)

    return act


ACTIONS = {
    "raise": raising(ValueError("broken")),
    "exit0": lambda: sys.exit(0),
    "exit2": lambda: sys.exit(2),
    "mpi_exit0": start_mpi_and_exit,
    "_exit0": lambda: os._exit(0),
    "_exit7": lambda: os._exit(7),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "vanish": vanish,
    "sleep": sleep_for_ever,
    "loop": loop_for_ever,
    "fill": fill_disk,
    "int": send(signal.SIGINT),
    "term": send(signal.SIGTERM),
    "twice": send(signal.SIGINT, 2),
    "wait": lambda: time.sleep(3),
}
MOMENTS = {
    "begin": "on_train_begin",
    "step": "on_train_batch_end",
    "batch": "on_train_batch_begin",
    "validation": "on_epoch_end",
    "epoch": "on_epoch_begin",
    "end": "on_train_end",
    "close": "close",
}


def fail(name, folder, distribution, is_here):
    """Train with the failure of that name, an action and a moment, as ``raise_step``."""
    action_name, _, moment = name.partition("-")
    action = ACTIONS.get(action_name, print) if is_here else (lambda: None)
    if action_name in ("sleep", "loop") and not is_here:  # wait for a short time from now on

        def action():
            return DataParallel(SHARDS, timeout=2)

    if moment == "guarded":  # the run is in a part of the program that is guarded, too
        outer = DataParallel(SHARDS)
        with outer.guarded():
            fail(name.replace("guarded", "step"), folder, distribution, is_here)
    elif moment == "before":
        action()
        train(folder, distribution=distribution)
    elif moment == "after":
        train(folder, distribution=distribution)
        action()
    elif moment == "layer":
        layer = Failing()
        layer.action = action if is_here else None
        train(folder, model=network(layer), distribution=distribution, record=False)
    elif moment == "thread":
        act = Fail("on_train_batch_end", action, 7)
        thread = threading.Thread(
            target=train, args=(folder, act), kwargs={"distribution": distribution}
        )
        thread.start()
        thread.join()
    elif name == "facts":
        train(folder, distribution=distribution, batch_size=10 if is_here else 12)
    elif name == "arguments":
        train(folder, distribution=distribution, epochs=-1 if is_here else EPOCHS)
    elif name == "stop":
        stopper = Fail("on_train_batch_end", lambda: None, 7)
        if is_here:
            stopper.action = lambda: setattr(stopper.model, "stop_training", True)
        train(folder, stopper, distribution=distribution)
    elif name == "linger-step":  # until a signal comes

        def linger():
            if distribution.rank == 0:
                (folder.parent / "lingers").touch()
            while not distribution._interrupts.pending:
                time.sleep(0.01)

        train(folder, Fail("on_train_batch_end", linger, 7), distribution=distribution)
    elif name == "lonely":  # a gather that only one worker calls
        gather = (lambda: distribution.gather(1)) if is_here else (lambda: None)
        train(folder, Fail("on_train_batch_end", gather, 7), distribution=distribution)
    elif name == "lonely-begin":
        gather = (lambda: distribution.gather(1)) if is_here else raising(ValueError("broken"))
        train(folder, Fail("on_train_begin", gather), distribution=distribution)
    elif name == "locked":
        from minidl.storage.folders import lock_folder

        with lock_folder(folder) if distribution.rank == 0 else contextlib.nullcontext():
            train(folder, distribution=distribution)
    else:
        at = 7 if moment in ("step", "batch") else None
        train(folder, Fail(MOMENTS[moment], action, at), distribution=distribution)


def caught(name, folder, distribution, rank):
    """Return the error of a run that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    distribution.gather("the folder is there")
    try:
        fail(name, folder, distribution, rank in (distribution.rank, -1))
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def main() -> None:
    """Fail as the command line says."""
    if "STDERR" in os.environ:  # a file, for a launcher that does not pass on what is printed
        os.dup2(os.open(os.environ["STDERR"], os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    set_num_threads(1)
    name, folder, rank = sys.argv[1], Path(sys.argv[2]), int([*sys.argv, "1"][3])
    is_early = name.startswith("early-")
    launched_rank = int(os.environ.get("PMI_RANK", "0"))
    if is_early and launched_rank == rank:
        ACTIONS[name.removeprefix("early-")]()
    distribution = DataParallel(SHARDS, timeout=float(os.environ.get("TIMEOUT", "600")))
    if name == "none" or is_early:
        train(folder, distribution=distribution)
    elif "," in name:
        for each in name.split(","):
            error = caught(each, folder / each / "epochs", distribution, rank)
            (folder / each / f"rank-{distribution.rank}").write_text(error)
    else:
        fail(name, folder, distribution, rank in (distribution.rank, -1))


if __name__ == "__main__":
    main()
