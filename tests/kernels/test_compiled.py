"""The CUDA kernels as they are compiled for a GPU, without one.

Their types, their PTX and their machine code are read, and their PTX is executed on the CPU. Each
check is a function, and kernels that are broken on purpose must fail it: see `MUTANTS`.
"""

import contextlib
import importlib
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import kernel_table
import minidl_kernels
import numpy as np
import pytest
from backends import bits, launches_go_to, special_numbers
from minidl_kernels import mask_contract, philox
from minidl_kernels.mask_contract import Address

if not all(map(importlib.util.find_spec, ("numba_cuda", "cupy"))):
    pytest.skip(
        "numba-cuda and CuPy are not installed: no CUDA kernel is compiled", allow_module_level=True
    )

import numba
import ptxrun
from compiled import CAPABILITY, compiled
from numba import cuda
from numba.core import sigutils
from numba.cuda import dispatcher

from bench import kernels as bench

CAPABILITIES = ((7, 5), (8, 0), (9, 0), (12, 0))


def parameters(kernels, always=()):
    """Return builds for all capabilities; all but `CAPABILITY` and those of `always` are slow."""
    return [
        pytest.param(
            (name, dtype, capability),
            id=f"{name}-{dtype}-cc{capability[0]}.{capability[1]}",
            marks=[] if capability == CAPABILITY or dtype in always else [pytest.mark.slow],
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
    [pytest.param(c, marks=[] if c == CAPABILITY else [pytest.mark.slow]) for c in CAPABILITIES],
    ids=str,
)
EACH_KERNEL = pytest.mark.parametrize(
    "build", [(*kernel, CAPABILITY) for kernel in kernel_table.KERNELS_AND_DTYPES], ids=str
)


@contextlib.contextmanager
def gpu_of(capability):
    """Stand in for the GPU that Numba asks for when a kernel calls a device function."""
    gpu = SimpleNamespace(compute_capability=capability)
    with mock.patch.object(dispatcher, "get_current_device", return_value=gpu):
        yield


# Checks of any kernel.


def check_types(build):
    """No variable is wider than the arrays' elements, and no index has a sign."""
    variables, indices = build.kernel.variables, build.kernel.indices
    float64 = {name for name, type_ in variables.items() if type_ == "float64"}
    assert build.dtype == "float64" or not float64, f"variables of float64: {float64}"
    assert indices, "no array is indexed"
    integers = set(re.findall(r"u?int\d+", " ".join(indices)))
    assert integers <= {"uint32", "uint64"}, f"Numba wraps negative indices: {indices}"


def check_arithmetic(build):
    """No float64 beside arrays of others; where bits are promised, no rounding more or less."""
    ptx, opcodes = build.kernel.ptx, set(build.code.instructions)
    float64 = {"DMUL", "DADD", "DSETP", "DFMA", "F2F.64", "F2I.64", "I2F.64"}
    assert (".f64" in ptx) == (build.dtype == "float64"), "float64 in the PTX"
    assert build.dtype == "float64" or not opcodes & float64, "float64 in the machine code"
    # Nobody asked for fast mathematics; libdevice's exp and log have such instructions inside.
    approximate = set(re.findall(r"\b\w+\.\S*(?:ftz|approx|full)\S*", ptx))
    if kernel_table.CUDA_KERNELS[build.name].inexact:
        approximate -= {"ex2.approx.ftz.f32", "rcp.approx.ftz.f64"}
    else:
        assert not re.search(r"\bfma\.|\bmad\.\S*f(16|32|64)", ptx), "fused in the PTX"
        assert not opcodes & {"FFMA", "DFMA"}, "fused in the machine code"
        assert not re.search(r"\b(div|rcp|sqrt)\.\S*f(16|32|64)", ptx), "a division"
    assert not approximate, f"not the arithmetic of IEEE 754: {approximate}"
    assert not re.search(r"\b(div|rem)\.[su]", ptx), "a division of integers"


def check_memory(build):
    """All variables are in registers, and the kernel calls nothing that its row does not name."""
    opcodes = set(build.code.instructions)  # of one function: `bench` refuses more
    assert not re.search(r"\bcall\b", build.kernel.ptx), "a call in the PTX"
    unnamed = build.code.helpers - set(kernel_table.CUDA_KERNELS[build.name].helpers)
    assert not unnamed, f"the assembler calls {unnamed}"
    assert not re.search(r"\.local\b", build.kernel.ptx), "local memory in the PTX"
    assert not opcodes & {"LDL", "STL"}, "local memory in the machine code"
    assert (build.code.spilled_bytes, build.code.stack_bytes) == (0, 0), "spills or a stack"


def check_access(build):
    """Neighbours touch neighbours, or the same: no access takes more sectors than its bytes."""
    accesses = bench.accesses(build)
    assert accesses, "no access to global memory"
    for text, itemsize, sectors in accesses:
        assert sectors <= itemsize, f"not coalesced: {sectors} sectors a request in {text}"


def check_race(build):
    """No two threads touch one address of which one writes it."""
    rows, *columns = kernel_table.CUDA_KERNELS[build.name].shape
    launch = kernel_table.launch_of(build.name, build.dtype, (rows // 4, *columns))
    build.kernel.launch(launch.grid, launch.block, *launch.arguments, racecheck=True)


@EACH_BUILD
@pytest.mark.parametrize(
    "check", [check_arithmetic, check_memory, check_access], ids=lambda check: check.__name__
)
def test_compiled_kernel_passes(check, build):
    check(bench.build_of(*build))


@EACH_KERNEL
@pytest.mark.parametrize("check", [check_types, check_race], ids=lambda check: check.__name__)
def test_kernel_passes(check, build):
    check(bench.build_of(*build))


def check_device_function(function, row, capability):
    """A device function, compiled alone, returns the types of the table."""
    listed = "".join(f"{argument}," for argument in row.arguments)
    arguments, _ = sigutils.normalize_signature(f"({listed})")
    with gpu_of(capability):
        _, returned = cuda.compile_ptx(function.py_func, arguments, device=True, cc=capability)
    assert str(returned) == row.returned, "the returned types"


@EACH_CAPABILITY
@pytest.mark.parametrize("name", [*kernel_table.DEVICE_FUNCTIONS, *kernel_table.FORMULAS])
def test_device_function_returns_narrow_types(name, capability):
    module, function = name.split(".")
    module = importlib.import_module(f"minidl_kernels.cuda.{module}")
    table = kernel_table.DEVICE_FUNCTIONS | kernel_table.FORMULAS
    check_device_function(getattr(module, function), table[name], capability)


# Dropout.

MOST_INSTRUCTIONS = 30  # an element


def check_cost(build):
    """Dropout takes at most 30 machine instructions an element, and reads and writes it once."""
    cost = bench.figures(build)
    assert cost.instructions_an_element <= MOST_INSTRUCTIONS, "too many instructions"
    assert cost.bytes_an_element == 2 * np.dtype(build.dtype).itemsize, "too many bytes"


def check_products(build):
    """Philox multiplies 32-bit words; a 64-bit product takes two to three times as long."""
    multipliers = [int(philox.MULTIPLIER_0), int(philox.MULTIPLIER_1)]
    constants = {str(m) for m in multipliers} | {str(m - 2**32) for m in multipliers}  # PTX's sign
    written = re.findall(r"\b(mul\.\S+)\s+\S+ \S+ (-?\d+);", build.kernel.ptx)
    products = [name for name, constant in written if constant in constants]
    narrow = [name for name in products if name in ("mul.wide.u32", "mul.lo.s32")]
    assert len(products) >= 18, "Philox is not there"
    assert narrow.count("mul.wide.u32") >= 10, "few 32-bit products in the PTX"
    opcodes = build.code.opcodes(build.code.hot_loop())
    if build.capability < (10, 0):
        assert narrow == products, "64-bit products in the PTX"
    else:
        # For these GPUs libNVVM 13 writes about half of them as 64-bit products, of which the
        # assembler knows that the factors have 32 bits: it makes one wide instruction of each.
        assert opcodes["IMAD"] <= 10, "64-bit products in the machine code"
    assert opcodes["IMAD.WIDE"] <= 21, "more products than 10 rounds of 2, and 1 for the place"


def run(build, x, rate, address, *, grid=None, block=None):
    """Return dropout, launched as the host launches it, or on another grid."""

    def execute(kernel, usual_grid, usual_block, *arguments):
        grid_and_block = (usual_grid, usual_block) if grid is None else (grid, block)
        build.kernel.launch(*grid_and_block, *arguments)

    with launches_go_to(execute) as backend:
        return backend.dropout(x, rate, address)


def expected(x, rate, address):
    """Return what the mask contract says."""
    kept = mask_contract.keep_mask(x.shape, rate, **address._asdict())
    with np.errstate(over="ignore"):
        scaled = x * mask_contract.scale(rate, x.dtype)
    return np.where(kept, scaled, x.dtype.type(0))


USUAL = Address(seed=2**40 + 17, stream=3, step=4)
LAST = Address(seed=2**64 - 1, stream=2**32 - 1, step=2**32 - 1)
CASES = [
    ((1,), 0.5, USUAL),
    ((5, 16), 0.5, USUAL),
    ((2, 3, 21), 0.2, USUAL._replace(row_offset=7)),
    ((1, 64), 2**-32, Address(0, 0, 0)),
    ((2, 65), 1 - 2**-32, USUAL),
    ((4, 255), 0.9, LAST._replace(row_offset=2**32 - 4)),
    ((3, 257), 0.3, LAST),
]
GRIDS = [
    None,  # the host's
    {"grid": (1, 1), "block": (16, 1)},
    {"grid": (2, 3), "block": (24, 2)},  # 24 threads are one tile and a half
    {"grid": (5, 2), "block": (64, 4)},
]


def check_bits(build):
    """The result has the bits of the contract on any grid."""
    for shape, rate, address in CASES:
        x = special_numbers(shape, build.dtype)
        for grid in GRIDS:
            y = run(build, x, rate, address, **(grid or {}))
            wrong = bits(y) != bits(expected(x, rate, address))
            assert not wrong.any(), f"{wrong.sum()} elements of {shape} are wrong on {grid}"


def check_many_elements(build):
    """An index beyond 2**32 is not cut: the second row of a long array lies where it should.

    The array is not there, so the interpreter says where the first access outside would be.
    """
    columns = 2**33
    itemsize = np.dtype(build.dtype).itemsize
    x = np.ones(64, build.dtype)
    arguments = [x, x, np.uint64(2), np.uint64(columns), *build.launch.arguments[4:]]
    with pytest.raises(ptxrun.MemoryFault) as fault:
        build.kernel.launch((1, 1), (16, 2), *arguments)
    assert f"offset {columns * itemsize} of" in str(fault.value), "the index is cut to 32 bits"


@EACH_DROPOUT
@pytest.mark.parametrize(
    "check",
    [check_cost, check_products, check_bits, check_many_elements],
    ids=lambda check: check.__name__,
)
def test_dropout_passes(check, build):
    check(bench.build_of(*build))


@pytest.mark.parametrize("dtype", kernel_table.FLOATS)
def test_address_in_an_array_gives_the_bits_of_one_in_words(dtype):
    """As a recorded step holds it: on the device, at a fixed place."""
    x = special_numbers((5, 70), dtype)

    def launch_with_array(kernel, grid, block, *arguments):
        arguments = [np.array(a) if isinstance(a, tuple) else a for a in arguments]
        compiled(kernel, tuple(map(numba.typeof, arguments))).launch(grid, block, *arguments)

    with launches_go_to(launch_with_array) as backend:
        y = backend.dropout(x, 0.3, USUAL)
    assert (bits(y) == bits(expected(x, 0.3, USUAL))).all()


# The checks, checked: each of these mistakes must fail one of them.


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
RESULT = "y0 = _drop_element(x0, w0, threshold, scale)"
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
        "not the arithmetic of IEEE 754",
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
        {"add(multiply(element, scale), offset)": "element * scale + offset"},
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
    source = path.read_text()
    for old, new in mutant.replacements.items():
        assert source.count(old) == 1, f"{mutant.file} holds {source.count(old)} times: {old}"
        source = source.replace(old, new)
    path.write_text(source)
    module, kernel = mutant.kernel.split(".")
    with mock.patch.dict(sys.modules), mock.patch.object(sys, "path", [str(folder), *sys.path]):
        for name in [name for name in sys.modules if name.split(".")[0] == package.name]:
            del sys.modules[name]
        copied = importlib.import_module(f"minidl_kernels.cuda.{module}")
    launched = kernel_table.launch_of(mutant.kernel, "float32")
    launched = launched._replace(kernel=getattr(copied, kernel))
    return bench.Build(mutant.kernel, "float32", capability, launched)


def mutants():
    """Return the mutants; all but the first of each check are slow."""
    checks = [mutant.check for mutant in MUTANTS]
    return [
        pytest.param(
            mutant,
            id=mutant.mistake,
            marks=[pytest.mark.slow] if mutant.check in checks[:place] else [],
        )
        for place, mutant in enumerate(MUTANTS)
    ]


@pytest.mark.parametrize("mutant", mutants())
def test_mistake_is_found(mutant, build_of_mutant):
    with pytest.raises((AssertionError, ValueError, ptxrun.PTXError), match=mutant.message):
        mutant.check(build_of_mutant(mutant))


def test_copy_without_a_mistake_is_the_same_kernel(build_of_mutant):
    copied = build_of_mutant(FUSED._replace(mistake="none", replacements={}))
    builds = copied, bench.build_of(DROPOUT, "float32")
    code = [re.sub(r"\b_ZN\w+", "name", build.kernel.ptx) for build in builds]
    assert code[0] == code[1]


@EACH_CAPABILITY
def test_machine_code_shows_mistakes_too(build_of_mutant, capability):
    fused, local = build_of_mutant(FUSED, capability), build_of_mutant(LOCAL, capability)
    assert "FFMA" in fused.code.instructions
    assert {"LDL", "STL"} <= set(local.code.instructions)
    assert local.code.stack_bytes == 64 * 4
    float64 = bench.build_of(DROPOUT, "float64", capability)
    assert "DMUL" in float64.code.instructions


# The table of bench.kernels.


RESULTS = bench.ROOT / "bench" / "RESULTS.md"


@pytest.mark.slow
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
