"""Kernels for NumPy arrays, compiled by Numba for the CPU."""

import os

from minidl_kernels import threads


def check_environment() -> None:
    """Raise ValueError if an environment variable prevents the kernels from running.

    It does not import Numba, which takes half a second.
    """
    threads.check_environment()
    text = os.environ.get("NUMBA_DISABLE_JIT", "")
    if text.strip() not in ("", "0"):
        raise ValueError(
            f"NUMBA_DISABLE_JIT: expected 0, got {text!r}: the kernels run only if Numba compiles "
            "them. Unset it."
        )
