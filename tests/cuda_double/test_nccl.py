"""The double of NCCL: its names are those of CuPy, and it rejects what would hang or go wrong."""

import inspect
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest


class Loopback:
    """A communicator of MPI for one process, which sends to itself."""

    def __init__(self):
        self.messages = []

    def Dup(self):
        return self

    def allgather(self, value):
        return [value]

    def isend(self, message, peer):
        self.messages.append(message)
        return SimpleNamespace(wait=lambda: None)

    def recv(self, source):
        return self.messages.pop(0)


@pytest.fixture
def nccl(cuda_double, monkeypatch):
    fake = SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=Loopback()))
    monkeypatch.setitem(sys.modules, "mpi4py", fake)
    nccl = sys.modules["cupy"].cuda.nccl
    monkeypatch.setattr(nccl, "_depth", 0)
    monkeypatch.setattr(nccl, "_group", [])
    return nccl


@pytest.fixture
def arrays(nccl):
    xp = sys.modules["cupy"]
    return xp.asarray(np.arange(4.0)), xp.zeros(4)


@pytest.fixture
def communicator(nccl):
    return nccl.NcclCommunicator(1, nccl.get_unique_id(), 0)


def exchange(nccl, communicator, sent, received, counts, kinds):
    nccl.groupStart()
    communicator.recv(received.data.ptr, counts[1], kinds[1], 0, 0)
    communicator.send(sent.data.ptr, counts[0], kinds[0], 0, 0)
    nccl.groupEnd()


def test_group_sends_and_receives(nccl, communicator, arrays, cuda_double):
    cuda_double.reset()
    exchange(nccl, communicator, *arrays, (4, 4), (nccl.NCCL_FLOAT64,) * 2)
    assert cuda_double.launches == 1
    assert cuda_double.synchronizations == 0
    assert arrays[1].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("counts", "kinds"), [((4, 3), (8, 8)), ((4, 4), (7, 2))])
def test_message_with_different_ends_raises(nccl, communicator, arrays, counts, kinds):
    from cuda_double.devices import Misuse

    with pytest.raises(Misuse, match="rank 0 sends"):
        exchange(nccl, communicator, *arrays, counts, kinds)


@pytest.mark.parametrize("count", [0, 5])
def test_message_of_no_or_too_many_bytes_raises(nccl, communicator, arrays, count):
    from cuda_double.devices import Misuse

    with pytest.raises(Misuse, match="expected 1 to 32 contiguous bytes"):
        exchange(nccl, communicator, *arrays, (count, count), (8, 8))


def test_message_outside_of_a_group_raises(nccl, communicator, arrays):
    from cuda_double.devices import Misuse

    with pytest.raises(Misuse, match="outside of a group"):
        communicator.send(arrays[0].data.ptr, 4, nccl.NCCL_FLOAT64, 0, 0)
    with pytest.raises(Misuse, match="without groupStart"):
        nccl.groupEnd()


def test_closed_communicator_raises(nccl, communicator, arrays):
    from cuda_double.devices import Misuse

    communicator.abort()
    with pytest.raises(Misuse, match="closed"):
        exchange(nccl, communicator, *arrays, (4, 4), (8, 8))


def test_copy_to_the_host_is_there_after_a_wait(arrays):
    stream = sys.modules["cupy"].cuda.get_current_stream()
    host = np.zeros(4)
    arrays[0].get(out=host, blocking=False)
    assert np.isnan(host).all()
    stream.synchronize()
    assert host.tolist() == [0, 1, 2, 3]


def test_copies_to_and_from_one_host_array_are_done_in_their_order(arrays):
    host = np.ones(4)
    arrays[1].set(host)
    arrays[0].get(out=host, blocking=False)
    sys.modules["cupy"].cuda.get_current_stream().synchronize()
    assert host.tolist() == [0, 1, 2, 3]
    assert arrays[1].tolist() == [1, 1, 1, 1]


def test_host_array_that_changes_before_its_copy_is_done_raises(arrays):
    from cuda_double.devices import Misuse

    stream = sys.modules["cupy"].cuda.get_current_stream()
    host = np.ones(4)
    arrays[1].set(host)
    stream.synchronize()
    assert arrays[1].tolist() == [1, 1, 1, 1]
    arrays[1].set(host)
    host[0] = 2
    with pytest.raises(Misuse, match="changed before its copy"):
        stream.synchronize()


def test_names_are_those_of_the_installed_cupy():
    pytest.importorskip("cupy", reason="cupy not installed (the extra cuda-double)")
    from cuda_double import nccl as double
    from cuda_double.signatures import signature_of

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cupy.cuda import nccl as real
    if not real.available:
        pytest.skip("NCCL not installed (nvidia-nccl-cu13 or nvidia-nccl-cu12)")
    constants = [name for name in vars(double) if name.startswith("NCCL_")]
    assert len(constants) == 9
    for name in constants:
        assert getattr(real, name) == getattr(double, name)
    pairs = [(vars(real)[name], vars(double)[name]) for name in ("get_unique_id", "groupStart")]
    pairs += [(real.groupEnd, double.groupEnd)]
    pairs += [
        (getattr(real.NcclCommunicator, name), value)
        for name, value in vars(double.NcclCommunicator).items()
        if not name.startswith("_")
    ]
    for of_cupy, of_double in pairs:
        assert [*signature_of(of_cupy).parameters] == [*inspect.signature(of_double).parameters]
    identifier = real.get_unique_id()
    assert len(identifier) == double.ID_BYTES
