"""Communication by MPI, through mpi4py.

Each wait polls, so that Python handles signals, and says whom it waits for. For this, a worker that
has waited for a second tells it to all others in a note. A worker that has written no note is not
waiting: it computes, or hangs. A worker that ends says so in its last note.

No failure of a worker leaves the others waiting. An error that one worker alone has ends all. One
that all have agreed on is raised by all, and printed by one of them.
"""

import atexit
import contextlib
import faulthandler
import os
import pickle
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from minidl import console
from minidl.backend import Backend
from minidl.distributed.communicator import Communicator, Message, Transfer
from minidl.distributed.local_processes import LocalProcesses, namespace

# Variables in which the launchers of MPI pass the number of processes.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
NOTE_AFTER, WARN_AFTER, GRACE = 1.0, 60.0, 2.0  # seconds
RANK_0_FIRST = 0.5  # seconds in which an error that all have is printed by rank 0 alone
PASSED_ON = 0.3  # seconds in which the launcher passes on what is printed, before it ends all
GONE = 2**62  # the note of a worker that has ended
KINDS = "start", "gather", "agreement", "transfer", "turn", "end"  # of waits, for notes

give_way = getattr(os, "sched_yield", lambda: time.sleep(0))  # Windows lacks the former


def launched_size() -> int:
    """Return the number of processes that were started together, by the environment."""
    return max(int(os.environ.get(name, "1")) for name in SIZES)


class WorkerError(RuntimeError):
    """Error of another worker, or a difference between workers."""


class Mpi(Communicator):
    """Communication among the processes that ``mpiexec`` started.

    Parameters
    ----------
    timeout : float
        Seconds that a worker waits for another one before all are ended.

    Raises
    ------
    ModuleNotFoundError
        If mpi4py is not installed.
    RuntimeError
        If mpi4py uses another MPI than that of ``mpiexec``.
    """

    def __init__(self, timeout: float):
        self.timeout = timeout
        try:
            with self._limited_start():
                from mpi4py import MPI
        except ImportError as error:
            raise ModuleNotFoundError(
                f"DataParallel: expected mpi4py among {launched_size()} processes, got "
                f"({error}). Install it: pip install 'minidl[mpi]'."
            ) from error
        world = MPI.COMM_WORLD
        self._mpi, self.rank, self.size = MPI, world.rank, world.size
        if self.size != launched_size():
            library = MPI.Get_library_version().split(",")[0].splitlines()[0]
            raise RuntimeError(
                f"DataParallel: expected {launched_size()} processes as {' or '.join(SIZES)} says, "
                f"got {self.size} from {library}. Start with the mpiexec of that MPI."
            )
        self._waits = 0  # the same number in all workers at the same wait
        self._noted = [(0, 0)] * self.size  # the last note of each worker: a wait, and its kind
        self._unread: list[Any] = []  # notes that may not be read yet
        self._unfinished: Sequence[Any] = ()
        self._notes, self._processes = None, LocalProcesses({})  # until all workers are here
        self._pid, self._hook, sys.excepthook = os.getpid(), sys.excepthook, self._end_on_error
        self._wait("start", world.Ibarrier())
        # A gather that only some workers call must not meet another exchange.
        self._comm, self._gathers, self._notes = world.Dup(), world.Dup(), world.Dup()
        self._machine = world.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = self._machine.rank, self._machine.size
        here = self._machine.allgather((self.rank, os.getpid(), namespace()))
        pids = {rank: pid for rank, pid, name in here if name == namespace() and rank != self.rank}
        self._processes = LocalProcesses(pids)
        atexit.register(self._say_gone)

    @contextlib.contextmanager
    def _limited_start(self) -> Iterator[None]:
        """End this process if MPI does not start in time: it waits in C until all processes do."""
        # There may be no usable stderr, and there is a largest time.
        with contextlib.suppress(OverflowError, OSError, RuntimeError, ValueError):
            faulthandler.dump_traceback_later(self.timeout, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers, by rank."""
        mine = np.frombuffer(pickle.dumps(value), "uint8")
        lengths = np.empty(self.size, "int64")
        self._wait("gather", self._gathers.Iallgather(np.array([mine.size], "int64"), lengths))
        everything = np.empty(lengths.sum(), "uint8")
        self._wait("gather", self._gathers.Iallgatherv(mine, (everything, lengths)))
        ends = lengths.cumsum()
        return [
            pickle.loads(everything[end - length : end].tobytes())
            for length, end in zip(lengths, ends, strict=True)
        ]

    def largest(self, values: Sequence[int]) -> list[int]:
        """Return for each place the largest of the integers of all workers."""
        mine, found = np.array(values, "int64"), np.empty(len(values), "int64")
        self._wait("agreement", self._comm.Iallreduce(mine, found, self._mpi.MAX))
        return found.tolist()

    def transfer(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Send and receive arrays of the host."""
        requests = [self._comm.Irecv(array, other) for other, array in receives]
        requests += [self._comm.Isend(array, other) for other, array in sends]
        self.bytes_sent += sum(array.nbytes for _, array in sends)
        self._wait("transfer", *requests)

    def transfer_on(self, backend: Backend) -> Transfer:
        """Return the function that transfers arrays of a device."""
        if backend.name == "cpu":
            return self.transfer
        from minidl.distributed.cuda_transfer import transfer_on

        return transfer_on(self)

    @contextlib.contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """Let the first worker of each machine do something before the others."""
        if self.local_rank:
            self._wait("turn", self._machine.Ibarrier())
        try:
            yield
        finally:
            if not self.local_rank:
                self._wait("turn", self._machine.Ibarrier())

    def end(self, error: BaseException) -> NoReturn:
        """Print an error of this worker, and end all workers."""
        with contextlib.suppress(BaseException):  # a further Ctrl-C
            if self.rank and not isinstance(error, WorkerError):
                time.sleep(RANK_0_FIRST)
        console.write("", sys.stdout, end="")  # what is printed so far
        if not isinstance(error, WorkerError | SystemExit | KeyboardInterrupt):
            console.write("".join(traceback.format_exception(error)), sys.__stderr__, end="")
        self._print(error)
        code = error.code if isinstance(error, SystemExit) else 1
        status = code if isinstance(code, int) and code else 1
        with contextlib.suppress(BaseException):
            time.sleep(PASSED_ON)
        self._mpi.COMM_WORLD.Abort(status)
        with contextlib.suppress(BaseException):
            time.sleep(GRACE)  # Abort may return before the launcher ends this process
        os._exit(status)

    def _print(self, error: BaseException) -> None:
        text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
        console.write(f"minidl: rank {self.rank}: {console.printable(text)}", sys.__stderr__)

    def _end_on_error(self, kind: Any, error: BaseException, trace: Any) -> None:
        """End this worker by an error that all have agreed on, or all by another one."""
        if os.getpid() != self._pid:  # a child of this worker
            self._hook(kind, error, trace)
        elif error is not self.agreed_error:
            self.end(error.with_traceback(trace))
        elif self.rank == self.speaker:
            self._hook(kind, error, trace)
            self._print(error)
        else:
            began = time.monotonic()
            while self._noted[self.speaker][0] != GONE:
                if time.monotonic() - began > 2 * GRACE:  # it may have caught the error
                    self._print(error)
                    break
                time.sleep(1e-3)
                self._read_notes()

    # ------------------------------------------------------------------------------ waiting

    def _wait(self, kind: str, *requests: Any) -> None:
        """Wait until all requests are complete."""
        if self._unfinished:
            raise WorkerError("an earlier exchange was interrupted. Start all processes again.")
        self._waits += 1
        self._unfinished = requests  # also keeps their arrays, if an exception is raised
        began, has_noted, warn_after = time.monotonic(), False, min(WARN_AFTER, self.timeout / 2)
        while not self._mpi.Request.Testall(requests):
            waited = time.monotonic() - began
            if waited < NOTE_AFTER:
                give_way()  # the other worker may need this core
                continue
            if not has_noted:
                self._write_note(self._waits, kind)
                has_noted = True
            time.sleep(1e-3)
            self._read_notes()
            has_warned = self._check(kind, waited, waited > warn_after)
            warn_after = float("inf") if has_warned else warn_after
        self._unfinished = ()
        if self._waits % 64 == 0:
            self._read_notes()  # those that were for earlier waits

    def _check(self, kind: str, waited: float, is_late: bool) -> bool:
        """Raise if a wait is in vain; return whether a warning was printed that it is long."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        ended = self._processes.ended()
        gone = [rank for rank in others if self._noted[rank][0] == GONE or rank in ended]
        missing = [rank for rank in others if self._noted[rank][0] < self._waits]
        is_speaker = not any(rank < self.rank for rank in others if rank not in missing + gone)
        grace = 0.0 if is_speaker else GRACE  # so that one worker speaks
        for rank in others:
            wait, number = self._noted[rank]
            if wait == self._waits and KINDS[number] != kind and waited > NOTE_AFTER + grace:
                raise WorkerError(
                    f"expected all workers at the same point, got this one in {kind!r} and rank "
                    f"{rank} in {KINDS[number]!r}, {self.doing}. Call gather on all workers."
                )
        if gone and waited > 2 * NOTE_AFTER + grace:
            raise WorkerError(f"{_named(gone)} has ended, {self.doing}")
        whom = _named(missing)
        if waited > self.timeout + grace:
            raise WorkerError(f"waited {self.timeout:g} s for {whom}, {self.doing}")
        if is_late and is_speaker:
            line = f"minidl: rank {self.rank} waits for {whom}, {self.doing}"
            console.write(line, sys.__stderr__)
        return is_late and is_speaker

    def _say_gone(self) -> None:
        if os.getpid() == self._pid and not self._mpi.Is_finalized():
            self._write_note(GONE, "end")

    def _write_note(self, wait: int, kind: str) -> None:
        """Send a note to all others: this worker waits, or has ended."""
        if self._notes is None:
            return
        note = np.array([wait, KINDS.index(kind)], "int64")
        self._unread = [request for request in self._unread if not request.Test()]
        others = [rank for rank in range(self.size) if rank != self.rank]
        self._unread += [self._notes.Isend(note, rank) for rank in others]

    def _read_notes(self) -> None:
        if self._notes is None:
            return
        status, note = self._mpi.Status(), np.empty(2, "int64")
        while self._notes.Iprobe(status=status):
            self._notes.Recv(note, status.source)
            self._noted[status.source] = int(note[0]), int(note[1])


def _named(ranks: Sequence[int]) -> str:
    return "rank " + ", ".join(map(str, ranks)) if ranks else "messages"
