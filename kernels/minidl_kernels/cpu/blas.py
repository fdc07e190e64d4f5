"""NumPy's own OpenBLAS: its products called from compiled code, and its threads held to one.

NumPy's wheels for Linux bring an OpenBLAS that its extension module is linked to; other
builds of NumPy (Debian, conda, macOS) use another BLAS, and `available` is then False.
"""

import ctypes
import importlib
import threading
from typing import Any

import llvmlite.binding
from numba import types
from numba.extending import overload

from minidl_kernels.cpu import pool

_ROW_MAJOR, _NO_TRANSPOSE, _TRANSPOSE = 101, 111, 112  # of CBLAS

_NAMES = (
    "scipy_cblas_sgemm64_",
    "scipy_cblas_dgemm64_",
    "scipy_openblas_get_num_threads64_",
    "scipy_openblas_set_num_threads64_",
)


def _find() -> Any:
    """Return the loaded library, or None if NumPy was built with another BLAS."""
    # A symbol is also looked for in the libraries that this one is linked to.
    extension: Any = importlib.import_module("numpy._core._multiarray_umath")
    library = ctypes.PyDLL(extension.__file__)
    return library if all(hasattr(library, name) for name in _NAMES) else None


_library = _find()
available = _library is not None

if available:
    # Before any kernel: one from the cache that names an unknown symbol would end the process.
    for _name in _NAMES[:2]:
        _address = ctypes.cast(getattr(_library, _name), ctypes.c_void_p).value
        llvmlite.binding.add_symbol(_name, _address)


class _OneThread:
    """Holds OpenBLAS to one thread while it is entered, however often and by whichever thread.

    Where there is no pool beside it (`pool.has_tbb`), OpenBLAS keeps its threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._holds = False
        self._usual = 1

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._holds = available and pool.has_tbb()
                if self._holds:
                    self._usual = _library.scipy_openblas_get_num_threads64_()
                    _library.scipy_openblas_set_num_threads64_(1)
            self._depth += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0 and self._holds:
                _library.scipy_openblas_set_num_threads64_(self._usual)


one_thread = _OneThread()


def _signature(floating: Any) -> Any:
    integer, enum, address = types.int64, types.int32, types.intp
    nothing: Any = types.void
    matrix = (address, integer)
    return nothing(
        enum, enum, enum, integer, integer, integer,
        floating, *matrix, *matrix, floating, *matrix,
    )  # fmt: skip


_sgemm: Any = types.ExternalFunction("scipy_cblas_sgemm64_", _signature(types.float32))
_dgemm: Any = types.ExternalFunction("scipy_cblas_dgemm64_", _signature(types.float64))


def gemm(
    transpose_a: Any, transpose_b: Any, m: Any, n: Any, k: Any,
    a: Any, lda: Any, b: Any, ldb: Any, c: Any, ldc: Any, one: Any,
) -> None:  # fmt: skip
    """Write the product of two row-major matrices; only compiled code can call it.

    `a`, `b` and `c` are addresses; `one` is 1 in the dtype of the matrices.
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
