"""Products of matrices, cut into pieces for the kernels' own threads."""

from typing import Any

import numba
import numpy as np

from minidl_kernels.cpu import blas, jit, pool

# Fewer multiplications than this are done before a second thread has woken up.
SERIAL_BELOW = 500_000


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the product of two matrices.

    It runs on the kernels' threads, each with a block of the result, where both matrices are
    C-contiguous float32 or float64, NumPy's BLAS is the OpenBLAS of its wheels and Numba's
    threading layer is TBB; else, and for small matrices, `numpy.matmul` computes it.

    Parameters
    ----------
    a, b : numpy.ndarray
        Shape (m, k) and (k, n); (k, m) and (n, k) where they are to be transposed.
    transpose_a, transpose_b : bool
        Whether to take the transpose.
    out : numpy.ndarray, optional
        Where to write the result, shape (m, n); it may not overlap `a` or `b`.

    Returns
    -------
    numpy.ndarray
        `out`, or a new array.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> matmul(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), transpose_b=True)
    array([[11.]])
    """
    left = a.shape[::-1] if transpose_a else a.shape
    right = b.shape[::-1] if transpose_b else b.shape
    if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
        raise ValueError(
            f"matmul: expected two matrices whose inner sizes agree, received shapes "
            f"{left} and {right}"
        )
    rows, inner = left
    columns = right[1]
    if out is not None and out.shape != (rows, columns):
        raise ValueError(f"matmul: expected out of shape {(rows, columns)}, received {out.shape}")
    pieces = pieces_of_product(rows, columns, inner)
    if pieces == 1 or not (can_share(a, b) and (out is None or can_share(a, out))):
        with blas.one_thread:
            return np.matmul(a.T if transpose_a else a, b.T if transpose_b else b, out=out)
    if out is None:
        out = np.empty((rows, columns), a.dtype)
    with blas.one_thread:
        _multiply_parallel(a, b, out, transpose_a, transpose_b, pieces)
    return out


def pieces_of_product(rows: int, columns: int, inner: int) -> int:
    """Return into how many pieces to cut a product; 1 leaves it to NumPy."""
    multiplications = rows * columns * inner
    if multiplications < SERIAL_BELOW or not blas.available:
        return 1
    return pool.pieces(multiplications // (SERIAL_BELOW // pool.SERIAL_BELOW))


def can_share(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether the compiled product takes both arrays as they are."""
    # Numba compiles anew for read-only arrays, which is not worth it.
    return a.dtype == b.dtype and a.dtype in jit.FLOATS and a.flags.carray and b.flags.carray


@jit.inline
def block(piece: Any, pieces: Any, rows: Any, columns: Any) -> Any:
    """Return first row, number of rows, first column and number of columns of a thread's block.

    The longer side of the result is cut, so that each thread packs the smaller operand whole.
    """
    if columns >= rows:
        start, stop = pool.share(piece, pieces, columns, pool.UNIT)
        return 0, rows, start, stop - start
    start, stop = pool.share(piece, pieces, rows, pool.UNIT)
    return start, stop - start, 0, columns


@jit.kernel(announce="matrix products for the CPU")
def multiply(
    a: Any,
    b: Any,
    out: Any,
    transpose_a: Any,
    transpose_b: Any,
    row: Any,
    rows: Any,
    column: Any,
    columns: Any,
) -> None:
    """Compute one block of the product."""
    if rows == 0 or columns == 0:
        return
    lda, ldb, ldc, size = a.shape[1], b.shape[1], out.shape[1], out.itemsize
    blas.gemm(
        transpose_a,
        transpose_b,
        rows,
        columns,
        a.shape[0] if transpose_a else lda,
        a.ctypes.data + size * row * (1 if transpose_a else lda),
        lda,
        b.ctypes.data + size * column * (ldb if transpose_b else 1),
        ldb,
        out.ctypes.data + size * (row * ldc + column),
        ldc,
        out.dtype.type(1),
    )


@jit.kernel(announce="matrix products for the CPU on several threads", parallel=True)
def _multiply_parallel(
    a: Any, b: Any, out: Any, transpose_a: Any, transpose_b: Any, pieces: Any
) -> None:
    """Compute a product, each thread one block of it."""
    for piece in numba.prange(pieces):
        row, rows, column, columns = block(piece, pieces, out.shape[0], out.shape[1])
        multiply(a, b, out, transpose_a, transpose_b, row, rows, column, columns)
