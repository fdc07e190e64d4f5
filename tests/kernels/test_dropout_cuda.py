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


def test_tiles_are_filled_by_whole_blocks():
    grid, block = launch.grid_and_block(128, mask_contract.LANES * 8)
    assert (grid, block) == ((1, 64), (128, 2))
