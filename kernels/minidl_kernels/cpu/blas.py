"""OpenBLAS of NumPy's wheels: matrix products in compiled code, and a limit of one thread.

NumPy's wheels for Linux contain an OpenBLAS, to which the extension module is linked. Other builds
of NumPy (Debian, conda, macOS) use another BLAS; `available` is then False.
"""

import ctypes
import importlib
from typing import Any

import llvmlite.binding
import numpy as np
from numba import types
from numba.extending import overload

from minidl_kernels.cpu import jit

_ROW_MAJOR, _NO_TRANSPOSE, _TRANSPOSE = 101, 111, 112  # of CBLAS

_NAMES = (
    "scipy_cblas_sgemm64_",
    "scipy_cblas_dgemm64_",
    "scipy_openblas_get_num_threads64_",
    "scipy_openblas_set_num_threads64_",
)


def _find() -> Any:
    """Return the loaded library, or None if NumPy was built with another BLAS."""
    # A symbol is also searched in the libraries to which this one is linked.
    extension: Any = importlib.import_module("numpy._core._multiarray_umath")
    library = ctypes.PyDLL(extension.__file__)
    return library if all(hasattr(library, name) for name in _NAMES) else None


_library = _find()
available = _library is not None

if available:
    # Register the symbols before any kernel loads: a cached kernel with an unknown symbol would
    # crash the process.
    for _name in _NAMES:
        _address = ctypes.cast(getattr(_library, _name), ctypes.c_void_p).value
        llvmlite.binding.add_symbol(_name, _address)


def _signature(floating: Any) -> Any:
    integer, enum, address = types.int64, types.int32, types.intp
    nothing: Any = types.void
    matrix = (address, integer)
    return nothing(
        enum, enum, enum, integer, integer, integer,
        floating, *matrix, *matrix, floating, *matrix,
    )  # fmt: skip


_get_threads: Any = types.ExternalFunction(_NAMES[2], types.int32())
_set_threads: Any = types.ExternalFunction(_NAMES[3], types.void(types.int32))

# The number of products that limit OpenBLAS to one thread, and its usual number of threads. Only
# compiled code changes them. It holds the GIL outside parallel regions, so there are no races.
holders = np.zeros(2, np.int64)


@jit.inline
def hold(holders: Any) -> None:
    """Limit OpenBLAS to one thread until every `hold` has a matching `release`."""
    if holders[0] == 0:
        holders[1] = _get_threads()
        _set_threads(1)
    holders[0] += 1


@jit.inline
def release(holders: Any) -> None:
    """End one `hold`; after the last one, restore the number of threads of OpenBLAS."""
    holders[0] -= 1
    if holders[0] == 0:
        _set_threads(holders[1])


_sgemm: Any = types.ExternalFunction(_NAMES[0], _signature(types.float32))
_dgemm: Any = types.ExternalFunction(_NAMES[1], _signature(types.float64))


def gemm(
    transpose_a: Any, transpose_b: Any, m: Any, n: Any, k: Any,
    a: Any, lda: Any, b: Any, ldb: Any, c: Any, ldc: Any, one: Any,
) -> None:  # fmt: skip
    """Write the product of two row-major matrices; only compiled code can call it.

    `a`, `b` and `c` are memory addresses; `one` is 1 in the dtype of the matrices.
    """
    raise NotImplementedError


@overload(gemm)
def _gemm(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, one):  # type: ignore
    routine = _sgemm if one == types.float32 else _dgemm

    def call(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, one):  # type: ignore
        routine(
            _ROW_MAJOR,
            _TRANSPOSE if transpose_a else _NO_TRANSPOSE,
            _TRANSPOSE if transpose_b else _NO_TRANSPOSE,
            m, n, k, one, a, lda, b, ldb, one - one, c, ldc,
        )  # fmt: skip

    return call
