"""Communication by MPI, through mpi4py.

Each wait polls, so that Python handles signals, and says whom it waits for. For this, a worker that
has waited for a second tells it to all others in a note. A worker that has written no note is not
waiting: it computes, or hangs. A worker that ends says so in its last note.
"""

import atexit
import contextlib
import os
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from minidl import console
from minidl.backend import Backend
from minidl.distributed.communicator import Communicator, Message, Transfer

# What the launchers of MPI say about the number of processes.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
NOTE_AFTER, WARN_AFTER, GRACE = 1.0, 60.0, 2.0  # seconds
GONE = 2**62  # the note of a worker that has ended


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
        try:
            from mpi4py import MPI
        except ImportError as error:
            raise ModuleNotFoundError(
                f"DataParallel: expected mpi4py among {launched_size()} processes, got "
                f"({error}). Install it: pip install 'minidl[mpi]'."
            ) from error
        self._mpi, self._comm, self.timeout = MPI, MPI.COMM_WORLD.Dup(), timeout
        self._notes = MPI.COMM_WORLD.Dup()
        self._machine = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
        self.rank, self.size = self._comm.rank, self._comm.size
        self.local_rank, self.local_size = self._machine.rank, self._machine.size
        if self.size != launched_size():
            library = MPI.Get_library_version().split(",")[0].splitlines()[0]
            raise RuntimeError(
                f"DataParallel: expected {launched_size()} processes as {' or '.join(SIZES)} says, "
                f"got {self.size} from {library}. Start with the mpiexec of that MPI."
            )
        self._waits = 0  # the same number in all workers at the same wait
        self._noted = [0] * self.size  # the last wait of each worker that it wrote a note about
        self._hook, sys.excepthook = sys.excepthook, self._end_on_error
        atexit.register(self._write_note, GONE)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers, by rank."""
        mine = np.frombuffer(pickle.dumps(value), "uint8")
        lengths = np.empty(self.size, "int64")
        self._wait(self._comm.Iallgather(np.array([mine.size], "int64"), lengths))
        everything = np.empty(lengths.sum(), "uint8")
        self._wait(self._comm.Iallgatherv(mine, (everything, lengths)))
        ends = lengths.cumsum()
        return [
            pickle.loads(everything[end - length : end].tobytes())
            for length, end in zip(lengths, ends, strict=True)
        ]

    def largest(self, values: Sequence[int]) -> list[int]:
        """Return for each place the largest of the integers of all workers."""
        mine, found = np.array(values, "int64"), np.empty(len(values), "int64")
        self._wait(self._comm.Iallreduce(mine, found, self._mpi.MAX))
        return found.tolist()

    def transfer(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Send and receive arrays of the host."""
        requests = [self._comm.Irecv(array, other) for other, array in receives]
        requests += [self._comm.Isend(array, other) for other, array in sends]
        self.bytes_sent += sum(array.nbytes for _, array in sends)
        self._wait(*requests)

    def transfer_on(self, backend: Backend) -> Transfer:
        """Return what transfers arrays of a device."""
        if backend.name == "cpu":
            return self.transfer
        from minidl.distributed.cuda_transfer import transfer_on

        return transfer_on(self)

    @contextlib.contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """Let the first worker of each machine do something before the others."""
        if self.local_rank:
            self._wait(self._machine.Ibarrier())
        try:
            yield
        finally:
            if not self.local_rank:
                self._wait(self._machine.Ibarrier())

    def abort(self, line: str, status: int = 1) -> NoReturn:
        """Print a line, and end all workers."""
        console.write(f"minidl: rank {self.rank}: {console.printable(line)}", sys.__stderr__)
        self._comm.Abort(status)
        raise AssertionError("ended")

    def _end_on_error(self, kind: Any, error: Any, trace: Any) -> None:
        """End all workers if an error ends this one, after its traceback."""
        self._hook(kind, error, trace)
        self.abort(f"{kind.__name__}: {error}")

    # ------------------------------------------------------------------------------ waiting

    def _wait(self, *requests: Any) -> None:
        """Wait until all requests are complete."""
        self._waits += 1
        began, has_noted, warn_after = time.monotonic(), False, min(WARN_AFTER, self.timeout / 2)
        while not self._mpi.Request.Testall(requests):
            waited = time.monotonic() - began
            if waited < NOTE_AFTER:
                os.sched_yield()  # the other worker may need this core
                continue
            if not has_noted:
                self._write_note(self._waits)
                has_noted = True
            time.sleep(1e-3)
            self._read_notes()
            missing = [rank for rank, wait in enumerate(self._noted) if wait < self._waits]
            missing = [rank for rank in missing if rank != self.rank]
            gone = [rank for rank, wait in enumerate(self._noted) if wait == GONE]
            speaker = next(rank for rank in range(self.size) if rank not in missing + gone)
            grace = 0.0 if self.rank == speaker else GRACE  # so that one worker speaks
            if gone and waited > 2 * NOTE_AFTER + grace:
                raise WorkerError(f"{self._named(gone)} has ended, {self.doing}")
            whom = self._named(missing)
            if waited > self.timeout + grace:
                raise WorkerError(f"waited {self.timeout:g} s for {whom}, {self.doing}")
            if waited > warn_after and self.rank == speaker:
                line = f"minidl: rank {self.rank} waits for {whom}, {self.doing}"
                console.write(line, sys.__stderr__)
                warn_after = float("inf")

    @staticmethod
    def _named(ranks: Sequence[int]) -> str:
        return "rank " + ", ".join(map(str, ranks)) if ranks else "messages"

    def _write_note(self, wait: int) -> None:
        """Tell all others that this worker waits, or has ended."""
        note = np.array([wait], "int64")
        for other in range(self.size):
            if other != self.rank:
                self._notes.Isend(note, other)
        self._note = note  # kept until it is read

    def _read_notes(self) -> None:
        status, note = self._mpi.Status(), np.empty(1, "int64")
        while self._notes.Iprobe(status=status):
            self._notes.Recv(note, status.source)
            self._noted[status.source] = int(note[0])
