"""Numba-CUDA kernels compiled to PTX, each once: kept in a folder that test processes share."""

import functools
import hashlib
import json
import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

from numba.cuda import compiler
from ptxrun import Kernel

CAPABILITY = (8, 0)  # of the GPU for which the tests compile a kernel, unless they say another
COMPILERS = ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink", "numpy")


@functools.cache
def compiled(
    kernel: Any, types: tuple[Any, ...], capability: tuple[int, int] = CAPABILITY
) -> Kernel:
    """Return a kernel for arguments of these Numba types.

    Its attributes `variables` and `indices` are the types of its variables, and those with which it
    indexes arrays; the device functions that it calls are included.
    """
    path = _folder() / f"{_key(kernel, types, capability)}.json"
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        record = _compile(kernel, types, capability)
        complete = path.with_suffix(f".{os.getpid()}")
        complete.write_text(json.dumps(record))
        complete.replace(path)  # at once: another process may read it
    built = Kernel(record["ptx"], None, types)
    built.variables, built.indices = record["variables"], record["indices"]
    return built


@functools.cache
def _folder() -> Path:
    folder = Path(os.environ.get("NUMBA_CACHE_DIR", tempfile.gettempdir()), "minidl-ptx")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(kernel: Any, types: tuple[Any, ...], capability: tuple[int, int]) -> str:
    """Return a hash of all that the code depends on, among it the sources of the package."""
    function = kernel.py_func
    sources = _sources(Path(function.__code__.co_filename).parents[1])
    named = f"{function.__qualname__}{types}{capability}{_versions()}{sources}"
    return hashlib.sha256(named.encode()).hexdigest()[:32]


@functools.cache
def _sources(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _versions() -> list[str]:
    return [_version(name) for name in COMPILERS]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # the compilers of a CUDA toolkit outside of Python
        return os.environ.get("CUDA_HOME", "")


def _compile(kernel: Any, types: tuple[Any, ...], capability: tuple[int, int]) -> dict[str, Any]:
    results: list[Any] = []
    compile_cuda = compiler.compile_cuda

    def record(*arguments: Any, **options: Any) -> Any:
        results.append(compile_cuda(*arguments, **options))
        return results[-1]

    with mock.patch.object(compiler, "compile_cuda", record):
        built = Kernel.from_numba(kernel, types, cc=capability)
    variables: dict[str, str] = {}
    indices: set[str] = set()
    _read_types(results[-1].type_annotation, variables, indices)  # the last one is the kernel
    return {"ptx": built.ptx, "variables": variables, "indices": sorted(indices)}


def _read_types(annotation: Any, variables: dict[str, str], indices: set[str]) -> None:
    """Collect the types in a compiled function and in those that it calls."""
    name = annotation.func_id.func_name
    variables |= {f"{name}.{key}": str(type_) for key, type_ in annotation.typemap.items()}
    for node, signature in annotation.calltypes.items():
        operation = getattr(node, "op", None)
        if type(node).__name__ == "SetItem" or operation == "getitem":
            indices.add(str(signature.args[1]))
        called = annotation.typemap[node.func.name] if operation == "call" else None
        if hasattr(called, "dispatcher"):
            callee = called.dispatcher.overloads[signature.args]
            _read_types(callee.type_annotation, variables, indices)
