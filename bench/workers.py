"""Processes that work one at a time and are idle in between.

Each framework gets a process of its own, because thread pools disturb one another: a pool may spin
for a fifth of a second after its work, and would take the cores from whoever has the next turn. A
worker answers once its processor time stands still.
"""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import psutil

IDLE_SECONDS = 0.03  # without work for so long, a worker is idle
IDLE_SHARE = 0.02  # of a core, below which it does no work
PATIENCE_SECONDS = 10


class Unavailable(Exception):
    """Say why a side cannot run here."""


class Side(NamedTuple):
    """What a worker runs: `build`, a function of a module, returns the function of one turn."""

    build: Callable[..., Callable[..., Any]]
    options: dict[str, Any] = {}  # noqa: RUF012  never changed
    needs: str | None = None
    """A module without which the side is left out; without a name it must run."""


class Worker:
    """A process of its own; calling the object has it take a turn and returns the answer.

    Raises
    ------
    Unavailable
        If the side's module is not installed, or its work fails.
    """

    def __init__(self, side: Side, *arguments: Any):
        if side.needs is not None and find_spec(side.needs) is None:
            raise Unavailable(f"{side.needs} is not installed (pip install -e '.[bench]')")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, side, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()  # the worker reads the end of its pipe, and ends
        self._process.join(PATIENCE_SECONDS)
        self._process.kill()
        self._process.join()

    def __call__(self, *arguments: Any) -> Any:
        self._pipe.send(arguments)
        return self._answer()

    def watched(self, *arguments: Any, every: float = 0.005) -> tuple[Any, int]:
        """Take a turn; return the answer and the most memory, in bytes, that was seen in use.

        Pages of files that are mapped into memory are not counted, where the system tells them
        apart: it takes them back when it needs them.
        """
        self._pipe.send(arguments)
        process, most = psutil.Process(self._process.pid), 0
        while not self._pipe.poll(every):
            memory = process.memory_info()
            most = max(most, memory.rss - getattr(memory, "shared", 0))
        return self._answer(), most

    def _answer(self) -> Any:
        try:
            succeeded, answer = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise Unavailable(f"its process ended with {self._process.exitcode}") from error
        if not succeeded:
            raise Unavailable(answer)
        return answer


def _serve(pipe: Connection, side: Side, arguments: tuple[Any, ...]) -> None:
    """Run in the worker: build the side with the first order, then take a turn for each."""
    turn = None
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            order = pipe.recv()
            try:
                turn = turn or side.build(*arguments, **side.options)
                answer = turn(*order)
                _become_idle()
                pipe.send((True, answer))
            except Exception as error:
                pipe.send((False, " ".join(f"{type(error).__name__}: {error}".split())))


def _become_idle() -> None:
    """Return when no thread of this process works any more."""
    began = time.perf_counter()
    while time.perf_counter() - began < PATIENCE_SECONDS:
        used, clock = time.process_time(), time.perf_counter()
        time.sleep(IDLE_SECONDS)
        if time.process_time() - used < IDLE_SHARE * (time.perf_counter() - clock):
            return
    raise TimeoutError(f"its threads still work {PATIENCE_SECONDS} s after its turn")


@contextlib.contextmanager
def team(
    sides: Mapping[str, Side], *arguments: Any, warm_up: tuple[Any, ...] = ()
) -> Iterator[tuple[dict[str, Worker], dict[str, Any], dict[str, str]]]:
    """Start a worker for each side and give it a first turn, in which it compiles.

    Yields
    ------
    workers, first answers, left out
        The last holds the reasons of the sides that need a module and cannot run here.
    """
    workers: dict[str, Worker] = {}
    first_answers: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for name, side in sides.items():
            try:
                worker = stack.enter_context(Worker(side, *arguments))
                first_answers[name] = worker(*warm_up)
            except Unavailable as reason:
                if side.needs is None:
                    raise
                left_out[name] = str(reason)
            else:
                workers[name] = worker
        yield workers, first_answers, left_out
