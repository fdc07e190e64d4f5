"""The host's half of dropout on CUDA: what it checks, and what it launches on which grid.

The kernel itself is tested in `test_compiled.py`.
"""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: no CUDA kernel is compiled", allow_module_level=True)

from minidl_kernels import mask_contract
from minidl_kernels.cuda import dropout as module
from minidl_kernels.cuda import launch
from numba import cuda

ADDRESS = {"seed": 2**40 + 17, "stream": 3, "step": 4}


@pytest.fixture
def launches(monkeypatch):
    recorded = []
    monkeypatch.setattr(launch, "launch", lambda *arguments: recorded.append(arguments))
    return recorded


@pytest.mark.parametrize(
    ("dtype", "factor"), [("f2", np.float32), ("f4", np.float32), ("f8", np.float64)]
)
def test_what_is_launched(dtype, factor, launches):
    x = np.ones((3, 4, 5), dtype)
    module.dropout(x, np.empty_like(x), 0.2, **ADDRESS, row_offset=7, cuda_stream=99)
    kernel, grid, block, stream, flat, flat_out, *scalars = launches[0]
    assert kernel is module.drop
    assert (grid, block) == ((1, 1), (16, 16))
    assert stream == 99
    assert flat.shape == flat_out.shape == (60,)
    assert scalars == [3, 20, 7, 3, 4, 17, 2**8, int(0.2 * 2**32), factor(1.25)]
    assert [type(s) for s in scalars] == [np.uint64] * 2 + [np.uint32] * 6 + [factor]


def test_nothing_is_launched_for_an_empty_array_or_at_rate_1(launches):
    module.dropout(np.ones((0, 5), "f4"), np.ones((0, 5), "f4"), 0.5, **ADDRESS)
    out = np.full((2, 5), np.nan, "f4")
    module.dropout(np.full((2, 5), np.nan, "f4"), out, 1, **ADDRESS)
    assert out.tobytes() == bytes(out.nbytes)
    assert launches == []


def test_without_rescaling_the_factor_is_one(launches):
    x = np.ones((2, 5), np.float32)
    module.dropout(x, np.empty_like(x), 0.5, **ADDRESS, rescale=False)
    assert launches[0][-1] == 1
    assert type(launches[0][-1]) is np.float32


@pytest.mark.parametrize(
    ("x", "out", "error", "message"),
    [
        (
            np.ones(3, "f4"),
            np.ones(4, "f4"),
            ValueError,
            r"of one shape, received .*\(3,\) and \(4,\)",
        ),
        (np.ones((3, 3), "f4").T, np.ones((3, 3), "f4"), ValueError, "must be C-contiguous"),
        (np.ones(3, "f4"), np.ones(3, "f8"), TypeError, "received float32 and float64"),
        (np.ones(3, "i4"), np.ones(3, "i4"), TypeError, "float32 or float64, received int32"),
    ],
)
def test_bad_arrays(x, out, error, message, launches):
    with pytest.raises(error, match=message):
        module.dropout(x, out, 0.5, **ADDRESS)
    assert launches == []


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


def test_tiles_are_filled_by_whole_blocks():
    grid, block = launch.grid_and_block(128, mask_contract.LANES * 8)
    assert (grid, block) == ((1, 64), (128, 2))


@pytest.mark.parametrize(
    ("size", "blocks"), [(1, 1), (256, 1), (257, 2), (535_818, 2**12), (10**9, 2**13)]
)
def test_launch_flat(size, blocks, launches):
    launch.launch_flat("kernel", size, 99, "x", 5)
    assert launches == [("kernel", (blocks,), (launch.THREADS,), 99, "x", 5)]


def test_launch_uses_the_given_stream(monkeypatch):
    monkeypatch.setattr(cuda, "external_stream", lambda pointer: ("stream", pointer))
    configurations, calls = [], []

    class Kernel:
        def __getitem__(self, configuration):
            configurations.append(configuration)
            return lambda *arguments: calls.append(arguments)

    kernel = Kernel()
    for number in (5, 6):
        launch.launch(kernel, (2, 1), (32, 8), 4711, "x", number)
    assert configurations == [((2, 1), (32, 8), ("stream", 4711))]
    assert calls == [("x", 5), ("x", 6)]


def test_numba_does_not_warn_of_a_small_grid(monkeypatch):
    monkeypatch.setattr(cuda, "external_stream", lambda pointer: 0)
    with pytest.warns(Warning, match="Grid size 1 "):
        module.drop[(1, 1), (32, 1), 0]
    launch._configured(module.drop, (1, 1), (64, 1), 4711)
    launch._configured.cache_clear()
