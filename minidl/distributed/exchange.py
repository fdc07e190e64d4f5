"""Exchange of gradients: each worker adds up one slice for all, and sends the sum to all.

A worker sends about 2 (W - 1) / W gradients in a step, whatever the number of shards.
"""

from itertools import pairwise

from minidl.backend import Array, Backend
from minidl.distributed.communicator import Communicator, Transfer
from minidl.distributed.tree import BLOCK, Part, TreeSum, owned, subtrees

# A slice begins at a multiple of this: at the end of an array that is no whole number of vector
# registers, NumPy adds two NaNs to the right one, and elsewhere to the left one.
UNIT = 16


class Exchange:
    """Sums over the shards of all workers.

    Parameters
    ----------
    communicator : Communicator
        The workers.
    shards : int
        The number of shards of a batch.
    backend : Backend
        The device of the arrays.

    Attributes
    ----------
    gradients : TreeSum
        Where a worker adds the gradients of its shards, in order.
    """

    def __init__(self, communicator: Communicator, shards: int, backend: Backend):
        self._communicator, self._shards = communicator, shards
        self._backend, self._xp = backend, backend.xp
        block = BLOCK if backend.name == "cpu" else None
        self.gradients, self._slice = TreeSum(self._xp, block), TreeSum(self._xp, block)
        self._box: Array = None
        self._transfer: Transfer = communicator.transfer

    def __call__(self, total: Array, tails: Array) -> None:
        """Write the sum over all shards to `total`, and the tail of each worker to its place.

        Parameters
        ----------
        total : array
            Output, shape (n,).
        tails : array
            Shape (workers, k); the row of this worker is sent to all others.
        """
        workers, rank = self._communicator, self._communicator.rank
        if workers.size == 1:
            self.gradients.write(total)
            return
        mine, others = self.gradients.parts(), [n for n in range(workers.size) if n != rank]
        units = -(-len(total) // UNIT)
        bounds = [n * units // workers.size * UNIT for n in range(workers.size + 1)]
        slices = [slice(start, min(stop, len(total))) for start, stop in pairwise(bounds)]
        here = slices[rank]
        trees = {n: list(subtrees(owned(self._shards, workers.size, n))) for n in others}
        if self._box is None:
            received = sum(map(len, trees.values()))
            self._box = self._xp.empty((received, here.stop - here.start), total.dtype)
            self._transfer = workers.transfer_on(self._backend)
        box = iter(self._box)
        parts = {n: [Part(*tree, next(box)) for tree in trees[n]] for n in others}
        self._transfer(
            [(n, part.array[slices[n]]) for n in others for part in mine],
            [(n, part.array) for n in others for part in parts[n]],
        )
        parts[rank] = [part._replace(array=part.array[here]) for part in mine]
        for n in range(workers.size):
            for part in parts[n]:
                self._slice.add(*part)
        self._slice.write(total[here])
        self.gradients.clear()
        self._transfer(
            [(n, array) for n in others for array in (total[here], tails[rank])],
            [(n, array) for n in others for array in (total[slices[n]], tails[n])],
        )
