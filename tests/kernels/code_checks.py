"""Checks of a CUDA kernel's types, PTX and machine code, and of what its PTX computes.

A check takes a build of `bench.kernels` and raises AssertionError. `test_compiled.py` applies them
to all kernels, and `test_mutants.py` to kernels that are broken on purpose.
"""

import contextlib
import re
from types import SimpleNamespace
from unittest import mock

import kernel_table
import numpy as np
import ptxrun
import pytest
from backends import bits, launches_go_to, special_numbers
from minidl_kernels import mask_contract, number_contract, philox
from minidl_kernels.mask_contract import Address
from numba import cuda
from numba.core import sigutils
from numba.cuda import dispatcher

from bench import kernels as bench


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
    wide = build.dtype == "float64" or kernel_table.CUDA_KERNELS[build.name].wide
    assert wide or not float64, f"variables of float64: {float64}"
    assert indices, "no array is indexed"
    integers = set(re.findall(r"u?int\d+", " ".join(indices)))
    assert integers <= {"uint32", "uint64"}, f"Numba wraps negative indices: {indices}"


def check_arithmetic(build):
    """No float64 beside arrays of others; where bits are promised, no rounding more or less."""
    ptx, opcodes = build.kernel.ptx, set(build.code.instructions)
    float64 = {"DMUL", "DADD", "DSETP", "DFMA", "F2F.64", "F2I.64", "I2F.64"}
    wide = build.dtype == "float64" or bool(kernel_table.CUDA_KERNELS[build.name].wide)
    only_copies = not re.search(r"\.f(32|64)\b", ptx)
    assert only_copies or (".f64" in ptx) == wide, "float64 in the PTX"
    assert wide or not opcodes & float64, "float64 in the machine code"
    # Nobody asked for fast mathematics; libdevice's exp and log have such instructions inside.
    approximate = set(re.findall(r"\b\w+\.\S*(?:ftz|approx|full)\S*", ptx))
    if kernel_table.CUDA_KERNELS[build.name].inexact:
        approximate -= {"ex2.approx.ftz.f32", "rcp.approx.ftz.f64"}
    else:
        assert not re.search(r"\bfma\.|\bmad\.\S*f(16|32|64)", ptx), "fused in the PTX"
        has_quotients = kernel_table.CUDA_KERNELS[build.name].has_quotients
        allowed = {"FFMA", "DFMA"} if has_quotients else set()
        # Then only the PTX shows that the assembler fuses nothing: it may fuse a product without
        # ".rn" with a sum.
        products = re.findall(r"\bmul\.f\d\d\s+(%\w+),", ptx)
        summands = re.findall(r"\b(?:add|sub)\.f\d\d\s+\S+ (\S+), (\S+);", ptx)
        assert not set(products) & {s for pair in summands for s in pair}, "a sum may be fused"
        assert not opcodes & {"FFMA", "DFMA"} - allowed, "fused in the machine code"
        exact = r"(?!\.rn\.f(?:32|64))" if has_quotients else ""
        assert not re.search(rf"\b(div|rcp|sqrt)\b{exact}\.\S*f(16|32|64)", ptx), "a quotient"
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


def check_device_function(function, row, capability):
    """A device function, compiled alone, returns the types of the table."""
    listed = "".join(f"{argument}," for argument in row.arguments)
    arguments, _ = sigutils.normalize_signature(f"({listed})")
    with gpu_of(capability):
        _, returned = cuda.compile_ptx(function.py_func, arguments, device=True, cc=capability)
    assert str(returned) == row.returned, "the returned types"


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


# Random numbers and noise.


def check_noise_bits(build):
    """The result has the bits of the contract on any grid."""
    _, name = build.name.split("._")
    for shape, _, address in CASES:
        x = special_numbers(shape, build.dtype)
        for grid in GRIDS:
            y, expected = noise_and_contract(build, name, x, address, grid or {})
            wrong = bits(y) != bits(expected)
            assert not wrong.any(), f"{wrong.sum()} elements of {shape} are wrong on {grid}"


def noise_and_contract(build, name, x, address, grid):
    """Return what a kernel of `noise` computes, and what the contract says."""
    is_factor = address.row_offset > 0  # both forms come in turn

    def execute(kernel, *launch):
        usual, arguments = launch[:2], launch[2:]
        build.kernel.launch(*(grid.values() or usual), *arguments)

    with launches_go_to(execute) as backend:
        if name == "noise":
            y = backend.noise(x, 0.3, address, is_factor=is_factor)
        else:
            y = getattr(backend, name)(x.shape, address, x.dtype)
    numbers = getattr(number_contract, "normal" if name == "noise" else name)
    n = numbers(x.shape, **address._asdict()).astype(x.dtype)
    if name != "noise":
        return y, n
    with np.errstate(invalid="ignore"):
        sigma = x.dtype.type(0.3)
        return y, x * (1 + sigma * n) if is_factor else x + sigma * n


def check_many_numbers(build):
    """An index beyond 2**32 is not cut, as in `check_many_elements`."""
    columns, itemsize = 2**33, np.dtype(build.dtype).itemsize
    array, sizes = np.ones(64, build.dtype), (np.uint64(2), np.uint64(columns))
    *inputs, _, _, _, address = build.launch.arguments
    inputs = [array if isinstance(given, np.ndarray) else given for given in inputs]
    with pytest.raises(ptxrun.MemoryFault) as fault:
        build.kernel.launch((1, 1), (16, 2), *inputs, array, *sizes, address)
    assert f"offset {columns * itemsize} of" in str(fault.value), "the index is cut to 32 bits"
