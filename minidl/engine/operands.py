"""Conversion of operands and arguments that are not tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.engine.backward import is_recording


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
