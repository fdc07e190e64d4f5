"""Matrix products, cut into blocks for the threads of the CPU kernels."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl_kernels import mask_contract
from minidl_kernels.checks import KERNEL_TYPES
from minidl_kernels.cpu import blas, current, dense, dropout, jit, launch, pool

# Smaller products are finished before a second thread has started.
SERIAL_BELOW = 500_000  # multiplications

_ROWS = 12  # of tiles, or a multiple; OpenBLAS multiplies 6 rows at a time


def matmul(a: Any, b: Any, transpose_a: bool, transpose_b: bool, out: Any) -> Any:
    """Return the product of two arrays as `numpy.matmul` does, stacks and vectors included.

    Large products run on the threads of the kernels, each thread with a block of the result.

    Parameters
    ----------
    a, b : numpy.ndarray
        The operands.
    transpose_a, transpose_b : bool
        Whether to swap the last two axes first.
    out : numpy.ndarray or None
        Array for the result, which may not overlap `a` or `b`.

    Examples
    --------
    >>> matmul(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), False, True, None)
    array([[11.]])
    """
    if a.ndim == b.ndim == 2:
        inner, rows = a.shape if transpose_a else a.shape[::-1]
        columns = b.shape[0] if transpose_b else b.shape[1]
        if _fits(rows, columns, inner, a, b, a if out is None else out):
            out = np.empty((rows, columns), a.dtype) if out is None else out
            pieces = pieces_of_product(rows, columns, inner)
            depth = 0 if transpose_b else blas.tile_depth(rows * columns * inner, a, b, out)
            options = int(transpose_a), int(transpose_b), depth
            launch.launch_pieces(pieces, _multiply, blas.holders, a, b, out, *options)
            return out
    a = a.swapaxes(-1, -2) if transpose_a else a
    b = b.swapaxes(-1, -2) if transpose_b else b
    current.not_recorded("a product is computed by NumPy")
    with _one_thread() if _is_compiled() else contextlib.nullcontext():
        return np.matmul(a, b, out=out)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Limit OpenBLAS to one thread during a product of NumPy."""
    launch.launch(_hold_or_release, blas.holders, 1)
    try:
        yield
    finally:
        launch.launch(_hold_or_release, blas.holders, 0)


@jit.kernel
def _hold_or_release(holders: Any, is_begin: Any) -> None:
    if is_begin:
        blas.hold(holders)
    else:
        blas.release(holders)


def dense_layer(
    x: Any,
    weight: Any,
    bias: Any,
    y: Any,
    floor: Any,
    address: mask_contract.PackedAddress,
    scale: Any,
) -> None:
    """Write dropout of max(x @ weight + bias, floor) to `y`.

    Each thread computes a block of the product and finishes it while it is in its cache.

    Parameters
    ----------
    x, weight : numpy.ndarray
        Shapes (rows, inputs) and (inputs, units), of one dtype, C-contiguous.
    y : numpy.ndarray
        Output, shape (rows, units), likewise.
    bias, floor, address, scale
        As in `dense.bias_act_dropout`.
    """
    (rows, inputs), (_, units) = x.shape, weight.shape
    if _fits(rows, units, inputs, x, weight, y):
        pieces = pieces_of_product(rows, units, inputs)
        finish = (bias, floor, *launch.placed_address(address), launch.placed(scale, x.dtype))
        depth = blas.tile_depth(rows * units * inputs, x, weight, y)
        launch.launch_pieces(pieces, _dense, blas.holders, x, weight, y, depth, *finish)
    else:
        matmul(x, weight, False, False, y)
        dense.bias_act_dropout(y, bias, floor, address, scale)


def pieces_of_product(rows: int, columns: int, inner: int) -> int:
    """Return the number of pieces to cut a product into."""
    multiplications = rows * columns * inner
    if multiplications < SERIAL_BELOW or not blas.available:
        return 1
    return pool.pieces(multiplications // (SERIAL_BELOW // pool.SERIAL_BELOW))


def _is_compiled() -> bool:
    """Return whether compiled products can be used: OpenBLAS is callable and Numba uses TBB."""
    return blas.available and pool.has_tbb()


def _fits(rows: int, columns: int, inner: int, a: Any, b: Any, out: Any) -> bool:
    """Return whether the compiled product supports these arrays.

    Read-only arrays are excluded: Numba would compile the kernel again for them.
    """
    return (
        _is_compiled()
        and min(rows, columns, inner) > 0
        and a.dtype in KERNEL_TYPES
        and a.dtype == b.dtype == out.dtype
        and a.flags.carray
        and b.flags.carray
        and out.flags.carray
    )


@jit.inline
def _block(piece: Any, pieces: Any, rows: Any, columns: Any) -> Any:
    """Return first row, number of rows, first column and number of columns of a piece.

    The longer side of the result is cut, so that each thread packs the smaller operand whole.
    """
    if columns >= rows:
        start, stop = pool.share(piece, pieces, columns, pool.UNIT)
        return 0, rows, start, stop - start
    start, stop = pool.share(piece, pieces, rows, pool.UNIT)
    return start, stop - start, 0, columns


@jit.kernel
def _multiply_block(
    a: Any,
    b: Any,
    out: Any,
    transpose_a: Any,
    transpose_b: Any,
    depth: Any,
    row: Any,
    rows: Any,
    column: Any,
    columns: Any,
) -> None:
    """Write a block of the product; a large one in tiles, see `blas.tile_depth`."""
    if rows == 0 or columns == 0:
        return
    lda, ldb, ldc, size = a.shape[1], b.shape[1], out.shape[1], out.itemsize
    inner = a.shape[0] if transpose_a else lda
    if rows * columns * inner <= blas.SMALL:
        depth = 0
    one = out.dtype.type(1)
    width = pool.UNIT if depth else columns
    for j in range(column, column + columns, width):
        k = 0
        while k < inner:
            part = blas.part(inner - k, depth) if depth else inner
            height = max(blas.SMALL // (width * part) // _ROWS, 1) * _ROWS if depth else rows
            for i in range(row, row + rows, height):
                blas.gemm(
                    transpose_a,
                    transpose_b,
                    min(height, row + rows - i),
                    min(width, column + columns - j),
                    part,
                    a.ctypes.data + size * (k * lda + i if transpose_a else i * lda + k),
                    lda,
                    b.ctypes.data + size * (j * ldb + k if transpose_b else k * ldb + j),
                    ldb,
                    out.ctypes.data + size * (i * ldc + j),
                    ldc,
                    one,
                    one if k else one - one,
                )
            k += part


@jit.kernel
def _multiply(
    piece: Any,
    pieces: Any,
    holders: Any,
    a: Any,
    b: Any,
    out: Any,
    transpose_a: Any,
    transpose_b: Any,
    depth: Any,
) -> None:
    row, rows, column, columns = _block(piece, pieces, out.shape[0], out.shape[1])
    if pieces == 1:  # else `calls.run` holds
        blas.hold(holders)
    _multiply_block(a, b, out, transpose_a, transpose_b, depth, row, rows, column, columns)
    if pieces == 1:
        blas.release(holders)


@jit.kernel
def _dense(
    piece: Any,
    pieces: Any,
    holders: Any,
    x: Any,
    weight: Any,
    y: Any,
    depth: Any,
    bias: Any,
    floor: Any,
    words: Any,
    step: Any,
    row_offset: Any,
    threshold: Any,
    scale: Any,
) -> None:
    row, rows, column, columns = _block(piece, pieces, y.shape[0], y.shape[1])
    no = np.int64(0)  # for a literal, the block would be compiled anew
    if pieces == 1:
        blas.hold(holders)
    _multiply_block(x, weight, y, no, no, depth, row, rows, column, columns)
    if pieces == 1:
        blas.release(holders)
    part = bias[column : column + columns]
    address = dropout.unpack(words, step, row_offset, threshold)
    dense.finish_block(y, part, row, rows, column, floor, address, scale[0])
