"""Numba-CUDA kernels compiled to PTX, each once in a process."""

import functools
from typing import Any
from unittest import mock

from numba.cuda import compiler
from ptxrun import Kernel

CAPABILITY = (8, 0)  # of the GPU for which the tests compile a kernel, unless they say another


@functools.cache
def compiled(
    kernel: Any, types: tuple[Any, ...], capability: tuple[int, int] = CAPABILITY
) -> Kernel:
    """Return a kernel for arguments of these Numba types, with the types of its variables.

    They are its attribute `types`, Numba's type annotation.
    """
    results: list[Any] = []
    compile_cuda = compiler.compile_cuda

    def record(*arguments: Any, **options: Any) -> Any:
        results.append(compile_cuda(*arguments, **options))
        return results[-1]

    with mock.patch.object(compiler, "compile_cuda", record):
        built = Kernel.from_numba(kernel, types, cc=capability)
    built.types = results[-1].type_annotation  # the functions that it calls were done before
    return built
