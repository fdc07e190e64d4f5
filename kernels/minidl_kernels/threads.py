"""How many threads the kernels of the CPU work on: one number, for the whole process.

Results are equal from run to run for one number of threads; masks are equal for any. Where the
`tbb` library is not there, the kernels are serial, and NumPy's products of matrices keep the
threads of their own.
"""

import operator
import os
from typing import Any

VARIABLE = "MINIDL_NUM_THREADS"

_chosen: int | None = None


def num_threads() -> int:
    """Return the number of threads that the kernels of the CPU use.

    It is what `set_num_threads` set; else the environment variable MINIDL_NUM_THREADS, as it was
    when first needed; else the number of cores that this process may use.

    Raises
    ------
    ValueError
        If MINIDL_NUM_THREADS is not a whole number, 1 or above.
    """
    if _chosen is None:
        set_num_threads(_usual())
    assert _chosen is not None
    return _chosen


def set_num_threads(number: int) -> None:
    """Set the number of threads that the kernels of the CPU use, in this process, from now on.

    Parameters
    ----------
    number : int
        1 or above. At 1 no other thread is woken up.

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
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise TypeError(
            f"set_num_threads: number must be an integer, received {number!r} "
            f"of type {type(number).__name__}"
        )
    if number < 1:
        raise ValueError(f"set_num_threads: number must be 1 or above, received {number}")
    return operator.index(number)


def _usual() -> int:
    """Return what the environment says, or the number of cores that this process may use."""
    text = os.environ.get(VARIABLE)
    if text is None:
        if hasattr(os, "sched_getaffinity"):  # not on Windows and macOS
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(
            f"{VARIABLE} must be a whole number, 1 or above, received {text!r}; "
            "correct it, or unset it to use all cores"
        )
    return int(text)
