"""Cost of the CUDA kernels, from their machine code, and predicted times; no GPU is needed.

    python -m bench.kernels --static

prints the tables that stand in `bench/RESULTS.md`. A kernel is in them once it has a row in
`tests/kernels/kernel_table.py`; the tests read the same compiled code through this module.

How it is counted
-----------------
The kernel is compiled to PTX by numba-cuda and to machine code by nvJitLink, as for a launch.

instructions an element
    The machine instructions of the innermost loop, times the loads and stores of global memory that
    an element needs, over those in the loop; so an unrolled loop is counted rightly. A skipped
    instruction counts as an executed one. The elements are those of the launch's largest array.
    What the assembler calls for rare numbers, the slow path of a division or a root, is not
    counted. Where a kernel passes over its elements in several loops, it is an estimate.
a thread, once
    The machine instructions outside that loop: the setting up, the loop over rows, sums over the
    threads of a block.
bytes an element
    What must come from and go to memory at least: the distinct sectors of 32 bytes that the
    interpreter of `tests/ptx` sees touched by a launch.
sectors a request
    Sectors over loads and stores of whole warps, by the interpreter. Neighbouring threads that
    touch neighbouring elements need as many as an element has bytes; arrays of several dtypes give
    a mean.
predicted time
    The larger of two: the bytes at the published bandwidth, and all instructions at the rate of
    32-bit integer arithmetic (others issue at up to twice that rate; a multiplication of float64,
    which is slower on the RTX 4090, is one in 28 and counted alike). Launches, latency and caches
    are left out: it is a bound for large arrays, not a measurement. A launch takes some
    microseconds, in which an H100 could move ten million bytes: so arrays of a small network's size
    cost their launches, whatever the kernel.
"""

import argparse
import functools
import platform
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
sys.path += [str(folder) for folder in (ROOT, ROOT / "kernels", TESTS / "ptx", TESTS / "kernels")]

if find_spec("numba_cuda") is None:
    raise ImportError(
        "bench.kernels: the kernels are compiled by numba-cuda, which is not installed: "
        "pip install 'minidl[cuda-double]'"
    )
try:
    import kernel_table
    import numba
    import ptxrun
    from compiled import CAPABILITY, compiled
except ImportError as error:
    raise ImportError(
        f"bench.kernels: {error.name}.py is read from {TESTS}, which only a checkout of the "
        "repository has: run it there"
    ) from error


class Gpu(NamedTuple):
    """A GPU by its maker's published figures."""

    name: str
    capability: tuple[int, int]
    bandwidth: float  # bytes a second
    instructions: float  # 32-bit integer instructions a second, all lanes


# Data sheet of the H100 (SXM): 3.35 TB/s; 132 SMs with 64 integer lanes each at the 1.98 GHz that
# its 67 TFLOPS in float32 imply (132 * 128 lanes * 2 * 1.98 GHz).
# White paper of the Ada architecture, RTX 4090: 1008 GB/s; 128 SMs with 64 integer lanes, 2.52 GHz.
GPUS = (
    Gpu("H100 SXM", (9, 0), 3.35e12, 132 * 64 * 1.98e9),
    Gpu("RTX 4090", (8, 9), 1.008e12, 128 * 64 * 2.52e9),
)

_INSTRUCTION_BYTES = 16


class MachineCode(NamedTuple):
    """What the assembler made of a kernel; its instructions are named in their order."""

    instructions: list[str]
    helpers: set[str]  # functions of the assembler's own that the kernel calls
    loops: list[range]
    registers: int
    spilled_bytes: int
    stack_bytes: int

    def hot_loop(self) -> range:
        """Return the innermost loop with the most accesses to memory; all, if there is no loop."""
        innermost = [
            loop
            for loop in self.loops
            if not any(
                other != loop and other.start >= loop.start and other.stop <= loop.stop
                for other in self.loops
            )
        ]
        everything = range(len(self.instructions))
        return max(innermost, key=self.global_accesses, default=everything)

    def opcodes(self, where: range) -> Counter[str]:
        """Return how often each instruction stands in a part of the code."""
        return Counter(self.instructions[where.start : where.stop])

    def global_accesses(self, where: range) -> int:
        """Return how many loads and stores of global memory stand in a part of the code."""
        opcodes = self.opcodes(where)
        return opcodes["LDG"] + opcodes["STG"]


class Figures(NamedTuple):
    """What a kernel costs; see the head of this file."""

    instructions_an_element: float
    instructions_once: int
    bytes_an_element: float
    sectors_a_request: float


@dataclass(frozen=True, eq=False)
class Build:
    """A kernel, compiled for the types of one launch and for one compute capability."""

    name: str
    dtype: str
    capability: tuple[int, int]
    launch: kernel_table.Launch

    @functools.cached_property
    def kernel(self) -> ptxrun.Kernel:
        """The kernel as PTX."""
        types = tuple(map(numba.typeof, self.launch.arguments))
        return compiled(self.launch.kernel, types, self.capability)

    @functools.cached_property
    def code(self) -> MachineCode:
        """The kernel's machine code."""
        return machine_code(self.kernel.ptx, self.capability)

    @functools.cached_property
    def executed(self) -> ptxrun.Stats:
        """The counts of the launch, executed on the CPU."""
        return self.kernel.launch(self.launch.grid, self.launch.block, *self.launch.arguments)


@functools.cache
def build_of(name: str, dtype: str, capability: tuple[int, int] = CAPABILITY) -> Build:
    """Return a kernel of the table, compiled once."""
    return Build(name, dtype, capability, kernel_table.launch_of(name, dtype))


def accesses(build: Build) -> list[tuple[str, int, float]]:
    """Return each access to global memory: the instruction, its bytes, its sectors a request."""
    found = []
    for text, _, (requests, _, sectors, _) in build.executed.per_ins.values():
        access = re.match(r"(?:@\S+ )?(?:ld|st)\.global\.\w?(\d+) ", text)
        if access and requests:
            found.append((text, int(access[1]) // 8, sectors / requests))
    return found


def figures(build: Build) -> Figures:
    """Return what a kernel costs, from its code and from one launch that the CPU executes."""
    stats = build.executed
    loads, stores = stats.mem["global", "ld"], stats.mem["global", "st"]
    requests, _, sectors, accesses = (sum(pair) for pair in zip(loads, stores, strict=True))
    elements = max(map(np.size, build.launch.arguments))
    loop = build.code.hot_loop()
    accesses_in_loop = build.code.global_accesses(loop)
    return Figures(
        instructions_an_element=len(loop) * accesses / elements / accesses_in_loop,
        instructions_once=len(build.code.instructions) - len(loop),
        bytes_an_element=(stats.load_footprint + stats.store_footprint) / elements,
        sectors_a_request=sectors / requests,
    )


def machine_code(ptx: str, capability: tuple[int, int]) -> MachineCode:
    """Return the machine code of a kernel, without the assembler's own functions that it calls.

    Raises
    ------
    ValueError
        If it is several functions, or its branches are not encoded as in the GPUs known here.
    """
    cubin, log = ptxrun.ptxas(ptx, capability)
    functions = dict(_functions(cubin))
    helpers = {name for name in functions if name.startswith("__cuda_")}
    if len(functions) != len(helpers) + 1:
        raise ValueError(
            "bench.kernels: expected one function, "
            f"got {len(functions) - len(helpers)}: the kernel calls another."
        )
    (code,) = (code for name, code in functions.items() if name not in helpers)
    instructions = [ptxrun.SASS.get(low & 0x1FF, hex(low & 0x1FF)) for low, _ in code]
    while instructions[-1] == "NOP":  # padding
        instructions.pop()
    branches = [
        (place, place + 1 + _branch_offset(*code[place], capability) // _INSTRUCTION_BYTES)
        for place, name in enumerate(instructions)
        if name == "BRA"
    ]
    # The assembler ends each function with a branch to itself, never reached.
    guard = branches.pop()
    if guard != (len(instructions) - 1,) * 2:
        raise ValueError(f"bench.kernels: unknown encoding of branches for {capability}")
    instructions.pop()
    registers, stack, spilled = _resources(log)
    return MachineCode(
        instructions,
        helpers,
        loops=[range(target, place + 1) for place, target in branches if target <= place],
        registers=registers,
        spilled_bytes=spilled,
        stack_bytes=stack,
    )


def _resources(log: str) -> tuple[int, int, int]:
    """Return registers, bytes of the stack and spilled bytes, read from the assembler's log."""
    for pattern in (
        r"(?P<stack>\d+) bytes stack frame, (?P<spilled>\d+) bytes spill stores"
        r".*Used (?P<registers>\d+) registers",
        r"used (?P<registers>\d+) registers.* (?P<stack>\d+) stack.* (?P<spilled>\d+) bytes lmem",
    ):
        found = re.search(pattern, log, re.DOTALL)
        if found is not None:
            return int(found["registers"]), int(found["stack"]), int(found["spilled"])
    raise ValueError(f"bench.kernels: expected a log that names the registers, got: {log}")


def _functions(cubin: bytes) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yield each function of an ELF file: its name, its 128-bit instructions as two words."""
    (section_table,) = struct.unpack_from("<Q", cubin, 40)
    _, count, names = struct.unpack_from("<HHH", cubin, 58)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", cubin, section_table + 64 * i) for i in range(count)
    ]
    for place, _, _, _, start, size, *_ in sections:
        first = sections[names][4] + place
        name = cubin[first : cubin.index(b"\0", first)].decode()
        if name.startswith(".text."):
            code = list(struct.iter_unpack("<QQ", cubin[start : start + size]))
            yield name.removeprefix(".text."), code


def _branch_offset(low: int, high: int, capability: tuple[int, int]) -> int:
    """Return the bytes from the end of a branch to its target.

    Up to compute capability 8.9 it is a number of 50 bits from bit 32 on; from 9.0 on, in units of
    four bytes, its low eight bits stand at bit 16 and the others from bit 34 on. (Found in the
    output of nvdisasm 13.5, whose loops these are for each kernel and GPU of the tables.)
    """
    field = low >> 32 | (high & 0x3FFFF) << 32
    signed = field - (field >> 49 << 50)
    if capability < (9, 0):
        return signed
    return 4 * ((signed >> 2) << 8 | low >> 16 & 0xFF)


def code_table() -> Iterator[str]:
    """Yield the lines of the table of compiled code."""
    yield (
        "| kernel | dtype | compute capability | instructions an element | a thread, once "
        "| bytes an element | sectors a request | registers | bytes spilled |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, row in kernel_table.CUDA_KERNELS.items():
        for dtype in row.dtypes:
            for major, minor in row.capabilities:
                built = build_of(name, dtype, (major, minor))
                cost = figures(built)
                yield (
                    f"| `cuda.{name}` | {dtype} | {major}.{minor} "
                    f"| {cost.instructions_an_element:.1f} | {cost.instructions_once} "
                    f"| {cost.bytes_an_element:.1f} | {cost.sectors_a_request:.1f} "
                    f"| {built.code.registers} | {built.code.spilled_bytes} |"
                )


def prediction_table() -> Iterator[str]:
    """Yield the lines of the table of predicted times."""
    yield (
        "| kernel | dtype | GPU | memory, ps an element | instructions, ps an element "
        "| predicted: ps an element | elements a second |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, row in kernel_table.CUDA_KERNELS.items():
        for dtype in row.dtypes:
            for gpu in GPUS:
                cost = figures(build_of(name, dtype, gpu.capability))
                memory = cost.bytes_an_element / gpu.bandwidth
                compute = cost.instructions_an_element / gpu.instructions
                time = max(memory, compute)
                yield (
                    f"| `cuda.{name}` | {dtype} | {gpu.name} | {memory * 1e12:.2f} "
                    f"| {compute * 1e12:.2f} | {time * 1e12:.2f} | {1 / time:.2g} |"
                )


def versions() -> str:
    """Return a line that names what compiled the kernels."""
    found = {
        name: version
        for name in ("numba", "numba-cuda", "cuda-toolkit", "nvidia-nvvm", "nvidia-nvjitlink")
        for version in _version(name)
    }
    listed = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"Made with Python {platform.python_version()}, {listed}."


def _version(distribution: str) -> Iterator[str]:
    try:
        yield metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return


def report() -> Iterator[str]:
    """Yield the lines that `--static` prints."""
    yield versions()
    yield ""
    yield "Compiled code:"
    yield ""
    yield from code_table()
    yield ""
    yield "Predicted times, not measured:"
    yield ""
    yield from prediction_table()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--static", action="store_true", required=True, help="read the compiled code; needs no GPU"
    )
    parser.parse_args()
    for line in report():
        print(line)


if __name__ == "__main__":
    main()
