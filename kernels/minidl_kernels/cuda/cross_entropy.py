"""Softmax and cross-entropy of class numbers in one launch, averaged over the batch."""

import math
from typing import Any

import numpy as np
from numba import cuda
from numpy import uint32, uint64

from minidl_kernels import formulas
from minidl_kernels.cuda import jit, launch, reduction
from minidl_kernels.cuda.reduction import BLOCK, ROWS, chunks

_NAN = np.float32(np.nan)
_MINUS_INFINITY = np.float32(-np.inf)

_gradient = jit.inline(formulas.cross_entropy_gradient)
_larger = jit.inline(formulas.larger)
_loss = jit.inline(formulas.cross_entropy)
_ranks_below = jit.inline(formulas.ranks_below)


def cross_entropy(z: Any, bias: Any, labels: Any, sums: Any) -> None:
    """Write the mean loss and the number of correct predictions.

    They take one launch, and a second one for more than 256 rows.

    Parameters
    ----------
    z : cupy.ndarray
        Logits without their bias, shape (rows, classes), float32 or float64, C-contiguous and not
        empty.
    bias : cupy.ndarray
        Shape (classes,), of the dtype of `z`.
    labels : cupy.ndarray
        Class numbers, shape (rows,), of any integer dtype. The loss of a label outside [0, classes)
        is NaN.
    sums : cupy.ndarray
        Output, shape (2,), of the dtype of `z`. First the mean over the rows of
        -log softmax(z + bias)[label]; then the number of correct predictions (on ties, the first
        class is the prediction; a row with NaN is incorrect).
    """
    rows = len(z)
    parts = reduction.chunk_sums(rows, sums)
    grid, share = (chunks(rows),), z.dtype.type(1 / rows)
    launch.launch(_cross_entropy, grid, BLOCK, z, bias, labels, share, parts)
    reduction.add_chunks(parts, sums)


def cross_entropy_vjp(g: Any, z: Any, bias: Any, labels: Any, g_z: Any, g_bias: Any) -> None:
    """Write the gradients of the mean loss of `cross_entropy`, in as many launches.

    Parameters
    ----------
    g : cupy.ndarray
        Gradient of the mean loss, shape (1,); only the kernel reads it.
    z, bias, labels : cupy.ndarray
        As in `cross_entropy`.
    g_z : cupy.ndarray
        Output: (softmax(z + bias) - one_hot(label)) * (g / rows); it may be `z`.
    g_bias : cupy.ndarray
        Output: sums of the columns of `g_z`, shape (classes,), in the order of `reduction`.
    """
    rows = len(z)
    parts = reduction.chunk_sums(rows, g_bias)
    grid, share = (chunks(rows),), z.dtype.type(1 / rows)
    launch.launch(_cross_entropy_vjp, grid, BLOCK, g, z, bias, labels, share, g_z, parts)
    reduction.add_chunks(parts, g_bias)


@cuda.jit
def _cross_entropy(z: Any, bias: Any, labels: Any, share: Any, sums: Any) -> None:
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
        losses += _loss(logit, largest, total)
        if _wins(logit, label, z, bias, row, classes, lane):
            hits += np.float32(1)
        row = uint64(row + uint64(32))
    # Lane 0 adds the losses of the warps, lane 1 their hits.
    value = reduction.add_warps(partial, losses if lane == uint32(0) else hits, lane, warp)
    if warp == uint32(0) and lane < uint32(2):
        sums[chunk, lane] = value * share if lane == uint32(0) else value


@cuda.jit
def _cross_entropy_vjp(
    g: Any, z: Any, bias: Any, labels: Any, share: Any, g_z: Any, sums: Any
) -> None:
    """Write the gradients of a chunk of rows, and sum its columns.

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
    # The condition is uniform across the block, so that all threads reach the barrier.
    while uint64(column - uint64(lane)) < classes:
        column_sum = zero
        if column < classes:
            row = first_row
            place = warp
            while row < end:
                power = math.exp(z[row, column] + bias[column] - largest_of_row[place])
                one_hot = np.float32(1) if uint64(labels[row]) == column else zero
                gradient = _gradient(power * factor_of_row[place], one_hot, weight)
                g_z[row, column] = gradient
                column_sum += gradient
                row = uint64(row + uint64(32))
                place = uint32(place + uint32(32))
        column_sum = reduction.add_warps(partial, column_sum, lane, warp)
        if warp == uint32(0) and column < classes:
            sums[chunk, column] = column_sum
        cuda.syncthreads()
        column = uint64(column + uint64(32))


@cuda.jit(device=True)
def _softmax(z: Any, bias: Any, row: Any, classes: Any, lane: Any) -> tuple[Any, Any]:
    """Return the largest logit of a row and the sum of exp(logit - largest), in each lane."""
    largest = _MINUS_INFINITY
    column = uint64(lane)
    while column < classes:
        largest = _larger(z[row, column] + bias[column], largest)
        column = uint64(column + uint64(32))
    largest = reduction.largest_of_lanes(largest)
    total = np.float32(0)
    column = uint64(lane)
    while column < classes:
        total += math.exp(z[row, column] + bias[column] - largest)
        column = uint64(column + uint64(32))
    return largest, reduction.add_lanes(total)


@cuda.jit(device=True)
def _wins(logit: Any, label: Any, z: Any, bias: Any, row: Any, classes: Any, lane: Any) -> Any:
    """Return, in each lane, whether the label is the prediction: on ties, the first class is."""
    wins = True
    column = uint64(lane)
    while column < classes:
        wins = wins and _ranks_below(z[row, column] + bias[column], column, logit, label)
        column = uint64(column + uint64(32))
    return reduction.all_lanes(wins)
