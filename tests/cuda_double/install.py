"""Run minidl's CUDA backend over the double, with its kernels as they are compiled for a GPU."""

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest
from compiled import compiled

from cuda_double.arrays import ndarray
from cuda_double.devices import Counts, state
from cuda_double.library import double_of

# Threads that the interpreter runs side by side; 16,384 is fastest for the grid that a small array
# has, three times faster than all 32,768 at once.
THREADS_AT_ONCE = 2**14


@functools.cache
def _double() -> Any:
    import cupy

    return double_of(cupy)


@contextlib.contextmanager
def cuda_double(device_count: int = 1) -> Iterator[Counts]:
    """Make ``get_backend("cuda")`` the real backend over the double; give the double's counts."""
    from minidl_kernels.cuda import launch, reduction

    import minidl.backend as devices

    double = _double()
    state.reset(device_count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", double)
        patch.setitem(sys.modules, "cupy.cuda", double.cuda)
        patch.setattr(launch, "launch", run_compiled)
        patch.setattr(reduction, "cupy", double)
        try:
            _forget_cuda(devices)
            yield state.counts
        finally:
            _forget_cuda(devices)


def _forget_cuda(devices: Any) -> None:
    """Drop the CUDA backends and the module that knows their library; the CPU's stays."""
    sys.modules.pop("minidl.backend.cupy_backend", None)
    devices._cuda_backend.cache_clear()
    devices.get_backend.cache_clear()


def run_compiled(
    kernel: Any, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any
) -> None:
    """Stand in for `launch`: compile the kernel for a GPU and execute its PTX on the CPU."""
    state.counts.launches += 1
    plain = [a._memory if isinstance(a, ndarray) else a for a in arguments]
    assert not any(isinstance(a, np.ndarray) for a in arguments), "a host array in a launch"
    types = tuple(map(numba.typeof, plain))
    compiled(kernel, types).launch(grid, block, *plain, batch=THREADS_AT_ONCE)
