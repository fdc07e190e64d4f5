"""Kernels for CuPy arrays, compiled by Numba for CUDA.

An import needs numba-cuda and CuPy, but no GPU; a kernel is compiled at its first launch.
"""

from importlib.util import find_spec

if find_spec("numba_cuda") is None:
    raise ImportError(
        "minidl_kernels.cuda: expected the package numba-cuda, got none. "
        "Run pip install 'minidl[cuda13]' (or cuda12)."
    )
