"""Formulas of one element, compiled for the CPU: the dtype that goes in comes out."""

import importlib
import inspect

import numba
import numpy as np
import pytest
from kernel_table import FORMULAS
from minidl_kernels import formulas

NAMES = [name for name, _ in inspect.getmembers(formulas, inspect.isfunction)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_formula_keeps_the_dtype_of_its_arguments(name, dtype):
    formula = getattr(formulas, name)
    arguments = [getattr(numba, dtype)] * len(inspect.signature(formula).parameters)
    if name == "drop":
        arguments[1:3] = numba.uint32, numba.uint32
    compiled = numba.njit(formula, error_model="numpy")
    compiled.compile(tuple(arguments))
    (signature,) = compiled.nopython_signatures
    parts = getattr(signature.return_type, "types", [signature.return_type])
    assert {str(part) for part in parts} == {"bool" if name == "ranks_below" else dtype}


def test_each_formula_is_compiled_for_cuda():
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (the extra cuda-double)")
    pytest.importorskip("cupy", reason="CuPy is not installed (the extra cuda-double)")
    compiled = set()
    for file, _, name in (full_name.partition(".") for full_name in FORMULAS):
        module = importlib.import_module(f"minidl_kernels.cuda.{file}")
        compiled.add(getattr(module, name).py_func.__name__)
    assert compiled == set(NAMES)


@pytest.mark.parametrize(
    ("x", "expected"), [(-1.0, 0.0), (-0.0, 0.0), (2.0, 2.0), (np.nan, np.nan), (np.inf, np.inf)]
)
def test_at_least_zero_is_relu(x, expected):
    result = formulas.at_least(0.0, x)
    np.testing.assert_equal(result, expected)
    assert not np.signbit(result)


@pytest.mark.parametrize(("a", "b", "expected"), [(1, 2, 2), (2, 1, 2), (np.nan, 1, 1)])
def test_larger_passes_over_nan(a, b, expected):
    assert formulas.larger(a, b) == expected


def test_drop_selects_zero():
    assert formulas.drop(np.nan, 1, 2, 2.0) == 0
    assert formulas.drop(3.0, 2, 2, 2.0) == 6
