"""How the tests of the CUDA kernels' host functions execute them without a GPU."""

from importlib.util import find_spec

import pytest

CAPABILITY = (9, 0)


@pytest.fixture
def executed(monkeypatch):
    """Execute what is launched, as it is compiled for a GPU, on the CPU; list the launches."""
    if find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed: no CUDA kernel is compiled")
    import numba
    from minidl_kernels.cuda import launch

    from bench import kernels as bench

    launches = []

    def run(kernel, grid, block, stream, *arguments):
        launches.append((kernel, grid, block, stream))
        types = tuple(map(numba.typeof, arguments))
        bench.compiled(kernel, types, CAPABILITY).launch(grid, block, *arguments)

    monkeypatch.setattr(launch, "launch", run)
    return launches
