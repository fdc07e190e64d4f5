"""Softmax and cross-entropy of class numbers, on device arrays."""

import math
from typing import Any

import numpy as np
from numba import cuda
from numpy import uint32, uint64

from minidl_kernels.cuda import launch, reduction
from minidl_kernels.cuda.checks import check_array, check_labels, check_matrix
from minidl_kernels.cuda.reduction import BLOCK, ROWS, chunks

_NAN = np.float32(np.nan)
_MINUS_INFINITY = np.float32(-np.inf)


def cross_entropy(z: Any, bias: Any, labels: Any, sums: Any, *, cuda_stream: int = 0) -> None:
    """Write the mean of -log softmax(z + bias) at the labels, and how many labels were hit.

    A row is hit where its label has the largest logit, the first one of equal ones; a row with a
    NaN is not.

    Parameters
    ----------
    z : device array
        float32 or float64, shape (rows, classes), C-contiguous.
    bias : device array
        Of that dtype, shape (classes,).
    labels : device array
        Any integer dtype, shape (rows,). The loss of one that is not a class is NaN.
    sums : device array
        Of z's dtype, shape (chunks(rows), 2). For each chunk of rows its part of the mean, and its
        hits; both are to be summed over the chunks.
    cuda_stream : int
        As in `dropout.dropout`.

    Raises
    ------
    TypeError
        If the dtypes are others.
    ValueError
        If the shapes do not fit, or an array is not contiguous.
    """
    _check("cross_entropy", z, bias, labels)
    rows = z.shape[0]
    check_array("cross_entropy", "sums", sums, z.dtype, (chunks(rows), 2))
    launch.launch(
        sum_losses,
        (chunks(rows),),
        BLOCK,
        cuda_stream,
        z,
        bias,
        labels,
        _share(z),
        sums,
    )


def cross_entropy_vjp(
    g: Any, z: Any, bias: Any, labels: Any, g_z: Any, g_bias: Any, *, cuda_stream: int = 0
) -> None:
    """Write the gradients of z and of the bias for the gradient `g` of the mean loss.

    `g_z` is (softmax(z + bias) - one_hot(labels)) * g / rows.

    Parameters
    ----------
    g : device array
        One element of z's dtype, shape (); only the kernel reads it.
    z, bias, labels, cuda_stream
        As in `cross_entropy`.
    g_z : device array
        Like `z`; it may be `z`.
    g_bias : device array
        Of that dtype, shape (chunks(rows), classes): for each chunk of rows the sums of its
        columns.

    Raises
    ------
    TypeError
        If the dtypes are others.
    ValueError
        If the shapes do not fit, or an array is not contiguous.
    """
    _check("cross_entropy_vjp", z, bias, labels)
    rows, classes = z.shape
    check_array("cross_entropy_vjp", "g", g, z.dtype, ())
    check_array("cross_entropy_vjp", "g_z", g_z, z.dtype, z.shape)
    check_array("cross_entropy_vjp", "g_bias", g_bias, z.dtype, (chunks(rows), classes))
    launch.launch(
        softmax_minus_one_hot,
        (chunks(rows),),
        BLOCK,
        cuda_stream,
        g.reshape(1),
        z,
        bias,
        labels,
        _share(z),
        g_z,
        g_bias,
    )


def _check(who: str, z: Any, bias: Any, labels: Any) -> None:
    check_matrix(who, "z", z, "rows, classes")
    check_array(who, "bias", bias, z.dtype, z.shape[1:])
    check_labels(who, "labels", labels, z.shape[:1])


def _share(z: Any) -> Any:
    """Return a row's share of the mean, NaN where there is no row."""
    rows = z.shape[0]
    return z.dtype.type(1 / rows if rows else math.nan)


@cuda.jit
def sum_losses(z: Any, bias: Any, labels: Any, share: Any, sums: Any) -> None:
    """Sum the losses and the hits of a chunk of rows; each warp takes a row at a time."""
    partial = cuda.shared.array(BLOCK, z.dtype)
    lane, warp = reduction.place()
    chunk = uint64(cuda.blockIdx.x)  # type: ignore[arg-type]
    classes = uint64(z.shape[1])
    losses = np.float32(0)
    hits = np.float32(0)
    row, end = reduction.rows_of_warp(chunk, warp, uint64(z.shape[0]))
    while row < end:
        label = uint64(labels[row])
        logit = _NAN
        if label < classes:
            logit = z[row, label] + bias[label]
        largest, total = _softmax(z, bias, row, classes, lane)
        losses += math.log(total) + (largest - logit)
        if _is_first_largest(logit, label, z, bias, row, classes, lane):
            hits += np.float32(1)
        row = uint64(row + uint64(32))
    # Lane 0 adds the losses of the warps, lane 1 their hits.
    value = reduction.add_warps(partial, losses if lane == uint32(0) else hits, lane, warp)
    if warp == uint32(0) and lane < uint32(2):
        sums[chunk, lane] = value * share if lane == uint32(0) else value


@cuda.jit
def softmax_minus_one_hot(
    g: Any, z: Any, bias: Any, labels: Any, share: Any, g_z: Any, g_bias: Any
) -> None:
    """Write the gradients of a chunk of rows, and sum their columns.

    First each warp takes a row at a time, then 32 columns of all its rows at a time.
    """
    partial = cuda.shared.array(BLOCK, z.dtype)
    largest_of_row = cuda.shared.array(ROWS, z.dtype)
    factor_of_row = cuda.shared.array(ROWS, z.dtype)
    zero = np.float32(0)
    lane, warp = reduction.place()
    chunk = uint64(cuda.blockIdx.x)  # type: ignore[arg-type]
    classes = uint64(z.shape[1])
    first_row, end = reduction.rows_of_warp(chunk, warp, uint64(z.shape[0]))
    row = first_row
    place = warp
    while row < end:
        largest, total = _softmax(z, bias, row, classes, lane)
        if lane == uint32(0):
            largest_of_row[place] = largest
            factor_of_row[place] = np.float32(1) / total
        row = uint64(row + uint64(32))
        place = uint32(place + uint32(32))
    cuda.syncthreads()  # type: ignore[call-arg]
    weight = g[uint32(0)] * share
    column = uint64(lane)
    while uint64(column - uint64(lane)) < classes:  # the same for all threads, which must meet
        column_sum = zero
        if column < classes:
            row = first_row
            place = warp
            while row < end:
                e = math.exp(z[row, column] + bias[column] - largest_of_row[place])
                one_hot = np.float32(1) if uint64(labels[row]) == column else zero
                gradient = (e * factor_of_row[place] - one_hot) * weight
                g_z[row, column] = gradient
                column_sum += gradient
                row = uint64(row + uint64(32))
                place = uint32(place + uint32(32))
        column_sum = reduction.add_warps(partial, column_sum, lane, warp)
        if warp == uint32(0) and column < classes:
            g_bias[chunk, column] = column_sum
        cuda.syncthreads()
        column = uint64(column + uint64(32))


@cuda.jit(device=True)
def _softmax(z: Any, bias: Any, row: Any, classes: Any, lane: Any) -> tuple[Any, Any]:
    """Return the largest logit of a row and the sum of exp(logit - largest), in each lane."""
    largest = _MINUS_INFINITY
    column = uint64(lane)
    while column < classes:
        logit = z[row, column] + bias[column]
        largest = logit if logit > largest else largest
        column = uint64(column + uint64(32))
    largest = reduction.largest_of_lanes(largest)
    total = np.float32(0)
    column = uint64(lane)
    while column < classes:
        total += math.exp(z[row, column] + bias[column] - largest)
        column = uint64(column + uint64(32))
    return largest, reduction.add_lanes(total)


@cuda.jit(device=True)
def _is_first_largest(
    logit: Any, label: Any, z: Any, bias: Any, row: Any, classes: Any, lane: Any
) -> Any:
    """Return, in each lane, whether no class has a larger logit, or as large a one earlier."""
    largest = True
    column = uint64(lane)
    while column < classes:
        other = z[row, column] + bias[column]
        # Spelled so that NaN, with which no comparison holds, is never passed.
        largest = largest and (other < logit or (other == logit and column >= label))
        column = uint64(column + uint64(32))
    return reduction.all_lanes(largest)
