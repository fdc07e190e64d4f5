"""Completeness: each kernel has a row, is launched by `launch` and agrees with the reference."""

import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import kernel_table
import minidl_kernels
import numpy as np
import pytest
from backends import Reference, assert_same_bits, host, launches_go_to
from minidl_kernels.cpu import launch, pool, products

from minidl.backend import get_backend

ROWS = [*kernel_table.CUDA_KERNELS.values(), kernel_table.Row(kernel_table.matmul)]
REFERENCE = Reference()
# Started by other compiled functions only: parts of kernels, compiled once for them, and the loops
# of `calls.run`, which runs kernels.
INNER = {"products._multiply_block", "dense.finish_block", "calls._run", "calls._run_with_blas"}


def skip_without(folder):
    if folder == "cuda" and not all(map(importlib.util.find_spec, ("numba_cuda", "cupy"))):
        pytest.skip("numba-cuda and CuPy are not installed: the CUDA kernels cannot be imported")


def compiled(folder):
    """Yield module, name and dispatcher of each compiled function of a device."""
    from numba.core.dispatcher import Dispatcher

    kinds = (Dispatcher,)
    if folder == "cuda":
        from numba.cuda.dispatcher import CUDADispatcher

        kinds += (CUDADispatcher,)
    package = importlib.import_module(f"minidl_kernels.{folder}")
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"minidl_kernels.{folder}.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, kinds):
                yield module, name, value


def is_kernel(dispatcher):
    """Return whether host code starts the function; others are only called by kernels."""
    options = dispatcher.targetoptions
    return not options.get("device") and options.get("inline", "never") == "never"


def full_name(module, name):
    return f"{module.__name__.rpartition('.')[2]}.{name}"


class Guard:
    """Stands in for a kernel, and refuses to run."""

    def __init__(self, name):
        self.name = name

    def __call__(self, *_):
        raise AssertionError(f"{self.name} was started without launch.launch")

    __getitem__ = __call__


@pytest.fixture
def guards(request, monkeypatch):
    """Replace the kernels of a device by guards; return their names."""
    skip_without(request.param)
    names = set()
    for module, name, dispatcher in list(compiled(request.param)):
        if is_kernel(dispatcher):
            names.add(full_name(module, name))
            monkeypatch.setattr(module, name, Guard(full_name(module, name)))
    return names


@pytest.mark.parametrize("guards", ["cpu"], indirect=True)
def test_each_cpu_kernel_is_launched_by_launch_and_has_a_row(guards, monkeypatch):
    launched = set()
    monkeypatch.setattr(launch, "launch", lambda kernel, *_: launched.add(kernel.name))
    monkeypatch.setattr(launch, "launch_pieces", lambda _, kernel, *__: launched.add(kernel.name))
    monkeypatch.setattr(products, "_is_compiled", lambda: True)  # also without OpenBLAS or TBB
    for pieces in (1, 3):
        monkeypatch.setattr(pool, "pieces", lambda size, pieces=pieces: pieces)
        monkeypatch.setattr(products, "pieces_of_product", lambda *_, pieces=pieces: pieces)
        for row in ROWS:
            row.call(get_backend("cpu"), np.ones(row.shape, "float32"))
    get_backend("cpu").matmul(np.ones(3), np.ones(3))  # NumPy's, with OpenBLAS held to one thread
    empty = np.ones((2, 0)), np.ones((0, 3)), np.ones(3)
    get_backend("cpu").dense(*empty, activation="relu")  # without a product
    assert launched == guards - INNER


@pytest.mark.parametrize("guards", ["cuda"], indirect=True)
def test_each_cuda_kernel_is_launched_by_launch_and_has_a_row(guards):
    launched = set()
    with launches_go_to(lambda kernel, *_: launched.add(kernel.name)) as backend:
        for row in ROWS:
            for dtype in row.dtypes:
                row.call(backend, np.ones(row.shape, dtype))
    assert launched == guards == kernel_table.CUDA_KERNELS.keys()


@pytest.mark.parametrize("guards", ["cpu"], indirect=True)
def test_kernel_that_bypasses_launch_is_detected(guards):
    """The negative control."""
    from minidl_kernels.cpu import dropout

    with pytest.raises(AssertionError, match="_dropout was started without"):
        dropout._dropout(0, 1)


def test_each_device_function_is_in_the_table():
    skip_without("cuda")
    known = kernel_table.DEVICE_FUNCTIONS.keys() | kernel_table.FORMULAS.keys()
    found = [(full_name(m, name), f) for m, name, f in compiled("cuda")]
    assert {name for name, function in found if not is_kernel(function)} == known


@pytest.mark.parametrize(
    ("row", "dtype"),
    [(row, dtype) for row in ROWS for dtype in row.dtypes],
    ids=lambda value: value if isinstance(value, str) else value.call.__name__,
)
def test_kernel_agrees_with_the_reference(row, dtype, backend):
    shape = (300, 24) if len(row.shape) == 2 else (600,)
    x = np.random.default_rng(4).standard_normal(shape).astype(dtype)
    expected = row.call(REFERENCE, x.copy())
    received = host(backend, *row.call(backend, x.copy()))
    for a, b in zip(received, expected, strict=True):
        if not row.inexact and a.shape == shape:
            assert_same_bits(a, b)
        else:  # sums of 300 numbers
            assert a.dtype == b.dtype
            tolerance = 300 * np.finfo(dtype).eps
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_only_the_cuda_folder_names_cuda():
    root = Path(minidl_kernels.__file__).parent
    for path in root.rglob("*.py"):
        imports = re.findall(r"^\s*(?:from|import) .*", path.read_text(), re.MULTILINE)
        names = " ".join(imports)
        assert "minidl." not in names, path
        if path.parent == root:
            assert "numba" not in names, path
        if path.parent.name != "cuda":
            assert "cuda" not in names, path
            assert "cupy" not in names, path
