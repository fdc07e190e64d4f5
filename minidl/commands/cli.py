"""Command lines: parsing of arguments, and errors in one line."""

import argparse
import contextlib
import functools
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, ParamSpec

from minidl import console
from minidl.backend import DeviceError
from minidl.distributed import WorkerError
from minidl.storage.atomic import PathLike
from minidl.version import __version__

P = ParamSpec("P")

EXIT_UNREAD, EXIT_BAD_INPUT = 1, 2
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143  # 128 + the number of the signal
EXIT_STATUSES = {
    0: "complete",
    EXIT_UNREAD: "the output was not read to its end",
    EXIT_BAD_INPUT: "invalid input, or a file that cannot be read or written",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C",
    EXIT_TERMINATED: "interrupted by SIGTERM",
}


class InputError(Exception):
    """Error in the input of a command, reported in one line."""


@contextlib.contextmanager
def input_checks() -> Iterator[None]:
    """Raise InputError for a ValueError, which outside of this context is a mistake of minidl."""
    try:
        yield
    except ValueError as error:
        raise InputError(error) from error


REPORTED = (InputError, DeviceError, WorkerError, ImportError, OSError, MemoryError)


class UsageError(SystemExit):
    """Exit because of invalid arguments; its text is the reason."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.code = EXIT_BAD_INPUT


class Terminated(KeyboardInterrupt):
    """SIGTERM, which containers and batch systems send, in a command."""


@contextlib.contextmanager
def handled_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, as Ctrl-C raises KeyboardInterrupt.

    It raises nothing while an interruption is being handled, so that a second SIGTERM does not
    prevent the checkpoint.
    """

    def terminate(*_: object) -> None:
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            raise Terminated

    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def ignore_signals() -> None:
    """Ignore Ctrl-C and SIGTERM from now on: ``mpiexec`` may send its own late."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Print nothing, as a process without streams."""
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        yield


class Parser(argparse.ArgumentParser):
    """Argument parser with ``--version`` that reports errors in one line."""

    def __init__(self, module: str, description: str | None, epilog: str):
        script = module.replace(".", "-")
        is_script = os.path.basename(sys.argv[0]).removesuffix(".exe") == script
        super().__init__(
            prog=script if is_script else f"python -m {module}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps the lines of the epilog
        )
        self.module = module
        self.add_argument("--version", action="version", version=f"minidl {__version__}")

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit with status 2."""
        console.write(f"{self.module}: {console.printable(message)}", sys.stderr)
        raise UsageError(message)


def exit_statuses(own: Mapping[int, str] | None = None) -> str:
    """Return a table of exit statuses for the help, with those that a command has of its own."""
    meanings = sorted((EXIT_STATUSES | dict(own or {})).items())
    return "\n".join(["exit status:", *(f"  {status:<3}  {text}" for status, text in meanings)])


def number(
    kind: type, low: float, high: float = math.inf, *, above: bool = False
) -> Callable[[str], Any]:
    """Return a parser of finite numbers in [low, high], or above `low` if `above` is True."""
    bounds = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
    if above:
        bounds = f"above {low}"
    noun = "an integer" if kind is int else "a number"

    def parse(text: str) -> Any:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if (low < value if above else low <= value) and value <= high and value < math.inf:
                return value
        raise argparse.ArgumentTypeError(f"expected {noun} {bounds}, got {text!r}.")

    return parse


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "epoch"), counted(2_000, "step")
    ('1 epoch', '2,000 steps')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def check_distinct(path: PathLike, others: Iterable[PathLike | None]) -> None:
    """Raise ValueError if a file to write is another file of the command, also by a link."""
    for other in others:
        if other is not None and os.path.realpath(path) == os.path.realpath(other):
            raise ValueError(f"{path}: expected a new file, got {other}. Pass another path.")


def show(text: str) -> OSError | None:
    """Print a line with its control characters escaped; return the error as `console.write`."""
    return console.write(console.printable(text), sys.stdout)


def print_line(text: str) -> None:
    """Print a line as `show`, or raise the error of the output."""
    if failure := show(text):
        raise failure


def command(module: str) -> Callable[[Callable[P, int | None]], Callable[P, int]]:
    """Return a decorator: the function returns an exit status, also for errors, which it prints.

    The status None is 0. An error is one line, and one for each of its notes. Notes of an
    interruption follow the word "interrupted".

    Parameters
    ----------
    module : str
        The command, for its errors.
    """

    def decorate(work: Callable[P, int | None]) -> Callable[P, int]:
        @functools.wraps(work)
        def run(*args: P.args, **kwargs: P.kwargs) -> int:
            with handled_sigterm():
                try:
                    return work(*args, **kwargs) or 0
                except REPORTED as error:
                    return report_error(module, error)
                except KeyboardInterrupt as interrupt:
                    console.write("; ".join(["interrupted", *notes_of(interrupt)]), sys.stderr)
                    is_sigterm = isinstance(interrupt, Terminated)
                    return EXIT_TERMINATED if is_sigterm else EXIT_INTERRUPTED
                finally:
                    discard_unwritten()

        return run

    return decorate


def report_error(module: str, error: Exception) -> int:
    """Print an error and return the exit status; print nothing for a closed pipe."""
    if isinstance(error, BrokenPipeError):
        return EXIT_UNREAD
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    for line in (f"{module}: {text}", *notes_of(error)):
        console.write(console.printable(line), sys.stderr)
    return EXIT_BAD_INPUT


def notes_of(error: BaseException) -> list[str]:
    """Return what `BaseException.add_note` added to an error."""
    return getattr(error, "__notes__", [])


def discard_unwritten() -> None:
    """Discard what standard output could not write, which Python would try again at exit."""
    if console.write("", sys.stdout, end="") is not None:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it may have no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
