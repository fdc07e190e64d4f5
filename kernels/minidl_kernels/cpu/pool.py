"""The thread pool of the CPU kernels, and the number of pieces of their work.

The threads are those of Numba's TBB layer. A second pool beside them, such as that of OpenBLAS or
of Numba's OpenMP layer, waits in a busy loop. The two compete for the cores: a parallel region of
3 us took 7 ms right after a product on OpenBLAS' threads. TBB also survives a fork and takes calls
from several Python threads. Without it, or if the user chose another layer, the kernels are serial.
"""

import ctypes
import functools
import logging
from importlib import metadata
from pathlib import Path
from typing import Any

import numba

from minidl_kernels import threads
from minidl_kernels.cpu import jit

_log = logging.getLogger("minidl_kernels")

# Smaller arrays are done before a second thread has woken up.
SERIAL_BELOW = 30_000

# Shares begin at a multiple of this: a tile of the mask contract, whole cache lines, and a multiple
# of OpenBLAS' block.
UNIT = 64

_LIBRARIES = ("libtbb.so.12", "tbb12.dll")


def pieces(size: int) -> int:
    """Return the number of pieces to cut the work on `size` elements into.

    1 means no parallel region at all.
    """
    paying = min(threads.num_threads(), size // (SERIAL_BELOW // 2))
    return paying if paying > 1 and has_tbb() else 1


@jit.inline
def share(piece: Any, pieces: Any, size: Any, unit: Any) -> Any:
    """Return start and end of a piece of the range up to `size`, in multiples of `unit`."""
    units = (size + unit - 1) // unit
    start = min(units * piece // pieces * unit, size)
    return start, min(units * (piece + 1) // pieces * unit, size)


@functools.cache
def has_tbb() -> bool:
    """Return whether Numba's parallel regions run on TBB; the first call starts the threads."""
    numba.get_num_threads()
    if numba.threading_layer() == "tbb":
        return True
    _log.info(
        "the CPU kernels run on one thread: Numba's threading layer is %s, not tbb. "
        "On x86-64 Linux and Windows, run 'pip install tbb'.",
        numba.threading_layer(),
    )
    return False


def _load_tbb() -> None:
    """Load the library of the `tbb` wheel, from a folder in which Numba does not look."""
    try:
        files = metadata.files("tbb") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        path = Path(str(file.locate()))
        if file.name in _LIBRARIES and path.exists():  # `pip install --target` leaves it out
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


_load_tbb()  # before any kernel runs: Numba settles on a layer with its first parallel region
