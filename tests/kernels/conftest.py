"""Execution of CUDA kernels without a GPU, as they are compiled."""

from importlib.util import find_spec

import pytest


@pytest.fixture
def executed():
    """A backend whose CUDA kernels are executed on the CPU, and the list of its launches."""
    if find_spec("numba_cuda") is None or find_spec("cupy") is None:
        pytest.skip("numba-cuda and CuPy are not installed: no CUDA kernel is compiled")
    import numba
    from backends import launches_go_to
    from compiled import compiled

    launches = []

    def run(kernel, grid, block, *arguments):
        launches.append((kernel, grid, block))
        types = tuple(map(numba.typeof, arguments))
        compiled(kernel, types).launch(grid, block, *arguments)

    with launches_go_to(run) as backend:
        yield backend, launches
