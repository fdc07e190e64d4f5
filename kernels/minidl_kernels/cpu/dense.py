"""Bias, activation and dropout of a dense layer in one pass, and the gradient of that pass.

`products.dense_layer` also computes the matrix product before it.
"""

from typing import Any

import numpy as np

from minidl_kernels import formulas, mask_contract
from minidl_kernels.cpu import dropout, jit, launch, pool

_at_least = jit.inline(formulas.at_least)


def bias_act_dropout(
    z: Any, bias: Any, floor: Any, address: mask_contract.PackedAddress, scale: Any
) -> None:
    """Replace `z` by dropout of max(z + bias, floor).

    The bits are those of the three operations one after the other.

    Parameters
    ----------
    z : numpy.ndarray
        Shape (rows, units), float32 or float64, C-contiguous and not empty.
    bias : numpy.ndarray
        Shape (units,), of the dtype of `z`, contiguous.
    floor : numpy scalar
        0 for relu, -inf for a linear layer, of that dtype; NaN stays NaN.
    address, scale
        As in `dropout.dropout`; `mask_contract.KEEP_ALL` and 1 for no dropout.

    Examples
    --------
    >>> z = np.array([[1.0, -3.0]])
    >>> bias, floor = np.array([1.0, 2.0]), np.float64(0)
    >>> bias_act_dropout(z, bias, floor, mask_contract.KEEP_ALL, np.float64(1))
    >>> z
    array([[2., 0.]])
    """
    finish = *launch.placed_address(address), launch.placed(scale, z.dtype)
    launch.launch(_bias_act_dropout, z, bias, floor, *finish)


def bias_act_dropout_vjp(g: Any, y: Any, factor: Any, g_z: Any, g_bias: Any) -> None:
    """Write the gradients of `bias_act_dropout` with relu.

    The output is positive exactly where the element was kept and the slope of relu is 1. So neither
    the mask nor its address is needed.

    Parameters
    ----------
    g, y : numpy.ndarray
        Gradient of the output, and the output: shape (rows, units), float32 or float64,
        C-contiguous.
    factor : numpy scalar
        Factor of the kept elements, of that dtype. It may be placed.
    g_z : numpy.ndarray
        Output: g * factor if y > 0, else 0; it may be `g`.
    g_bias : numpy.ndarray
        Output: sums of the columns of `g_z`, shape (units,), in the order of the rows.

    Examples
    --------
    >>> g, y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 0.0], [6.0, 7.0]])
    >>> g_bias = np.empty(2)
    >>> bias_act_dropout_vjp(g, y, np.float64(2), g, g_bias)
    >>> g, g_bias
    (array([[2., 0.],
           [6., 8.]]), array([8., 8.]))
    """
    arguments = g, y, launch.placed(factor, y.dtype), g_z, g_bias
    launch.launch_pieces(pool.pieces(y.size), _bias_act_dropout_vjp, *arguments)


@jit.kernel
def _bias_act_dropout(
    z: Any,
    bias: Any,
    floor: Any,
    words: Any,
    step: Any,
    row_offset: Any,
    threshold: Any,
    scale: Any,
) -> None:
    address = dropout.unpack(words, step, row_offset, threshold)
    zero = np.int64(0)  # for a literal, the block would be compiled anew
    finish_block(z, bias, zero, len(z), zero, floor, address, scale[0])


@jit.kernel
def finish_block(
    z: Any, bias: Any, row: Any, rows: Any, column: Any, floor: Any, address: Any, scale: Any
) -> None:
    """Finish a block of `z` whose first column starts a tile; `bias` belongs to its columns."""
    drops = address[5] > 0 or scale != 1
    words = np.empty(mask_contract.TILE, np.uint32)
    for i in range(row, row + rows):
        part = z[i, column : column + bias.size]
        for j in range(bias.size):
            part[j] = _at_least(floor, part[j] + bias[j])
        if drops:
            dropout.drop_row(part, part, i, column, address, scale, words)


@jit.kernel
def _bias_act_dropout_vjp(
    piece: Any, pieces: Any, g: Any, y: Any, factor: Any, g_z: Any, g_bias: Any
) -> None:
    """Compute the gradients of a piece of the columns, so that each sum is of one thread."""
    start, stop = pool.share(piece, pieces, g_bias.size, pool.UNIT)
    zero, by = g.dtype.type(0), factor[0]
    sums = g_bias[start:stop]
    # A separate buffer: g and g_z may alias, which prevents vectorisation.
    passed = np.empty(sums.size, g.dtype)
    for i in range(sums.size):
        sums[i] = zero
    for row in range(g.shape[0]):
        gradient, output, target = g[row, start:stop], y[row, start:stop], g_z[row, start:stop]
        for i in range(sums.size):
            passed[i] = gradient[i] * by if output[i] > zero else zero
        for i in range(sums.size):
            target[i] = passed[i]
            sums[i] += passed[i]
