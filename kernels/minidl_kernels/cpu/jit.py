"""How a CPU kernel is compiled, cached and announced: in one way, written here."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import caching, event

import minidl_kernels

# What kernels of floating numbers are compiled for, in the byte order of the machine.
FLOATS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})

_log = logging.getLogger("minidl_kernels")

# What each entry kernel is called in the log, by the Python function that it is compiled from.
_announcements: dict[Callable[..., Any], str] = {}


def inline(function: Callable[..., Any]) -> Any:
    """Compile a function into the kernels that call it, so that their loops vectorise."""
    return numba.njit(inline="always", error_model="numpy")(function)


def kernel(*, announce: str, parallel: bool = False) -> Callable[..., Any]:
    """Return the decorator of a kernel, which compiles it once for each dtype it meets.

    The machine code is kept in Numba's cache. Where Numba finds no place for one (a read-only
    installation and no writable home), the kernel is compiled anew in each process.

    Parameters
    ----------
    announce : str
        What the log says is being compiled.
    parallel : bool
        Whether `numba.prange` runs on threads.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        # error_model="numpy": no division checks for zero, which would stop vectorisation.
        dispatcher: Any = numba.njit(parallel=parallel, error_model="numpy")(function)
        try:
            dispatcher._cache = _Cache(function)
            kept = "once; kept in the compiler's cache"
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            kept = "once in each process; no folder for the compiler's cache is writable"
        _announcements[function] = f"compiling {announce} ({kept})"
        return dispatcher

    return decorate


def _hash_of_sources() -> str:
    """Return a hash of all the Python files that a CPU kernel can be compiled from."""
    package = Path(minidl_kernels.__file__).parent
    digest = hashlib.sha256()
    for file in sorted((*package.glob("*.py"), *package.glob("cpu/*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


_SOURCES = _hash_of_sources()


class _CacheFiles(caching.CompileResultCacheImpl):
    """Names a kernel's files after the sources of all kernels, and keeps them with the user's.

    Numba notices a change of the file that a function stands in, and none of the files whose
    functions it calls: the old Philox would run on after an edit.

    Beside the sources, where Numba would put them first, they would outlive an uninstallation, as
    a folder that Python takes for the package.
    """

    _locator_classes = sorted(
        caching.CompileResultCacheImpl._locator_classes, key=lambda place: "InTree" in str(place)
    )

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        return f"{super().get_filename_base(fullname, abiflags)}.{_SOURCES}"


class _Cache(caching.FunctionCache):
    """What `numba.njit(cache=True)` uses, with file names of our own."""

    _impl_class = _CacheFiles


class _Announcer(event.Listener):
    """Logs that one of our kernels is about to be compiled, for it takes a second.

    Numba sends this event to all listeners just before it compiles, and sends none when its cache
    has the code.
    """

    def on_start(self, event: Any) -> None:
        announcement = _announcements.get(event.data["dispatcher"].py_func)
        if announcement is not None:
            _log.info(announcement)

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcer())
