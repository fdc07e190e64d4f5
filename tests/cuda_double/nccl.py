"""The double of `cupy.cuda.nccl`: messages between the processes that ``mpiexec`` started.

NCCL lets a send outside of a group wait for its receive, and ends programs or hangs where both ends
of a message differ. The double raises `Misuse`. The work of a group is done at its end.
"""

import platform
from typing import Any

import numpy as np

from cuda_double.devices import Misuse, state
from cuda_double.pools import by_address

available = True
NCCL_INT8, NCCL_UINT8, NCCL_INT32, NCCL_UINT32, NCCL_INT64, NCCL_UINT64 = range(6)
NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64 = range(6, 9)

ID_BYTES = 128  # NCCL_UNIQUE_ID_BYTES of nccl.h
SIZES = (1, 1, 4, 4, 8, 8, 2, 4, 8)  # bytes, by data type

_depth = 0  # of open groups
_group: list[tuple[str, "NcclCommunicator", Any, int, int, int]] = []


def get_unique_id() -> bytes:
    """Return an identifier, with which communicators find each other."""
    return np.random.default_rng().bytes(ID_BYTES)


def groupStart() -> None:
    """Begin a group."""
    global _depth
    _depth += 1


def groupEnd() -> None:
    """End a group; the outermost one does all its work, which is one kernel."""
    global _depth, _group
    if _depth == 0:
        raise Misuse("groupEnd comes without groupStart")
    _depth -= 1
    if _depth or not _group:
        return
    calls, _group = _group, []
    requests = []
    for name, communicator, array, *kind, peer in calls:
        array._block.check_readable()
        array._block.use()
        if name == "send":
            message = kind, _bytes_of(array, *kind).tobytes()
            requests.append(communicator._mpi.isend(message, peer))
    for name, communicator, array, *kind, peer in calls:
        if name == "recv":
            sent, message = communicator._mpi.recv(source=peer)
            if sent != kind:
                raise Misuse(f"rank {peer} sends (count, datatype) {sent}, and {kind} is received")
            _bytes_of(array, *kind)[...] = np.frombuffer(message, "u1")
    for request in requests:
        request.wait()
    state.launch()


class NcclCommunicator:
    """The connection of one device to those of all other processes."""

    def __init__(self, ndev: int, commId: Any, rank: int, config: Any = None):
        if config is not None:
            raise NotImplementedError("the double has no configuration of NCCL")
        from mpi4py import MPI

        assert len(commId) == ID_BYTES
        self._mpi = MPI.COMM_WORLD.Dup()
        device = platform.node(), state.current_device
        found = self._mpi.allgather((ndev, commId, rank, device))
        sizes, identifiers, ranks, devices = map(list, zip(*found, strict=True))
        if set(sizes) != {len(found)} or len(set(identifiers)) > 1 or ranks != [*range(ndev)]:
            raise Misuse(f"expected all processes in one communicator, by rank, got {found}")
        if len(set(devices)) < ndev:
            raise RuntimeError("NCCL_ERROR_INVALID_USAGE: Duplicate GPU detected")
        self._size, self._device, self._is_open = ndev, state.current_device, True

    def size(self) -> int:
        """Return the number of devices."""
        return self._size

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        """Send `count` elements from an address."""
        self._queue("send", sendbuf, count, datatype, peer, stream)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        """Receive `count` elements at an address."""
        self._queue("recv", recvbuf, count, datatype, peer, stream)

    def abort(self) -> None:
        """End the communicator without the others."""
        self._is_open = False

    def destroy(self) -> None:
        """End the communicator; NCCL waits for the others."""
        raise NotImplementedError("the double does not compute NcclCommunicator.destroy")

    def _queue(
        self, name: str, buf: int, count: int, datatype: int, peer: int, stream: int
    ) -> None:
        if _depth == 0:
            raise Misuse(f"{name} is outside of a group: it may wait forever for the other end")
        if not self._is_open or self._device != state.current_device:
            raise Misuse("the communicator is closed, or the current device is not its own")
        if state.capture is not None or stream != state.stream.ptr:
            raise NotImplementedError("the double sends on the current stream, outside of captures")
        if not 0 <= peer < self._size:
            raise RuntimeError("NCCL_ERROR_INVALID_ARGUMENT: invalid argument")
        array = by_address[buf]
        _bytes_of(array, count, datatype)
        _group.append((name, self, array, count, datatype, peer))


def _bytes_of(array: Any, count: int, datatype: int) -> np.ndarray:
    """Return the memory of so many elements as bytes."""
    size = count * SIZES[datatype]
    if not array._memory.flags.c_contiguous or not 0 < size <= array.nbytes:
        raise Misuse(f"expected 1 to {array.nbytes} contiguous bytes, got {size}")
    return array._memory.reshape(-1).view("u1")[:size]
