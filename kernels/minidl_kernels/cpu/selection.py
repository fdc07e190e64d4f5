"""Selection on NumPy arrays, by decisions that elements share."""

from typing import Any

import numpy as np

from minidl_kernels.cpu import jit, launch, pool

# Shorter rows are computed several at a time, with their decisions written out one by one.
SHORT = 16
TILE = 1024  # elements of these rows


def select(x: Any, keep: Any, out: Any, scale: float, shift: float, dropped: float) -> None:
    """Write x * scale + shift to `out` where `keep` is not 0, and `dropped` elsewhere.

    The product and the sum are rounded, each once.

    Parameters
    ----------
    x, out : numpy.ndarray
        Of one shape with five axes and one dtype, float32 or float64, C-contiguous and not empty.
    keep : numpy.ndarray
        Likewise; the length of an axis is that of `x`, or 1 if its elements share their decisions.
    scale, shift, dropped : float
        Rounded to that dtype. They may be placed numbers.

    Examples
    --------
    >>> x, keep = np.ones((1, 1, 1, 2, 3)), np.array([0.0, 1.0]).reshape(1, 1, 1, 2, 1)
    >>> select(x, keep, x, 2.0, 1.0, -1.0)
    >>> x[0, 0, 0]
    array([[-1., -1., -1.],
           [ 3.,  3.,  3.]])
    """
    numbers = (launch.placed(number, x.dtype) for number in (scale, shift, dropped))
    launch.launch_pieces(pool.pieces(x.size), _select, x, keep, out, *numbers)


@jit.kernel
def _select(
    piece: Any,
    pieces: Any,
    x: Any,
    keep: Any,
    out: Any,
    scale: Any,
    shift: Any,
    dropped: Any,
) -> None:
    """Select in a piece of the first axis that has more than one element."""
    numbers = scale[0], shift[0], dropped[0]
    n0, n1, n2, n3, n4 = x.shape
    axis = 0
    while axis < 4 and x.shape[axis] == 1:
        axis += 1
    share = pool.share(piece, pieces, x.shape[axis], pool.UNIT if axis == 4 else 1)
    flat, flat_out, written_out = x.reshape(x.size), out.reshape(x.size), np.empty(TILE, x.dtype)
    for a in range(*_range(n0, axis == 0, share)):
        for b in range(*_range(n1, axis == 1, share)):
            for c in range(*_range(n2, axis == 2, share)):
                start = ((a * n1 + b) * n2 + c) * n3 * n4
                block = slice(start, start + n3 * n4)
                _select_block(
                    flat[block],
                    keep[_own(a, keep.shape[0]), _own(b, keep.shape[1]), _own(c, keep.shape[2])],
                    flat_out[block],
                    _range(n3, axis == 3, share),
                    _range(n4, axis == 4, share),
                    n4,
                    numbers,
                    written_out,
                )


@jit.inline
def _range(length: Any, is_shared: Any, share: Any) -> Any:
    """Return start and end of a piece on one axis."""
    return share if is_shared else (0, length)


@jit.inline
def _own(place: Any, length: Any) -> Any:
    """Return the place of the decision on an axis of `keep`: the only one if it is shared."""
    return place if length > 1 else 0


@jit.inline
def _select_block(
    x: Any,
    keep: Any,
    out: Any,
    rows: Any,
    columns: Any,
    width: Any,
    numbers: Any,
    written_out: Any,
) -> None:
    """Select in a part of the last two axes; `x` and `out` are flat, `keep` is not."""
    height = 1 if width >= SHORT else TILE // width
    for row in range(rows[0], rows[1], height):
        decisions = keep[_own(row, keep.shape[0])]
        stop = min(row + height, rows[1])
        part = slice(row * width + columns[0], (stop - 1) * width + columns[1])
        if height > 1:
            if keep.shape[0] > 1 or row == rows[0]:
                _write_out(keep, row, stop, written_out, width)
            _select_each(x[part], written_out, out[part], numbers)
        elif decisions.size > 1:
            _select_each(x[part], decisions[columns[0] :], out[part], numbers)
        else:
            _select_all(x[part], decisions[0], out[part], numbers)


@jit.inline
def _write_out(keep: Any, start: Any, stop: Any, out: Any, width: Any) -> None:
    """Write the decisions of some rows, one for each element."""
    i = 0
    for row in range(start, stop):
        decisions = keep[_own(row, keep.shape[0])]
        for column in range(width):
            out[i] = decisions[_own(column, decisions.size)]
            i += 1


@jit.inline
def _select_each(x: Any, keep: Any, out: Any, numbers: Any) -> None:
    """Select by one decision for each element."""
    scale, shift, dropped = numbers
    for i in range(x.size):
        kept = x[i] * scale + shift
        out[i] = kept if keep[i] != 0 else dropped


@jit.inline
def _select_all(x: Any, keep: Any, out: Any, numbers: Any) -> None:
    """Select by one decision for all elements."""
    scale, shift, dropped = numbers
    if keep == 0:
        out[:] = dropped
        return
    for i in range(x.size):
        out[i] = x[i] * scale + shift
