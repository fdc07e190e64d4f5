"""Products by cuBLASLt: values, plans, workspaces, capture and errors, on the CUDA double.

Its C functions (`cuda_double.cublaslt`) check each argument and raise `Misuse`.
"""

import concurrent.futures
import ctypes
import functools
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from backends import host

from minidl import get_backend

if not all(map(importlib.util.find_spec, ("numba_cuda", "cupy"))):
    pytest.skip("numba-cuda and CuPy are not installed", allow_module_level=True)

from cuda_double import cublaslt
from cuda_double.devices import Misuse
from minidl_kernels.cuda import blas

TRANSPOSED = [(False, False), (False, True), (True, False), (True, True)]
SIZES = [(1, 1, 1), (1, 5, 3), (5, 1, 3), (5, 3, 1), (7, 9, 13), (3, 2, 70), (33, 10, 129)]
LONG = cublaslt.LONG_SUM + 1  # an inner size whose products need a workspace


@pytest.fixture
def cuda(cuda_double):
    return get_backend("cuda")


@pytest.fixture
def xp(cuda):
    return cuda.xp


@pytest.fixture
def library(cuda):
    return blas.load()


def integers(shape, dtype, seed=1):
    """Return small integers, whose products are exact in any order."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


def product(cuda, a, b, **options):
    return host(cuda, cuda.matmul(cuda.asarray(a), cuda.asarray(b), **options))[0]


# ------------------------------------------------------------------------------ the header

# Printed by a C program that includes cublasLt.h, compiled with the headers of the packages
# nvidia-cublas-cu12 12.4.5.8 and nvidia-cublas 13.10.0.20; both print the same.
HEADER = {
    "CUBLAS_STATUS_SUCCESS": (0, blas._SUCCESS),
    "CUBLAS_OP_N": (0, blas._NO_TRANSPOSE),
    "CUBLAS_OP_T": (1, blas._TRANSPOSE),
    "CUDA_R_32F": (0, blas._ARITHMETIC[np.dtype("float32")].data),
    "CUDA_R_64F": (1, blas._ARITHMETIC[np.dtype("float64")].data),
    "CUBLAS_COMPUTE_32F": (68, blas._ARITHMETIC[np.dtype("float32")].compute),
    "CUBLAS_COMPUTE_64F": (70, blas._ARITHMETIC[np.dtype("float64")].compute),
    "CUBLASLT_MATMUL_DESC_TRANSA": (3, blas._DESC_TRANSPOSE_A),
    "CUBLASLT_MATMUL_DESC_TRANSB": (4, blas._DESC_TRANSPOSE_B),
    "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": (1, blas._PREF_WORKSPACE),
    "CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK": (3, blas._PREF_REDUCTION),
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES": (5, blas._PREF_ALIGNMENTS[0]),
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES": (6, blas._PREF_ALIGNMENTS[1]),
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES": (7, blas._PREF_ALIGNMENTS[2]),
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES": (8, blas._PREF_ALIGNMENTS[3]),
    "CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE": (2, blas._REDUCTION_IN_ORDER),
    "sizeof(cublasLtMatmulAlgo_t)": (64, ctypes.sizeof(blas._Algorithm)),
    "_Alignof(cublasLtMatmulAlgo_t)": (8, ctypes.alignment(blas._Algorithm)),
    "sizeof(cublasLtMatmulHeuristicResult_t)": (96, ctypes.sizeof(blas._HeuristicResult)),
    "offsetof(..., workspaceSize)": (64, blas._HeuristicResult.workspaceSize.offset),
    "offsetof(..., state)": (72, blas._HeuristicResult.state.offset),
    "offsetof(..., wavesCount)": (76, blas._HeuristicResult.wavesCount.offset),
    "offsetof(..., reserved)": (80, blas._HeuristicResult.reserved.offset),
}


@pytest.mark.parametrize("name", HEADER)
def test_constant_is_that_of_the_header(name):
    in_header, ours = HEADER[name]
    assert ours == in_header


def test_double_has_the_sizes_of_the_header():
    assert cublaslt.ALGORITHM.size == 64
    assert cublaslt.RESULT.size == 96


def test_argument_types_are_those_of_the_double():
    assert blas._SIGNATURES == cublaslt.SIGNATURES


def read(get, descriptor, attribute, kind):
    """Return an attribute of a descriptor of the real library."""
    value, written = kind(), ctypes.c_size_t()
    status = get(
        *(descriptor, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))),
        ctypes.byref(written),
    )
    assert (status, written.value) == (0, ctypes.sizeof(value))
    return value.value


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_real_library_keeps_the_descriptors(dtype):
    """Descriptors need no GPU."""
    try:
        blas.pathfinder.load_nvidia_dynamic_lib("cublasLt")
    except blas.pathfinder.DynamicLibNotFoundError:
        pytest.skip("cuBLASLt is not installed (the extra cuda13 or cuda12)")
    library = blas.load()
    device, arithmetic = blas._Device(), blas._ARITHMETIC[np.dtype(dtype)]
    layout = device._layout(arithmetic, 3, 5, True)
    get = library.cublasLtMatrixLayoutGetAttribute
    # CUBLASLT_MATRIX_LAYOUT_TYPE, _ORDER, _ROWS, _COLS, _LD: stored by columns
    kinds = (ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64)
    layouts = [read(get, layout, attribute, kind) for attribute, kind in enumerate(kinds)]
    assert layouts == [arithmetic.data, 0, 3, 5, 3]
    preference = device._preference(np.dtype(dtype))
    get = functools.partial(read, library.cublasLtMatmulPreferenceGetAttribute, preference)
    assert get(blas._PREF_WORKSPACE, ctypes.c_uint64) == blas.WORKSPACE
    assert get(blas._PREF_REDUCTION, ctypes.c_uint32) == blas._REDUCTION_IN_ORDER
    for attribute in blas._PREF_ALIGNMENTS:
        assert get(attribute, ctypes.c_uint32) == np.dtype(dtype).itemsize
    operation = device._created("cublasLtMatmulDescCreate", arithmetic.compute, arithmetic.data)
    for attribute in (blas._DESC_TRANSPOSE_A, blas._DESC_TRANSPOSE_B):
        value = ctypes.c_int(blas._TRANSPOSE)
        device._set("cublasLtMatmulDescSetAttribute", operation, attribute, value)
        get = library.cublasLtMatmulDescGetAttribute
        assert read(get, operation, attribute, ctypes.c_int) == blas._TRANSPOSE


# ------------------------------------------------------------------------------ values

STORED = {
    "C order": lambda x: x,
    "Fortran order": lambda x: x.T.copy().T,
    "every second column": lambda x: x.repeat(2, axis=1)[:, ::2],
    "some columns": lambda x: x.repeat(2, axis=0).reshape(len(x), -1)[:, : x.shape[1]],
    "reversed": lambda x: x[::-1].copy()[::-1],
}


def in_flat(xp, x, offset):
    """Return a matrix that begins `offset` elements behind an aligned address."""
    flat = xp.zeros(x.size + offset, x.dtype)
    view = flat[offset:].reshape(x.shape)
    view[...] = xp.asarray(x)
    return view


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSED)
def test_product_is_that_of_numpy(transpose_a, transpose_b, dtype, cuda, library):
    for rows, columns, inner in SIZES:
        a = integers((inner, rows) if transpose_a else (rows, inner), dtype)
        b = integers((columns, inner) if transpose_b else (inner, columns), dtype, seed=2)
        expected = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
        received = product(cuda, a, b, transpose_a=transpose_a, transpose_b=transpose_b)
        np.testing.assert_array_equal(received, expected, strict=True)
    assert library.cublasLtMatmul.calls == len(SIZES)


@pytest.mark.parametrize("second", STORED)
@pytest.mark.parametrize("first", STORED)
@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSED)
def test_strides_do_not_matter(transpose_a, transpose_b, first, second, cuda, xp, library):
    a, b = integers((6, 6), "float32"), integers((6, 6), "float32", seed=2)
    stored = STORED[first](xp.asarray(a)), STORED[second](xp.asarray(b))
    received = cuda.matmul(*stored, transpose_a=transpose_a, transpose_b=transpose_b)
    expected = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
    np.testing.assert_array_equal(*host(cuda, received), expected)
    assert library.cublasLtMatmul.calls == 1


@pytest.mark.parametrize("offsets", [(0, 0, 0), (1, 0, 0), (0, 3, 0), (0, 0, 5), (1, 2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_product_has_the_same_bits_at_any_address(dtype, offsets, backend):
    rng = np.random.default_rng(3)
    shapes = (33, 129), (129, 17), (33, 17)
    a, b, out = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    (expected,) = host(backend, backend.matmul(backend.asarray(a), backend.asarray(b)))
    views = [in_flat(backend.xp, x, n) for x, n in zip((a, b, out), offsets, strict=True)]
    assert backend.matmul(views[0], views[1], out=views[2]) is views[2]
    np.testing.assert_array_equal(*host(backend, views[2]), expected)


# ------------------------------------------------------------------------------ what it computes


def test_product_writes_to_out(cuda, xp, library):
    a, b = integers((3, 4), "float32"), integers((4, 5), "float32")
    out = xp.full((3, 5), np.nan, "float32")
    assert cuda.matmul(xp.asarray(a), xp.asarray(b), out=out) is out
    np.testing.assert_array_equal(*host(cuda, out), a @ b)
    assert library.cublasLtMatmul.calls == 1


@pytest.mark.parametrize(
    ("left", "right", "dtypes"),
    [
        ((2, 3), (3, 4), ("float16", "float16")),
        ((2, 3), (3, 4), ("int32", "int32")),
        ((2, 3), (3, 4), ("float32", "float64")),
        ((0, 3), (3, 4), ("float32", "float32")),
        ((2, 0), (0, 4), ("float32", "float32")),
        ((2, 3), (3, 0), ("float32", "float32")),
        ((3,), (3, 4), ("float32", "float32")),
        ((2, 3), (3,), ("float32", "float32")),
        ((5, 2, 3), (3, 4), ("float32", "float32")),
    ],
)
def test_other_products_are_left_to_cupy(left, right, dtypes, cuda, library):
    a, b = integers(left, dtypes[0]), integers(right, dtypes[1])
    np.testing.assert_array_equal(product(cuda, a, b), a @ b, strict=True)
    assert library.cublasLtMatmul.calls == 0


def test_out_in_another_order_is_left_to_cupy(cuda, xp, library):
    a, b = (xp.asarray(integers((4, 4), "float32")) for _ in range(2))
    out = xp.zeros((4, 4), "float32").T
    with pytest.raises(ValueError, match=r"(?i)output array"):
        cuda.matmul(a, b, out=out)
    assert library.cublasLtMatmul.calls == 0


def test_product_is_one_launch_and_nothing_else(cuda, xp, cuda_double):
    a, b = (xp.asarray(integers((LONG, LONG), "float32")) for _ in range(2))
    cuda_double.reset()
    cuda.matmul(a, b)
    cuda.matmul(a, b, transpose_b=True)
    assert {name: n for name, n in vars(cuda_double).items() if n} == {"launches": 2}


# ------------------------------------------------------------------------------ plans


def test_algorithm_is_chosen_once_for_each_kind(cuda, library):
    a, b = integers((4, 4), "float32"), integers((4, 4), "float32")
    for _ in range(3):
        for transpose_a, transpose_b in TRANSPOSED:
            product(cuda, a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    assert library.cublasLtMatmulAlgoGetHeuristic.calls == 4
    product(cuda, a[:3], b)
    product(cuda, a.astype("float64"), b.astype("float64"))
    assert library.cublasLtMatmulAlgoGetHeuristic.calls == 6
    assert library.cublasLtMatmul.calls == 14
    assert library.cublasLtCreate.calls == 1


def test_fortran_order_shares_the_algorithm_of_the_transposed(cuda, xp, library):
    a, b = (xp.asarray(integers((4, 6), "float32")) for _ in range(2))
    cuda.matmul(a, b, transpose_b=True)
    cuda.matmul(a, b.T)
    assert library.cublasLtMatmulAlgoGetHeuristic.calls == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_algorithm_is_chosen_for_any_address_and_in_order_sums(dtype, cuda, library):
    a = integers((3, 3), dtype)
    product(cuda, a, a)
    size = a.itemsize
    assert library.choices == [
        {
            "workspace": 2**25,
            "reduction": 2,
            **dict.fromkeys(("alignment_a", "alignment_b", "alignment_c", "alignment_d"), size),
        }
    ]


def test_each_device_has_a_handle(cuda_double):
    from cuda_double.install import cuda_double as installed

    a = integers((3, LONG), "float32")
    with installed(device_count=2):
        library = blas.load()
        for name in ("cuda:0", "cuda:1", "cuda:0"):
            backend = get_backend(name)
            with backend.active:
                received = product(backend, a, a, transpose_b=True)
            np.testing.assert_array_equal(received, a @ a.T)
        assert library.cublasLtCreate.calls == 2
        assert library.cublasLtMatmulAlgoGetHeuristic.calls == 2


def test_workspace_is_as_large_as_the_algorithm_needs(cuda, xp, monkeypatch):
    sizes = []
    alloc = xp.cuda.alloc
    monkeypatch.setattr(xp.cuda, "alloc", lambda size: sizes.append(size) or alloc(size))
    short, long = (integers((4, inner), "float32") for inner in (4, LONG))
    product(cuda, short, short, transpose_b=True)
    assert sizes == []
    for _ in range(2):
        product(cuda, long, long, transpose_b=True)
    assert sizes == [cublaslt.NEED] * 2


# ------------------------------------------------------------------------------ capture


@pytest.fixture
def stream(xp):
    with xp.cuda.Stream(non_blocking=True) as stream:
        yield stream


@pytest.fixture
def operands(xp, stream):
    rng = np.random.default_rng(4)
    shapes = (5, LONG), (LONG, 7), (5, 7)
    return [xp.asarray(rng.standard_normal(shape).astype("float32")) for shape in shapes]


def test_captured_product_has_the_bits_of_the_eager_one(cuda, xp, stream, operands, cuda_double):
    a, b, out = operands
    cuda.matmul(a, b, out=out)
    (expected,) = host(cuda, out)
    out[...] = 0
    pool = xp.cuda.MemoryPool()
    with xp.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        captured = cuda.matmul(a, b)
        cuda.matmul(a, b, out=out)
        graph = stream.end_capture()
    assert cuda_double.nodes == 2
    assert not host(cuda, out)[0].any()  # a capture computes nothing
    cuda_double.reset()
    graph.launch()
    assert (cuda_double.graph_launches, cuda_double.launches) == (1, 0)
    np.testing.assert_array_equal(*host(cuda, out), expected)
    np.testing.assert_array_equal(*host(cuda, captured), expected)
    a[...] = b.T[:5]
    graph.launch()
    cuda.matmul(a, b, out=out)
    np.testing.assert_array_equal(*host(cuda, captured, out))


def captured(stream, work):
    stream.begin_capture()
    try:
        work()
    finally:
        stream.end_capture()


def test_new_kind_is_refused_in_capture_before_the_library_is_called(
    cuda, stream, operands, library
):
    a, b, out = operands
    expected = (
        rf"^matmul: expected a product .* got the first one of float32 \(5, {LONG}\) by "
        rf"\({LONG}, 7\)\. Compute it once before the capture\.$"
    )
    for _ in range(2):
        with pytest.raises(RuntimeError, match=expected):
            captured(stream, lambda: cuda.matmul(a, b, out=out))
    functions = [value for value in vars(library).values() if hasattr(value, "calls")]
    assert len(functions) == len(blas._SIGNATURES)
    assert not any(function.calls for function in functions)


def test_product_is_captured_on_a_new_stream(cuda, xp, stream, operands):
    a, b, out = operands
    cuda.matmul(a, b, out=out)
    stream.synchronize()
    pool = xp.cuda.MemoryPool()
    with xp.cuda.Stream(non_blocking=True) as other, xp.cuda.using_allocator(pool.malloc):
        captured(other, lambda: cuda.matmul(a, b, out=out))
    assert pool.total_bytes() == cublaslt.NEED  # the workspace
    assert pool.used_bytes() == 0


@pytest.fixture
def replay_beside_a_product(cuda, xp):
    """Return a function that replays a product in another thread, beside one in this thread."""
    from minidl_kernels.cuda import recording

    def run():
        with recording.stream():
            long = (cuda.asarray(integers((LONG, LONG), "float32", seed)) for seed in range(6))
            a, b, out, *others = long
            cuda.matmul(a, b, out=out)
            record = recording.record(lambda: cuda.matmul(a, b, out=out))
            expected = host(cuda, out)
            out[...] = 0
            xp.cuda.Device().synchronize()
            with concurrent.futures.ThreadPoolExecutor(1) as another_thread:
                another_thread.submit(record.replay, 17).result()
            cuda.matmul(others[0], others[1], out=others[2])  # nothing orders it and the replays
            xp.cuda.Device().synchronize()
            np.testing.assert_array_equal(host(cuda, out), expected)

    return run


def test_recording_is_replayed_in_another_thread_beside_products(replay_beside_a_product):
    replay_beside_a_product()


def test_double_detects_products_that_share_a_workspace(xp, replay_beside_a_product, monkeypatch):
    """The negative control: one workspace for all products of a stream, and its recordings."""
    shared = functools.cache(xp.cuda.alloc)
    workspace = shared(cublaslt.NEED)
    monkeypatch.setattr(xp.cuda, "alloc", shared)
    with pytest.raises(Misuse, match="no event orders"):
        replay_beside_a_product()
    assert workspace.ptr


def test_error_names_transposed_operands():
    kind = blas.Kind(np.dtype("float64"), 2, 4, 3, True, True)
    assert str(kind) == "float64 (3, 2) transposed by (4, 3) transposed"


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("function", "status", "name"),
    [
        ("cublasLtCreate", 1, "CUBLAS_STATUS_NOT_INITIALIZED"),
        ("cublasLtMatrixLayoutCreate", 14, "CUBLAS_STATUS_INTERNAL_ERROR"),
        ("cublasLtMatmulAlgoGetHeuristic", 14, "CUBLAS_STATUS_INTERNAL_ERROR"),
        ("cublasLtMatmul", 14, "CUBLAS_STATUS_INTERNAL_ERROR"),
    ],
)
def test_error_of_the_library_is_named(function, status, name, cuda, library):
    a = integers((3, 3), "float32")
    getattr(library, function).status = status
    with pytest.raises(
        RuntimeError, match=rf"^{function}: expected CUBLAS_STATUS_SUCCESS, got {name}\. "
    ):
        product(cuda, a, a)
    getattr(library, function).status = 0
    np.testing.assert_array_equal(product(cuda, a, a), a @ a)


def test_missing_algorithm_raises(cuda, library):
    library.has_algorithms = False
    a = integers((3, 3), "float32")
    with pytest.raises(
        RuntimeError, match=r"^matmul: expected an algorithm .* float32 \(3, 3\) by"
    ):
        product(cuda, a, a)


def test_missing_library_raises(monkeypatch):
    def not_found(name):
        raise blas.pathfinder.DynamicLibNotFoundError(f"no {name}\nin these folders")

    monkeypatch.setitem(sys.modules, "cupy.cuda", type(sys)("cupy.cuda"))
    sys.modules["cupy.cuda"].cublas = None
    monkeypatch.setattr(blas.pathfinder, "load_nvidia_dynamic_lib", not_found)
    expected = r"^matmul: expected the library cuBLASLt .* error: no cublasLt\. Install minidl"
    with pytest.raises(RuntimeError, match=expected):
        blas.load()


# ------------------------------------------------------------------------------ the double itself


MUTANTS = {
    "an inner size": ("_layout", lambda real: lambda self, *n: real(self, n[0], n[1] + 1, *n[2:])),
    "a leading dimension": (
        "_layout",
        lambda real: (
            lambda self, arithmetic, rows, columns, transposed: self._created(
                "cublasLtMatrixLayoutCreate", arithmetic.data, columns, rows, columns - 1
            )
        ),
    ),
    "the size of an attribute": (
        "_set",
        lambda real: lambda self, *n: real(self, *n[:-1], ctypes.c_uint16(0)),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_double_detects_wrong_arguments(mutant, cuda, monkeypatch):
    """The negative control."""
    name, change = MUTANTS[mutant]
    monkeypatch.setattr(blas._Device, name, change(getattr(blas._Device, name)))
    a = integers((3, 3), "float32")
    with pytest.raises(Misuse, match="cuBLASLt: expected"):
        product(cuda, a, a)


def test_double_detects_wrong_workspaces(cuda, xp, monkeypatch):
    """The negative control."""
    a = integers((LONG, LONG), "float32")
    alloc = xp.cuda.alloc
    with monkeypatch.context() as patch:
        patch.setattr(xp.cuda, "alloc", lambda size: SimpleNamespace(ptr=alloc(size).ptr + 8))
        with pytest.raises(Misuse, match="an aligned workspace"):
            product(cuda, a, a)
    (plan,) = blas.on_device(0)._plans.items()
    blas.on_device(0)._plans[plan[0]] = plan[1]._replace(workspace=64)
    with pytest.raises(Misuse, match="bytes of workspace, got 64"):
        product(cuda, a, a)


def test_double_detects_overlap(cuda, xp):
    """The negative control."""
    a = xp.asarray(integers((3, 3), "float32"))
    with pytest.raises(Misuse, match="no overlap"):
        cuda.matmul(a, a, out=a)
