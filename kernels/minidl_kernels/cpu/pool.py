"""The one pool of threads, and into how many pieces a kernel cuts its work.

The threads are those of Numba's TBB layer. A second pool beside them (OpenBLAS' own, or the ones of
Numba's OpenMP layer) waits in a busy loop, and the two then take the cores from each other: a
parallel region of 3 us took 7 ms right after a product on OpenBLAS' threads. TBB is also the layer
that outlives a fork and takes calls from several Python threads. Where it is missing, or the user
has chosen another layer, the kernels are serial.
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

# Fewer elements than this are done before a second thread has woken up.
SERIAL_BELOW = 30_000

# Shares begin at a multiple of this: a tile of the mask contract, whole cache lines, and a multiple
# of the block that OpenBLAS computes at once.
UNIT = 64

_LIBRARIES = ("libtbb.so.12", "tbb12.dll")


def pieces(size: int) -> int:
    """Return into how many pieces to cut the work on `size` elements.

    1 means no parallel region at all.
    """
    paying = min(threads.num_threads(), size // (SERIAL_BELOW // 2))
    return paying if paying > 1 and has_tbb() else 1


@jit.inline
def share(piece: Any, pieces: Any, size: Any, unit: Any) -> Any:
    """Return where a thread's share of `size` things starts and stops, in multiples of `unit`."""
    units = (size + unit - 1) // unit
    start = min(units * piece // pieces * unit, size)
    return start, min(units * (piece + 1) // pieces * unit, size)


@functools.cache
def has_tbb() -> bool:
    """Tell whether Numba's parallel regions run on TBB; the first call starts the threads."""
    numba.get_num_threads()
    if numba.threading_layer() == "tbb":
        return True
    _log.info(
        "the CPU kernels run on one thread: Numba's threading layer is %s, not tbb; "
        "'pip install tbb' brings it for x86-64 Linux and Windows",
        numba.threading_layer(),
    )
    return False


def _load_tbb() -> None:
    """Load the library of the `tbb` wheel, which lies where Numba does not look for it."""
    try:
        files = metadata.files("tbb") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        path = Path(str(file.locate()))
        if file.name in _LIBRARIES and path.exists():  # `pip install --target` leaves it out
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


_load_tbb()  # before any kernel runs: with its first parallel region Numba settles on a layer
