"""Number of threads of the CPU kernels, one for the whole process.

For one number of threads, results are equal from run to run; masks are equal for any number.
Without the `tbb` library the kernels are serial, and NumPy's matrix products keep their own
threads.
"""

import operator
import os
from typing import Any

VARIABLE = "MINIDL_NUM_THREADS"

_chosen: int | None = None  # by `set_num_threads`
_default: int | None = None  # read once


def num_threads() -> int:
    """Return the number of threads of the CPU kernels.

    `set_num_threads` sets it. The default is the environment variable MINIDL_NUM_THREADS, read
    once, or else the number of cores that this process may use.

    Raises
    ------
    ValueError
        If MINIDL_NUM_THREADS is not a whole number, 1 or above.
    """
    global _default
    if _chosen is not None:
        return _chosen
    if _default is None:
        _default = _in_environment(VARIABLE) or cores()
    return _default


def is_chosen() -> bool:
    """Return whether `set_num_threads` or the environment chose the number."""
    return _chosen is not None or VARIABLE in os.environ


def check_environment() -> None:
    """Raise ValueError if a number of threads in the environment is needed and invalid."""
    _in_environment("NUMBA_NUM_THREADS")  # whose own error names no variable
    if _chosen is None:
        _in_environment(VARIABLE)


def set_num_threads(number: int) -> None:
    """Set the number of threads of the CPU kernels in this process.

    Parameters
    ----------
    number : int
        1 or above. At 1 no second thread is used.

    Raises
    ------
    ValueError
        If it is below 1.
    TypeError
        If it is not an integer; a bool is not.

    Examples
    --------
    >>> usual = num_threads()
    >>> set_num_threads(1)
    >>> num_threads()
    1
    >>> set_num_threads(usual)
    """
    global _chosen
    _chosen = _checked(number)


def _checked(number: Any) -> int:
    expected = "set_num_threads: expected an integer, 1 or above"
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise TypeError(f"{expected}, got {number!r} of type {type(number).__name__}. Pass an int.")
    if number < 1:
        raise ValueError(f"{expected}, got {number}. Use 1 for a single thread.")
    return operator.index(number)


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on Windows and macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_environment(name: str) -> int | None:
    """Return the number in an environment variable, or None if it is not set."""
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(
            f"{name}: expected a whole number, 1 or above, got {text!r}. "
            "Correct it, or unset it to use all cores."
        )
    return int(text)
