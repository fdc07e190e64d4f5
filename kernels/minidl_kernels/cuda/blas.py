"""Matrix products by cuBLASLt, with the same bits in a CUDA graph and outside of one.

CuPy rejects products while a stream captures. Here, an algorithm is chosen once for each kind of
product, and each product has a workspace of its own. Nothing else decides the bits.

The constants are those of ``cublasLt.h``, ``cublas_api.h`` and ``library_types.h``. They are the
same in CUDA 12 and 13.
"""

import ctypes
import functools
from ctypes import byref, c_double, c_float, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, NamedTuple

import cupy
import numpy as np
from cuda import pathfinder

from minidl_kernels.checks import KERNEL_TYPES

WORKSPACE = 2**25  # bytes at most; what NVIDIA recommends for Hopper

_SUCCESS = 0  # CUBLAS_STATUS_SUCCESS
_NO_TRANSPOSE, _TRANSPOSE = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T

# CUBLASLT_MATMUL_DESC_TRANSA and _TRANSB, of the type cublasLtMatmulDescAttributes_t
_DESC_TRANSPOSE_A, _DESC_TRANSPOSE_B = 3, 4

# CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, _REDUCTION_SCHEME_MASK, and _MIN_ALIGNMENT_A_BYTES to
# _MIN_ALIGNMENT_D_BYTES, of the type cublasLtMatmulPreferenceAttributes_t
_PREF_WORKSPACE, _PREF_REDUCTION, _PREF_ALIGNMENTS = 1, 3, (5, 6, 7, 8)

# CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: if blocks share the sum of an element, they write their
# parts to the workspace, and a separate step adds these in a fixed order. This excludes
# CUBLASLT_REDUCTION_SCHEME_INPLACE, where each block adds its part to the result. Algorithms that
# share no sums (CUBLASLT_REDUCTION_SCHEME_NONE = 0) pass every mask.
_REDUCTION_IN_ORDER = 2


class _Arithmetic(NamedTuple):
    """How cuBLASLt computes with a dtype."""

    data: int  # cudaDataType_t, of the matrices, and of the factors alpha and beta
    compute: int  # cublasComputeType_t
    factor: Any  # the type of alpha and beta


_ARITHMETIC = {
    # CUDA_R_32F and CUBLAS_COMPUTE_32F: without the TF32 of CUBLAS_COMPUTE_32F_FAST_TF32, whatever
    # CUPY_TF32 says
    np.dtype("float32"): _Arithmetic(0, 68, c_float),
    # CUDA_R_64F and CUBLAS_COMPUTE_64F
    np.dtype("float64"): _Arithmetic(1, 70, c_double),
}


class _Algorithm(ctypes.Structure):
    """The structure ``cublasLtMatmulAlgo_t``."""

    _fields_ = (("data", c_uint64 * 8),)


class _HeuristicResult(ctypes.Structure):
    """The structure ``cublasLtMatmulHeuristicResult_t``."""

    _fields_ = (
        ("algo", _Algorithm),
        ("workspaceSize", c_size_t),
        ("state", c_int),
        ("wavesCount", c_float),
        ("reserved", c_int * 4),
    )


# The types of the arguments; each function returns a cublasStatus_t. Handles, descriptors and
# pointers are addresses; enumerations are ints.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (c_void_p,),
    "cublasLtMatmulDescCreate": (c_void_p, c_int, c_int),
    "cublasLtMatmulDescSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "cublasLtMatrixLayoutCreate": (c_void_p, c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatmulPreferenceCreate": (c_void_p,),
    "cublasLtMatmulPreferenceSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    # handle, operation, layouts of A, B, C and D, preference, requested, results, returned
    "cublasLtMatmulAlgoGetHeuristic": (*[c_void_p] * 7, c_int, c_void_p, c_void_p),
    # handle, operation, alpha, A and layout, B and layout, beta, C and layout, D and layout,
    # algorithm, workspace, its size, stream
    "cublasLtMatmul": (*[c_void_p] * 14, c_size_t, c_void_p),
}


class Kind(NamedTuple):
    """What one algorithm is chosen for: products of (rows, inner) and (inner, columns)."""

    dtype: np.dtype
    rows: int
    columns: int
    inner: int
    transpose_a: bool  # whether `a` is stored as (inner, rows)
    transpose_b: bool

    def __str__(self) -> str:
        a, b = (self.rows, self.inner), (self.inner, self.columns)
        stored = [
            f"{shape[::-1]} transposed" if transposed else f"{shape}"
            for shape, transposed in ((a, self.transpose_a), (b, self.transpose_b))
        ]
        return f"{self.dtype} {stored[0]} by {stored[1]}"


class _Plan(NamedTuple):
    """A kind of product as `cublasLtMatmul` takes it."""

    operation: Any
    alpha: Any
    beta: Any
    a: Any  # layouts
    b: Any
    out: Any
    algorithm: Any
    workspace: int  # bytes that the algorithm needs


def fits(a: Any, b: Any, out: Any | None) -> bool:
    """Return whether `multiply` can compute a product; `out` may be None."""
    return (
        a.ndim == b.ndim == 2
        and a.dtype == b.dtype
        and a.dtype in KERNEL_TYPES
        and a.size > 0
        and b.size > 0
        and (out is None or (out.dtype == a.dtype and out.flags.c_contiguous))
    )


def multiply(a: Any, b: Any, transpose_a: bool, transpose_b: bool, out: Any | None) -> Any:
    """Return the product of two matrices, computed on CuPy's current stream.

    The first product of a kind asks cuBLASLt for its algorithm. It cannot run while the stream
    captures.

    Parameters
    ----------
    a, b : cupy.ndarray
        Matrices that `fits` accepts. Without C or Fortran order, they are copied.
    transpose_a, transpose_b : bool
        Whether to swap the axes first.
    out : cupy.ndarray or None
        C-contiguous array for the result, which may not overlap `a` or `b`.

    Raises
    ------
    RuntimeError
        If cuBLASLt is not found or fails, or if the stream captures the first product of a kind.
    """
    a, transpose_a = _stored(a, transpose_a)
    b, transpose_b = _stored(b, transpose_b)
    inner, rows = a.shape if transpose_a else a.shape[::-1]
    columns = b.shape[0] if transpose_b else b.shape[1]
    if out is None:
        out = cupy.empty((rows, columns), a.dtype)
    kind = Kind(a.dtype, rows, columns, inner, transpose_a, transpose_b)
    device = on_device(cupy.cuda.runtime.getDevice())
    device.multiply(kind, a.data.ptr, b.data.ptr, out.data.ptr)
    return out


def _stored(matrix: Any, transposed: bool) -> tuple[Any, bool]:
    """Return a matrix in C order, and whether its product needs it transposed."""
    if matrix.flags.c_contiguous:
        return matrix, transposed
    if matrix.flags.f_contiguous:
        return matrix.T, not transposed
    return cupy.ascontiguousarray(matrix), transposed


class _Device:
    """A device's handle of cuBLASLt, and its plans by kind of product."""

    def __init__(self) -> None:
        self._plans: dict[Kind, _Plan] = {}

    @functools.cached_property
    def _library(self) -> Any:
        return load()

    @functools.cached_property
    def _handle(self) -> Any:
        return self._created("cublasLtCreate")

    def multiply(self, kind: Kind, a: int, b: int, out: int) -> None:
        """Queue a product of the matrices at these addresses on the current stream.

        The workspace is freed at once: CuPy's pools give its memory to later work on the same
        stream only. That of a recorded product belongs to the recording, whose pool is the current
        one. So the recording can be replayed on any stream. CuPy aligns memory to 512 bytes, and
        cuBLASLt requires 256.
        """
        stream = cupy.cuda.get_current_stream()
        plan = self._plans.get(kind) or self._new_plan(kind, stream)
        workspace = cupy.cuda.alloc(plan.workspace) if plan.workspace else None
        self._library.cublasLtMatmul(
            self._handle, plan.operation, plan.alpha, b, plan.b, a, plan.a, plan.beta,
            out, plan.out, out, plan.out, plan.algorithm,
            0 if workspace is None else workspace.ptr, plan.workspace, stream.ptr,
        )  # fmt: skip

    def _new_plan(self, kind: Kind, stream: Any) -> _Plan:
        """Ask cuBLASLt for the algorithm of a kind of product, and keep it.

        cuBLASLt stores matrices by columns. A matrix in C order is its own transpose to it. So it
        is asked for the transposed product, with the factors in the other order.
        """
        _refuse_capture(stream, kind)
        arithmetic = _ARITHMETIC[kind.dtype]
        operation = self._created("cublasLtMatmulDescCreate", arithmetic.compute, arithmetic.data)
        for attribute, transposed in (
            (_DESC_TRANSPOSE_A, kind.transpose_b),
            (_DESC_TRANSPOSE_B, kind.transpose_a),
        ):
            value = c_int(_TRANSPOSE if transposed else _NO_TRANSPOSE)
            self._set("cublasLtMatmulDescSetAttribute", operation, attribute, value)
        a = self._layout(arithmetic, kind.rows, kind.inner, kind.transpose_a)
        b = self._layout(arithmetic, kind.inner, kind.columns, kind.transpose_b)
        out = self._layout(arithmetic, kind.rows, kind.columns, False)
        result, count = _HeuristicResult(), c_int()
        self._library.cublasLtMatmulAlgoGetHeuristic(
            self._handle, operation, b, a, out, out, self._preference(kind.dtype),
            1, byref(result), byref(count),
        )  # fmt: skip
        if count.value == 0 or result.state != _SUCCESS:
            raise RuntimeError(
                f"matmul: expected an algorithm of cuBLASLt for {kind}, got none. Reshape the "
                "operands, or use the device cpu."
            )
        alpha, beta = byref(arithmetic.factor(1)), byref(arithmetic.factor(0))
        algorithm = byref(result.algo)
        plan = _Plan(operation, alpha, beta, a, b, out, algorithm, result.workspaceSize)
        return self._plans.setdefault(kind, plan)  # the first one, if two threads are here

    def _preference(self, dtype: np.dtype) -> Any:
        """Return what cuBLASLt shall observe when it chooses an algorithm."""
        preference = self._created("cublasLtMatmulPreferenceCreate")
        # Weights are views of a flat array, aligned to an element only. With the default of 256
        # bytes, the algorithm could need more alignment than an address has.
        alignment = c_uint32(dtype.itemsize)
        for attribute, value in (
            (_PREF_WORKSPACE, c_uint64(WORKSPACE)),
            (_PREF_REDUCTION, c_uint32(_REDUCTION_IN_ORDER)),
            *((attribute, alignment) for attribute in _PREF_ALIGNMENTS),
        ):
            self._set("cublasLtMatmulPreferenceSetAttribute", preference, attribute, value)
        return preference

    def _layout(self, arithmetic: _Arithmetic, rows: int, columns: int, transposed: bool) -> Any:
        """Describe a matrix of C order that is stored as (rows, columns), or transposed."""
        length, width = (columns, rows) if transposed else (rows, columns)
        return self._created("cublasLtMatrixLayoutCreate", arithmetic.data, width, length, width)

    def _created(self, function: str, *arguments: int) -> Any:
        pointer = c_void_p()
        getattr(self._library, function)(byref(pointer), *arguments)
        return pointer

    def _set(self, function: str, descriptor: Any, attribute: int, value: Any) -> None:
        size = ctypes.sizeof(value)
        getattr(self._library, function)(descriptor, attribute, byref(value), size)


@functools.cache
def on_device(index: int) -> _Device:
    """Return what the current device keeps; it has this number."""
    return _Device()


def _refuse_capture(stream: Any, kind: Kind) -> None:
    """Raise RuntimeError if a stream captures: cuBLASLt may then refuse to choose an algorithm."""
    if stream.is_capturing():
        raise RuntimeError(
            "matmul: expected a product that ran before this capture, got the first one of "
            f"{kind}. Compute it once before the capture."
        )


def load() -> Any:
    """Return the library, with the types of its functions; they raise unless they succeed."""
    try:
        from cupy.cuda import cublas  # noqa: F401, loads the libraries for CuPy's version of CUDA

        library = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path)
    except (ImportError, OSError, pathfinder.DynamicLibNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RuntimeError(
            f"matmul: expected the library cuBLASLt of CUDA, got an error: {reason}. Install "
            "minidl with the extra for your driver: pip install 'minidl[cuda13]' or "
            "'minidl[cuda12]'."
        ) from error
    return declared(library)


def declared(library: Any) -> Any:
    """Declare the functions of the library, and return it."""
    library.cublasLtGetStatusName.argtypes = (c_int,)
    library.cublasLtGetStatusName.restype = ctypes.c_char_p

    def check(status: int, function: Any, arguments: Any) -> None:
        if status != _SUCCESS:
            name = library.cublasLtGetStatusName(status).decode()
            raise RuntimeError(
                f"{function.__name__}: expected CUBLAS_STATUS_SUCCESS, got {name}. Check the "
                "driver and the free memory with nvidia-smi, or report it with cupy.show_config()."
            )

    for name, types in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype, function.errcheck = types, c_int, check
    return library
