"""Calls of compiled kernels by address: from the threads of the pool, and in a replay.

A kernel that the threads share has the parameters ``(piece, pieces, *arguments)``. Numba compiles
it once, for one thread. A few lines of LLVM code let the pool call it: they unpack the arguments
from memory and call it for each piece. They compile in milliseconds, and `numba.prange` in seconds.
"""

import ctypes
import functools
import struct
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from minidl_kernels.cpu import blas, jit

_WORD = ir.IntType(64)
_WORDS = _WORD.as_pointer()
# What the pool runs on a range of pieces has the form of a generalised ufunc of NumPy: arrays,
# lengths, steps and data. In place of the first array, the pool passes the first piece.
_REGION = ir.FunctionType(ir.VoidType(), [_WORDS] * 4)

_FLOATS = {np.dtype("float32"): ("f", "I"), np.dtype("float64"): ("d", "q")}


class Call(NamedTuple):
    """A compiled kernel for one combination of types of arguments."""

    address: int  # of a function like `_REGION`, whose data are the words of the arguments
    owners: Any  # of the machine code


_calls: dict[tuple[Any, ...], Call] = {}


def of(kernel: Any, arguments: Sequence[Any], *, is_shared: bool) -> Call:
    """Return the call of a kernel for arguments of these types.

    Parameters
    ----------
    kernel : compiled kernel
        The kernel.
    arguments : sequence
        C-contiguous arrays, integers, and NumPy's float32 and float64.
    is_shared : bool
        Whether the first two parameters of the kernel are the piece and their number; `arguments`
        then begins with the number.
    """
    kinds = [(a.dtype, a.ndim) if type(a) is np.ndarray else type(a) for a in arguments]
    key = (kernel, is_shared, *kinds)
    call = _calls.get(key)
    if call is None:
        call = _calls[key] = _compile(kernel, list(map(_type, arguments)), is_shared)
    return call


def words(arguments: Sequence[Any]) -> "array[int]":
    """Return the arguments as a compiled kernel receives them, in words of 8 bytes.

    The words of an array are those of Numba's layout: two words for its owner, which kernels do not
    use; then size, bytes of an element, address, shape and strides.
    """
    packed: list[int] = []
    for argument in arguments:
        if type(argument) is np.ndarray:
            sizes = argument.size, argument.itemsize, _address(argument)
            packed += (0, 0, *sizes, *argument.shape, *argument.strides)
        elif isinstance(argument, int):
            packed.append(argument)
        else:
            number, word = _FLOATS[argument.dtype]
            packed += struct.unpack(word, struct.pack(number, argument))
    return array("q", packed)


def _address(argument: Any) -> int:
    """Return the address of the first element."""
    try:  # four times as fast as the attributes of the array
        return ctypes.addressof(ctypes.c_char.from_buffer(argument))
    except (TypeError, ValueError):  # read-only, empty or strided
        if not argument.flags.c_contiguous:
            raise ValueError(
                f"launch: expected arrays in C order, got strides {argument.strides}. "
                "Copy it first."
            ) from None
        return argument.ctypes.data


def _type(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return types.Array(numba.from_dtype(argument.dtype), argument.ndim, "C")
    return types.int64 if isinstance(argument, int) else numba.typeof(argument)


def _compile(kernel: Any, kinds: Sequence[Any], is_shared: bool) -> Call:
    """Compile a function like `_REGION` that calls the kernel for each piece of its range.

    Numba gives each kernel a wrapper with C's calling convention, whose address is constant.
    """
    signature = (types.int64, *kinds) if is_shared else tuple(kinds)
    kernel.compile(signature)
    compiled = kernel.get_compile_result(numba.core.typing.signature(types.none, *signature))
    wrapper = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
    target = compiled.target_context
    values = [target.get_value_type(kind) for kind in compiled.signature.args]
    returned = target.get_value_type(compiled.signature.return_type)

    module = ir.Module()
    function = ir.Function(module, _REGION, "region")
    pieces, lengths, _, packed = function.args
    entry, loop, end = (function.append_basic_block() for _ in range(3))
    build = ir.IRBuilder(entry)
    start = build.load(pieces)
    stop = build.add(start, build.load(lengths))
    arguments, place = [], 0
    for value in values[is_shared:]:
        pointer = build.gep(packed, [ir.Constant(_WORD, place)])
        arguments.append(build.load(build.bitcast(pointer, value.as_pointer())))
        place += sum(getattr(part, "count", 1) for part in getattr(value, "elements", [value]))
    build.branch(loop)
    build.position_at_end(loop)
    piece = build.phi(_WORD)
    piece.add_incoming(start, entry)
    callee = ir.FunctionType(returned, values).as_pointer()
    first = [piece] if is_shared else []
    build.call(build.inttoptr(ir.Constant(_WORD, wrapper), callee), [*first, *arguments])
    following = build.add(piece, ir.Constant(_WORD, 1))
    piece.add_incoming(following, loop)
    build.cbranch(build.icmp_unsigned("<", following, stop), loop, end)
    build.position_at_end(end)
    build.ret_void()
    engine = _machine_code(module)
    return Call(engine.get_function_address("region"), (engine, compiled))


def _machine_code(module: ir.Module) -> Any:
    """Return the engine that holds the machine code of a module; it is too small to optimise."""
    target = llvmlite.binding.Target.from_default_triple()
    engine = llvmlite.binding.create_mcjit_compiler(
        llvmlite.binding.parse_assembly(str(module)), target.create_target_machine(jit=True, opt=0)
    )
    engine.finalize_object()
    return engine


def run(calls: np.ndarray, times: int = 1) -> None:
    """Run calls one after the other, `times` times, with OpenBLAS limited to one thread.

    Parameters
    ----------
    calls : numpy.ndarray
        int64, shape (calls, 3): the address of each, that of its words, and the number of pieces. A
        call in several pieces runs on the threads of the pool.
    """
    if blas.available:
        _run_with_blas(blas.holders, calls, times, _parallel_for())
    else:
        _run(calls, times, _parallel_for())


@functools.cache
def _parallel_for() -> int:
    """Return the address of the function of Numba's TBB layer that runs a region."""
    try:
        from numba.np.ufunc import tbbpool  # type: ignore[attr-defined]
    except ImportError:  # then nothing has several pieces
        return 0
    return tbbpool.parallel_for


def _c_call(is_region: bool) -> Any:
    """Return the function that calls a C function without a result from compiled code."""

    def call(_: Any, address: Any, arguments: Any) -> Any:
        def generate(context: Any, build: ir.IRBuilder, signature: Any, values: Any) -> Any:
            parts = cgutils.unpack_tuple(build, values[1])
            function = ir.FunctionType(ir.VoidType(), [part.type for part in parts]).as_pointer()
            python = context.get_python_api(build)
            state = python.save_thread() if is_region else None
            build.call(build.inttoptr(values[0], function), parts)
            if is_region:
                python.restore_thread(state)
            return context.get_dummy_value()

        return types.void(address, arguments), generate

    return jit.intrinsic(call)


_call = _c_call(is_region=False)
# Without the GIL, which a thread of the pool may need: tracemalloc takes it at each allocation.
_call_region = _c_call(is_region=True)


@jit.kernel
def _run(calls: Any, times: Any, parallel_for: Any) -> None:
    range_of_pieces = np.array([0, 0, 1])  # the first, their number, the step
    first = range_of_pieces.ctypes.data
    length, step = first + 8, first + 16
    for _ in range(times):
        for region, words, pieces in calls:
            range_of_pieces[1] = pieces
            if pieces == 1:
                _call(region, (first, length, step, words))
            else:
                no, arrays, threads = np.int64(0), np.int64(1), np.int32(pieces)
                arguments = (region, first, length, step, words, no, arrays, threads)
                _call_region(parallel_for, arguments)


@jit.kernel
def _run_with_blas(holders: Any, calls: Any, times: Any, parallel_for: Any) -> None:
    blas.hold(holders)
    _run(calls, times, parallel_for)
    blas.release(holders)
