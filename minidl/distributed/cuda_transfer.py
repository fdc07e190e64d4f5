"""Transfer of arrays between GPUs: by NCCL, or through the host.

NCCL sends and receives, and adds nothing. Its sums have an order of their own, and those of minidl
have the order of one fixed tree.
"""

import atexit
import functools
import logging
import platform
import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import cupy
import numpy as np

from minidl.distributed.communicator import Communicator, Message, Transfer

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a worker computes."""

    machine: str
    gpu: str  # its address on the bus
    has_nccl: bool


def transfer_on(workers: Communicator) -> Transfer:
    """Return the function that transfers arrays of the current device, the same in all workers.

    It is that of `Nccl` if each worker has a GPU of its own, and of `Staged` otherwise.
    """
    gpu = cupy.cuda.runtime.deviceGetPCIBusId(cupy.cuda.Device().id)
    places = workers.gather(Place(platform.node(), gpu, _load_nccl() is not None))
    if reason := obstacle(places):
        if workers.rank == 0:
            _report(reason)
        return Staged(workers).transfer
    return _connected(workers, tuple(places)).transfer


def obstacle(places: Sequence[Place]) -> str:
    """Return why workers at these places cannot use NCCL, or an empty string."""
    for (rank, place), (other, there) in combinations(enumerate(places), 2):
        if (place.machine, place.gpu) == (there.machine, there.gpu):
            return f"rank {rank} and rank {other} have one GPU ({place.machine}, {place.gpu})"
    without = [rank for rank, place in enumerate(places) if not place.has_nccl]
    return f"rank {without[0]} cannot load NCCL" if without else ""


class Nccl:
    """Transfer by NCCL: queued on the current stream, with no wait of the host.

    Parameters
    ----------
    workers : Communicator
        The workers, each with the current device as its own.
    """

    def __init__(self, workers: Communicator):
        self._workers, self._nccl = workers, _load_nccl()
        of_first = self._nccl.get_unique_id() if workers.rank == 0 else None
        of_first = workers.gather(of_first)[0]
        self._comm = self._nccl.NcclCommunicator(workers.size, of_first, workers.rank)
        atexit.register(self._comm.abort)  # `destroy` would wait for workers that may be gone

    def transfer(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Send and receive the bytes of arrays."""
        stream, kind = cupy.cuda.get_current_stream().ptr, self._nccl.NCCL_INT8
        self._nccl.groupStart()  # calls outside of a group wait for each other
        for other, array in _not_empty(receives):
            self._comm.recv(array.data.ptr, array.nbytes, kind, other, stream)
        for other, array in _not_empty(sends):
            self._comm.send(array.data.ptr, array.nbytes, kind, other, stream)
            self._workers.bytes_sent += array.nbytes
        self._nccl.groupEnd()


class Staged:
    """Transfer through page-locked memory of the host, with one wait for the current stream.

    Parameters
    ----------
    workers : Communicator
        Transfers the arrays of the host.
    """

    def __init__(self, workers: Communicator):
        self._workers = workers
        self._hosts: dict[tuple[Any, ...], np.ndarray] = {}

    def transfer(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Send and receive arrays."""
        outgoing = [(other, array, self._host(array)) for other, array in _not_empty(sends)]
        incoming = [(other, array, self._host(array)) for other, array in _not_empty(receives)]
        for array, host in {id(host): (array, host) for _, array, host in outgoing}.values():
            array.get(out=host, blocking=False)  # once, also if all others get it
        cupy.cuda.get_current_stream().synchronize()  # earlier copies to the device are done, too
        self._workers.transfer(
            [(other, host) for other, _, host in outgoing],
            [(other, host) for other, _, host in incoming],
        )
        for _, array, host in incoming:
            array.set(host)

    def _host(self, array: Any) -> np.ndarray:
        """Return the array of the host for an array of the device: always the same one."""
        key = array.data.ptr, array.shape, array.dtype
        if key not in self._hosts:
            memory = cupy.cuda.alloc_pinned_memory(array.nbytes)
            host = np.frombuffer(memory, array.dtype, array.size)
            self._hosts[key] = host.reshape(array.shape)
        return self._hosts[key]


def _not_empty(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with content; both ends leave out the same ones."""
    return [(other, array) for other, array in messages if array.size]


@functools.cache
def _report(reason: str) -> None:
    """Log a reason, once in a process."""
    log.info("fit: workers exchange gradients through the host: %s", reason)


def _load_nccl() -> Any:
    """Return the module of NCCL, or None if it cannot be used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without the library, the log says so
        from cupy.cuda import nccl
    return nccl if nccl.available else None


@functools.cache
def _connected(workers: Communicator, places: tuple[Place, ...]) -> Nccl:
    """Return the connection of workers at these places; it takes long, so it is kept."""
    return Nccl(workers)
