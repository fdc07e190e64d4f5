"""Kernels for device arrays, compiled by Numba for CUDA.

Importing needs the numba-cuda package, but no GPU; a kernel is compiled at its first launch.
"""

from importlib.util import find_spec

if find_spec("numba_cuda") is None:
    raise ImportError(
        "minidl_kernels.cuda needs the numba-cuda package, which is not installed: "
        "pip install 'minidl[cuda13]' (or cuda12)"
    )
