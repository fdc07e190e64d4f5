"""Compilation of functions into CUDA kernels."""

from collections.abc import Callable
from typing import Any

from numba import cuda


def inline(function: Callable[..., Any]) -> Any:
    """Compile a function into the kernels that call it."""
    return cuda.jit(device=True, inline="always")(function)
