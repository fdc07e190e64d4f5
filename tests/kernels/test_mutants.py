"""Kernels that are broken on purpose: each mistake fails one of the checks of compiled kernels."""

import importlib
import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import kernel_table
import minidl_kernels
import pytest

if not all(map(importlib.util.find_spec, ("numba_cuda", "cupy"))):
    pytest.skip(
        "numba-cuda and CuPy are not installed: no CUDA kernel is compiled", allow_module_level=True
    )

import ptxrun
from code_checks import (
    check_access,
    check_arithmetic,
    check_bits,
    check_cost,
    check_device_function,
    check_many_elements,
    check_memory,
    check_noise_bits,
    check_products,
    check_race,
    check_types,
)
from compiled import CAPABILITY

from bench import kernels as bench

DROPOUT, NOISE = "dropout._dropout", "noise._noise"


class Mutant(NamedTuple):
    """A mistake in a file of the kernels, and the check that finds it."""

    mistake: str
    file: str
    replacements: dict[str, str]  # each text stands in the file exactly once
    check: Any
    message: str
    kernel: str = DROPOUT


PHILOX_WORD = "uint32(c1 ^ uint64(key0) ^ (product1 >> WORD_BITS))"
PHILOX_WORD_NOT_CAST = "c1 ^ key0 ^ (product1 >> WORD_BITS)"
KEPT = "kept = x * scale"
RESULT = "y0 = _drop_element(x0, w0, threshold, factor)"
INDENT = " " * 12
BARRIER = "cuda.syncthreads()  # type: ignore[call-arg]"


def check_philox(build):
    """The types of the Philox that the kernel calls."""
    philox_of_it = build.launch.kernel.py_func.__globals__["_philox"]
    row = kernel_table.DEVICE_FUNCTIONS["dropout._philox"]
    check_device_function(philox_of_it, row, build.capability)


FUSED = Mutant(
    "a product and a sum",
    "formulas",
    {KEPT: f"{KEPT} + float32(0)"},
    check_arithmetic,
    "fused in the PTX",
)
LOCAL = Mutant(
    "an array that no register can hold",
    "cuda/dropout",
    {
        RESULT: f"kept = cuda.local.array(64, np.float32)\n{INDENT}kept[lane0] = x0\n{INDENT}"
        f"kept[lane1] = x1\n{INDENT}x0 = kept[rest]\n{INDENT}{RESULT}"
    },
    check_memory,
    "local memory in the PTX",
)
MUTANTS = [
    FUSED,
    LOCAL,
    Mutant(
        "a product that may be fused with a sum",
        "cuda/optimizers",
        {"_sgd_rule = jit.inline_rounded(": "_sgd_rule = jit.inline("},
        check_arithmetic,
        "a sum may be fused",
        kernel="optimizers._sgd",
    ),
    Mutant(
        "Philox: a word is not cast",
        "philox",
        {PHILOX_WORD: PHILOX_WORD_NOT_CAST},
        check_philox,
        "the returned types",
    ),
    Mutant(
        "Philox: 64-bit products",
        "philox",
        {PHILOX_WORD: PHILOX_WORD_NOT_CAST},
        check_products,
        "64-bit products in the PTX|few 32-bit products",
    ),
    Mutant(
        "Philox: words are expected to wrap by themselves, as they do in NumPy",
        "philox",
        {
            PHILOX_WORD: PHILOX_WORD_NOT_CAST,
            "c1 = product1 & LOW_WORD": "c1 = product1",
            "return c0,": "return uint32(c0),",
        },
        check_bits,
        "elements of .* are wrong",
    ),
    Mutant(
        "a float literal",
        "cuda/dropout",
        {"a0 = a1 = a2 = a3 = np.float32(0)": "a0 = a1 = a2 = a3 = 0.0"},
        check_arithmetic,
        "float64 in the PTX",
    ),
    Mutant(
        "an integer where a float32 is meant",
        "formulas",
        {"else float32(0)": "else 0"},
        check_types,
        "variables of float64",
    ),
    Mutant(
        "an index with a sign",
        "cuda/dropout",
        {"i = uint64(row_start + uint64(tile) * uint64(64))": "i = row_start + tile * 64"},
        check_types,
        "wraps negative indices",
    ),
    Mutant(
        "an index of 32 bits",
        "cuda/dropout",
        {"row_start = uint64(row * columns": "row_start = uint32(row * columns"},
        check_many_elements,
        "cut to 32 bits",
    ),
    Mutant(
        "the words belong to threads, not to elements",
        "cuda/dropout",
        {"uint32(uint32(tile * uint32(16)) + lane0)": "uint32(thread_x)"},
        check_bits,
        "elements of .* are wrong on {'grid'",  # on the host's grid they are right
    ),
    Mutant(
        "a dropped element is multiplied by zero",
        "formulas",
        {"kept if word >= threshold else float32(0)": "kept * float32(word >= threshold)"},
        check_bits,
        "elements of .* are wrong",
    ),
    Mutant(
        "the last tile of a row is taken for a whole one",
        "cuda/dropout",
        {"rest = uint32(uint32(columns) & uint32(63))": "rest = uint32(64)"},
        check_bits,
        "out-of-bounds load",
    ),
    Mutant(
        "threads share rows",
        "cuda/dropout",
        {"row = uint64(row + uint64(threads_y))": "row = uint64(row + uint64(1))"},
        check_race,
        "races with a write",
    ),
    Mutant(
        "neighbouring threads are rows apart",
        "cuda/dropout",
        {
            "thread_x, thread_y =": "thread_y, thread_x =",
            "threads_x, threads_y =": "threads_y, threads_x =",
        },
        check_access,
        "not coalesced: 32.0 sectors",
    ),
    Mutant(
        "a second block of Philox",
        "cuda/dropout",
        {
            RESULT: "w0, _, _, _ = _philox(tile, uint32(row), stream, step, key0, key1)\n"
            f"{INDENT}{RESULT}"
        },
        check_cost,
        "too many instructions",
    ),
    Mutant(
        "fast mathematics",
        "cuda/dropout",
        {"@cuda.jit\ndef _dropout(": "@cuda.jit(fastmath=True)\ndef _dropout("},
        check_arithmetic,
        "not the arithmetic of IEEE 754",
    ),
    Mutant(
        "a division",
        "formulas",
        {KEPT: KEPT.replace("*", "/")},
        check_memory,
        "the assembler calls",
    ),
    Mutant(
        "relu: the larger of a number and 0",
        "formulas",
        {"return floor if x <= floor else x": "return max(x, 0)"},
        check_arithmetic,
        "float64 in the PTX",
        "dense._bias_act_dropout",
    ),
    Mutant(
        "no barrier between the warps' sums and their addition",
        "cuda/reduction",
        {f"    {BARRIER}\n": ""},
        check_race,
        "races with a write",
        "dense._bias_act_dropout_vjp",
    ),
    Mutant(
        "no barrier between two tiles of columns",
        "cuda/cross_entropy",
        {"        cuda.syncthreads()\n        column =": "        column ="},
        check_race,
        "races with a read",
        "cross_entropy._cross_entropy_vjp",
    ),
    Mutant(
        "no barrier between what one lane stores and the others load",
        "cuda/cross_entropy",
        {f"    {BARRIER}\n    weight =": "    weight ="},
        check_race,
        "races with a write",
        "cross_entropy._cross_entropy_vjp",
    ),
    Mutant(
        "a sum that starts at a float literal",
        "cuda/cross_entropy",
        {"losses = np.float32(0)": "losses = 0.0"},
        check_arithmetic,
        "float64 in the PTX",
        "cross_entropy._cross_entropy",
    ),
    Mutant(
        "the warps take columns, the lanes rows",
        "cuda/reduction",
        {
            "lane = uint32(cuda.threadIdx.x)": "lane = uint32(cuda.threadIdx.y)",
            "warp = uint32(cuda.threadIdx.y)": "warp = uint32(cuda.threadIdx.x)",
        },
        check_access,
        "not coalesced: 32.0 sectors",
        "dense._bias_act_dropout_vjp",
    ),
    Mutant(
        "Adam: a power for a root",
        "formulas",
        {"math.sqrt(s) + epsilon)": "s**0.5 + epsilon)"},
        check_memory,
        "the kernel calls",
        "optimizers._adam",
    ),
    Mutant(
        "Adam: fast mathematics",
        "cuda/optimizers",
        {"@cuda.jit\ndef _adam(": "@cuda.jit(fastmath=True)\ndef _adam("},
        check_arithmetic,
        "a quotient",
        "optimizers._adam",
    ),
    Mutant(
        "gather: a row number with a sign",
        "cuda/gather",
        {"sample = uint64(rows[row])": "sample = rows[row]"},
        check_types,
        "wraps negative indices",
        "gather._gather_float32",
    ),
    Mutant(
        "gather: a product and a sum that may be fused",
        "cuda/gather",
        {
            "scaled = scalars.multiply(element, scale)": "scaled = element * scale",
            "scalars.add(scaled, offset)": "scaled + offset",
        },
        check_arithmetic,
        "fused in the PTX",
        "gather._gather_float32",
    ),
    Mutant(
        "gather: threads share elements",
        "cuda/gather",
        {"column = uint64(column + uint64(threads_x))": "column = uint64(column + uint64(255))"},
        check_race,
        "races with a write",
        "gather._gather_float32",
    ),
    Mutant(
        "normal numbers: sums that may be fused",
        "cuda/noise",
        {"libdevice.fadd_rn, ": "jit.inline(lambda a, b: a + b), "},
        check_arithmetic,
        "fused in the PTX",
        NOISE,
    ),
    Mutant(
        "normal numbers: sums that may be fused change bits",
        "cuda/noise",
        {"libdevice.fadd_rn, ": "jit.inline(lambda a, b: a + b), "},
        check_noise_bits,
        "elements of .* are wrong",
        NOISE,
    ),
    Mutant(
        "noise: a sum that may be fused",
        "cuda/scalars",
        {"libdevice.fadd_rn(a, b)": "a + b"},
        check_arithmetic,
        "fused in the PTX",
        NOISE,
    ),
    Mutant(
        "noise: a sum that may be fused changes bits",
        "cuda/scalars",
        {"libdevice.fadd_rn(a, b)": "a + b"},
        check_noise_bits,
        "elements of .* are wrong",
        NOISE,
    ),
    Mutant(
        "normal numbers: the root of float64",
        "cuda/noise",
        {"libdevice.fsqrt_rn": "libdevice.sqrt"},
        check_arithmetic,
        "float64 in the PTX",
        NOISE,
    ),
    Mutant(
        "normal numbers: an approximate root",
        "cuda/noise",
        {"@cuda.jit\ndef _noise(": "@cuda.jit(fastmath=True)\ndef _noise("},
        check_arithmetic,
        "a quotient",
        NOISE,
    ),
    Mutant(
        "normal numbers: another word of the block",
        "cuda/noise",
        {"y0, y1 = _pair(w0, w1)": "y0, y1 = _pair(w0, w2)"},
        check_noise_bits,
        "elements of .* are wrong",
        NOISE,
    ),
    Mutant(
        "select: a product and a sum that may be fused",
        "cuda/selection",
        {"scalars.add(x[i] * scale, shift)": "x[i] * scale + shift"},
        check_arithmetic,
        "fused in the PTX",
        "selection._select",
    ),
]


@pytest.fixture(scope="session")
def build_of_mutant(tmp_path_factory):
    """The function that returns the build of a mutant, made once."""
    builds = {}

    def build_of(mutant, capability=CAPABILITY):
        key = mutant.mistake, capability
        if key not in builds:
            builds[key] = build_copy(mutant, tmp_path_factory.mktemp("copy"), capability)
        return builds[key]

    return build_of


def build_copy(mutant, folder, capability):
    """Return a kernel for float32 from a copy of the package, in which texts are replaced."""
    package = Path(minidl_kernels.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    copy = Path(shutil.copytree(package, folder / package.name, ignore=ignored))
    path = copy / f"{mutant.file}.py"
    path.write_text(with_mistake(mutant, path.read_text()))
    module, kernel = mutant.kernel.split(".")
    importlib.import_module(f"minidl_kernels.cuda.{module}")  # CuPy cannot be imported twice
    with mock.patch.dict(sys.modules), mock.patch.object(sys, "path", [str(folder), *sys.path]):
        for name in [name for name in sys.modules if name.split(".")[0] == package.name]:
            del sys.modules[name]
        copied = importlib.import_module(f"minidl_kernels.cuda.{module}")
    launched = kernel_table.launch_of(mutant.kernel, "float32")
    launched = launched._replace(kernel=getattr(copied, kernel))
    return bench.Build(mutant.kernel, "float32", capability, launched)


def with_mistake(mutant, source):
    """Return a source in which the texts of a mutant are replaced."""
    for old, new in mutant.replacements.items():
        assert source.count(old) == 1, f"{mutant.file} holds {source.count(old)} times: {old}"
        source = source.replace(old, new)
    return source


def mutants():
    """Return the mutants; all but the first of each check are exhaustive."""
    checks = [mutant.check for mutant in MUTANTS]
    return [
        pytest.param(
            mutant,
            id=mutant.mistake,
            marks=[pytest.mark.exhaustive] if mutant.check in checks[:place] else [],
        )
        for place, mutant in enumerate(MUTANTS)
    ]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.mistake)
def test_mistake_of_mutant_has_its_place_in_the_kernels(mutant):
    source = (Path(minidl_kernels.__file__).parent / f"{mutant.file}.py").read_text()
    assert with_mistake(mutant, source) != source


@pytest.mark.parametrize("mutant", mutants())
def test_checks_detect_mutant(mutant, build_of_mutant):
    with pytest.raises((AssertionError, ValueError, ptxrun.PTXError), match=mutant.message):
        mutant.check(build_of_mutant(mutant))


def test_copy_without_a_mistake_is_the_same_kernel(build_of_mutant):
    copied = build_of_mutant(FUSED._replace(mistake="none", replacements={}))
    builds = copied, bench.build_of(DROPOUT, "float32")
    code = [re.sub(r"\b_ZN\w+", "name", build.kernel.ptx) for build in builds]
    assert code[0] == code[1]


@pytest.mark.parametrize(
    "capability",
    [
        CAPABILITY,
        *(pytest.param(c, marks=pytest.mark.slow) for c in ((7, 5), (12, 0))),
        pytest.param((9, 0), marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_machine_code_shows_mistakes_too(build_of_mutant, capability):
    fused, local = build_of_mutant(FUSED, capability), build_of_mutant(LOCAL, capability)
    assert "FFMA" in fused.code.instructions
    assert {"LDL", "STL"} <= set(local.code.instructions)
    assert local.code.stack_bytes == 64 * 4
    float64 = bench.build_of(DROPOUT, "float64", capability)
    assert "DMUL" in float64.code.instructions
