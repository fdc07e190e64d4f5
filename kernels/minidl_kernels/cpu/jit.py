"""Compilation of CPU kernels: its cache, the message that it begins, and signals during it."""

import hashlib
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import extending
from numba.core import caching, event

import minidl_kernels
from minidl_kernels.surroundings import in_notebook

_log = logging.getLogger("minidl_kernels")

_CACHED = "compiling kernels for your CPU (first run only)"
_NOT_CACHED = (
    "compiling kernels for your CPU (in each process: no folder for the compiler's cache is "
    "writable; set NUMBA_CACHE_DIR)"
)

# The line to log before a kernel is compiled, by the kernel's Python function.
_announcements: dict[Callable[..., Any], str] = {}

intrinsic: Any = extending.intrinsic  # whose types do not know that no context is passed


def inline(function: Callable[..., Any]) -> Any:
    """Compile a function into the kernels that call it, so that their loops vectorise."""
    return numba.njit(inline="always", error_model="numpy")(function)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel once for each dtype that it meets.

    Numba's cache keeps the machine code. If no folder for it is writable (a read-only installation
    and home), the kernel is compiled in each process.
    """
    # error_model="numpy" omits the checks for division by zero, which would prevent vectorisation.
    dispatcher: Any = numba.njit(error_model="numpy")(function)
    try:
        dispatcher._cache = _Cache(function)
        _announcements[function] = _CACHED
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        _announcements[function] = _NOT_CACHED
    return dispatcher


def _hash_of_sources() -> str:
    """Return a hash of all Python files that a CPU kernel can be compiled from."""
    package = Path(minidl_kernels.__file__).parent
    digest = hashlib.sha256()
    for file in sorted((*package.glob("*.py"), *package.glob("cpu/*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


_SOURCES = _hash_of_sources()


class _CacheFiles(caching.CompileResultCacheImpl):
    """File names of the cache, with a hash of all sources, in a folder of the user.

    Numba notices a change in the file of a function, but not in files whose functions it calls.
    Without the hash, the old Philox would run after an edit. By default, Numba would cache beside
    the sources. That folder would survive an uninstallation and then be imported as the package.
    """

    _locator_classes = sorted(
        caching.CompileResultCacheImpl._locator_classes, key=lambda place: "InTree" in str(place)
    )

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        return f"{super().get_filename_base(fullname, abiflags)}.{_SOURCES}"


class _Cache(caching.FunctionCache):
    """Cache of `numba.njit(cache=True)`, with the file names and folders of `_CacheFiles`."""

    _impl_class = _CacheFiles


class _Announcer(event.Listener):
    """Listener that logs once that kernels are compiled, since that takes seconds.

    In a notebook that does not show logs, it prints the line.

    Numba sends this event to all listeners before it compiles. It sends none if the machine code
    comes from its cache.
    """

    def __init__(self) -> None:
        self.announced: set[str] = set()

    def on_start(self, event: Any) -> None:
        line = _announcements.get(event.data["dispatcher"].py_func)
        if line is not None and line not in self.announced:
            self.announced.add(line)
            _log.info(line)
            if in_notebook() and not (_log.isEnabledFor(logging.INFO) and _log.hasHandlers()):
                print(line, flush=True)

    def on_end(self, event: Any) -> None:
        pass


class _Interrupts(event.Listener):
    """Deferral of Ctrl-C and SIGTERM until a kernel is compiled.

    Python handles a signal that arrives in LLVM when LLVM next calls Python: in a callback of
    llvmlite, which drops the exception. So the KeyboardInterrupt would be lost.
    """

    def __init__(self) -> None:
        self._depth = 0  # a kernel may compile others
        self._original: dict[int, Any] = {}
        self._pending: int | None = None

    def on_start(self, event: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # which handles signals
        self._depth += 1
        if self._depth > 1:
            return
        self._pending = None
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                self._original[number] = handler
                signal.signal(number, self._wait)

    def on_end(self, event: Any) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or self._depth == 0:  # a signal came just before `on_start`
            return
        self._depth -= 1
        if self._depth > 0:
            return
        while self._original:
            signal.signal(*self._original.popitem())
        number, self._pending = self._pending, None
        if number is not None:
            signal.raise_signal(number)

    def _wait(self, number: int, frame: Any) -> None:
        self._pending = number


event.register("numba:compile", _Announcer())
event.register("numba:compile", _Interrupts())
