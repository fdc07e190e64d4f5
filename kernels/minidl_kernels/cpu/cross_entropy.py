"""Softmax and cross-entropy of class numbers in one pass, averaged over the batch."""

import math
from typing import Any

import numpy as np

from minidl_kernels import formulas
from minidl_kernels.cpu import jit, launch

_gradient = jit.inline(formulas.cross_entropy_gradient)
_larger = jit.inline(formulas.larger)
_loss = jit.inline(formulas.cross_entropy)
_ranks_below = jit.inline(formulas.ranks_below)


def cross_entropy(z: Any, bias: Any, labels: Any, sums: Any) -> None:
    """Write the mean loss and the number of correct predictions.

    Parameters
    ----------
    z : numpy.ndarray
        Logits without their bias, shape (rows, classes), float32 or float64, C-contiguous and not
        empty.
    bias : numpy.ndarray
        Shape (classes,), of the dtype of `z`.
    labels : numpy.ndarray
        Class numbers, shape (rows,), of any integer dtype. The loss of a label outside [0, classes)
        is NaN.
    sums : numpy.ndarray
        Output, shape (2,), of the dtype of `z`. First the mean over the rows of
        -log softmax(z + bias)[label]; then the number of correct predictions (on ties, the first
        class is the prediction; a row with NaN is incorrect).

    Examples
    --------
    >>> sums = np.empty(2)
    >>> cross_entropy(np.zeros((3, 4)), np.zeros(4), np.array([0, 1, 2]), sums)
    >>> np.exp(sums[0]).round(6), sums[1]
    (np.float64(4.0), np.float64(1.0))
    """
    launch.launch(_cross_entropy, z, bias, labels, sums)


def cross_entropy_vjp(g: Any, z: Any, bias: Any, labels: Any, g_z: Any, g_bias: Any) -> None:
    """Write the gradients of the mean loss of `cross_entropy`.

    Parameters
    ----------
    g : numpy.ndarray
        Gradient of the mean loss, shape (1,).
    z, bias, labels : numpy.ndarray
        As in `cross_entropy`.
    g_z : numpy.ndarray
        Output: (softmax(z + bias) - one_hot(label)) * (g / rows); it may be `z`.
    g_bias : numpy.ndarray
        Output: sums of the columns of `g_z`, shape (classes,), in the order of the rows.

    Examples
    --------
    >>> g_z, g_bias = np.empty((1, 2)), np.empty(2)
    >>> cross_entropy_vjp(np.ones(1), np.zeros((1, 2)), np.zeros(2), np.array([1]), g_z, g_bias)
    >>> g_z, g_bias
    (array([[ 0.5, -0.5]]), array([ 0.5, -0.5]))
    """
    launch.launch(_cross_entropy_vjp, g, z, bias, labels, g_z, g_bias)


@jit.kernel
def _cross_entropy(z: Any, bias: Any, labels: Any, sums: Any) -> None:
    rows, classes = z.shape
    loss, hits = 0.0, 0  # in float64, so that a large batch loses no precision
    for row in range(rows):
        label = np.int64(labels[row])
        logit = z.dtype.type(np.nan)
        if 0 <= label < classes:
            logit = z[row, label] + bias[label]
        largest, is_hit = z.dtype.type(-np.inf), True
        for i in range(classes):
            other = z[row, i] + bias[i]
            largest = _larger(other, largest)
            is_hit = is_hit and _ranks_below(other, i, logit, label)
        total = z.dtype.type(0)
        for i in range(classes):
            total += math.exp(z[row, i] + bias[i] - largest)
        loss += _loss(logit, largest, total)
        hits += is_hit
    sums[0] = loss * (1 / rows)
    sums[1] = hits


@jit.kernel
def _cross_entropy_vjp(g: Any, z: Any, bias: Any, labels: Any, g_z: Any, g_bias: Any) -> None:
    rows, classes = z.shape
    zero, one = z.dtype.type(0), z.dtype.type(1)
    share = g[0] / z.dtype.type(rows)
    for i in range(classes):
        g_bias[i] = zero
    for row in range(rows):
        label = np.int64(labels[row])
        largest = z.dtype.type(-np.inf)
        for i in range(classes):
            largest = _larger(z[row, i] + bias[i], largest)
        total = zero
        for i in range(classes):
            power = math.exp(z[row, i] + bias[i] - largest)
            g_z[row, i] = power
            total += power
        for i in range(classes):
            one_hot = one if i == label else zero
            g_z[row, i] = _gradient(g_z[row, i] / total, one_hot, share)
            g_bias[i] += g_z[row, i]
