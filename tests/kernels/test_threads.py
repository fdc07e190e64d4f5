"""Threads of the CPU kernels: their number, and what happens if they cannot be used."""

import ctypes.util
import itertools
import logging
import os
import subprocess
import sys
from pathlib import Path

import minidl_kernels
import numba
import numpy as np
import pytest
from backends import assert_same_bits
from minidl_kernels import threads
from minidl_kernels.cpu import blas, calls, dropout, launch, optimizers, pool, products
from minidl_kernels.mask_contract import Address

from minidl import get_backend
from minidl.backend.numpy_backend import NumpyBackend

ADDRESS = Address(seed=1, stream=2, step=3)
TBB_OF_THE_SYSTEM = ctypes.util.find_library("tbb") is not None

HEAD = """
import logging, os, sys, threading
import numpy as np
logging.basicConfig(level="INFO", format="%(message)s")
logging.getLogger("numba").setLevel("WARNING")
from minidl import get_backend
from minidl_kernels import threads
from minidl_kernels.cpu import pool
from minidl_kernels.mask_contract import Address
cpu, address = get_backend("cpu"), Address(1, 2, 3)
rng = np.random.default_rng(1)
x, weight = rng.standard_normal((128, 784), "f4"), rng.standard_normal((784, 512), "f4")
bias = np.zeros(512, "f4")
def layer():
    return cpu.dense(x, weight, bias, activation="relu", rate=0.5, address=address)
def product():
    return cpu.matmul(x, weight)
"""


def _run(program, before="", **environment):
    """Run a program in a process of its own; return its exit status, output and errors.

    `before` is run before the kernels are imported.
    """
    kernels = Path(minidl_kernels.__file__).parent.parent
    paths = os.pathsep.join(map(str, (kernels.parent, kernels)))
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MINIDL_", "NUMBA_THREADING", "NUMBA_NUM"))
    }
    done = subprocess.run(
        [sys.executable, "-c", before + HEAD + program],
        env=inherited | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    errors = [line for line in done.stderr.splitlines() if not line.startswith("compiling ")]
    return done.returncode, done.stdout.strip(), "\n".join(errors)


@pytest.fixture
def tbb():
    if not pool.has_tbb():
        pytest.skip(f"Numba's threading layer is {numba.threading_layer()}, not TBB")


@pytest.fixture
def openblas():
    if not blas.available:
        pytest.skip("NumPy was not built with the OpenBLAS of its wheels")


@pytest.fixture
def number(monkeypatch):
    """Restore the number of threads after the test."""
    monkeypatch.setattr(threads, "_chosen", threads._chosen)


@pytest.fixture
def unread(monkeypatch):
    """Let neither the program nor the environment have chosen a number yet."""
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setattr(threads, "_default", None)
    monkeypatch.delenv("MINIDL_NUM_THREADS", raising=False)


def test_number_of_threads_can_be_set(number):
    for value in (1, np.int64(3), 200):
        threads.set_num_threads(value)
        assert threads.num_threads() == value
        assert type(threads.num_threads()) is int


@pytest.mark.parametrize("value", [0, -1])
def test_number_below_one_is_rejected(value):
    with pytest.raises(ValueError, match=rf"^set_num_threads: .* got {value}\. "):
        threads.set_num_threads(value)


@pytest.mark.parametrize("value", [1.0, "2", None, True, np.True_])
def test_number_that_is_not_an_integer_is_rejected(value):
    with pytest.raises(TypeError, match=r"^set_num_threads: expected an integer"):
        threads.set_num_threads(value)


@pytest.mark.parametrize(("text", "expected"), [("1", 1), (" 7 ", 7), ("128", 128)])
def test_environment_sets_the_number(text, expected, monkeypatch, unread):
    monkeypatch.setenv("MINIDL_NUM_THREADS", text)
    assert threads.num_threads() == expected
    assert threads.is_chosen()


def test_default_is_not_chosen_and_read_once(monkeypatch, unread):
    number = threads.num_threads()
    assert not threads.is_chosen()
    assert threads._chosen is None  # which recordings watch
    monkeypatch.setenv("MINIDL_NUM_THREADS", str(number + 1))
    assert threads.num_threads() == number
    threads.set_num_threads(number + 2)
    assert threads.num_threads() == number + 2
    assert threads.is_chosen()


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "two", "²"])
def test_bad_number_in_the_environment_is_an_error(text, monkeypatch, unread):
    monkeypatch.setenv("MINIDL_NUM_THREADS", text)
    with pytest.raises(ValueError, match=rf"^MINIDL_NUM_THREADS: .* got {text!r}\. "):
        threads.num_threads()


BAD_ENVIRONMENT = [
    ("MINIDL_NUM_THREADS", "abc"),
    ("MINIDL_NUM_THREADS", "0"),
    ("MINIDL_NUM_THREADS", ""),
    ("NUMBA_NUM_THREADS", "0"),
    ("NUMBA_NUM_THREADS", "-2"),
    ("NUMBA_DISABLE_JIT", "1"),
    ("NUMBA_DISABLE_JIT", "2"),
]


@pytest.mark.parametrize(("name", "text"), BAD_ENVIRONMENT)
def test_backend_rejects_a_bad_environment(name, text, monkeypatch):
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setenv(name, text)
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, got {text!r}"):
        NumpyBackend()


@pytest.mark.parametrize(
    ("name", "text"),
    [("MINIDL_NUM_THREADS", " 4 "), ("NUMBA_DISABLE_JIT", "0"), ("NUMBA_DISABLE_JIT", "")],
)
def test_backend_accepts_a_good_environment(name, text, monkeypatch):
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setenv(name, text)
    assert NumpyBackend().name == "cpu"


def test_number_that_was_set_replaces_a_bad_environment(monkeypatch, number):
    monkeypatch.setenv("MINIDL_NUM_THREADS", "abc")
    threads.set_num_threads(2)
    NumpyBackend()
    assert threads.num_threads() == 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text"), BAD_ENVIRONMENT[-3:] + BAD_ENVIRONMENT[:1])
def test_bad_environment_is_an_error_of_few_frames(name, text):
    program = "from minidl import models, set_num_threads; models.Sequential()"
    status, _, errors = _run("", program + "\n", **{name: text})
    assert status == 1
    assert f"ValueError: {name}: " in errors
    assert errors.count("  File ") < 14


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_default_number_is_that_of_the_usable_cores():
    program = """
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
print(threads.num_threads())
"""
    assert _run(program) == (0, "1", "")


@pytest.mark.parametrize("unit", [1, 64])
@pytest.mark.parametrize("pieces", [1, 2, 3, 16])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 257, 2**20 + 3])
def test_shares_cover_the_range_once(size, pieces, unit):
    shares = [pool.share.py_func(piece, pieces, size, unit) for piece in range(pieces)]
    assert shares[0][0] == 0
    assert shares[-1][1] == size
    for (start, stop), (next_start, _) in itertools.pairwise([*shares, (size, size)]):
        assert start <= stop == next_start
        assert start % unit == 0 or start == size
    assert max(stop - start for start, stop in shares) <= size / pieces + 2 * unit


def test_small_work_is_one_piece(tbb, number):
    threads.set_num_threads(16)
    assert pool.pieces(pool.SERIAL_BELOW - 1) == 1
    assert pool.pieces(pool.SERIAL_BELOW) == 2
    assert pool.pieces(2**20) == 16
    threads.set_num_threads(1)
    assert pool.pieces(2**30) == 1


def _forbid(monkeypatch, *kernels):
    """Let the launch of some kernels in several pieces fail."""
    allowed = launch.launch_pieces

    def forbidden(pieces, kernel, *arguments):
        assert pieces == 1 or kernel not in kernels, "a parallel region was entered"
        allowed(pieces, kernel, *arguments)

    monkeypatch.setattr(launch, "launch_pieces", forbidden)


SHARED = (products._dense, products._multiply, dropout._dropout, optimizers._adam)


def _work():
    """Return results of kernels at a size for which threads pay; all are exact integers."""
    cpu, rng = get_backend("cpu"), np.random.default_rng(1)
    x = rng.integers(-4, 5, (128, 784)).astype("float32")
    weight = rng.integers(-4, 5, (784, 512)).astype("float32")
    flat = [x.reshape(-1).copy(), x.reshape(-1), np.zeros(x.size, "f4"), np.zeros(x.size, "f4")]
    cpu.adam(*flat, rate=0.1, beta_1=0.9, beta_2=0.99, epsilon=1e-7, decay=1.0)
    options = {"activation": "relu", "rate": 0.3, "address": ADDRESS}
    return [
        cpu.dense(x, weight, np.ones(512, "f4"), **options),
        cpu.dropout(x, 0.3, ADDRESS),
        flat[0],
        cpu.matmul(x, weight),
    ]


def _assert_same(results, others):
    for a, b in zip(results, others, strict=True):
        assert_same_bits(a, b)


def test_one_thread_enters_no_parallel_region(number, monkeypatch):
    expected = _work()
    threads.set_num_threads(1)
    _forbid(monkeypatch, *SHARED)
    monkeypatch.setattr(calls, "run", None)  # what enters the regions
    _assert_same(_work(), expected)


def test_several_threads_enter_each_parallel_region(tbb, openblas, number, monkeypatch):
    """The negative control of the test above."""
    threads.set_num_threads(2)
    for kernel in SHARED:
        with monkeypatch.context() as patch:
            _forbid(patch, kernel)
            with pytest.raises(AssertionError, match="a parallel region was entered"):
                _work()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_are_equal_from_run_to_run(count, number):
    threads.set_num_threads(count)
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((128, 784), "f4"), rng.standard_normal((784, 512), "f4")
    layer = get_backend("cpu").dense
    bias = np.zeros(512, "f4")
    assert len({layer(x, weight, bias, activation="relu").tobytes() for _ in range(20)}) == 1


def test_another_blas_leaves_products_to_numpy(monkeypatch):
    expected = _work()
    monkeypatch.setattr(blas, "available", False)
    monkeypatch.setattr(products, "_multiply", None)  # a launch would fail
    monkeypatch.setattr(products, "_dense", None)
    _assert_same(_work(), expected)


def test_another_threading_layer_leaves_the_kernels_serial():
    program = """
first = layer(), product()
cpu.dropout(np.ones(2**20, "f4"), 0.5, address)
again = [layer(), product()]
same = all((a == b).all() for a, b in zip(first, again))
recording = cpu.record(lambda: again.append(cpu.dropout(x, 0.5, address)))
expected = again[-1].copy()
again[-1].fill(0)
recording.replay()
print(pool.has_tbb(), same, (again[-1] == expected).all(), recording.obstacle == "")
"""
    status, printed, errors = _run(program, NUMBA_THREADING_LAYER="workqueue")
    assert (status, printed) == (0, "False True True True")
    (line,) = errors.splitlines()
    assert line.startswith(
        "the CPU kernels run on one thread: Numba's threading layer is workqueue, not tbb."
    )


@pytest.mark.parametrize(
    "found",
    [
        "return [NoFile('lib/libtbb.so.12')]",
        pytest.param("raise metadata.PackageNotFoundError(name)", marks=pytest.mark.slow),
    ],
)
def test_kernels_without_the_tbb_wheel_or_its_library_are_serial(found):
    before = f"""
from importlib import metadata
class NoFile(metadata.PackagePath):
    def locate(self):
        return "/nowhere" / self
def files(name):
    {found}
metadata.files = files
"""
    program = """
layer()
print(pool.has_tbb())
x = x.round(); weight = weight.round()  # products are exact in any order
print((product() == x @ weight).all())
"""
    status, printed, errors = _run(program, before)
    assert (status, printed.split()) == (0, [str(TBB_OF_THE_SYSTEM), "True"])
    assert ("run 'pip install tbb'" in errors) is not TBB_OF_THE_SYSTEM


def test_two_python_threads_at_once_compute_the_same(tbb):
    program = """
expected = layer().tobytes(), product().tobytes()
wrong = []
def work():
    for _ in range(50):
        if (layer().tobytes(), product().tobytes()) != expected:
            wrong.append(1)
workers = [threading.Thread(target=work) for _ in range(3)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(len(wrong))
"""
    assert _run(program) == (0, "0", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child_computes_the_same(tbb):
    program = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork beside threads
expected = layer().tobytes(), product().tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if (layer().tobytes(), product().tobytes()) == expected else 7)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, (layer().tobytes(), product().tobytes()) == expected)
"""
    assert _run(program) == (0, "0 True", "")


def test_import_of_threads_loads_no_compiler():
    program = "import sys, minidl_kernels.threads; assert 'numba' not in sys.modules"
    folder = str(Path(minidl_kernels.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": folder}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)


def test_layer_in_use_is_announced_once(monkeypatch, caplog):
    monkeypatch.setattr(numba, "threading_layer", lambda: "omp")
    pool.has_tbb.cache_clear()
    try:
        with caplog.at_level(logging.INFO, "minidl_kernels"):
            assert [pool.has_tbb(), pool.has_tbb()] == [False, False]
        (message,) = caplog.messages
        assert "Numba's threading layer is omp, not tbb" in message
    finally:
        pool.has_tbb.cache_clear()


@pytest.mark.needs_threads
def test_pool_needs_no_gil_of_the_waiting_thread():
    """Tracemalloc takes the GIL at each allocation, also in the threads of the pool."""
    program = """
import tracemalloc
tracemalloc.start()
for _ in range(300):
    layer()
print("done")
"""
    assert _run(program, MINIDL_NUM_THREADS="2") == (0, "done", "")
