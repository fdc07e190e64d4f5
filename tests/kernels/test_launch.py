"""Launches: grids and arguments of CUDA kernels, and launches of CPU kernels."""

import importlib.util
import inspect
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from minidl_kernels.cpu import jit, pool
from minidl_kernels.cpu import launch as cpu_launch

needs_cuda = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("numba_cuda", "cupy"))),
    reason="numba-cuda and CuPy are not installed: no CUDA kernel is compiled",
)
if importlib.util.find_spec("numba_cuda") and importlib.util.find_spec("cupy"):
    from kernel_table import KERNELS_AND_DTYPES
    from minidl_kernels.cuda import launch

    from bench import kernels as bench
else:
    KERNELS_AND_DTYPES = []


def test_cpu_launch_runs_a_kernel_with_its_arguments():
    seen = []
    cpu_launch.launch(lambda *arguments: seen.append(arguments), 1, "x")
    assert seen == [(1, "x")]


def test_cpu_launch_in_one_piece_is_a_launch_on_this_thread(monkeypatch):
    seen = []
    monkeypatch.setattr(cpu_launch, "launch", lambda *arguments: seen.append(arguments))
    cpu_launch.launch_pieces(1, "kernel", 100, "x")
    assert seen == [("kernel", 0, 1, 100, "x")]


def test_cpu_launch_in_several_pieces_runs_each_piece_once():
    if not pool.has_tbb():
        pytest.skip("Numba's threads are not those of TBB")
    for pieces in (2, 3, 8):
        runs = np.zeros(8, np.int64)
        cpu_launch.launch_pieces(pieces, _count_piece, runs)
        assert runs.tolist() == [pieces] * pieces + [0] * (8 - pieces)


@jit.kernel
def _count_piece(piece, pieces, runs):
    runs[piece] += pieces


@needs_cuda
@pytest.mark.parametrize(
    ("rows", "columns"),
    [(1, 1), (1, 10**8), (60000, 10), (128, 512), (2**32, 1), (1, 2**34), (1000, 65), (3, 10**6)],
)
def test_grid_and_block_have_a_thread_for_each_element(rows, columns):
    grid, block = launch.grid_and_block(rows, columns)
    assert block[0] * block[1] == launch.THREADS
    assert grid[0] * grid[1] <= launch.MAX_BLOCKS
    assert all(n & (n - 1) == 0 for n in (*grid, *block))
    # All threads have work, but for the rounding up to powers of two.
    assert grid[0] * block[0] < 2 * columns
    assert grid[1] * block[1] < 2 * max(rows, block[1])


@pytest.fixture
def launches(monkeypatch):
    recorded = []
    monkeypatch.setattr(launch, "launch", lambda *arguments: recorded.append(arguments))
    return recorded


@needs_cuda
@pytest.mark.parametrize(
    ("size", "blocks"), [(1, 1), (256, 1), (257, 2), (535_818, 2**12), (10**9, 2**13)]
)
def test_flat_launch_has_one_row_of_threads(size, blocks, launches):
    launch.launch_flat("kernel", size, "x", 5)
    assert launches == [("kernel", (blocks,), (launch.THREADS,), "x", 5)]


@needs_cuda
def test_launch_on_tiles_fills_whole_blocks(launches):
    launch.launch_tiles("kernel", 128, 512, "x")
    launch.launch_tiles("kernel", 3, 20, "x")
    assert launches == [
        ("kernel", (1, 64), (128, 2), "x"),
        ("kernel", (1, 1), (16, 16), "x"),
    ]


class DeviceArray:
    """A host array that has an address as CuPy's have it."""

    def __init__(self, array):
        self.dtype, self.size, self.itemsize = array.dtype, array.size, array.itemsize
        self.shape, self.strides = array.shape, array.strides
        self.data = SimpleNamespace(ptr=array.ctypes.data)


@pytest.fixture
def calls(monkeypatch):
    """Stand in for the driver; list its calls: "context", or the arguments of a launch."""
    calls = []
    stream = SimpleNamespace(ptr=4711)
    monkeypatch.setattr(launch.cupy.cuda, "get_current_stream", lambda: stream)
    monkeypatch.setattr(launch.cuda, "current_context", lambda: calls.append("context"))
    monkeypatch.setattr(launch.core, "Device", lambda: SimpleNamespace(device_id=3))
    monkeypatch.setattr(launch.core, "launch", lambda *given: calls.append(given))
    monkeypatch.setattr(launch, "_stream", lambda pointer: ("stream", pointer))
    monkeypatch.setattr(launch, "_compiled", lambda *kind: kind)
    return calls


@needs_cuda
def test_launch_gives_the_driver_words_on_the_current_stream(calls):
    x = np.ones((2, 5), "float32")
    words = (np.uint32(7), np.uint32(8))
    launch.launch("kernel", (4, 2), (32, 8), DeviceArray(x), words, np.uint32(9))
    stream, config, compiled, *received = calls[-1]
    assert stream == ("stream", 4711)
    assert (config.grid, config.block) == ((4, 2, 1), (32, 8, 1))
    word = np.dtype("uint32")
    assert compiled == ("kernel", ((np.dtype("float32"), 2), ("tuple", (word, word)), word), 3)
    assert received == [0, 0, 10, 4, x.ctypes.data, 2, 5, 20, 4, 7, 8, 9]
    assert [type(word) for word in received[-3:]] == [np.uint32] * 3


def on_device(argument):
    return DeviceArray(argument) if isinstance(argument, np.ndarray) else argument


@needs_cuda
@pytest.mark.parametrize(("kernel", "dtype"), KERNELS_AND_DTYPES)
def test_flattened_arguments_are_the_parameters_of_the_compiled_kernel(kernel, dtype):
    build = bench.build_of(kernel, dtype)
    kinds, words = launch.flatten([on_device(a) for a in build.launch.arguments])
    assert launch.signature(kinds) == build.kernel.argtypes
    # as the interpreter of the compiled kernel lays them out, and as wide as that takes them
    laid_out = []
    for type_, argument in zip(build.kernel.argtypes, build.launch.arguments, strict=True):
        build.kernel.flatten(type_, argument, laid_out)
    assert words == [word[1].ctypes.data if isinstance(word, tuple) else word for word in laid_out]
    widths = [word.itemsize if isinstance(word, np.generic) else 8 for word in words]
    assert widths == [size for _, _, size, _ in build.kernel.mod.entry.params]


@needs_cuda
def test_thread_has_a_context_before_its_first_launch(calls):
    def launch_twice():
        for _ in range(2):
            launch.launch("kernel", (1,), (32,), np.uint32(9))

    for _ in range(2):
        thread = threading.Thread(target=launch_twice)
        thread.start()
        thread.join()
    assert [what == "context" for what in calls] == [True, False, False] * 2


@needs_cuda
def test_undocumented_names_of_numba_cuda_exist():
    from numba.cuda import codegen, dispatcher
    from numba.cuda.cudadrv import driver

    assert isinstance(dispatcher._Kernel.library, property)
    assert callable(codegen.CUDACodeLibrary.get_cufunc)
    assert "kernel" in driver.CudaPythonFunction.__slots__
    assert list(inspect.signature(dispatcher.CUDADispatcher.compile).parameters) == ["self", "sig"]
