"""Launches of CPU kernels: `launch` is the only function that launches them."""

from typing import Any


def launch(kernel: Any, *arguments: Any) -> None:
    """Run a compiled kernel.

    Host code calls it as ``launch.launch``, so that tests can replace it.
    """
    kernel(*arguments)


def launch_range(pieces: int, serial: Any, parallel: Any, size: int, *arguments: Any) -> None:
    """Run a kernel on the indices of a range, cut into `pieces` pieces.

    Parameters
    ----------
    pieces : int
        1 for one thread, without a parallel region; see `pool.pieces`.
    serial : compiled kernel
        Called with the first index, the end and the arguments.
    parallel : compiled kernel
        Called with the pieces, the size and the arguments; it calls `serial` for each piece.
    size : int
        Length of the range.
    """
    if pieces == 1:
        launch(serial, 0, size, *arguments)
    else:
        launch(parallel, pieces, size, *arguments)
