"""How a CUDA kernel is launched: the grids, and what the compiled kernel is given."""

import importlib.util
import inspect
import threading
from types import SimpleNamespace

import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: no CUDA kernel is compiled", allow_module_level=True)

from kernel_table import KERNELS_AND_DTYPES
from minidl_kernels.cuda import launch

from bench import kernels as bench


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(1, 1), (1, 10**8), (60000, 10), (128, 512), (2**32, 1), (1, 2**34), (1000, 65), (3, 10**6)],
)
def test_grid_and_block(rows, columns):
    grid, block = launch.grid_and_block(rows, columns)
    assert block[0] * block[1] == launch.THREADS
    assert grid[0] * grid[1] <= launch.MAX_BLOCKS
    assert all(n & (n - 1) == 0 for n in (*grid, *block))
    # All threads have work, but for the rounding up to powers of two.
    assert grid[0] * block[0] < 2 * columns
    assert grid[1] * block[1] < 2 * max(rows, block[1])


@pytest.mark.parametrize(
    ("size", "blocks"), [(1, 1), (256, 1), (257, 2), (535_818, 2**12), (10**9, 2**13)]
)
def test_launch_flat(size, blocks, monkeypatch):
    launches = []
    monkeypatch.setattr(launch, "launch", lambda *arguments: launches.append(arguments))
    launch.launch_flat("kernel", size, 99, "x", 5)
    assert launches == [("kernel", (blocks,), (launch.THREADS,), 99, "x", 5)]


class DeviceArray:
    """A host array that has an address as CuPy's have it."""

    def __init__(self, array):
        self.dtype, self.size, self.itemsize = array.dtype, array.size, array.itemsize
        self.shape, self.strides = array.shape, array.strides
        self.data = SimpleNamespace(ptr=array.ctypes.data)


@pytest.fixture
def told(monkeypatch):
    """Stand in for the driver; list what it is told: "context", or the arguments of a launch."""
    told = []
    monkeypatch.setattr(launch.cuda, "current_context", lambda: told.append("context"))
    monkeypatch.setattr(launch.core, "Device", lambda: SimpleNamespace(device_id=3))
    monkeypatch.setattr(launch.core, "launch", lambda *given: told.append(given))
    monkeypatch.setattr(launch, "_stream", lambda pointer: ("stream", pointer))
    monkeypatch.setattr(launch, "_compiled", lambda *kind: kind)
    return told


def test_launch(told):
    x = np.ones((2, 5), "f4")
    launch.launch("kernel", (4, 2), (32, 8), 4711, DeviceArray(x), np.uint32(9))
    stream, config, compiled, *words = told[-1]
    assert stream == ("stream", 4711)
    assert (config.grid, config.block) == ((4, 2, 1), (32, 8, 1))
    assert compiled == ("kernel", ((np.dtype("f4"), 2), (np.dtype("u4"), None)), 3)
    assert words == [0, 0, 10, 4, x.ctypes.data, 2, 5, 20, 4, 9]
    assert type(words[-1]) is np.uint32


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS_AND_DTYPES)
def test_flattened_arguments_are_the_parameters_of_the_compiled_kernel(kernel, dtype):
    build = bench.build_of(kernel, dtype, (9, 0))
    given = [
        DeviceArray(argument) if isinstance(argument, np.ndarray) else argument
        for argument in build.launch.arguments
    ]
    kinds, words = launch.flatten(given)
    assert launch.signature(kinds) == build.kernel.argtypes
    # as the interpreter of the compiled kernel lays them out, and as wide as that takes them
    laid_out = []
    for type_, argument in zip(build.kernel.argtypes, build.launch.arguments, strict=True):
        build.kernel.flatten(type_, argument, laid_out)
    assert words == [word[1].ctypes.data if isinstance(word, tuple) else word for word in laid_out]
    widths = [word.itemsize if isinstance(word, np.generic) else 8 for word in words]
    assert widths == [size for _, _, size, _ in build.kernel.mod.entry.params]


def test_a_thread_has_a_context_before_it_launches(told):
    def launch_twice():
        for _ in range(2):
            launch.launch("kernel", (1,), (32,), 0, np.uint32(9))

    for _ in range(2):
        thread = threading.Thread(target=launch_twice)
        thread.start()
        thread.join()
    assert [what == "context" for what in told] == [True, False, False] * 2


def test_what_is_asked_of_numba_is_there():
    from numba.cuda import codegen, dispatcher
    from numba.cuda.cudadrv import driver

    assert isinstance(dispatcher._Kernel.library, property)
    assert callable(codegen.CUDACodeLibrary.get_cufunc)
    assert "kernel" in driver.CudaPythonFunction.__slots__
    assert list(inspect.signature(dispatcher.CUDADispatcher.compile).parameters) == ["self", "sig"]
