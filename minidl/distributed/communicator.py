"""Communication among workers: the methods, and the case of one worker alone."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minidl.backend import Array, Backend

Message = tuple[int, Array]  # the other worker, and a contiguous array
Transfer = Callable[[Sequence[Message], Sequence[Message]], None]  # as `Communicator.transfer`


class Communicator:
    """One worker that is alone.

    Attributes
    ----------
    rank, size : int
        The number of this worker, and of all workers.
    local_rank, local_size : int
        The same on this machine.
    doing : str
        What the workers do, for messages.
    bytes_sent : int
        The bytes of the arrays that this worker has sent.
    agreed_error : BaseException or None
        The error that all workers are about to raise; each has its own object.
    speaker : int
        The worker that prints it.
    """

    rank, size = 0, 1
    local_rank, local_size = 0, 1
    doing = "before training"
    bytes_sent = 0
    agreed_error: BaseException | None = None
    speaker = 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers, by rank: anything that can be pickled."""
        return [value]

    def largest(self, values: Sequence[int]) -> list[int]:
        """Return for each place the largest of the integers of all workers."""
        return list(values)

    def transfer(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Send arrays and receive arrays. Between two workers, they come in the order of sending.

        No worker goes on before it has received all; each must be the receiver of what is sent.
        """

    def transfer_on(self, backend: Backend) -> Transfer:
        """Return a function that transfers arrays of a device as `transfer` does those of the host.

        All workers must call it at the same point of their programs, with the device as the
        current one. On a GPU, transfers are work of the current stream.
        """
        return self.transfer

    @contextlib.contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """Let one worker of each machine do something, such as a download, before the others."""
        yield

    def end(self, error: BaseException) -> None:
        """Print an error of this worker, and end all workers; alone, do nothing."""
