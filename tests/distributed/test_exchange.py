"""Exchange of gradients among workers that are threads of this process: its logic alone."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_tree import naive_sum, partial_sums, shard_arrays

from minidl.backend import get_backend
from minidl.distributed.communicator import Communicator
from minidl.distributed.exchange import Exchange
from minidl.distributed.tree import owned


class ThreadCommunicator(Communicator):
    """Communicator of one of several threads; a message is a copy in a queue."""

    def __init__(self, rank, queues):
        self.rank, self.size, self.queues = rank, len(queues), queues

    def transfer(self, sends, receives):
        for other, array in sends:
            assert other != self.rank
            assert array.flags.c_contiguous
            self.queues[other][self.rank].put(array.copy())
            self.bytes_sent += array.nbytes
        for other, array in receives:
            assert array.flags.c_contiguous
            array[...] = self.queues[self.rank][other].get(timeout=20)


def exchanged(shards, size, steps=1, length=75, dtype="float32"):
    """Return sums and tails of each step by rank, and the bytes that each worker sent."""
    queues = [[queue.Queue() for _ in range(size)] for _ in range(size)]
    numbers = np.random.default_rng(1)
    arrays = [shard_arrays(shards, dtype) for _ in range(steps)]
    if length != 75:
        arrays = [[numbers.normal(size=length) for _ in range(shards)] for _ in range(steps)]
    barrier = threading.Barrier(size)

    def work(rank):
        workers = ThreadCommunicator(rank, queues)
        exchange, found = Exchange(workers, shards, get_backend("cpu")), []
        mine = owned(shards, size, rank)
        for step in range(steps):
            total, tails = np.empty_like(arrays[step][0]), np.full((size, 3), -1.0)
            tails[rank] = [rank, step, rank * step]
            for part in partial_sums(arrays[step], mine).parts():
                exchange.gradients.add(*part)
            exchange(total, tails)
            found.append((total.tobytes(), tails.tolist()))
            barrier.wait(20)
        return found, workers.bytes_sent

    with ThreadPoolExecutor(size) as pool:
        everything = [*pool.map(work, range(size))]
    return arrays, [found for found, _ in everything], [sent for _, sent in everything]


@pytest.mark.parametrize("shards", range(1, 18))
def test_exchange_has_the_bits_of_the_naive_tree_for_every_number_of_workers(shards):
    for size in range(1, min(shards, 9) + 1):
        arrays, found, _ = exchanged(shards, size)
        assert {of_rank[0][0] for of_rank in found} == {naive_sum(arrays[0]).tobytes()}, size


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_exchange_gives_each_worker_the_tails_of_all_in_every_step(size):
    arrays, found, _ = exchanged(8, size, steps=3)
    for step in range(3):
        expected = [[rank, step, rank * step] for rank in range(size)]
        assert all(of_rank[step][1] == expected for of_rank in found)
        total = naive_sum(arrays[step]).tobytes()
        assert all(of_rank[step][0] == total for of_rank in found)


@pytest.mark.parametrize("length", [1, 15, 17])
def test_exchange_of_fewer_numbers_than_workers_need_leaves_slices_empty(length):
    arrays, found, _ = exchanged(8, 8, length=length)
    assert {of_rank[0][0] for of_rank in found} == {naive_sum(arrays[0]).tobytes()}


@pytest.mark.parametrize("size", [2, 4, 8])
def test_worker_sends_almost_twice_the_gradients_if_workers_are_a_power_of_two(size):
    length = 64 * 1024
    _, _, sent = exchanged(16, size, length=length)
    tails = (size - 1) * 3 * 8
    assert sent == [2 * (size - 1) * length * 8 // size + tails] * size


def test_nans_of_several_workers_keep_the_bits_of_the_lower_one_within_registers():
    """The number of workers does not move the end of a slice into a vector register."""
    shards, length = 8, 16 * 5
    payloads = np.arange(shards * length, dtype="uint32").reshape(shards, length) + 0x7FC00001
    for size in (1, 2, 3, 4, 8):
        queues = [[queue.Queue() for _ in range(size)] for _ in range(size)]

        def work(rank, size=size, queues=queues):
            exchange = Exchange(ThreadCommunicator(rank, queues), shards, get_backend("cpu"))
            arrays = [*payloads.view("float32").copy()]
            for part in partial_sums(arrays, owned(shards, size, rank)).parts():
                exchange.gradients.add(*part)
            total = np.empty(length, "float32")
            exchange(total, np.zeros((size, 1)))
            return total.tobytes()

        with ThreadPoolExecutor(size) as pool:
            assert {*pool.map(work, range(size))} == {payloads[0].tobytes()}, size
