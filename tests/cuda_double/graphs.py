"""Graphs of the double: what streams capture, graphs of graphs, and their launches.

CuPy captures and launches graphs, CUDA's runtime instantiates them, and its driver adds graphs to a
graph. Handles are numbers, as in CUDA. What CUDA reports is an error of the runtime or a status of
the driver. What it does not notice, and what goes wrong later, raises `Misuse`.
"""

import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from cuda_double.devices import Misuse, state
from cuda_double.pools import Block, OnDevice

# cudaError of driver_types.h
INVALID_VALUE, INVALID_HANDLE, CAPTURE_UNSUPPORTED = 1, 400, 900

_handles = itertools.count(0x5000, 0x10)
definitions: dict[int, "Capture | Chain"] = {}  # cudaGraph_t by handle
executables: dict[int, "Executable"] = {}  # cudaGraphExec_t by handle


class Capture:
    """The graph that a stream captures: its nodes, and the memory that they use."""

    def __init__(self) -> None:
        self.nodes: list[Callable[[], None]] = []
        self.blocks: list[Block] = []  # allocated during capture
        self.used: dict[int, Block] = {}  # by their ids, allocated whenever
        self.is_valid = True

    def append(self, arrays: Iterable[OnDevice], node: Callable[[], None]) -> None:
        """Append a node that uses the memory of these arrays."""
        self.nodes.append(node)
        self.used |= {id(array._block): array._block for array in arrays}
        state.counts.nodes += 1

    def run(self) -> None:
        """Run the nodes, if their memory is still that of this graph."""
        for block in itertools.chain(self.blocks, self.used.values()):
            block.check_replayable()
            if block.unfilled_by not in (None, self):
                raise Misuse("a graph reads results of another one that was never launched")
        with np.errstate(all="ignore"):
            for node in self.nodes:
                node()
        for block in itertools.chain(self.blocks, self.used.values()):
            block.unfilled_by = None
            block.use()

    @property
    def order(self) -> "list[Capture]":
        """What an executable graph runs."""
        return [self]


class Chain:
    """A graph of graphs, which run one after the other."""

    def __init__(self) -> None:
        self._children: list[Capture] = []
        self._nodes: list[int] = []

    def append(self, child: "Capture | Chain", before: Sequence[int]) -> int | None:
        """Append a copy that runs after these nodes; return its node, or None for wrong ones."""
        if len(set(before)) < len(before) or not set(before) <= set(self._nodes):
            return None
        if list(before) != self._nodes[-1:]:
            raise Misuse("two graphs within a graph use the same memory, and nothing orders them")
        self._children += child.order
        self._nodes.append(next(_handles))
        state.counts.nodes += sum(len(capture.nodes) for capture in child.order)
        return self._nodes[-1]

    @property
    def order(self) -> list[Capture]:
        """What an executable graph runs."""
        return list(self._children)


class Executable:
    """A graph that was instantiated; it needs its definition no longer."""

    error: type[Exception]

    def __init__(self, definition: Capture | Chain):
        self._captures = definition.order

    def launch(self, stream: Any) -> None:
        """Run the nodes on a stream."""
        if stream._capture is not None:
            stream._capture.is_valid = False
            raise self.error(CAPTURE_UNSUPPORTED)
        state.counts.graph_launches += 1
        with stream:
            for capture in self._captures:
                capture.run()


class Graph:
    """CuPy's graph that was captured and instantiated; it destroys both when it is dropped.

    Attributes
    ----------
    graph, graphExec : int
        The handles; older versions of CuPy show neither, and destroy the first one.
    """

    _capture: Capture

    def __init__(self, *args: Any, **kwargs: Any):
        raise NotImplementedError(
            "currently this class cannot be initiated by the user and must "
            "be created via stream capture"
        )

    @classmethod
    def _of(cls, capture: Capture) -> "Graph":
        graph = cls.__new__(cls)
        graph._capture = capture
        graph.graph, graph.graphExec = next(_handles), next(_handles)
        for register, handle, value in (
            (definitions, graph.graph, capture),
            (executables, graph.graphExec, Executable(capture)),
        ):
            register[handle] = value
            weakref.finalize(graph, register.pop, handle)
        return graph

    def launch(self, stream: Any = None) -> None:
        """Run the nodes on a stream, by default on the current one."""
        executables[self.graphExec].launch(stream or state.stream)

    def upload(self, stream: Any = None) -> None:
        """Prepare the first launch."""

    def debug_dot_str(self, flags: Any = None) -> str:
        """Return the graph in the DOT language."""
        names = [f'"graph_1_node_{place}"' for place in range(len(self._capture.nodes))]
        edges = [f"{first} -> {second};" for first, second in itertools.pairwise(names)]
        return "\n".join(["digraph dot {", *(f"{n}[label=kernel];" for n in names), *edges, "}"])


# ------------------------------------------------------------------------------ CUDA's runtime


def _found(register: dict[int, Any], handle: int) -> Any:
    """Return what has a handle; CUDA reads freed memory instead."""
    if handle not in register:
        raise Misuse(f"{handle:#x} is no graph, or one that was destroyed")
    return register[handle]


def graph_instantiate(graph: int) -> int:
    """Return the handle of an executable graph."""
    handle = next(_handles)
    executables[handle] = Executable(_found(definitions, graph))
    return handle


def graph_launch(executable: int, stream: int) -> None:
    """Launch an executable graph on the stream of this address."""
    found = _found(executables, executable)
    streams = [each for each in state.streams if each.ptr == stream]
    if not streams:
        raise Executable.error(INVALID_HANDLE)
    found.launch(streams[0])


def graph_destroy(graph: int) -> None:
    """Destroy a graph; its executable graphs and its copies stay."""
    _found(definitions, graph)
    del definitions[graph]


def graph_exec_destroy(executable: int) -> None:
    """Destroy an executable graph."""
    _found(executables, executable)
    del executables[executable]


# ------------------------------------------------------------------------------ CUDA's driver


def driver_of(real: Any) -> SimpleNamespace:
    """Return the double of ``cuda.bindings.driver``: a status comes with each value."""
    status = real.CUresult

    def create(flags: int) -> tuple[Any, Any]:
        if flags != 0:
            return status.CUDA_ERROR_INVALID_VALUE, None
        handle = next(_handles)
        definitions[handle] = Chain()
        return status.CUDA_SUCCESS, real.CUgraph(handle)

    def add_child(graph: Any, dependencies: Any, count: int, child: Any) -> tuple[Any, Any]:
        whole, part = (_found(definitions, int(real.CUgraph(int(g)))) for g in (graph, child))
        nodes = list(dependencies or [])
        if not all(isinstance(node, real.CUgraphNode) for node in nodes):
            raise TypeError(
                "Argument 'dependencies' is not instance of type (expected tuple[...] or list[...]"
            )
        if count > len(nodes):
            raise RuntimeError(f"List is too small: {len(nodes)} < {count}")
        node = whole.append(part, [int(node) for node in nodes[:count]])
        if node is None:
            return status.CUDA_ERROR_INVALID_VALUE, None
        return status.CUDA_SUCCESS, real.CUgraphNode(node)

    return SimpleNamespace(
        CUresult=status,
        CUgraph=real.CUgraph,
        CUgraphNode=real.CUgraphNode,
        cuGraphCreate=create,
        cuGraphAddChildGraphNode=add_child,
    )
