"""Conversion of operands and arguments that are not tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.engine.backward import is_recording

# The ufuncs of NumPy that tensors have, too.
OPERATIONS = {
    *("abs", "add", "divide", "exp", "log", "matmul", "maximum", "minimum", "multiply", "negative"),
    *("power", "sqrt", "subtract", "tanh"),
}
RELATIONS = {"equal", "greater", "greater_equal", "less", "less_equal", "not_equal"}


def flat(numbers: tuple[int | Sequence[int], ...]) -> tuple[int, ...]:
    """Return the numbers of ``f(2, 3)`` and of ``f((2, 3))`` alike."""
    if len(numbers) == 1 and isinstance(numbers[0], Sequence):
        return tuple(numbers[0])
    return tuple(numbers)  # type: ignore[arg-type]


def number(operand: Any) -> Any:
    """Return a NumPy scalar as a Python number, which does not widen a tensor's dtype."""
    return operand.item() if isinstance(operand, np.generic) else operand


def kept(operand: Any) -> Any:
    """Return an operand that the graph may keep: a copy if it can change before `backward`."""
    return operand.copy() if hasattr(operand, "copy") and is_recording() else operand


def as_arrays(values: Any, kind: type) -> Any:
    """Return the arguments of a NumPy function with read-only arrays for those of `kind`."""
    if isinstance(values, kind):
        array = np.asarray(values).view()
        array.flags.writeable = False
        return array
    if isinstance(values, dict):
        return {key: as_arrays(value, kind) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [as_arrays(value, kind) for value in values]
    return values


def function_of(ufunc: np.ufunc, method: str, options: dict[str, Any]) -> tuple[str, bool]:
    """Return the name of the operation or relation that a ufunc is, and whether it is a relation.

    Raises
    ------
    TypeError
        If there is none, or there are other arguments, such as an array for the result.
    """
    name = "abs" if ufunc is np.absolute else ufunc.__name__
    call = f"np.{ufunc.__name__}" + (f".{method}" if method != "__call__" else "")
    if options:
        raise TypeError(
            f"{call}: expected tensors alone, got {', '.join(options)}=. Write x = x + y for x += "
            "y, and leave other arguments out."
        )
    if method != "__call__" or name not in OPERATIONS | RELATIONS:
        raise TypeError(
            f"{call}: expected arrays, got a Tensor. Use operators and methods of tensors, or "
            f"{call}(x.numpy()), without gradient."
        )
    return name, name in RELATIONS
