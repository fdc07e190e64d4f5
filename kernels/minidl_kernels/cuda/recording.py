"""Recorded work: a CUDA graph of what ran once, which runs again without Python.

All work of a recording is on one stream of the device, which is never the null stream: CUDA refuses
to capture that one. `stream` orders this stream and the caller's by events, in both directions. So
`record` and `Recording.replay` are right on any stream. If a caller enters
`stream` once for many calls, they need no events.

What changes between replays must be read from memory: see `scalars`. Whatever else Python passes to
a kernel is kept: numbers, shapes, grids and addresses. So each array that exists before `record`
must live as long as the recording.

A launch of a graph takes Python and the driver some microseconds, and leaves a gap on the device.
So `TOGETHER` replays are one launch: of a second graph, which has copies of the first one in a row.
"""

import contextlib
import functools
import gc
import logging
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cupy
from cuda.bindings import driver

from minidl_kernels.placed import NotRecorded

TOGETHER = 16  # replays in one launch; `fit` asks for as many

_log = logging.getLogger("minidl_kernels")


class Recording:
    """Work that was recorded by `record`.

    Attributes
    ----------
    launches : int or None
        Number of kernels, copies and fills in the graph; None if this CuPy cannot describe graphs.
    """

    obstacle = ""  # CUDA itself rejects what a graph cannot hold

    def __init__(self, graph: Any, pool: Any):
        self._device = cupy.cuda.Device()
        # The only references, so that `close` destroys them: the graph; then its chain, or None.
        self._graphs = [graph]
        self._close = weakref.finalize(self, _release, self._device, self._graphs, pool)
        self._close.atexit = False  # the driver is gone before

    @functools.cached_property
    def launches(self) -> int | None:
        """Number of nodes of the graph, as CUDA describes it in the DOT language."""
        if not hasattr(self._graph, "debug_dot_str"):
            return None
        return len(re.findall(r'^\s*"\w+"\s*\[', self._graph.debug_dot_str(), re.MULTILINE))

    @property
    def _graph(self) -> Any:
        if not self._graphs:
            raise RuntimeError("Recording: expected an open recording, got a closed one. Record.")
        return self._graphs[0]

    @property
    def _chain(self) -> Any:
        """The graph of `TOGETHER` replays, made when it is first needed; None if CUDA has none."""
        if len(self._graphs) == 1:
            self._graphs.append(_chain_of(self._graph))
        return self._graphs[1]

    def replay(self, times: int = 1) -> None:
        """Queue the work so many times; nothing waits for it.

        If several threads replay one recording, they must order this, as by events.
        """
        graph = self._graph
        with self._device, stream() as current:
            if times >= TOGETHER and (chain := self._chain) is not None:
                for _ in range(times // chain.times):
                    chain.launch(current)
                times %= chain.times
            for _ in range(times):
                graph.launch(current)

    def close(self) -> None:
        """Destroy the graphs and free their memory. Arrays that the work made stay valid."""
        self._close()


class _Chain:
    """A graph of several copies of another graph in a row, destroyed with its last reference.

    CuPy cannot add a graph to a graph, and CUDA rejects the launch of one while a stream captures.
    So the driver adds each copy as a child, which begins when the one before it has ended. CUDA
    rejects a child with nodes that allocate memory. A pool of CuPy allocates it beside the graph.

    Attributes
    ----------
    times : int
        The number of copies.
    """

    def __init__(self, graph: Any, times: int):
        runtime = cupy.cuda.runtime
        child, self.times = driver.CUgraph(graph.graph), times
        whole = _checked(driver.cuGraphCreate(0))
        try:
            before: list[Any] = []
            for _ in range(times):
                added = driver.cuGraphAddChildGraphNode(whole, before, len(before), child)
                before = [_checked(added)]
            self._executable = runtime.graphInstantiate(int(whole))
        finally:
            runtime.graphDestroy(int(whole))  # the executable graph has what it needs
        destroy = weakref.finalize(self, runtime.graphExecDestroy, self._executable)
        destroy.atexit = False  # the driver is gone before

    def launch(self, stream: Any) -> None:
        """Queue all copies on a stream."""
        cupy.cuda.runtime.graphLaunch(self._executable, stream.ptr)


def _chain_of(graph: Any) -> _Chain | None:
    """Return the chain of a graph, or None with a line in the log if there can be none."""
    try:
        if not getattr(graph, "graph", 0):
            raise RuntimeError("this CuPy does not keep the graph that was captured")
        return _Chain(graph, TOGETHER)
    except RuntimeError as error:  # of CUDA or CuPy
        _log.info("recording: each replay is a launch of its own: %s", error)
        return None


def _checked(result: tuple[Any, ...]) -> Any:
    """Return the value of a driver's function, or raise RuntimeError."""
    status, *values = result
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"expected CUDA_SUCCESS of the driver, got {status.name}")
    return values[0]


def record(work: Callable[[], None]) -> Recording:
    """Record work in a CUDA graph, and do it once.

    Parameters
    ----------
    work : callable
        It must have run before: then its kernels are loaded, and the algorithms of its products
        are chosen. Here it is called once more while the stream captures. This changes Python's
        objects, and no arrays. The first launch of the graph, which follows, changes the arrays.
        The work may not wait for the device, copy from or to the host, or compute products with
        CuPy.

    Returns
    -------
    Recording
        Arrays that the work makes have their memory from the recording's own pool, and each replay
        writes them anew.

    Raises
    ------
    NotRecorded
        If CUDA or CuPy rejects something in a capture. No work was done then.
    Exception
        Any other exception of `work`. No work was done then, either.
    """
    device, pool = cupy.cuda.Device(), cupy.cuda.MemoryPool()
    try:
        with stream() as current, _no_collection(), cupy.cuda.using_allocator(pool.malloc):
            graph = _captured(work, current)
    except BaseException as error:
        _release(device, [], pool)
        if isinstance(error, RuntimeError):  # of CUDA or CuPy
            raise NotRecorded(str(error)) from error
        raise
    recording = Recording(graph, pool)
    recording.replay()
    return recording


def _captured(work: Callable[[], None], current: Any) -> Any:
    """Return the graph of the work; no capture is left open."""
    current.begin_capture()
    try:
        work()
    except BaseException:
        with contextlib.suppress(Exception):  # CUDA says again that the capture is invalid
            current.end_capture()
        raise
    return current.end_capture()


@contextlib.contextmanager
def stream() -> Iterator[Any]:
    """Make the stream of recordings the current one; its work is ordered with the caller's."""
    before = cupy.cuda.get_current_stream()
    ours = _stream(cupy.cuda.Device().id, threading.get_ident())
    if before == ours:
        yield ours
        return
    ours.wait_event(before.record())
    try:
        with ours:
            yield ours
    finally:
        before.wait_event(ours.record())


@functools.lru_cache(maxsize=64)
def _stream(device: int, thread: int) -> Any:
    """Return the stream for recordings of a device, which is the current one, in a thread.

    On a shared stream, the launches of another thread would be captured, too.
    """
    return cupy.cuda.Stream(non_blocking=True)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from finalizing objects whose destruction CUDA may refuse during capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_pools_in_use: list[tuple[Any, Any]] = []


def _release(device: Any, graphs: list[Any], pool: Any) -> None:
    """Destroy the graphs, then free the memory, then drop the pool.

    With another order, CuPy 13 frees memory of a graph that is alive, and CuPy 14 leaks it. CuPy 13
    frees memory of living arrays with their pool, so a pool is kept until its arrays are gone.
    """
    graphs.clear()
    _pools_in_use.append((device, pool))
    for entry in list(_pools_in_use):
        device, pool = entry
        with device:
            pool.free_all_blocks()
            if pool.used_bytes() == 0:
                _pools_in_use.remove(entry)
