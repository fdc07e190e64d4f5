"""Streams and stream capture of the double, and `perform`, which does all work.

While the current stream captures, `perform` computes nothing. It allocates the results, fills them
with poison, and appends a node to the graph. A launch of the graph runs the nodes in the same
memories. What CUDA or CuPy rejects during capture raises their errors. What they let pass, and
what goes wrong later, raises `Misuse`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cuda_double.devices import state
from cuda_double.graphs import CAPTURE_UNSUPPORTED, Capture, Graph
from cuda_double.pools import OnDevice, Order

ILLEGAL_STATE, CAPTURE_INVALIDATED = 401, 901  # cudaError of driver_types.h
POISON = 0xEE  # each byte of a result that is no float


class Event:
    """A point in the work of a stream; the double runs all work at once, and waits for nothing."""

    def __init__(self) -> None:
        self._work: dict[Order, int] = {}


class Stream:
    """A queue of work; the current one takes what is launched."""

    _pointers = itertools.count(0x1000, 0x10)
    null: "Stream"
    error: type[Exception]

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: int | None = None,
    ):
        self.ptr = 0 if null else next(self._pointers)
        self.device_id = -1 if null else state.current_device
        self._capture: Capture | None = None
        self._before: list[Stream | None] = []
        self._order = Order(null, not non_blocking)
        # Arrays of the host that copies use, each with what its copy does when the host waits.
        self._unfinished: list[tuple[np.ndarray, Callable[[], None]]] = []
        state.streams.add(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __enter__(self) -> "Stream":
        before = state.current_stream
        self.use()
        self._before.append(before)
        return self

    def __exit__(self, *raised: object) -> None:
        state.current_stream = self._before.pop()

    def use(self) -> "Stream":
        """Make this the current stream."""
        if self.device_id not in (-1, state.current_device):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id})"
                f" does not match with the current device ({state.current_device})"
            )
        state.current_stream = self
        return self

    def _finish(self, host: np.ndarray | None = None) -> None:
        """Finish all copies, or those that use an array of the host."""
        work, self._unfinished = self._unfinished, []
        for used, finish in work:
            if host is None or np.may_share_memory(used, host):
                finish()
            else:
                self._unfinished.append((used, finish))

    def synchronize(self) -> None:
        """Wait for the stream."""
        if self._capture is not None:
            self._capture.is_valid = False
            raise self.error(CAPTURE_UNSUPPORTED)
        state.wait(self)

    def record(self, event: Event | None = None) -> Event:
        """Return an event at the end of the stream's work."""
        if self._capture is not None:
            raise NotImplementedError("the double captures one stream only")
        event = event or Event()
        event._work = self._order.now()
        return event

    def wait_event(self, event: Event) -> None:
        """Order later work on the stream after an event."""
        if self._capture is not None:
            raise NotImplementedError("the double captures one stream only")
        self._order.comes_after(event._work)

    def begin_capture(self, mode: int | None = None) -> None:
        """Begin to append work on this stream to a graph, instead of executing it."""
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self._capture is not None:
            raise self.error(ILLEGAL_STATE)
        self._capture = Capture()
        state.capturing.append(self)

    def end_capture(self) -> Graph:
        """Return the graph."""
        if self._capture is None:
            raise self.error(ILLEGAL_STATE)
        capture, self._capture = self._capture, None
        state.capturing.remove(self)
        if not capture.is_valid:
            raise self.error(CAPTURE_INVALIDATED)
        return Graph._of(capture)

    def is_capturing(self) -> bool:
        """Return whether a capture has begun."""
        if self._capture is not None and not self._capture.is_valid:
            raise RuntimeError(
                "the stream was capturing, but an error has invalidated the capture sequence"
            )
        return self._capture is not None


Stream.null = state.null_stream = Stream(null=True)


def get_current_stream(device_id: int | None = None) -> Stream:
    """Return the stream that takes what is launched now."""
    return state.stream


# ------------------------------------------------------------------------------ all work


def arrays_in(values: Any) -> Iterator[Any]:
    """Yield the arrays of the device in arguments."""
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, OnDevice):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from arrays_in(value)


def memory_of(value: Any) -> Any:
    """Return an argument with NumPy's memory in place of arrays of the device."""
    return _replaced(value, lambda array: array._memory)


def _replaced(value: Any, replacement: Callable[[Any], Any]) -> Any:
    if isinstance(value, OnDevice):
        return replacement(value)
    if isinstance(value, list | tuple):
        return type(value)(_replaced(part, replacement) for part in value)
    if isinstance(value, dict):
        return {key: _replaced(part, replacement) for key, part in value.items()}
    return value


def perform(compute: Callable, *args: Any, writes: bool = False, **kwargs: Any) -> Any:
    """Return ``compute(*args, **kwargs)`` in NumPy's memory: computed now, or by a captured node.

    Parameters
    ----------
    compute : callable
        Takes NumPy's arrays, and returns arrays or views of them, or None.
    writes : bool
        Whether it writes to arrays among the arguments. If it does not and returns views, there is
        nothing to do on a device.
    """
    arrays = list(arrays_in((args, kwargs)))
    call = _call(compute, memory_of(args), memory_of(kwargs))
    if state.capture is not None:
        return _captured(compute, args, kwargs, call, arrays, writes)
    value = call()
    memories = [array._memory for array in arrays]
    if writes or not all(_is_in(part, memories) for part in _parts(value)):
        for array in arrays:
            array._block.check_readable()
            array._block.use()
    return value


def _captured(
    compute: Callable,
    args: Any,
    kwargs: Any,
    call: Callable[[], Any],
    arrays: list[Any],
    writes: bool,
) -> Any:
    """Append a node; return its results, poisoned.

    The outcome on zeros in place of the arrays tells shapes, dtypes and what is a view.
    """
    capture = state.capture
    stand_ins = {id(array): _zeros_like(array._memory) for array in arrays}
    outcome = _call(
        compute,
        _replaced(args, lambda array: stand_ins[id(array)]),
        _replaced(kwargs, lambda array: stand_ins[id(array)]),
    )()
    if writes or outcome is None:
        if any(array.size for array in arrays):
            capture.append(arrays, call)
        memories = {id(stand_ins[id(array)]): array._memory for array in arrays}
        if isinstance(outcome, tuple):
            return tuple(memories[id(part)] for part in outcome)
        return outcome if outcome is None else memories[id(outcome)]
    if all(_is_in(part, stand_ins.values()) for part in _parts(outcome)):
        return call()  # views
    results = poisoned(outcome)
    targets = list(_parts(results))

    def node() -> None:
        for target, value in zip(targets, _parts(call()), strict=True):
            target[...] = value

    if any(target.size for target in targets):
        capture.append(arrays, node)
    return results


def _call(compute: Callable, args: Any, kwargs: Any) -> Callable[[], Any]:
    def call() -> Any:
        with np.errstate(all="ignore"):  # a GPU does not warn
            return compute(*args, **kwargs)

    return call


def poisoned(value: Any) -> Any:
    """Return memory like that of `value`, full of NaN, or of bytes 0xEE."""
    if isinstance(value, list | tuple):
        return type(value)(poisoned(part) for part in value)
    memory = np.empty_like(np.asarray(value))
    is_float = memory.dtype.kind in "fc"
    memory[...] = np.nan if is_float else np.full(memory.itemsize, POISON, "u1").view(memory.dtype)
    return memory


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    elif value is not None:
        yield value


def _is_in(part: Any, memories: Iterable[np.ndarray]) -> bool:
    """Return whether an array is one of the others or a view of it."""
    return isinstance(part, np.ndarray) and any(
        part is memory or (part.base is not None and np.may_share_memory(part, memory))
        for memory in memories
    )


def _zeros_like(memory: np.ndarray) -> np.ndarray:
    """Return zeros of the same strides."""
    reaches = [(n - 1) * s for n, s in zip(memory.shape, memory.strides, strict=True)]
    if memory.size == 0:
        return np.zeros_like(memory)
    before = -sum(reach for reach in reaches if reach < 0)
    extent = before + sum(reach for reach in reaches if reach > 0) + memory.itemsize
    buffer = np.zeros(extent, "u1")
    return np.ndarray(memory.shape, memory.dtype, buffer, before, memory.strides)
