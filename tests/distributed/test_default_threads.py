"""The number of threads of a worker."""

import pytest
from minidl_kernels import threads

from minidl.distributed import DataParallel


@pytest.fixture(autouse=True)
def _nothing_is_chosen(monkeypatch):
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setattr(threads, "_default", 6)
    monkeypatch.delenv("MINIDL_NUM_THREADS", raising=False)


def test_worker_has_one_thread_by_default():
    DataParallel()
    assert threads.num_threads() == 1


def test_worker_keeps_the_threads_of_the_program():
    threads.set_num_threads(3)
    DataParallel()
    assert threads.num_threads() == 3


def test_worker_keeps_the_threads_of_the_environment(monkeypatch):
    monkeypatch.setattr(threads, "_default", None)
    monkeypatch.setenv("MINIDL_NUM_THREADS", "5")
    DataParallel()
    assert threads.num_threads() == 5


def test_rejected_distribution_leaves_the_threads():
    with pytest.raises(ValueError, match="shards"):
        DataParallel(shards=0)
    assert threads.num_threads() == 6
