"""Which test covers which kernel, and for which types a CUDA kernel is compiled in the tests.

`test_completeness.py` fails until every compiled function of `minidl_kernels` stands here.
"""

KERNELS = {
    "cpu.dropout._philox": "test_philox.py::test_known_answers_compiled_for_the_cpu",
    "cpu.dropout._drop": "test_dropout_cpu.py::test_equals_the_contract",
    "cpu.dropout._drop_parallel": "test_dropout_cpu.py::test_parallel_equals_serial",
    "cuda.dropout._philox": "test_dropout_cuda.py::test_philox_is_inlined_with_narrow_products",
    "cuda.dropout.drop": "test_dropout_cuda.py::test_ptx_holds_what_it_should",
}

# Elements and scale of `cuda.dropout.drop`; the other arguments are integers.
DROP_DTYPES = {
    "float16": ("float16", "float32"),
    "float32": ("float32", "float32"),
    "float64": ("float64", "float64"),
}


def cuda_type(name: str):
    """Return the Numba-CUDA type of a NumPy dtype name."""
    from numba.cuda import types

    return getattr(types, name)


def drop_signature(dtype: str) -> tuple:
    """Return the types that `cuda.dropout.drop` is launched with for arrays of this dtype."""
    element, factor = map(cuda_type, DROP_DTYPES[dtype])
    size, word = cuda_type("uint64"), cuda_type("uint32")
    return (element[::1], element[::1], size, size, *(word,) * 6, factor)
