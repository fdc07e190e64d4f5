"""Memory of the double: who owns it, the pool it is from, and whether a graph has to fill it first.

The double gives each array memory of its own. A real pool gives freed memory out again, and a graph
that still uses it computes with another array's numbers. So using freed memory is an error here.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from cuda_double.devices import Misuse, state

ALIGNMENT = 512  # bytes


class MemoryPool:
    """A pool whose memory stays reserved after an array is freed, until `free_all_blocks`."""

    def __init__(self, allocator: Any = None):
        if allocator is not None:
            raise NotImplementedError("the double has pools over cudaMalloc only")
        self._blocks: list[Block] = []

    def malloc(self, size: int) -> Any:
        """Stand for the allocator that `using_allocator` takes."""
        raise NotImplementedError("the double does not compute cupy.cuda.MemoryPointer")

    def free_all_blocks(self, stream: Any = None) -> None:
        """Release the memory of arrays that were freed."""
        for block in self._blocks:
            block.is_released |= not block.is_owned
        self._blocks = [block for block in self._blocks if not block.is_released]

    def used_bytes(self) -> int:
        """Return the bytes of arrays that are alive."""
        return sum(block.nbytes for block in self._blocks if block.is_owned)

    def total_bytes(self) -> int:
        """Return the bytes that are reserved."""
        return sum(block.nbytes for block in self._blocks)


@contextlib.contextmanager
def using_allocator(allocator: Callable | None = None) -> Iterator[None]:
    """Allocate by another allocator in the context: ``malloc`` of a pool."""
    before, state.allocator = state.allocator, allocator
    try:
        yield
    finally:
        state.allocator = before


class Order:
    """The work of one stream, numbered, and the work of other streams that comes before it.

    Parameters
    ----------
    with_null : bool
        Whether CUDA orders it and the null stream: unless it is a non-blocking one.
    """

    def __init__(self, is_null: bool, with_null: bool):
        self._is_null, self._with_null = is_null, with_null
        self._latest = self._finished = 0
        self._before: dict[Order, int] = {}

    def next(self) -> "tuple[Order, int]":
        """Return the number of the next work."""
        self._latest += 1
        return self, self._latest

    def is_after(self, other: "Order", number: int) -> bool:
        """Return whether work of another stream is done before what comes now."""
        if other is self or number <= other._finished:
            return True
        if (self._is_null and other._with_null) or (other._is_null and self._with_null):
            return True
        return number <= self._before.get(other, 0)

    def is_waited_for(self) -> None:
        """Note that the host waits for all work so far."""
        self._finished = self._latest

    def now(self) -> "dict[Order, int]":
        """Return all work so far."""
        return self._before | {self: self._latest}

    def comes_after(self, work: "dict[Order, int]") -> None:
        """Note that what comes now waits for other work."""
        for other, number in work.items():
            self._before[other] = max(number, self._before.get(other, 0))


class Block:
    """The memory of one array and of all its views.

    Attributes
    ----------
    unfilled_by : capture or None
        The capture in which it was allocated, until the first launch of that graph.
    """

    def __init__(self, owner: "OnDevice", is_borrowed: bool):
        self._owner = None if is_borrowed else weakref.ref(owner)
        self._pool: Callable[[], MemoryPool | None] | None = None
        self.nbytes = owner._memory.nbytes
        self.is_released = False
        self.unfilled_by = None
        self._last_use = state.stream._order.next()
        if not is_borrowed and self.nbytes:
            self._allocate()

    def _allocate(self) -> None:
        pool = getattr(state.allocator, "__self__", None)
        if isinstance(pool, MemoryPool):
            pool._blocks.append(self)
            self._pool = weakref.ref(pool)
        elif state.capture is not None:
            raise Misuse(
                "memory is allocated outside of a private pool during capture: "
                "when it is freed, others get it while the graph still uses it"
            )
        if state.capture is not None:
            self.unfilled_by = state.capture
            state.capture.blocks.append(self)

    @property
    def is_owned(self) -> bool:
        """Whether its array is alive; memory of another library counts as alive."""
        return self._owner is None or self._owner() is not None

    def use(self) -> None:
        """Use it on the current stream, or raise if an earlier use may still be running."""
        order = state.stream._order
        if not order.is_after(*self._last_use):
            raise Misuse("two streams use an array, and no event orders their work")
        self._last_use = order.next()

    def check_readable(self) -> None:
        """Raise unless an array can be used eagerly."""
        if self.unfilled_by is not None:
            raise Misuse("a captured result is used before the first launch of its graph")
        if self._pool is not None and self._pool() is None:
            raise Misuse("an array is used after its pool: CuPy 13 freed the memory")

    def check_replayable(self) -> None:
        """Raise unless the memory still belongs to the graph that uses it."""
        if self._pool is None:
            if self.nbytes and not self.is_owned:  # nothing reads an empty array
                raise Misuse("a graph uses memory whose array was freed since the capture")
        elif self._pool() is None or self.is_released:
            raise Misuse("a graph uses memory that its pool has released")


class OnDevice:
    """What has memory on the device: the base of the double's arrays."""

    __slots__ = ("_block", "_memory")
    _memory: Any
    _block: Block

    @property
    def data(self) -> Any:
        """The address, as the attribute `ptr`; C code that gets it finds the array by it."""
        address = self._memory.ctypes.data
        by_address[address] = self
        return SimpleNamespace(ptr=address)


by_address: weakref.WeakValueDictionary[int, OnDevice] = weakref.WeakValueDictionary()


class MemoryPointer(OnDevice):
    """What `alloc` returns: bytes of the current pool, aligned as CuPy aligns them."""

    def __init__(self, size: int):
        buffer = np.empty(size + ALIGNMENT, "u1")
        start = -buffer.ctypes.data % ALIGNMENT
        self._memory = buffer[start : start + size]
        self._block = Block(self, is_borrowed=False)

    @property
    def ptr(self) -> int:
        """The address."""
        return self.data.ptr
