"""The CUDA kernels as they are compiled for a GPU, without one: their code passes its checks."""

import importlib
import importlib.util
import inspect
import subprocess
import sys

import kernel_table
import numpy as np
import pytest
from backends import bits, launches_go_to, special_numbers

if not all(map(importlib.util.find_spec, ("numba_cuda", "cupy"))):
    pytest.skip(
        "numba-cuda and CuPy are not installed: no CUDA kernel is compiled", allow_module_level=True
    )

import code_checks
import numba
from compiled import CAPABILITY, compiled

from bench import kernels as bench

CAPABILITIES = ((7, 5), (8, 0), (9, 0), (12, 0))
# Those of the tests; the oldest and the newest are slow, and one between them is exhaustive.
MARKS = {CAPABILITY: [], (9, 0): [pytest.mark.exhaustive]}


def marks_of(capability):
    """Return the marks of tests for a capability."""
    return MARKS.get(capability, [pytest.mark.slow])


def parameters(kernels, always=()):
    """Return builds for all capabilities; all but `CAPABILITY` and those of `always` have marks."""
    return [
        pytest.param(
            (name, dtype, capability),
            id=f"{name}-{dtype}-cc{capability[0]}.{capability[1]}",
            marks=[] if dtype in always else marks_of(capability),
        )
        for name, dtype in kernels
        for capability in CAPABILITIES
    ]


DROPOUT = "dropout._dropout"
DROPOUTS = [(DROPOUT, dtype) for dtype in kernel_table.CUDA_KERNELS[DROPOUT].dtypes]
EACH_BUILD = pytest.mark.parametrize("build", parameters(kernel_table.KERNELS_AND_DTYPES))
EACH_DROPOUT = pytest.mark.parametrize("build", parameters(DROPOUTS, always=("float32",)))
EACH_CAPABILITY = pytest.mark.parametrize(
    "capability",
    [pytest.param(capability, marks=marks_of(capability)) for capability in CAPABILITIES],
    ids=str,
)
EACH_KERNEL = pytest.mark.parametrize(
    "build", [(*kernel, CAPABILITY) for kernel in kernel_table.KERNELS_AND_DTYPES], ids=str
)


@EACH_BUILD
@pytest.mark.parametrize(
    "check",
    [code_checks.check_arithmetic, code_checks.check_memory, code_checks.check_access],
    ids=lambda check: check.__name__,
)
def test_compiled_kernel_passes(check, build):
    check(bench.build_of(*build))


@EACH_KERNEL
@pytest.mark.parametrize(
    "check", [code_checks.check_types, code_checks.check_race], ids=lambda check: check.__name__
)
def test_kernel_passes(check, build):
    check(bench.build_of(*build))


@EACH_CAPABILITY
@pytest.mark.parametrize("name", [*kernel_table.DEVICE_FUNCTIONS, *kernel_table.FORMULAS])
def test_device_function_returns_narrow_types(name, capability):
    module, function = name.split(".")
    module = importlib.import_module(f"minidl_kernels.cuda.{module}")
    table = kernel_table.DEVICE_FUNCTIONS | kernel_table.FORMULAS
    code_checks.check_device_function(getattr(module, function), table[name], capability)


@EACH_DROPOUT
@pytest.mark.parametrize(
    "check",
    [
        code_checks.check_cost,
        code_checks.check_products,
        code_checks.check_bits,
        code_checks.check_many_elements,
    ],
    ids=lambda check: check.__name__,
)
def test_dropout_passes(check, build):
    check(bench.build_of(*build))


NOISES = [(name, dtype) for name, dtype in kernel_table.KERNELS_AND_DTYPES if "noise." in name]


@pytest.mark.parametrize("build", parameters(NOISES, always=("float32",)))
@pytest.mark.parametrize(
    "check",
    [code_checks.check_noise_bits, code_checks.check_many_numbers],
    ids=lambda check: check.__name__,
)
def test_noise_passes(check, build):
    check(bench.build_of(*build))


@pytest.mark.parametrize("dtype", kernel_table.FLOATS)
def test_address_in_an_array_gives_the_bits_of_one_in_words(dtype):
    """As a recorded step holds it: on the device, at a fixed place."""
    x = special_numbers((5, 70), dtype)

    def launch_with_array(kernel, grid, block, *arguments):
        arguments = [np.array(a) if isinstance(a, tuple) else a for a in arguments]
        compiled(kernel, tuple(map(numba.typeof, arguments))).launch(grid, block, *arguments)

    with launches_go_to(launch_with_array) as backend:
        y = backend.dropout(x, 0.3, code_checks.USUAL)
    assert (bits(y) == bits(code_checks.expected(x, 0.3, code_checks.USUAL))).all()


RESULTS = bench.ROOT / "bench" / "RESULTS.md"


@pytest.mark.exhaustive
def test_results_are_those_of_this_compiler():
    results = RESULTS.read_text()
    if bench.versions() not in results:
        pytest.skip(f"bench/RESULTS.md was made with other versions. {bench.versions()}")
    assert "\n".join(bench.report()) in results


def test_bench_outside_a_checkout_says_so(tmp_path):
    alone = tmp_path / "kernels.py"
    alone.write_text(inspect.getsource(bench))
    ran = subprocess.run([sys.executable, alone, "--static"], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "only a checkout of the repository has: run it there" in ran.stderr


@pytest.mark.parametrize(
    ("log", "resources"),
    [
        (
            "ptxas info    : 24 bytes gmem\n"
            "    256 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads\n"
            "ptxas info    : Used 30 registers, used 0 barriers, 512 bytes cmem[0]\n",
            (30, 256, 8),
        ),
        (
            "info    : 24 bytes gmem\n"
            "info    : used 30 registers, used 0 barriers, 256 stack, 0 bytes smem, "
            "512 bytes cmem[0], 8 bytes lmem\n",
            (30, 256, 8),
        ),
    ],
    ids=["spills", "local memory"],
)
def test_resources_are_read_from_the_logs_of_both_assemblers(log, resources):
    assert bench._resources(log) == resources


def test_resources_of_an_unknown_log_are_rejected():
    with pytest.raises(ValueError, match="expected a log that names the registers, got: none"):
        bench._resources("none")
