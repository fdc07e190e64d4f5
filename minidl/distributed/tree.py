"""Shards of a batch, and sums over them in the order of one fixed binary tree.

A batch of B rows is cut into S shards: shard s has the rows from s * B // S to (s + 1) * B // S. A
sum over the shards adds neighbours in pairs, then the pairs in pairs, and so on; without a right
neighbour, a part goes up as it is. This order does not depend on how many workers share the shards,
and neither do the bits of the sum.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from minidl.backend import Array

BLOCK = 2**15  # numbers that are added at once on the host, so that partial sums stay in the cache


def rows_of(shard: int, shards: int, rows: int) -> tuple[int, int]:
    """Return the first row of a shard, and the row after its last one."""
    return shard * rows // shards, (shard + 1) * rows // shards


def owned(shards: int, size: int, rank: int) -> range:
    """Return the shards of a worker: a range, which is a subtree if the size is a power of two."""
    return range(*rows_of(rank, size, shards))


def subtrees(shards: range) -> Iterator[tuple[int, int]]:
    """Yield the largest subtrees that a range of shards consists of, as first shard and length.

    Examples
    --------
    >>> list(subtrees(range(2, 8))), list(subtrees(range(3, 6)))
    ([(2, 2), (4, 4)], [(3, 1), (4, 2)])
    """
    first = shards.start
    while first < shards.stop:
        length = first & -first or 1 << shards.stop.bit_length()
        while first + length > shards.stop:
            length //= 2
        yield first, length
        first += length


class Part(NamedTuple):
    """Sum of the shards of a subtree."""

    first: int
    length: int
    array: Array


class TreeSum:
    """Sum of arrays of shards, which come in order. It keeps one array for each level of the tree.

    Parameters
    ----------
    xp : module
        The array library.
    block : int, optional
        How many numbers are added at once; all by default.

    Examples
    --------
    >>> import numpy as np
    >>> total, gradient = TreeSum(np), np.zeros(2)
    >>> for shard in range(3):
    ...     gradient[...] = shard
    ...     total.add(shard, 1, gradient)
    ...     total.store()
    >>> total.write(gradient)
    >>> gradient
    array([3., 3.])
    """

    def __init__(self, xp: Any, block: int | None = None):
        self._xp, self._block = xp, block
        self._parts: list[Part] = []
        self._buffers: list[Array] = []
        self._scratch: Array = None

    def add(self, first: int, length: int, array: Array) -> None:
        """Add the sum of the next subtree. It may be overwritten, and must stay until `store`."""
        self._merge()
        self._parts.append(Part(first, length, array))

    def store(self) -> None:
        """Copy the last array if needed, since its memory is about to be used again."""
        last = self._parts[-1].array
        self._merge()
        if self._parts[-1].array is last:
            self._parts[-1] = self._parts[-1]._replace(array=self._spare(last))
            self._parts[-1].array[...] = last

    def parts(self) -> list[Part]:
        """Return the sums of the subtrees, merged as far as possible."""
        self._merge()
        return self._parts

    def write(self, out: Array) -> None:
        """Write the sum of all parts to `out`, which may be one of them, and forget them."""
        self._fold([part.array for part in self._parts], out)
        self._parts = []

    def clear(self) -> None:
        """Forget all parts."""
        self._parts = []

    def _merge(self) -> None:
        """Add the last part to the parts before it, if they are its left neighbours in the tree."""
        parts, count = self._parts, 1
        if not parts:
            return
        first, length, _ = parts[-1]
        while count < len(parts):
            left = parts[-count - 1]
            is_pair = left.length == length and left.first + length == first
            if not is_pair or left.first % (2 * length):
                break
            first, length, count = left.first, 2 * length, count + 1
        if count > 1:
            arrays = [part.array for part in parts[-count:]]
            self._fold(arrays, arrays[0])
            parts[-count:] = [Part(first, length, arrays[0])]

    def _fold(self, arrays: Sequence[Array], out: Array) -> None:
        """Write a + (b + (c + ...)) to `out`."""
        *lefts, last = arrays
        if not lefts:
            if out is not last:
                out[...] = last
            return
        block = self._block or max(1, len(out))
        if len(lefts) > 1 and self._scratch is None:
            self._scratch = self._xp.empty(block, out.dtype)
        for start in range(0, len(out), block):
            here = slice(start, start + block)
            total = last[here]
            for left in reversed(lefts[1:]):
                total = self._xp.add(left[here], total, out=self._scratch[: len(total)])
            self._xp.add(lefts[0][here], total, out=out[here])

    def _spare(self, like: Array) -> Array:
        """Return an array that no part uses."""
        for buffer in self._buffers:
            if all(buffer is not part.array for part in self._parts):
                return buffer
        self._buffers.append(self._xp.empty_like(like))
        return self._buffers[-1]
