"""Checks with a reason: what passed and what was seen, or what is wrong."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Check = Callable[[], str]
"""Returns what it saw, and raises where that is wrong."""


class Mismatch(Exception):
    """Say in what the device differs from what is expected."""


class Result(NamedTuple):
    """What came of a check, and the reason."""

    name: str
    passed: bool
    reason: str

    def __str__(self) -> str:
        return f"- {'PASS' if self.passed else 'FAIL'} {self.name}: {self.reason}"


def result_of(name: str, check: Check) -> Result:
    """Run a check; an error of the driver or of a compiler belongs in the report too."""
    try:
        return Result(name, True, check())
    except Mismatch as found:
        return Result(name, False, str(found))
    except Exception as error:
        return Result(name, False, one_line(error))


def one_line(error: Exception) -> str:
    """Return an error's kind and text without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def require_same_kind(received: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Raise where arrays differ in shape or dtype."""
    if (received.shape, received.dtype) != (expected.shape, expected.dtype):
        raise Mismatch(
            f"{what}: expected {expected.dtype} of shape {expected.shape}, "
            f"got {received.dtype} of shape {received.shape}"
        )


def require_same_bits(received: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Raise where arrays differ in shape, dtype or a bit; one NaN is as good as another."""
    require_same_kind(received, expected, what)
    both_nan = np.isnan(received) & np.isnan(expected)
    bits = [np.ascontiguousarray(a).view(f"u{a.itemsize}") for a in (received, expected)]
    wrong = (bits[0] != bits[1]).reshape(expected.shape) & ~both_nan  # () became (1,)
    if wrong.any():
        first = tuple(int(place) for place in np.argwhere(wrong)[0])
        raise Mismatch(f"{what}: {wrong.sum():,} of {wrong.size:,} differ, the first at {first}")


def require_close(received: np.ndarray, expected: np.ndarray, limit: float, what: str) -> float:
    """Return the largest difference, relative to the largest magnitude; raise above the limit."""
    require_same_kind(received, expected, what)
    largest = float(np.abs(expected).max()) or 1.0
    distance = float(np.abs(received - expected).max()) / largest
    if not distance <= limit:  # so that NaN fails too
        raise Mismatch(f"{what}: {distance:.1e} from the CPU's, at most {limit:.0e} is allowed")
    return distance
