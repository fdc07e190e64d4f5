"""Stream capture on the test double: what a graph computes, and what is rejected."""

import sys

import numpy as np
import pytest
from numba import cuda

from cuda_double import graphs
from cuda_double.devices import Misuse


@pytest.fixture
def xp(cuda_double):
    return sys.modules["cupy"]


@pytest.fixture
def stream(xp):
    with xp.cuda.Stream(non_blocking=True) as stream:
        yield stream


@pytest.fixture
def x(xp, stream):
    return xp.asarray(np.arange(12, dtype="float32").reshape(3, 4))


class Captured:
    """The outcome of a capture: the result of the work, its graph, and the pool."""

    def __init__(self, xp, stream, work):
        self.pool = xp.cuda.MemoryPool()
        with xp.cuda.using_allocator(self.pool.malloc):
            stream.begin_capture()
            try:
                self.result = work()
            finally:
                self.graph = stream.end_capture()


@pytest.fixture
def capture(xp, stream):
    return lambda work: Captured(xp, stream, work)


@cuda.jit
def add_scaled(x, scale, out):
    """Stands for a kernel of minidl."""
    i = cuda.grid(1)
    if i < x.size:
        out[i] += x[i] * scale


def launch(x, out, scale=2.0):
    from minidl_kernels.cuda import launch

    launch.launch(add_scaled, (1,), (32,), x.reshape(-1), np.float32(scale), out.reshape(-1))


# ------------------------------------------------------------------------------ what is computed

ALLOWED = {
    "x + 1": lambda xp, x, i: x + 1,
    "out=": lambda xp, x, i: xp.exp(x, out=xp.empty_like(x)),
    "in two steps": lambda xp, x, i: (x * x).sum(axis=0),
    "sum(out=)": lambda xp, x, i: x.sum(axis=0, out=xp.zeros(4, "float32")),
    "sum of all": lambda xp, x, i: x.sum(),
    "take": lambda xp, x, i: xp.take(x, i, axis=0),
    "[device integers]": lambda xp, x, i: x[i],
    "[poisoned integers]": lambda xp, x, i: x[(x.argmax(axis=0) + i[0]) % 3],
    "view": lambda xp, x, i: x[::-1, 1:].T + 0,
    "reshape that copies": lambda xp, x, i: x.T.reshape(-1),
    "copy": lambda xp, x, i: x.copy(),
    "astype": lambda xp, x, i: x.astype("int64"),
    "where": lambda xp, x, i: xp.where(x > 3, x, 0),
    "concatenate": lambda xp, x, i: xp.concatenate([x, x]),
    "stack of arrays": lambda xp, x, i: xp.stack([x.sum(), x.max()]),
    "zeros": lambda xp, x, i: xp.zeros((2, 2)),
    "full": lambda xp, x, i: xp.full(3, 7),
    "two results": lambda xp, x, i: xp.divmod(x, 2)[1],
    "sort": lambda xp, x, i: xp.sort(-x),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_graph_computes_what_eager_work_computes(name, xp, x, capture):
    work, i = ALLOWED[name], xp.asarray(np.array([2, 0]))
    captured = capture(lambda: work(xp, x, i))
    for _ in range(2):
        captured.graph.launch()
        expected = work(xp, x, i)
        assert captured.result.dtype == expected.dtype
        assert captured.result.strides == expected.strides
        np.testing.assert_array_equal(captured.result.get(), expected.get())
        x[...] = x[:, ::-1] * 3 - 5
        i[...] = 1


def test_replay_reads_changed_inputs(x, capture):
    captured = capture(lambda: x * 2)
    for factor in (1, 5):
        x[...] = factor
        captured.graph.launch()
        np.testing.assert_array_equal(captured.result.get(), np.full((3, 4), 2 * factor))


def test_capture_executes_nothing(x, capture):
    before = x.get()

    def work():
        nonlocal x
        x += 1
        x[0] = 7
        x.fill(3)

    captured = capture(work)
    np.testing.assert_array_equal(x.get(), before)
    captured.graph.launch()
    np.testing.assert_array_equal(x.get(), np.full((3, 4), 3))


def test_numbers_are_baked(x, capture):
    number = 2
    captured = capture(lambda: x * number)
    number = 3
    captured.graph.launch()
    np.testing.assert_array_equal(captured.result.get(), 2 * x.get())


def test_kernel_is_a_node(xp, x, capture, cuda_double):
    out = xp.zeros_like(x)
    launch(x, out)
    cuda_double.reset()
    captured = capture(lambda: launch(x, out))
    assert (cuda_double.nodes, cuda_double.launches) == (1, 0)
    np.testing.assert_array_equal(out.get(), 2 * x.get())
    x += 1
    for _ in range(2):
        captured.graph.launch()
    np.testing.assert_array_equal(out.get(), 2 * (x.get() - 1) + 4 * x.get())


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64"])
def test_captured_floats_are_nan(xp, dtype, capture):
    captured = capture(lambda: xp.zeros(3, dtype))
    assert np.isnan(captured.result._memory).all()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_captured_integers_are_poisoned(xp, dtype, capture):
    captured = capture(lambda: (xp.zeros(3, dtype), xp.empty(3, dtype)))
    for result in captured.result:
        assert result._memory.tobytes() == b"\xee" * result.nbytes


def test_empty_memory_stays_poisoned(xp, capture):
    captured = capture(lambda: xp.empty(3))
    captured.graph.launch()
    assert np.isnan(captured.result.get()).all()


def test_graph_runs_on_another_stream(xp, x, capture):
    captured = capture(lambda: x + 1)
    xp.cuda.Device().synchronize()
    captured.graph.launch(xp.cuda.Stream.null)
    xp.cuda.Stream.null.synchronize()
    np.testing.assert_array_equal(captured.result.get(), x.get() + 1)


def test_work_on_another_stream_is_executed(xp, x, stream):
    stream.synchronize()
    stream.begin_capture()
    with xp.cuda.Stream(non_blocking=True):
        np.testing.assert_array_equal((x + 1).get(), x.get() + 1)
    stream.end_capture()


def test_graph_counts_launches_and_nodes(xp, x, capture, cuda_double):
    cuda_double.reset()
    captured = capture(lambda: (xp.exp(x)[1:].sum(), x.copy(), xp.empty(3), x[:0] + 1))
    assert (cuda_double.nodes, cuda_double.launches) == (3, 0)  # exp, sum and a copy
    assert captured.graph.debug_dot_str().count("[") == 3
    cuda_double.reset()
    for _ in range(5):
        captured.graph.launch()
    assert cuda_double == type(cuda_double)(graph_launches=5)


def test_pool_reserves_what_was_freed(xp, x, capture):
    captured = capture(lambda: (x + 1) * 2)
    assert captured.pool.used_bytes() == x.nbytes
    assert captured.pool.total_bytes() == 2 * x.nbytes
    captured.pool.free_all_blocks()
    assert captured.pool.total_bytes() == x.nbytes


def test_use_makes_a_stream_current(xp, stream):
    other = xp.cuda.Stream()
    assert other.use() is other
    assert xp.cuda.get_current_stream() == other != stream
    stream.use()


def test_stream_belongs_to_its_device():
    from cuda_double.install import cuda_double

    with cuda_double(device_count=2):
        xp = sys.modules["cupy"]
        stream = xp.cuda.Stream()
        with xp.cuda.Device(1), pytest.raises(RuntimeError, match="does not match"):
            stream.use()


# ------------------------------------------------------------------------------ order of streams

ORDERED = {
    "waits": lambda xp, ours, other: ours.synchronize(),
    "waits for the device": lambda xp, ours, other: xp.cuda.Device().synchronize(),
    "event": lambda xp, ours, other: other.wait_event(ours.record()),
    "the event of another stream": lambda xp, ours, other: (
        xp.cuda.Stream.null.wait_event(ours.record()),
        other.wait_event(xp.cuda.Stream.null.record()),
    ),
}
UNORDERED = {
    "nothing": lambda xp, ours, other: None,
    "waits for the wrong stream": lambda xp, ours, other: other.synchronize(),
    "event of the wrong stream": lambda xp, ours, other: ours.wait_event(other.record()),
}


@pytest.mark.parametrize("name", ORDERED)
def test_ordered_streams_share_arrays(name, xp, stream, x):
    x += 1
    other = xp.cuda.Stream(non_blocking=True)
    ORDERED[name](xp, stream, other)
    with other:
        x += 1


@pytest.mark.parametrize("name", UNORDERED)
def test_unordered_streams_do_not_share_arrays(name, xp, stream, x, capture):
    captured = capture(lambda: x.fill(2))
    x += 1
    other = xp.cuda.Stream(non_blocking=True)
    UNORDERED[name](xp, stream, other)
    with other:
        for use in (lambda: x + 1, lambda: x.get(), captured.graph.launch, lambda: launch(x, x)):
            with pytest.raises(Misuse, match="no event orders"):
                use()


def test_null_stream_is_ordered_with_a_blocking_one(xp, cuda_double):
    x = xp.zeros(3)
    with xp.cuda.Stream():
        x += 1
    assert x.get().tolist() == [1, 1, 1]


# ------------------------------------------------------------------------------ rejected by CUDA


def test_null_stream_does_not_capture(xp):
    with pytest.raises(RuntimeError, match="cannot capture on the default"):
        xp.cuda.get_current_stream().begin_capture()


def test_capture_begins_and_ends_once(xp, stream):
    with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="IllegalState"):
        stream.end_capture()
    stream.begin_capture()
    assert stream.is_capturing()
    assert not xp.cuda.Stream.null.is_capturing()
    with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="IllegalState"):
        stream.begin_capture()
    stream.end_capture()
    assert not stream.is_capturing()


@pytest.mark.parametrize("of", ["stream", "device"])
def test_wait_invalidates_a_capture(of, xp, stream):
    stream.begin_capture()
    with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="CaptureUnsupported") as wait:
        {"stream": stream, "device": xp.cuda.Device()}[of].synchronize()
    assert wait.value.status == 900
    with pytest.raises(RuntimeError, match="invalidated"):
        stream.is_capturing()
    with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="CaptureInvalidated") as end:
        stream.end_capture()
    assert end.value.status == 901
    stream.synchronize()


def test_graph_is_made_by_capture_only(xp):
    with pytest.raises(NotImplementedError, match="via stream capture"):
        xp.cuda.Graph()


D2H, H2D = "is capturing, so D2H", "is capturing, so H2D"
REJECTED = {
    "get": (lambda xp, x: x.get(), D2H),
    "asnumpy": (lambda xp, x: xp.asnumpy(x), D2H),
    "float": (lambda xp, x: float(x.sum()), D2H),
    "bool": (lambda xp, x: bool(x.any()), D2H),
    "item": (lambda xp, x: x[0, 0].item(), D2H),
    "repr": (lambda xp, x: repr(x), D2H),
    "tolist": (lambda xp, x: x.tolist(), D2H),
    "mask": (lambda xp, x: x[x > 3], D2H),
    "assignment by a mask": (lambda xp, x: x.__setitem__(x > 3, x[0, :1]), D2H),
    "nonzero": (lambda xp, x: xp.nonzero(x), D2H),
    "where": (lambda xp, x: xp.where(x), D2H),
    "unique": (lambda xp, x: xp.unique(x), D2H),
    "list as an index": (lambda xp, x: x[[0, 2]], H2D),
    "asarray": (lambda xp, x: xp.asarray(np.ones(3)), H2D),
    "array of numbers": (lambda xp, x: xp.array([1, 2]), H2D),
    "asarray of a number": (lambda xp, x: xp.asarray(3.5), H2D),
    "stack of nine": (lambda xp, x: xp.stack([x] * 9), H2D),
    "concatenate nine": (lambda xp, x: xp.concatenate([x] * 9), H2D),
    "dot": (lambda xp, x: xp.dot(x, x.T), "cuBLAS"),
    "dot of vectors": (lambda xp, x: x[0].dot(x[0]), "cuBLAS"),
    "matmul": (lambda xp, x: x @ x.T, "cuBLAS"),
    "tensordot": (lambda xp, x: xp.tensordot(x, x), "cuBLAS"),
    "einsum": (lambda xp, x: xp.einsum("ij,kj->ik", x, x), "cuBLAS"),
    "random": (lambda xp, x: xp.random.random(3), "does not compute cupy.random"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_capture_rejects(name, xp, x, capture, stream):
    work, message = REJECTED[name]
    kind = RuntimeError if "H" in message else NotImplementedError
    x[...] = x  # it may be captured
    with pytest.raises(kind, match=message):
        capture(lambda: work(xp, x))
    assert not stream.is_capturing()
    if name != "random":
        work(xp, x)


def test_as_many_as_eight_arrays_are_joined(xp, x, capture):
    captured = capture(lambda: xp.stack([x] * 8))
    captured.graph.launch()
    assert captured.result.shape == (8, 3, 4)


# ------------------------------------------------------------------------------ rejected by us


def test_first_launch_of_a_kernel_is_not_captured(xp, x, capture):
    out = xp.zeros_like(x)
    with pytest.raises(Misuse, match="first launch of add_scaled"):
        capture(lambda: launch(x, out))
    launch(x, out)
    capture(lambda: launch(x, out))
    with pytest.raises(Misuse, match="first launch"):  # of other types
        capture(lambda: launch(x.astype("float64"), out))


def test_captured_memory_is_from_a_private_pool(x, stream):
    stream.begin_capture()
    x[0] += 1  # allocates nothing
    with pytest.raises(Misuse, match="outside of a private pool"):
        x + 1
    stream.end_capture()


@pytest.mark.parametrize(
    "use",
    [
        lambda xp, y: y.get(),
        lambda xp, y: y + 1,
        lambda xp, y: xp.exp(y[1:]),
        lambda xp, y: y.sum(),
        lambda xp, y: y.copy(),
        lambda xp, y: y[y.astype("int64")],
        lambda xp, y: launch(y, xp.zeros_like(y)),
    ],
)
def test_result_is_not_read_before_the_first_launch(use, xp, x, capture):
    captured = capture(lambda: x + 1)
    assert captured.result[1:].reshape(-1).shape == (8,)  # views are no use
    with pytest.raises(Misuse, match="before the first launch"):
        use(xp, captured.result)
    captured.graph.launch()
    captured.result.get()


def test_graph_does_not_read_results_that_were_never_computed(x, capture):
    first = capture(lambda: x + 1)
    second = capture(lambda: first.result * 2)
    with pytest.raises(Misuse, match="never launched"):
        second.graph.launch()
    first.graph.launch()
    second.graph.launch()
    np.testing.assert_array_equal(second.result.get(), 2 * (x.get() + 1))


def test_replay_needs_the_arrays_that_it_reads(xp, x, capture):
    arrays = [x.copy()]
    captured = capture(lambda: arrays[0][1:] * 2)
    view = arrays.pop()[0]
    captured.graph.launch()  # the view keeps the memory
    del view
    with pytest.raises(Misuse, match="freed since the capture"):
        captured.graph.launch()


def test_replay_needs_the_arrays_that_it_writes(xp, x, capture):
    outs = [xp.zeros_like(x)]
    captured = capture(lambda: xp.exp(x, out=outs.pop()) is None)
    with pytest.raises(Misuse, match="freed since the capture"):
        captured.graph.launch()


def test_results_that_were_dropped_stay_in_the_pool(xp, x, capture):
    total = xp.zeros_like(x)

    def work():
        nonlocal total
        total += x * 2

    captured = capture(work)
    captured.graph.launch()
    np.testing.assert_array_equal(total.get(), 2 * x.get())
    captured.pool.free_all_blocks()
    with pytest.raises(Misuse, match="its pool has released"):
        captured.graph.launch()


def test_replay_and_results_need_the_pool(x, capture):
    captured = capture(lambda: x * 2)
    captured.graph.launch()
    del captured.pool
    with pytest.raises(Misuse, match="its pool has released"):
        captured.graph.launch()
    with pytest.raises(Misuse, match="after its pool"):
        captured.result.get()


def test_second_stream_is_not_captured(xp, stream):
    event = xp.cuda.Stream.null.record()
    stream.begin_capture()
    with pytest.raises(NotImplementedError):
        stream.wait_event(event)
    with pytest.raises(NotImplementedError):
        stream.record()
    stream.end_capture()


# ------------------------------------------------------------------------------ graphs of graphs


@pytest.fixture
def driver(cuda_double):
    from minidl_kernels.cuda import recording

    return recording.driver


def chained(xp, driver, *captures, before=lambda nodes: nodes[-1:]):
    """Return the handles of a graph of graphs, not yet instantiated, and its nodes."""
    _, whole = driver.cuGraphCreate(0)
    nodes = []
    for capture in captures:
        dependencies = before(nodes)
        status, node = driver.cuGraphAddChildGraphNode(
            whole, dependencies, len(dependencies), driver.CUgraph(capture.graph.graph)
        )
        assert status == driver.CUresult.CUDA_SUCCESS
        nodes.append(node)
    return int(whole), nodes


def test_graph_of_graphs_runs_copies_in_their_order(xp, x, stream, capture, driver, cuda_double):
    def add():
        nonlocal x
        x += 1

    def double():
        nonlocal x
        x *= 2

    before = x.get()
    captures = [capture(add), capture(double)]
    nodes = cuda_double.nodes
    whole, _ = chained(xp, driver, *captures, *captures)
    assert cuda_double.nodes == nodes + 4
    executable = xp.cuda.runtime.graphInstantiate(whole)
    xp.cuda.runtime.graphDestroy(whole)
    for each in captures:
        del each.graph
    cuda_double.reset()
    xp.cuda.runtime.graphLaunch(executable, stream.ptr)
    assert cuda_double == type(cuda_double)(graph_launches=1)
    np.testing.assert_array_equal(x.get(), ((before + 1) * 2 + 1) * 2)
    xp.cuda.runtime.graphExecDestroy(executable)


def test_graph_is_not_launched_into_a_capture(xp, x, stream, capture):
    captured = capture(lambda: x.fill(2))
    for launch in (
        captured.graph.launch,
        lambda: xp.cuda.runtime.graphLaunch(captured.graph.graphExec, stream.ptr),
    ):
        stream.begin_capture()
        with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="CaptureUnsupported"):
            launch()
        with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="CaptureInvalidated"):
            stream.end_capture()


UNORDERED_CHILDREN = {
    "nothing": lambda nodes: [],
    "the first one": lambda nodes: nodes[:1],
    "all of them": lambda nodes: nodes,
}


@pytest.mark.parametrize("name", UNORDERED_CHILDREN)
def test_graphs_in_a_graph_run_one_after_the_other(name, xp, x, capture, driver):
    captured = capture(lambda: x.fill(2))
    with pytest.raises(Misuse, match="nothing orders them"):
        chained(xp, driver, *[captured] * 3, before=UNORDERED_CHILDREN[name])


def test_driver_reports_wrong_nodes(xp, x, capture, driver):
    captured = capture(lambda: x.fill(2))
    child = driver.CUgraph(captured.graph.graph)
    invalid = (driver.CUresult.CUDA_ERROR_INVALID_VALUE, None)
    assert driver.cuGraphCreate(1) == invalid
    (_, whole), (_, other) = driver.cuGraphCreate(0), driver.cuGraphCreate(0)
    _, node = driver.cuGraphAddChildGraphNode(whole, None, 0, child)
    assert driver.cuGraphAddChildGraphNode(other, [node], 1, child) == invalid
    assert driver.cuGraphAddChildGraphNode(whole, [node, node], 2, child) == invalid
    with pytest.raises(TypeError, match="dependencies"):
        driver.cuGraphAddChildGraphNode(whole, [int(node)], 1, child)
    with pytest.raises(RuntimeError, match="too small"):
        driver.cuGraphAddChildGraphNode(whole, [], 1, child)


def test_graph_is_not_used_after_it_was_destroyed(xp, x, stream, capture, driver):
    runtime = xp.cuda.runtime
    captured = capture(lambda: x.fill(2))
    whole, _ = chained(xp, driver, captured)
    executable = runtime.graphInstantiate(whole)
    with pytest.raises(runtime.CUDARuntimeError, match="InvalidResourceHandle"):
        runtime.graphLaunch(executable, 0x77)
    runtime.graphDestroy(whole)
    runtime.graphLaunch(executable, stream.ptr)
    runtime.graphExecDestroy(executable)
    for use in (
        lambda: runtime.graphInstantiate(whole),
        lambda: runtime.graphDestroy(whole),
        lambda: runtime.graphLaunch(executable, stream.ptr),
        lambda: runtime.graphExecDestroy(executable),
        lambda: driver.cuGraphAddChildGraphNode(driver.CUgraph(whole), [], 0, driver.CUgraph(1)),
    ):
        with pytest.raises(Misuse, match="was destroyed"):
            use()


def test_captured_graph_destroys_what_it_has(x, capture):
    before = len(graphs.definitions), len(graphs.executables)
    captured = capture(lambda: x.fill(2))
    assert (len(graphs.definitions), len(graphs.executables)) == (before[0] + 1, before[1] + 1)
    del captured
    assert (len(graphs.definitions), len(graphs.executables)) == before


def test_launch_of_a_graph_of_graphs_needs_its_memory(xp, x, stream, capture, driver):
    captured = capture(lambda: x * 2)
    whole, _ = chained(xp, driver, captured, captured)
    executable = xp.cuda.runtime.graphInstantiate(whole)
    xp.cuda.runtime.graphLaunch(executable, stream.ptr)
    np.testing.assert_array_equal(captured.result.get(), 2 * x.get())
    del captured.pool
    with pytest.raises(Misuse, match="its pool has released"):
        xp.cuda.runtime.graphLaunch(executable, stream.ptr)
