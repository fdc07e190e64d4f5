"""Train a multilayer network with dropout on MNIST, or on a data set of the same form."""

import argparse
import contextlib
import itertools
import json
import logging
import math
import os
import platform
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from types import FrameType
from typing import IO, Any

import psutil
from minidl_kernels.threads import num_threads

import minidl
from minidl import (
    callbacks,
    checkpoint,
    constraints,
    datasets,
    layers,
    models,
    optimizers,
    report,
)
from minidl.batches import Samples
from minidl.command_line import EXIT_INTERRUPTED, InputError, Parser, complain, number
from minidl.datasets.idx_dataset import Split
from minidl.files import check_folder, check_writable
from minidl.position import describe_run
from minidl.run_folder import CHECKPOINTS, RunFolder

LATEST = "latest"
HIDDEN, DROPOUT = [512, 256], [0.5, 0.3]
PIXELS, CLASSES = 28 * 28, 10
MAX_UNITS, MAX_WEIGHTS = 2**20, 2**32
EXIT_DIVERGED = 3
# The arguments that change no number: what is kept and printed, and where.
KEEPING = {"out", "checkpoint_dir", "checkpoint_every", "resume", "save", "quiet", "log_json"}
LOADERS: dict[str, Callable[[str | None], tuple[Split, Split]]] = {
    "mnist": datasets.mnist.load_data,
    "fashion-mnist": datasets.fashion_mnist.load_data,
    "kmnist": datasets.kmnist.load_data,
    "mnist-5k": lambda _: datasets.mnist_5k.load_data(),
}


# ------------------------------------------------------------------------------ arguments


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command's arguments; exit with one line where they make no sense."""
    rate = number(float, 0, 1)
    parser = Parser("minidl.train", __doc__)
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda, cuda:N or auto (default: cpu)")
    add("--epochs", type=number(int, 1), default=10, help="default: 10")
    add("--batch-size", type=number(int, 1), default=128, help="default: 128")
    add(
        "--hidden",
        type=number(int, 1, MAX_UNITS),
        nargs="*",
        default=HIDDEN,
        metavar="UNITS",
        help="the units of each hidden layer (default: 512 256)",
    )
    add(
        "--dropout",
        type=rate,
        nargs="*",
        metavar="RATE",
        help="the probability of being dropped, one for all hidden layers or one for each "
        "(default: 0.5 0.3, with another number of hidden layers 0.5)",
    )
    add("--input-dropout", type=rate, default=0.0, metavar="RATE", help="default: 0")
    add(
        "--scaling",
        choices=("train", "inference"),
        default="train",
        help="where dropout scales: in training (default) or at inference",
    )
    add(
        "--optimizer",
        choices=("sgd", "rmsprop", "adam", "adamw"),
        default="adam",
        help="default: adam",
    )
    add("--lr", type=number(float, 0, above=True), help="learning rate (default: the optimizer's)")
    add(
        "--max-norm",
        type=number(float, 0, above=True),
        help="largest norm of the weights into a unit",
    )
    add("--seed", type=number(int, 0, 2**64 - 1), default=0, help="default: 0")
    add(
        "--data",
        choices=tuple(LOADERS),
        help="default: mnist; where it cannot be had, mnist-5k, which comes with minidl",
    )
    add("--data-dir", metavar="DIR", help="a folder with a sub-folder for each data set")
    add(
        "--out",
        metavar="DIR",
        help="keep the run there: configuration, history, checkpoints, report",
    )
    add("--checkpoint-dir", metavar="DIR", help="save the run into this folder, to go on from")
    add(
        "--checkpoint-every",
        type=number(int, 1),
        metavar="STEPS",
        help="how often (default: every epoch; the last one always)",
    )
    add(
        "--resume",
        metavar="PATH",
        help="go on with the run in this file; latest: the newest in --checkpoint-dir or --out",
    )
    add("--save", metavar="FILE", help="save the trained network; minidl.predict reads it")
    add("--quiet", action="store_true", help="print the final table only")
    add("--log-json", metavar="FILE", help="write one JSON object for each event")
    arguments = parser.parse_args(argv)
    if arguments.lr is None:
        arguments.lr = optimizers.get(arguments.optimizer).learning_rate
    if arguments.data == "mnist-5k" and arguments.data_dir is not None:
        parser.error("argument --data-dir: mnist-5k comes with minidl; leave the folder out")
    if arguments.out is not None and arguments.checkpoint_dir is None:
        arguments.checkpoint_dir = os.path.join(arguments.out, CHECKPOINTS)
    if arguments.checkpoint_dir is None:
        for option in ("resume", "checkpoint_every"):
            if getattr(arguments, option) is not None and arguments.resume in (None, LATEST):
                parser.error(
                    f"argument --{option.replace('_', '-')}: say in which folder: "
                    "--checkpoint-dir DIR, or --out DIR"
                )
    sizes = [PIXELS, *arguments.hidden, CLASSES]
    largest = max(a * b for a, b in itertools.pairwise(sizes))
    if largest > MAX_WEIGHTS:
        parser.error(
            f"argument --hidden: two neighbouring layers need {largest:,} weights, more than "
            f"{MAX_WEIGHTS:,}; use fewer units"
        )
    count = len(arguments.hidden)
    if arguments.dropout is None:
        arguments.dropout = DROPOUT if count == len(DROPOUT) else [0.5]
    elif count == 0 and arguments.dropout:
        parser.error("argument --dropout: there is no hidden layer to drop from")
    if len(arguments.dropout) == 1:
        arguments.dropout *= count
    if len(arguments.dropout) != count:
        parser.error(
            f"argument --dropout: expected 1 rate or {count}, one for each hidden layer, "
            f"received {len(arguments.dropout)}"
        )
    return arguments


def check_places(arguments: argparse.Namespace) -> None:
    """Raise ValueError or OSError where what the run gives could not be kept."""
    if arguments.save is not None:
        checkpoint.check_path(arguments.save)
    for folder in (arguments.out, arguments.checkpoint_dir):
        if folder is not None:
            check_folder(folder)


# ------------------------------------------------------------------------------ what is trained


def load_data(name: str | None, data_dir: str | None) -> tuple[str, str, tuple[Split, Split]]:
    """Return the data set's name, a notice where it is not the one by default, and its images."""
    if name is not None:
        return name, "", LOADERS[name](data_dir)
    try:
        return "mnist", "", LOADERS["mnist"](data_dir)
    except OSError as error:
        if data_dir is not None or os.environ.get("MINIDL_DATA"):
            raise
        reason = str(error).splitlines()[0].rstrip(":")
        notice = f"MNIST could not be had ({reason}); training on the 5,000 digits shipped here"
        return "mnist-5k", notice, LOADERS["mnist-5k"](None)


def build_model(arguments: argparse.Namespace, image_shape: tuple[int, ...]) -> models.Sequential:
    """Return the compiled network that the arguments describe."""

    def dense(units: int, activation: str) -> layers.Dense:
        bound = constraints.MaxNorm(arguments.max_norm) if arguments.max_norm else None
        return layers.Dense(units, activation=activation, kernel_constraint=bound)

    def dropout(rate: float) -> layers.Dropout:
        return layers.Dropout(rate, scaling=arguments.scaling)

    stack: list[layers.Layer] = [
        layers.Rescaling(1 / 255, input_shape=image_shape),
        layers.Flatten(),
    ]
    if arguments.input_dropout:
        stack.append(dropout(arguments.input_dropout))
    for units, rate in zip(arguments.hidden, arguments.dropout, strict=True):
        stack += [dense(units, "relu"), dropout(rate)]
    stack.append(dense(CLASSES, "softmax"))

    model = models.Sequential(stack, device=arguments.device, seed=arguments.seed)
    optimizer = type(optimizers.get(arguments.optimizer))
    model.compile(optimizer(arguments.lr), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def resume(
    arguments: argparse.Namespace, model: models.Sequential, training: Split, test: Split
) -> tuple[models.Sequential, str]:
    """Return the model to go on with, and a line that says from where.

    Raises
    ------
    InputError
        If the checkpoint is damaged, or that of another run than the arguments describe.
    """
    path = arguments.resume
    if path == LATEST:
        folder = arguments.checkpoint_dir
        path = checkpoint.latest(folder) if os.path.isdir(folder) else None
        if path is None:
            return model, f"nothing in {folder}: a new run"
    try:
        saved = models.load(path, arguments.device)
    except ValueError as error:
        advice = "; move it elsewhere, and --resume latest takes the one before it"
        raise InputError(f"{error}{advice * (arguments.resume == LATEST)}") from error
    samples, held_out = Samples(*training), Samples(*test)
    run = describe_run(samples, held_out, batch_size=arguments.batch_size, shuffle=True)
    for where, asked_for, found in differences(model, run, saved):
        raise InputError(
            f"{path}: the run in it has {where} {found!s:.200}, and this command asks for "
            f"{asked_for!s:.200}; give it the same arguments, or begin a new run"
        )
    position = saved.position
    done = f"{position.epoch} epochs and {position.batch} steps are done"
    if (position.epoch, position.batch) > (arguments.epochs, 0):
        raise InputError(
            f"{path}: {done}, and this command asks for --epochs {arguments.epochs}; give it more, "
            "or begin a new run"
        )
    return saved, f"{path}: {done}"


def differences(
    model: models.Sequential, run: Mapping[str, Any], saved: models.Sequential
) -> Iterator[tuple[str, Any, Any]]:
    """Give where what is asked for is not what was saved: as `checkpoint.differences`, in words."""
    networks = describe(model), describe(saved)
    if networks[0] != networks[1]:
        yield "network", *networks
    yield from checkpoint.differences(model, saved)
    for name, found, asked_for in saved.position.differences(run):
        option = "--batch-size" if name == "batch_size" else f"--data of {name}"
        yield option, asked_for, found


def describe(model: models.Sequential) -> str:
    """Return the network in one line."""
    words = []
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            words.append(f"dense {layer.units}")
        elif isinstance(layer, layers.Dropout):
            words.append(f"dropout {layer.rate:g}")
    return f"{' > '.join(words)} ({model.count_params():,} weights)"


# ------------------------------------------------------------------------------ watching it


class EventLog:
    """Write events to a file, one JSON object a line; without a file, nowhere.

    The log of a run that is resumed goes on, any other begins anew.
    """

    def __init__(self, path: str | None, goes_on: bool = False):
        self._path = path
        self._mode = "a" if goes_on else "w"
        self._file: IO[str] | None = None
        # Only tried here: a run that is refused leaves an older log alone, and no new one.
        if path is not None and os.path.exists(path):
            open(path, "a", encoding="utf-8").close()
        elif path is not None:
            check_writable(path)

    def write(self, event: str, **values: Any) -> None:
        """Write one event at once; numbers that JSON has not become null."""
        if self._path is None:
            return
        if self._file is None:
            self._file = open(self._path, self._mode, encoding="utf-8")  # noqa: SIM115  see close()
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        print(json.dumps({"event": event, **finite}), file=self._file, flush=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # write() has reported what cannot be written
                self._file.close()


class Watch(callbacks.Callback):
    """Time the training alone, log its epochs, and end it after the current step at Ctrl-C."""

    def __init__(self, log: EventLog, samples: int, batch_size: int):
        self.log = log
        self.samples = samples
        self.batch_size = batch_size
        self.first_step_seconds: float | None = None
        self.seconds = 0.0
        self.images = 0
        self.epochs = 0
        self.interrupted = False

    def on_train_begin(self, logs: callbacks.Logs) -> None:
        """Take over Ctrl-C, and count the epochs of a run that is resumed."""
        self.epochs = len(self.model.history.epoch)
        self._handler = signal.signal(signal.SIGINT, self._stop)

    def on_train_end(self, logs: callbacks.Logs) -> None:
        """Give Ctrl-C back."""
        signal.signal(signal.SIGINT, self._handler)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.interrupted = self.model.stop_training = True
        signal.signal(signal.SIGINT, self._handler)  # a second Ctrl-C does not wait

    def on_epoch_begin(self, epoch: int, logs: callbacks.Logs) -> None:
        """Start the clock."""
        self._epoch_began_at = self.seconds
        self._clock = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: callbacks.Logs) -> None:
        """Read the clock; the device is waited for after the first step and after the last."""
        if self.first_step_seconds is None:
            self.model.backend.synchronize()
            self.first_step_seconds = process_seconds()
        if batch + 1 == self.params["steps"]:
            self.model.backend.synchronize()
        before, self._clock = self._clock, time.perf_counter()
        self.seconds += self._clock - before
        self.images += min(self.batch_size, self.samples - batch * self.batch_size)

    def on_epoch_end(self, epoch: int, logs: callbacks.Logs) -> None:
        """Log the epoch, counted from 1."""
        self.epochs += 1
        seconds = self.seconds - self._epoch_began_at
        self.log.write("epoch", epoch=epoch + 1, seconds=seconds, **logs)

    def report(self) -> dict[str, Any]:
        """Return what was reached."""
        return {
            "epochs": self.epochs,
            "images_per_second": self.images / self.seconds if self.images else 0.0,
            "first_step_seconds": self.first_step_seconds,
        }


class Start(callbacks.Callback):
    """Log what is trained, on what, and how, once no other callback has refused the run."""

    comes_last = True

    def __init__(self, log: EventLog, arguments: argparse.Namespace):
        self.log = log
        self.arguments = arguments

    def on_train_begin(self, logs: callbacks.Logs) -> None:
        """Write the event."""
        model, arguments = self.model, self.arguments
        assert model.optimizer is not None, "build_model compiles"
        self.log.write(
            "start",
            device=model.device,
            data=arguments.data,
            seed=arguments.seed,
            hidden=arguments.hidden,
            dropout=arguments.dropout,
            input_dropout=arguments.input_dropout,
            scaling=arguments.scaling,
            optimizer=arguments.optimizer,
            learning_rate=model.optimizer.learning_rate,
            max_norm=arguments.max_norm,
            batch_size=arguments.batch_size,
            epochs=arguments.epochs,
            parameters=model.count_params(),
            version=minidl.__version__,
        )


def deciding(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments on which the numbers depend."""
    return {name: value for name, value in vars(arguments).items() if name not in KEEPING}


def environment() -> dict[str, Any]:
    """Return on what else the numbers depend, on the CPU, in this command."""
    return {
        "minidl": minidl.__version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "numba": version("numba"),
        "threads": num_threads(),
    }


def new_run(arguments: argparse.Namespace) -> str:
    """Return the command that gives the same numbers again, from the beginning, and keeps none."""
    words = ["python", "-m", "minidl.train"]
    for name, value in deciding(arguments).items():
        if value is not None:
            words.append(f"--{name.replace('_', '-')}")
            words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


def process_seconds() -> float:
    """Return the seconds since the process started."""
    return time.time() - psutil.Process().create_time()


# ------------------------------------------------------------------------------ the command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0, 1 where what it prints is not read to the end, 2 for bad input, 3 where numbers are no longer
    finite, 130 after Ctrl-C.
    """
    arguments = parse_arguments(argv)
    logging.basicConfig(format="%(message)s")
    for package in ("minidl", "minidl_kernels"):  # other libraries tell of their inner workings
        logging.getLogger(package).setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    reached: dict[str, Any] = {"seed": arguments.seed, "epochs": 0}
    try:
        log = EventLog(arguments.log_json, goes_on=arguments.resume is not None)
    except OSError as error:
        return complain("minidl.train", error)
    try:
        return train(arguments, log, reached)
    except (InputError, OSError, MemoryError) as error:
        return complain("minidl.train", error)
    except KeyboardInterrupt:
        log.write("end", **reached, seconds=process_seconds(), interrupted=True)
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        log.close()


def train(arguments: argparse.Namespace, log: EventLog, reached: dict[str, Any]) -> int:
    """Train, evaluate, and keep in `reached` what was reached."""
    say = (lambda *_: None) if arguments.quiet else print
    try:
        check_places(arguments)
        device = arguments.device = minidl.get_backend(arguments.device).name
        data, notice, ((x, y), (x_test, y_test)) = load_data(arguments.data, arguments.data_dir)
        arguments.data = data
        model = build_model(arguments, x.shape[1:])
        resumed = None
        if arguments.resume is not None:
            model, resumed = resume(arguments, model, (x, y), (x_test, y_test))
        keepers: list[callbacks.Callback] = []
        if arguments.checkpoint_dir is not None:
            every = arguments.checkpoint_every
            keepers.append(callbacks.ModelCheckpoint(arguments.checkpoint_dir, every_steps=every))
        if arguments.out is not None:
            again = {"command": new_run(arguments), "environment": environment()}
            configuration = deciding(arguments) | again
            keepers.append(RunFolder(arguments.out, configuration, goes_on=resumed is not None))
    except (ValueError, minidl.DeviceError) as error:
        raise InputError(error) from error
    if notice:
        print(notice)
    say(f"device   {device}")
    say(f"data     {data}: {len(x):,} images to train on, {len(x_test):,} to test on")
    say(f"network  {describe(model)}")
    if resumed is not None:
        say(f"resume   {resumed}")
    reached |= {"device": device, "data": data}

    watch = Watch(log, len(x), arguments.batch_size)
    guard = callbacks.TerminateOnNaN()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TerminateOnNaN: ")  # it is said below
            model.fit(
                x,
                y,
                batch_size=arguments.batch_size,
                epochs=arguments.epochs,
                verbose=0 if arguments.quiet else 1,
                callbacks=[watch, guard, *keepers, Start(log, arguments)],
                validation_data=(x_test, y_test),
                resume=resumed is not None,
            )
    finally:  # a second Ctrl-C does not come back from fit
        reached |= watch.report()
    if guard.found is not None:
        log.write("end", **reached, seconds=process_seconds(), diverged=guard.found)
        print(
            f"minidl.train: not finite: {guard.found}; try a smaller --lr",
            file=sys.stderr,
        )
        return EXIT_DIVERGED
    test_loss, test_accuracy = model.evaluate(x_test, y_test, arguments.batch_size, verbose=0)
    reached |= {"test_accuracy": test_accuracy, "test_loss": test_loss}
    seconds = process_seconds()
    log.write("end", **reached, seconds=seconds, interrupted=watch.interrupted)
    rows = {
        "device": device,
        "data": data + ", since MNIST could not be had" * bool(notice),
        "epochs": f"{watch.epochs} of {arguments.epochs}" + " (interrupted)" * watch.interrupted,
        "test accuracy": f"{test_accuracy:.2%}",
        "test loss": f"{test_loss:.4f}",
    }
    if watch.images:
        rows |= {
            "images a second": f"{reached['images_per_second']:,.0f} in training",
            "time": f"{watch.seconds:.1f} s in training, {seconds:.1f} s from start to test",
        }
    if arguments.save is not None and watch.interrupted:
        rows["saved"] = "not saved: interrupted"
    elif arguments.save is not None:
        model.save(arguments.save)
        rows["saved"] = arguments.save
    if arguments.checkpoint_dir is not None and watch.interrupted:
        rows["to go on"] = "the same command with --resume latest"
    if arguments.out is not None:
        rows["report"] = write_report(arguments, model, (x_test, y_test), rows)
    for title, text in rows.items():
        print(f"{title:<16} {text}")
    return EXIT_INTERRUPTED if watch.interrupted else 0


def write_report(
    arguments: argparse.Namespace, model: models.Sequential, test: Split, rows: dict[str, str]
) -> str:
    """Write the page about a run, and return its path, or what is missing."""
    if not report.is_possible():
        return "needs matplotlib: pip install 'minidl[plot]'"
    page = os.path.join(arguments.out, "report.html")
    facts = rows | {
        "optimizer": f"{arguments.optimizer}, learning rate {arguments.lr}",
        "batch size": f"{arguments.batch_size:,}",
        "seed": str(arguments.seed),
        "environment": ", ".join(f"{name} {value}" for name, value in environment().items()),
    }
    report.write(page, model, *test, facts=facts, command=new_run(arguments))
    return page


if __name__ == "__main__":
    sys.exit(main())
