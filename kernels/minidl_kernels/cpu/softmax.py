"""Softmax of rows."""

import math
from typing import Any

from minidl_kernels import formulas
from minidl_kernels.cpu import jit, launch, pool

_larger = jit.inline(formulas.larger)


def softmax(z: Any, out: Any) -> None:
    """Write exp(z) divided by its sum over each row, without overflow; NaN fills its row.

    Parameters
    ----------
    z, out : numpy.ndarray
        Shape (rows, classes), of one dtype, float32 or float64, C-contiguous and not empty; they
        may be the same array.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.empty((1, 2))
    >>> softmax(np.array([[1000.0, 1000.0]]), out)
    >>> out
    array([[0.5, 0.5]])
    """
    launch.launch_pieces(pool.pieces(z.size), _softmax, z, out)


@jit.kernel
def _softmax(piece: Any, pieces: Any, z: Any, out: Any) -> None:
    start, stop = pool.share(piece, pieces, z.shape[0], 1)
    for row in range(start, stop):
        source, target = z[row], out[row]
        largest = z.dtype.type(-math.inf)
        for i in range(source.size):
            largest = _larger(source[i], largest)
        total = z.dtype.type(0)
        for i in range(source.size):
            target[i] = math.exp(source[i] - largest)
            total += target[i]
        for i in range(source.size):
            target[i] /= total
