"""The CUDA kernels as they are compiled for a GPU; none is needed.

Their types, their PTX and their machine code are read, and their PTX is executed on the CPU. Each
check is a function, and kernels that are broken on purpose must fail it: see `MUTANTS`.
"""

import contextlib
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import kernel_table
import minidl_kernels
import numpy as np
import pytest
from minidl_kernels import mask_contract, philox

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: no CUDA kernel is compiled", allow_module_level=True)

import numba
import ptxrun
from minidl_kernels.cuda import dropout, launch
from numba import cuda
from numba.core import sigutils
from numba.cuda import dispatcher
from numba.cuda.compiler import compile_cuda

from bench import kernels as bench

CAPABILITIES = ((7, 5), (8, 0), (9, 0), (12, 0))
BUILDS = [
    (*kernel, capability)
    for kernel in kernel_table.KERNELS_AND_DTYPES
    for capability in CAPABILITIES
]


@contextlib.contextmanager
def gpu_of(capability):
    """Stand in for the GPU that Numba asks for when a kernel calls a device function."""
    gpu = SimpleNamespace(compute_capability=capability)
    with mock.patch.object(dispatcher, "get_current_device", return_value=gpu):
        yield


@pytest.fixture(params=CAPABILITIES, ids=lambda capability: "cc{}.{}".format(*capability))
def capability(request):
    return request.param


@pytest.fixture(params=BUILDS, ids=lambda build: "{}-{}-cc{}.{}".format(*build[:2], *build[2]))
def build(request):
    return bench.build_of(*request.param)


@pytest.fixture(params=kernel_table.CUDA_KERNELS["cuda.dropout.drop"].dtypes)
def drop(request, capability):
    return bench.build_of("cuda.dropout.drop", request.param, capability)


# What holds for every kernel.


def annotations(function, arguments, capability):
    """Yield the types in a kernel and in the device functions that it calls."""
    with gpu_of(capability):
        types = compile_cuda(function, None, arguments, cc=capability).type_annotation
    yield types
    for node, signature in types.calltypes.items():
        called = types.typemap[node.func.name] if getattr(node, "op", None) == "call" else None
        if hasattr(called, "dispatcher"):
            yield from annotations(called.dispatcher.py_func, signature.args, capability)


def check_types(build):
    """No variable is wider than the arrays' elements, and no index has a sign."""
    arguments = tuple(map(numba.typeof, build.launch.arguments))
    float64, indices = set(), set()
    for types in annotations(build.launch.kernel.py_func, arguments, build.capability):
        float64 |= {name for name, type_ in types.typemap.items() if str(type_) == "float64"}
        indices |= {
            str(signature.args[1])
            for node, signature in types.calltypes.items()
            if type(node).__name__ == "SetItem" or getattr(node, "op", None) == "getitem"
        }
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
    build.kernel.launch(
        build.launch.grid, build.launch.block, *build.launch.arguments, racecheck=True
    )


@pytest.mark.parametrize(
    "check", [check_arithmetic, check_memory, check_access], ids=lambda check: check.__name__
)
def test_compiled_kernel(check, build):
    check(build)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [kernel for kernel in kernel_table.KERNELS_AND_DTYPES if kernel[1] != "float64"],
)
def test_types(name, dtype):
    check_types(bench.build_of(name, dtype, (9, 0)))


@pytest.mark.parametrize(("name", "dtype"), kernel_table.KERNELS_AND_DTYPES)
def test_no_race(name, dtype):
    check_race(bench.build_of(name, dtype, (9, 0)))


def check_device_function(function, row, capability):
    """A device function, compiled alone, returns the types of the table."""
    listed = "".join(f"{argument}," for argument in row.arguments)
    arguments, _ = sigutils.normalize_signature(f"({listed})")
    with gpu_of(capability):
        _, returned = cuda.compile_ptx(function.py_func, arguments, device=True, cc=capability)
    assert str(returned) == row.returned, "the returned types"


@pytest.mark.parametrize("name", kernel_table.DEVICE_FUNCTIONS)
def test_types_of_device_functions(name, capability):
    _, module, function = name.split(".")
    module = importlib.import_module(f"minidl_kernels.cuda.{module}")
    check_device_function(
        getattr(module, function), kernel_table.DEVICE_FUNCTIONS[name], capability
    )


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


def run(build, x, rate, *, grid=None, block=None, **address):
    """Run dropout as the host launches it, or on another grid; return its result."""
    out = np.full(x.shape, 7, x.dtype)

    def execute(kernel, usual_grid, usual_block, stream, *arguments):
        grid_and_block = (usual_grid, usual_block) if grid is None else (grid, block)
        build.kernel.launch(*grid_and_block, *arguments)

    with mock.patch.object(launch, "launch", execute):
        dropout.dropout(x, out, rate, **address)
    return out


def inputs(shape, dtype):
    """Return values of all kinds, among them NaN, infinities, a subnormal and both zeros."""
    size = int(np.prod(shape))
    x = np.resize(np.array([1.1, -3.7, np.nan, np.inf, -np.inf, 0, -0.0, 1e-7, 0.3], dtype), size)
    x[1::5] = np.linspace(-100, 100, len(x[1::5]))
    x[::11] = np.finfo(dtype).smallest_subnormal
    return x.reshape(shape)


def expected(x, rate, **address):
    """Return what the mask contract says."""
    kept = mask_contract.keep_mask(x.shape, rate, **address)
    with np.errstate(over="ignore"):
        scaled = (x * mask_contract.scale(rate, x.dtype)).astype(x.dtype)
    return np.where(kept, scaled, x.dtype.type(0))


def bits(array):
    """Return the bits of an array, those of all NaNs equal."""
    canonical = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return canonical.view(f"u{array.itemsize}")


USUAL = {"seed": 2**40 + 17, "stream": 3, "step": 4}
LAST = {"seed": 2**64 - 1, "stream": 2**32 - 1, "step": 2**32 - 1}
CASES = [
    ((1,), 0.5, USUAL),
    ((3, 5), 0, USUAL),
    ((5, 16), 0.5, USUAL),
    ((2, 3, 21), 0.2, USUAL | {"row_offset": 7}),
    ((1, 64), 2**-32, {"seed": 0, "stream": 0, "step": 0}),
    ((2, 65), 1 - 2**-32, USUAL),
    ((4, 255), 0.9, LAST | {"row_offset": 2**32 - 4}),
    ((3, 257), 0.3, LAST),
]
GRIDS = [
    None,  # the host's
    {"grid": (1, 1), "block": (16, 1)},
    {"grid": (2, 3), "block": (24, 2)},  # 24 threads are one tile and a half
    {"grid": (5, 2), "block": (64, 4)},
]


def check_bits(build):
    """The result has the bits of the contract, whatever the grid."""
    for shape, rate, address in CASES:
        x = inputs(shape, build.dtype)
        before = x.tobytes()
        for grid in GRIDS:
            y = run(build, x, rate, **(grid or {}), **address)
            wrong = bits(y) != bits(expected(x, rate, **address))
            assert not wrong.any(), f"{wrong.sum()} elements of {shape} are wrong on {grid}"
        assert x.tobytes() == before


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


def test_dropout_costs_little(drop):
    check_cost(drop)


def test_philox_multiplies_words(drop):
    check_products(drop)


def test_dropout_has_the_bits_of_the_contract(drop):
    check_bits(drop)


def test_dropout_of_a_million_elements():
    build = bench.build_of("cuda.dropout.drop", "float32", (8, 0))
    x = inputs((2**20 + 3,), build.dtype)
    assert (bits(run(build, x, 0.5, **USUAL)) == bits(expected(x, 0.5, **USUAL))).all()


def test_dropout_indexes_long_arrays(drop):
    check_many_elements(drop)


# The checks, checked: each of these mistakes must fail one of them.


class Mutant(NamedTuple):
    """A mistake in a file of the kernels, and the check that finds it."""

    mistake: str
    file: str
    replacements: dict[str, str]  # each text stands in the file exactly once
    check: Any
    message: str
    kernel: str = "cuda.dropout.drop"


PHILOX_WORD = "uint32(c1 ^ uint64(key0) ^ (product1 >> WORD_BITS))"
PHILOX_WORD_NOT_CAST = "c1 ^ key0 ^ (product1 >> WORD_BITS)"
RESULT = "y0 = x0 * scale if w0 >= threshold else zero"
INDENT = " " * 12
BARRIER = "cuda.syncthreads()  # type: ignore[call-arg]"


def check_philox(build):
    """The types of the Philox that the kernel calls."""
    philox_of_it = build.launch.kernel.py_func.__globals__["_philox"]
    row = kernel_table.DEVICE_FUNCTIONS["cuda.dropout._philox"]
    check_device_function(philox_of_it, row, build.capability)


FUSED = Mutant(
    "a product and a sum",
    "dropout",
    {RESULT: RESULT.replace("scale", "scale + zero")},
    check_arithmetic,
    "fused in the PTX",
)
LOCAL = Mutant(
    "an array that no register can hold",
    "dropout",
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
        "dropout",
        {"a0 = a1 = a2 = a3 = np.float32(0)": "a0 = a1 = a2 = a3 = 0.0"},
        check_arithmetic,
        "float64 in the PTX",
    ),
    Mutant(
        "an integer where a float32 is meant",
        "dropout",
        {"zero = np.float32(0)": "zero = 0"},
        check_types,
        "variables of float64",
    ),
    Mutant(
        "an index with a sign",
        "dropout",
        {"i = uint64(row_start + uint64(tile) * uint64(64))": "i = row_start + tile * 64"},
        check_types,
        "wraps negative indices",
    ),
    Mutant(
        "an index of 32 bits",
        "dropout",
        {"row_start = uint64(row * columns": "row_start = uint32(row * columns"},
        check_many_elements,
        "cut to 32 bits",
    ),
    Mutant(
        "the words belong to threads, not to elements",
        "dropout",
        {"uint32(uint32(tile * uint32(16)) + lane0)": "uint32(thread_x)"},
        check_bits,
        "elements of .* are wrong on {'grid'",  # on the host's grid they are right
    ),
    Mutant(
        "a dropped element is multiplied by zero",
        "dropout",
        {RESULT: "y0 = x0 * scale * np.float32(w0 >= threshold)"},
        check_bits,
        "elements of .* are wrong",
    ),
    Mutant(
        "the last tile of a row is taken for a whole one",
        "dropout",
        {"rest = uint32(uint32(columns) & uint32(63))": "rest = uint32(64)"},
        check_bits,
        "out-of-bounds load",
    ),
    Mutant(
        "threads share rows",
        "dropout",
        {"row = uint64(row + uint64(threads_y))": "row = uint64(row + uint64(1))"},
        check_race,
        "races with a write",
    ),
    Mutant(
        "neighbouring threads are rows apart",
        "dropout",
        {
            "thread_x, thread_y =": "thread_y, thread_x =",
            "threads_x, threads_y =": "threads_y, threads_x =",
        },
        check_access,
        "not coalesced: 32.0 sectors",
    ),
    Mutant(
        "a second block of Philox",
        "dropout",
        {
            RESULT: "w0, _, _, _ = _philox(tile, uint32(row), stream, step, key0, key1)\n"
            f"{INDENT}{RESULT}"
        },
        check_cost,
        "too many instructions",
    ),
    Mutant(
        "fast mathematics",
        "dropout",
        {"@cuda.jit\ndef drop(": "@cuda.jit(fastmath=True)\ndef drop("},
        check_arithmetic,
        "not the arithmetic of IEEE 754",
    ),
    Mutant(
        "a division",
        "dropout",
        {RESULT: RESULT.replace("*", "/")},
        check_memory,
        "the assembler calls",
    ),
    Mutant(
        "relu: the larger of a number and 0",
        "dropout",
        {"return floor if x <= floor else x": "return max(x, 0)"},
        check_arithmetic,
        "float64 in the PTX",
        "cuda.dense.end_layer",
    ),
    Mutant(
        "no barrier between the warps' sums and their addition",
        "reduction",
        {f"    {BARRIER}\n": ""},
        check_race,
        "races with a write",
        "cuda.dense.gate_and_sum",
    ),
    Mutant(
        "no barrier between two tiles of columns",
        "cross_entropy",
        {"        cuda.syncthreads()\n        column =": "        column ="},
        check_race,
        "races with a read",
        "cuda.cross_entropy.softmax_minus_one_hot",
    ),
    Mutant(
        "no barrier between what one lane stores and the others load",
        "cross_entropy",
        {f"    {BARRIER}\n    weight =": "    weight ="},
        check_race,
        "races with a write",
        "cuda.cross_entropy.softmax_minus_one_hot",
    ),
    Mutant(
        "a sum that starts at a float literal",
        "cross_entropy",
        {"losses = np.float32(0)": "losses = 0.0"},
        check_arithmetic,
        "float64 in the PTX",
        "cuda.cross_entropy.sum_losses",
    ),
    Mutant(
        "the warps take columns, the lanes rows",
        "reduction",
        {
            "lane = uint32(cuda.threadIdx.x)": "lane = uint32(cuda.threadIdx.y)",
            "warp = uint32(cuda.threadIdx.y)": "warp = uint32(cuda.threadIdx.x)",
        },
        check_access,
        "not coalesced: 32.0 sectors",
        "cuda.dense.gate_and_sum",
    ),
    Mutant(
        "Adam: a power for a root",
        "optimizers",
        {"math.sqrt(s) + epsilon)": "s**0.5 + epsilon)"},
        check_memory,
        "the kernel calls",
        "cuda.optimizers.adam_update",
    ),
    Mutant(
        "Adam: fast mathematics",
        "optimizers",
        {"@cuda.jit\ndef adam_update(": "@cuda.jit(fastmath=True)\ndef adam_update("},
        check_arithmetic,
        "not the arithmetic of IEEE 754",
        "cuda.optimizers.adam_update",
    ),
    Mutant(
        "gather: a row number with a sign",
        "gather",
        {"taken = uint64(rows[row])": "taken = rows[row]"},
        check_types,
        "wraps negative indices",
        "cuda.gather.take_float32",
    ),
    Mutant(
        "gather: a product and a sum that may be fused",
        "gather",
        {"add(multiply(element, scale), offset)": "element * scale + offset"},
        check_arithmetic,
        "fused in the PTX",
        "cuda.gather.take_float32",
    ),
    Mutant(
        "gather: threads share elements",
        "gather",
        {"column = uint64(column + uint64(threads_x))": "column = uint64(column + uint64(255))"},
        check_race,
        "races with a write",
        "cuda.gather.take_float32",
    ),
]


def build_copy(name, file, replacements, folder, capability):
    """Return a kernel on float32 from a copy of its file or of one it uses, texts replaced."""
    _, own, kernel = name.split(".")
    with contextlib.ExitStack() as patches:
        if file != own:
            package = minidl_kernels if hasattr(minidl_kernels, file) else minidl_kernels.cuda
            used = _copy(getattr(package, file), replacements, folder)
            patches.enter_context(mock.patch.object(package, file, used))
            replacements = {}
        module = importlib.import_module(f"minidl_kernels.cuda.{own}")
        copied = _copy(module, replacements, folder)
    launched = kernel_table.launch_of(name, "float32")._replace(kernel=getattr(copied, kernel))
    return bench.build(name, "float32", capability, launched)


def _copy(module, replacements, folder):
    source = inspect.getsource(module)
    for old, new in replacements.items():
        times = source.count(old)
        if times != 1:
            raise LookupError(f"{module.__name__} holds {times} times: {old}")
        source = source.replace(old, new)
    name = module.__name__.rpartition(".")[2]
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(f"copy_of_{name}", path)
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    return copied


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.mistake)
def test_a_mistake_is_found(mutant, tmp_path):
    with pytest.raises((AssertionError, ValueError, ptxrun.PTXError), match=mutant.message):
        mutant.check(build_copy(mutant.kernel, mutant.file, mutant.replacements, tmp_path, (8, 0)))


def test_a_copy_without_a_mistake_passes(tmp_path):
    copied = build_copy("cuda.dropout.drop", "dropout", {}, tmp_path, (8, 0))
    for check in {mutant.check for mutant in MUTANTS}:
        check(copied)


def test_machine_code_shows_mistakes_too(tmp_path, capability):
    fused = build_copy(FUSED.kernel, FUSED.file, FUSED.replacements, tmp_path, capability)
    local = build_copy(LOCAL.kernel, LOCAL.file, LOCAL.replacements, tmp_path, capability)
    assert "FFMA" in fused.code.instructions
    assert {"LDL", "STL"} <= set(local.code.instructions)
    assert local.code.stack_bytes == 64 * 4
    float64 = bench.build_of("cuda.dropout.drop", "float64", capability)
    assert "DMUL" in float64.code.instructions


# The table of bench.kernels.


def test_the_table_is_that_of_this_compiler():
    results = (bench.ROOT / "bench" / "RESULTS.md").read_text()
    if bench.versions() not in results:
        pytest.skip(f"bench/RESULTS.md was made with other versions. {bench.versions()}")
    assert "\n".join(bench.report()) in results


def test_outside_a_checkout_the_error_says_so(tmp_path):
    alone = tmp_path / "kernels.py"
    alone.write_text(inspect.getsource(bench))
    ran = subprocess.run([sys.executable, alone, "--static"], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "only a checkout of the repository has: run it there" in ran.stderr
