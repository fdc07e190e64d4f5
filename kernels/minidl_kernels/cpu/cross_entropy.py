"""Softmax and cross-entropy of class numbers in one pass, averaged over the batch."""

from typing import Any

import numpy as np

from minidl_kernels.cpu import jit


def cross_entropy(z: np.ndarray, bias: np.ndarray, labels: np.ndarray, sums: np.ndarray) -> None:
    """Write the mean loss and the number of hits.

    Parameters
    ----------
    z : numpy.ndarray
        Logits without their bias, shape (rows, classes), float32 or float64, C-contiguous; it is
        not modified.
    bias : numpy.ndarray
        Shape (classes,), of the dtype of `z`.
    labels : numpy.ndarray
        Class numbers, shape (rows,), of any integer dtype.
    sums : numpy.ndarray
        Shape (2,). Where to write the mean over the rows of -log softmax(z + bias)[label]; and the
        number of rows whose label has the largest logit, the first one where several have it. A row
        with a NaN is never right.

    Raises
    ------
    ValueError
        If the shapes do not fit, an array is not C-contiguous, or a label is no class.
    TypeError
        If the dtypes differ or are not float32 or float64, or the labels are no integers.

    Examples
    --------
    >>> sums = np.empty(2)
    >>> cross_entropy(np.zeros((3, 4)), np.zeros(4), np.array([0, 1, 2]), sums)
    >>> np.exp(sums[0]).round(6), sums[1]
    (np.float64(4.0), np.float64(1.0))
    """
    numbers = _checked("cross_entropy", z, bias, labels, sums)
    if sums.shape != (2,):
        raise ValueError(f"cross_entropy: expected sums of shape (2,), received {sums.shape}")
    if not _cross_entropy(z, bias, numbers, sums):
        _refuse_labels("cross_entropy", labels, z.shape[1])


def cross_entropy_vjp(
    g: np.ndarray,
    z: np.ndarray,
    bias: np.ndarray,
    labels: np.ndarray,
    g_z: np.ndarray,
    g_bias: np.ndarray,
) -> None:
    """Write the gradients of the mean loss of `cross_entropy`.

    Parameters
    ----------
    g : numpy.ndarray
        Gradient of the mean loss, one element.
    z, bias, labels : numpy.ndarray
        As for `cross_entropy`.
    g_z : numpy.ndarray
        Where to write (softmax(z + bias) - one_hot(label)) * (g / rows); it may be `z`.
    g_bias : numpy.ndarray
        Where to write the sums of the columns of `g_z`, shape (classes,), row by row from the
        first.

    Raises
    ------
    ValueError, TypeError
        As for `cross_entropy`.

    Examples
    --------
    >>> g_z, g_bias = np.empty((1, 2)), np.empty(2)
    >>> cross_entropy_vjp(np.ones(()), np.zeros((1, 2)), np.zeros(2), np.array([1]), g_z, g_bias)
    >>> g_z, g_bias
    (array([[ 0.5, -0.5]]), array([ 0.5, -0.5]))
    """
    numbers = _checked("cross_entropy_vjp", z, bias, labels, g, g_z, g_bias)
    if g.size != 1 or g_z.shape != z.shape or g_bias.shape != bias.shape:
        raise ValueError(
            f"cross_entropy_vjp: expected g with one element, g_z of shape {z.shape} and g_bias of "
            f"shape {bias.shape}, received {g.shape}, {g_z.shape} and {g_bias.shape}"
        )
    if not _cross_entropy_vjp(g.reshape(-1), z, bias, numbers, g_z, g_bias):
        _refuse_labels("cross_entropy_vjp", labels, z.shape[1])


def _checked(
    who: str, z: np.ndarray, bias: np.ndarray, labels: np.ndarray, *others: np.ndarray
) -> np.ndarray:
    """Check what both functions take and return the labels as the kernels want them."""
    arrays = (z, bias, *others)
    if z.dtype not in jit.FLOATS or any(array.dtype != z.dtype for array in arrays):
        raise TypeError(
            f"{who}: expected arrays of one dtype, float32 or float64, received "
            f"{', '.join(str(array.dtype) for array in arrays)}"
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{who}: labels must be integers, received {labels.dtype}")
    if z.ndim != 2 or bias.shape != z.shape[1:] or labels.shape != z.shape[:1] or 0 in z.shape:
        raise ValueError(
            f"{who}: expected z of shape (rows, classes), not empty, bias of shape (classes,) and "
            f"labels of shape (rows,), received {z.shape}, {bias.shape} and {labels.shape}"
        )
    if not all(array.flags.c_contiguous for array in arrays):
        raise ValueError(
            f"{who}: expected C-contiguous arrays, received strides "
            f"{', '.join(str(array.strides) for array in arrays)}"
        )
    # One dtype to compile for; a number above those of int64 becomes negative, no class either.
    return labels.astype(np.int64)


def _refuse_labels(who: str, labels: np.ndarray, classes: int) -> None:
    raise ValueError(
        f"{who}: labels must be in [0, {classes}), received {labels.min()} to {labels.max()}"
    )


@jit.inline
def _are_classes(labels: Any, classes: Any) -> Any:
    """Tell whether all labels are class numbers."""
    wrong = 0
    for i in range(labels.size):
        wrong += labels[i] < 0 or labels[i] >= classes
    return wrong == 0


@jit.inline
def _largest(z: Any, bias: Any) -> Any:
    """Return the index of the largest logit of a row, the first NaN's where there is one."""
    best = 0
    for i in range(1, z.size):
        value, record = z[i] + bias[i], z[best] + bias[best]
        # One that is not the smaller or equal one: larger, or NaN after a number.
        if record == record and not value <= record:
            best = i
    return best


@jit.kernel(announce="cross-entropy for the CPU")
def _cross_entropy(z: Any, bias: Any, labels: Any, sums: Any) -> Any:
    """Write the sums and return True; where a label is no class, write nothing."""
    rows, classes = z.shape
    if not _are_classes(labels, classes):
        return False
    loss, hits = 0.0, 0  # in float64, so that a large batch loses nothing
    for row in range(rows):
        label = labels[row]
        largest = _largest(z[row], bias)
        top = z[row, largest] + bias[largest]
        total = z.dtype.type(0)
        for i in range(classes):
            total += np.exp(z[row, i] + bias[i] - top)
        loss += np.log(total) - (z[row, label] + bias[label] - top)
        hits += largest == label and top == top
    sums[0] = loss * (1 / rows)
    sums[1] = hits
    return True


@jit.kernel(announce="the gradient of cross-entropy for the CPU")
def _cross_entropy_vjp(g: Any, z: Any, bias: Any, labels: Any, g_z: Any, g_bias: Any) -> Any:
    """Write the gradients and return True; where a label is no class, write nothing."""
    rows, classes = z.shape
    if not _are_classes(labels, classes):
        return False
    zero, one = z.dtype.type(0), z.dtype.type(1)
    share = g[0] / z.dtype.type(rows)
    for i in range(classes):
        g_bias[i] = zero
    for row in range(rows):
        largest = _largest(z[row], bias)
        top = z[row, largest] + bias[largest]
        total = zero
        for i in range(classes):
            power = np.exp(z[row, i] + bias[i] - top)
            g_z[row, i] = power
            total += power
        for i in range(classes):
            hot = one if i == labels[row] else zero
            g_z[row, i] = (g_z[row, i] / total - hot) * share
            g_bias[i] += g_z[row, i]
    return True
