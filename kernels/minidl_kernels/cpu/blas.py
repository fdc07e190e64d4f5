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

# With AVX-512, OpenBLAS multiplies small matrices without copying them in the order in which its
# kernels read them (kernel/x86_64/*gemm_small_kernel*). The copies take up to a third of the time.
SMALL = 1_000_000  # multiplications
_AVX512 = b"SkylakeX", b"Cooperlake", b"SapphireRapids"
_has_small = False
_DEPTHS = {"float32": 448, "float64": 384}

if available:
    # Register the symbols before any kernel loads: a cached kernel with an unknown symbol would
    # crash the process.
    for _name in _NAMES:
        _address = ctypes.cast(getattr(_library, _name), ctypes.c_void_p).value
        llvmlite.binding.add_symbol(_name, _address)
    _core = _library.scipy_openblas_get_corename64_
    _core.restype = ctypes.c_char_p
    _has_small = _core() in _AVX512


def core_name() -> str:
    """Return the kind of processor that OpenBLAS has chosen its kernels for; empty if unknown."""
    return _core().decode() if available else ""


def tile_depth(multiplications: int, a: Any, b: Any, out: Any) -> int:
    """Return the inner size of the largest tiles of a product; 0 if tiles do not pay.

    A large product reads each element so often that copies pay, and so does one of arrays with long
    rows, in which each row of a tile is in another page of memory. OpenBLAS adds up the columns
    after the last multiple of 16 in another order; without them, tiles do not change any bit.
    """
    longest = max(array.strides[0] for array in (a, b, out))
    pays = multiplications * out.itemsize <= 1_000_000_000 and longest <= 4096
    return _DEPTHS[out.dtype.name] if _has_small and pays and out.shape[1] % 16 == 0 else 0


@jit.inline
def part(inner: Any, most: Any) -> Any:
    """Return the first part of an inner size, in the parts in which OpenBLAS itself adds it up."""
    if inner < 2 * most:
        return inner if inner <= most else (inner // 2 + 15) // 16 * 16
    return most


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
    a: Any, lda: Any, b: Any, ldb: Any, c: Any, ldc: Any, one: Any, factor: Any,
) -> None:  # fmt: skip
    """Write the product of two row-major matrices, plus factor * c; for compiled code only.

    `a`, `b` and `c` are memory addresses; `one` is 1 in the dtype of the matrices.
    """
    raise NotImplementedError


@overload(gemm)
def _gemm(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, one, factor):  # type: ignore
    routine = _sgemm if one == types.float32 else _dgemm

    def call(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, one, factor):  # type: ignore
        routine(
            _ROW_MAJOR,
            _TRANSPOSE if transpose_a else _NO_TRANSPOSE,
            _TRANSPOSE if transpose_b else _NO_TRANSPOSE,
            m, n, k, one, a, lda, b, ldb, factor, c, ldc,
        )  # fmt: skip

    return call
