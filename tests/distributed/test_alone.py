"""One process alone, and the number of threads of a worker."""

import subprocess
import sys

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


def test_run_alone_imports_no_mpi():
    program = (
        "import sys, numpy as np\n"
        "from minidl import distributed, layers, models\n"
        "model = models.Sequential([layers.Dense(1)])\n"
        "model.compile('sgd', 'mse')\n"
        "x = np.ones((4, 2)), np.ones((4, 1))\n"
        "model.fit(*x, verbose=0)\n"
        "model.fit(*x, verbose=0, distribution=distributed.DataParallel())\n"
        "print('mpi4py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr[-500:]) == ("False\n", "")


def test_rejected_distribution_leaves_the_threads():
    with pytest.raises(ValueError, match="shards"):
        DataParallel(shards=0)
    assert threads.num_threads() == 6


def test_agreement_sends_the_notes_of_an_error_to_the_other_workers(monkeypatch):
    alone, sent = DataParallel(1), []
    monkeypatch.setattr(alone, "_gather", lambda _, text: sent.append(text) or [text])
    error = OSError("no mirror")
    error.add_note("first: refused")
    with pytest.raises(OSError, match="no mirror"), alone.agreed():
        raise error
    assert sent == ["OSError: no mirror\nfirst: refused"]
