"""How a CPU kernel is compiled, cached and announced: in one way, written here."""

import logging
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event

_log = logging.getLogger("minidl_kernels")

# What each entry kernel is called in the log, by the Python function that it is compiled from.
_announcements: dict[Callable[..., Any], str] = {}


def inline(function: Callable[..., Any]) -> Any:
    """Compile a scalar function into the kernels that call it, so that their loops vectorise."""
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
        try:
            dispatcher = numba.njit(cache=True, parallel=parallel, error_model="numpy")(function)
            kept = "once; kept in the compiler's cache"
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            dispatcher = numba.njit(parallel=parallel, error_model="numpy")(function)
            kept = "once in each process; no folder for the compiler's cache is writable"
        _announcements[function] = f"compiling {announce} ({kept})"
        return dispatcher

    return decorate


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
