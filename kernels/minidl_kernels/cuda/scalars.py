"""Numbers that a kernel gets by value, or reads from the device; arithmetic that is never fused.

A CUDA graph keeps the values with which its kernels were launched. So a number that changes between
the launches of a graph is read from an array. One source serves both, with the same arithmetic.
"""

from collections.abc import Iterable
from typing import Any

from numba import types
from numba.cuda import libdevice
from numba.cuda.extending import overload  # type: ignore[attr-defined]
from numpy import uint32

from minidl_kernels.placed import place_of


def argument(number: Any, dtype: Any) -> Any:
    """Return what a kernel gets for a number: its place, or else a NumPy scalar of the dtype."""
    place = place_of(number)
    return dtype(number) if place is None else place


def words(numbers: Iterable[int]) -> tuple[Any, ...]:
    """Return what a kernel gets for numbers of 32 bits."""
    return tuple(argument(number, uint32) for number in numbers)


def number(x: Any) -> Any:
    """Return, in a kernel, the number behind an argument. Call it before a loop."""
    raise NotImplementedError("only kernels call it")


@overload(number, target="cuda", inline="always")  # Numba rejects annotations here
def _number(x):  # type: ignore[no-untyped-def]
    """Choose the code for the type of the argument."""
    if isinstance(x, types.Array):
        return lambda x: x[uint32(0)]
    return lambda x: x


def add(a: Any, b: Any) -> Any:
    """Return, in a kernel, the sum of floats of one dtype, rounded by itself.

    The sum of a product may become one fused multiply-add, which rounds once.
    """
    raise NotImplementedError("only kernels call it")


@overload(add, target="cuda", inline="always")
def _add(a, b):  # type: ignore[no-untyped-def]
    """Choose the instruction for the type of the arguments."""
    if types.float64 in (a, b):
        return lambda a, b: libdevice.dadd_rn(a, b)
    return lambda a, b: libdevice.fadd_rn(a, b)


def multiply(a: Any, b: Any) -> Any:
    """Return, in a kernel, the product of floats of one dtype, rounded by itself."""
    raise NotImplementedError("only kernels call it")


@overload(multiply, target="cuda", inline="always")
def _multiply(a, b):  # type: ignore[no-untyped-def]
    """Choose the instruction for the type of the arguments."""
    if types.float64 in (a, b):
        return lambda a, b: libdevice.dmul_rn(a, b)
    return lambda a, b: libdevice.fmul_rn(a, b)
