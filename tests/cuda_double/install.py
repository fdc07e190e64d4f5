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

from cuda_double.capture import arrays_in, memory_of, perform
from cuda_double.cublaslt import CublasLt
from cuda_double.devices import Counts, Misuse, state
from cuda_double.graphs import driver_of
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
    from cuda.bindings import driver
    from minidl_kernels.cuda import blas, launch, recording, reduction

    import minidl.backend as devices

    double = _double()
    library = blas.declared(CublasLt())
    state.reset(device_count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", double)
        patch.setitem(sys.modules, "cupy.cuda", double.cuda)
        patch.setattr(launch, "launch", run_compiled)
        for module in (blas, recording, reduction):
            patch.setattr(module, "cupy", double)
        patch.setattr(blas, "load", lambda: library)
        patch.setattr(recording, "driver", driver_of(driver))
        try:
            _forget_cuda(devices)
            yield state.counts
        finally:
            _forget_cuda(devices)


def _forget_cuda(devices: Any) -> None:
    """Drop the CUDA backends and the module that knows their library; the CPU's stays."""
    from minidl_kernels.cuda import blas, recording

    for name in ("minidl.backend.cupy_backend", "minidl.distributed.cuda_transfer"):
        sys.modules.pop(name, None)
    recording._stream.cache_clear()
    recording._pools_in_use.clear()
    blas.on_device.cache_clear()
    devices._cuda_backend.cache_clear()
    devices.get_backend.cache_clear()


def run_compiled(
    kernel: Any, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any
) -> None:
    """Stand in for `launch`: compile the kernel for a GPU and execute its PTX on the CPU."""
    assert not any(isinstance(a, np.ndarray) for a in arguments), "a host array in a launch"
    types = tuple(numba.typeof(memory_of(argument)) for argument in arguments)
    loaded = (kernel, types, state.current_device)
    state.launch()

    def execute(*plain: Any) -> None:
        built = compiled(kernel, types)
        built.launch(grid, block, *plain, batch=THREADS_AT_ONCE, counting=False)

    if state.capture is None:
        state.loaded.add(loaded)
        perform(execute, *arguments, writes=True)
    elif loaded in state.loaded:
        node = functools.partial(execute, *memory_of(arguments))
        state.capture.append(arrays_in(arguments), node)
    else:
        raise Misuse(f"the first launch of {kernel.__name__} is in a capture: it loads a module")
