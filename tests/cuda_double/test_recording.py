"""Recorded work on the test double: replays compute what eager work computes, and are safe."""

import contextlib
import gc
import importlib
import logging
import sys
import weakref

import numpy as np
import pytest
from minidl_kernels import mask_contract
from minidl_kernels.placed import NotRecorded, PlacedFloat, PlacedInt

from cuda_double import graphs
from cuda_double.devices import Misuse, state
from minidl import get_backend
from minidl.rng import Address
from minidl.trainer import loop


@pytest.fixture
def xp(cuda_double):
    return sys.modules["cupy"]


@pytest.fixture
def recording(cuda_double):
    return importlib.import_module(f"{get_backend('cuda').kernels}.recording")


ROWS, UNITS, SAMPLES = 6, 10, 40


class Training:
    """Steps of a small network without products: gather, dense kernels, loss and update.

    `numbers` returns step, row offset, rate and decay of a step, as the kernels take them.
    """

    def __init__(self, rows=ROWS):
        self.backend = get_backend("cuda")
        rng = np.random.default_rng(3)
        asarray = self.backend.asarray
        self.data = asarray(rng.integers(0, 255, (SAMPLES, UNITS)).astype("uint8"))
        self.labels = asarray(rng.integers(0, UNITS, SAMPLES))
        self.order = asarray(rng.integers(0, SAMPLES, (9, rows)))
        self.rows = asarray(np.zeros(rows, "int64"))
        self.one = asarray(np.ones(1, "float32"))
        self.weights = asarray(rng.standard_normal(2 * UNITS).astype("float32"))
        self.mean, self.square = (asarray(np.zeros(2 * UNITS, "float32")) for _ in range(2))
        self.sums, self.total = (asarray(np.zeros(2, "float32")) for _ in range(2))
        self.places = {
            "step": asarray(np.zeros(1, "uint32")),
            "row_offset": asarray(np.zeros(1, "uint32")),
            "rate": asarray(np.zeros(1, "float32")),
            "decay": asarray(np.zeros(1, "float32")),
        }
        self.baked = ()

    def begin(self, index):
        """Set what changes from step to step."""
        self.rows[...] = self.order[index]
        self.numbers = {
            "step": index + 3,
            "row_offset": 5 * index,
            "rate": 0.1 / (index + 1),
            "decay": 1 - 0.01 * index,
        }
        for name, place in self.places.items():
            place[...] = self.numbers[name]

    def number(self, name):
        """Return a number with its place, unless it is to be baked."""
        value = self.numbers[name]
        if name in self.baked:
            return value
        return (PlacedInt if isinstance(value, int) else PlacedFloat)(value, self.places[name])

    def work(self):
        """Take the step."""
        backend, weights = self.backend, self.weights
        x, labels = backend.gather(
            self.data, self.rows, np.float32, scale=1 / 255, labels=self.labels
        )
        address = Address(2**40 + 1, 2, self.number("step"), self.number("row_offset"))
        packed = mask_contract.pack(mask_contract.check_address(x.shape, address), 0.3)
        scale = mask_contract.scale(0.3, np.float32)
        backend._bias_act_dropout(x, weights[:UNITS], np.float32(0), packed, scale)
        backend.cross_entropy(x, weights[UNITS:], labels, self.sums)
        g_x, g_last = backend.cross_entropy_vjp(self.one, x, weights[UNITS:], labels)
        _, g_first = backend.bias_act_dropout_vjp(g_x, x, scale)
        self.total += self.sums
        rate, decay = self.number("rate"), self.number("decay")
        backend.adam(
            weights,
            backend.xp.concatenate([g_first, g_last]),
            self.mean,
            self.square,
            rate=rate,
            beta_1=0.9,
            beta_2=0.99,
            epsilon=1e-7,
            decay=decay,
        )

    def state(self):
        """Return all that the steps change, on the host."""
        arrays = (self.weights, self.mean, self.square, self.sums, self.total)
        return [array.get().tobytes() for array in arrays]


EVERYTHING = ("step", "row_offset", "rate", "decay")


def eager(steps, rows=ROWS):
    training = Training(rows)
    training.baked = EVERYTHING
    for index in range(steps):
        training.begin(index)
        training.work()
    return training.state()


def recorded(recording, steps, rows=ROWS, baked=()):
    """Take one step eagerly, record the next one, and replay the others."""
    training = Training(rows)
    training.baked = baked
    training.begin(0)
    training.work()
    training.begin(1)
    record = recording.record(training.work)
    for index in range(2, steps):
        training.begin(index)
        record.replay()
    return training, record


# Of more than 256 rows, sums are made in chunks.
@pytest.mark.parametrize("rows", [ROWS, 257])
def test_replays_have_the_bits_of_eager_steps(rows, recording, cuda_double):
    training, record = recorded(recording, 5, rows)
    assert cuda_double.graph_launches == 4
    assert training.state() == eager(5, rows)
    record.close()


@pytest.mark.parametrize("name", EVERYTHING)
def test_number_by_value_is_baked_and_noticed(name, recording, cuda_double):
    """The mutation: as if a kernel took this number by value."""
    training, _ = recorded(recording, 2, baked=[name])
    assert training.state() == eager(2)
    training, _ = recorded(recording, 4, baked=[name])
    assert cuda_double.graph_launches == 4
    assert training.state() != eager(4)


def test_replay_is_one_graph_launch(recording, cuda_double):
    training = Training()
    training.begin(0)
    cuda_double.reset()
    training.work()
    launches = cuda_double.launches
    record = recording.record(training.work)
    assert (cuda_double.nodes, cuda_double.launches) == (launches, launches)
    assert record.launches == launches
    cuda_double.reset()
    record.replay()
    record.replay(times=3)
    assert cuda_double == type(cuda_double)(graph_launches=4)


def test_recording_does_the_work_once(xp, recording):
    x, calls = xp.zeros(3), []

    def work():
        nonlocal x
        calls.append(x)
        x += 1

    record = recording.record(work)
    assert len(calls) == 1
    assert x.get().tolist() == [1, 1, 1]
    record.replay(times=2)
    assert x.get().tolist() == [3, 3, 3]


# ------------------------------------------------------------------------------ several at once


@pytest.fixture
def steps(xp, recording):
    """Return a recording of steps that read their numbers from a table, and their state.

    A step changes the state by its row of the table, which a cursor on the device names. The order
    of the steps matters, and so does the order within a step.
    """
    rows = xp.asarray(np.random.default_rng(5).random((200, 3)))
    cursor, now = xp.zeros(1, "int64"), xp.zeros((1, 3))
    total = xp.ones(3)

    def step():
        nonlocal cursor, total
        xp.take(rows, cursor, axis=0, out=now)
        cursor += 1
        total *= now[0] + 0.5
        total += now[0, ::-1]

    step()
    return recording.record(step), step, (cursor, total)


def bits(arrays):
    return [array.get().tobytes() for array in arrays]


@pytest.mark.parametrize(
    ("times", "launches"), [(0, 0), (15, 15), (16, 1), (19, 1 + 3), (35, 2 + 3), (160, 10)]
)
def test_sixteen_replays_are_one_launch(times, launches, steps, recording, cuda_double):
    record, step, arrays = steps
    assert recording.TOGETHER == 16
    before = [array.copy() for array in arrays]
    nodes = cuda_double.nodes
    cuda_double.reset()
    record.replay(times)
    chained = 16 * nodes if times >= 16 else 0
    assert cuda_double == type(cuda_double)(graph_launches=launches, nodes=chained)
    assert record.launches == nodes
    after = bits(arrays)
    for array, value in zip(arrays, before, strict=True):
        array[...] = value
    for _ in range(times):
        step()
    assert after == bits(arrays)
    assert arrays[0].get().tolist() == [2 + times]


def test_fit_asks_for_as_many_steps_as_are_one_launch(recording):
    assert loop.STEPS_AT_ONCE == recording.TOGETHER


def test_training_of_sixteen_and_three_steps_has_the_bits_of_eager_steps(recording, monkeypatch):
    """The numbers of a step do not change here; `steps` has the ones that do."""
    monkeypatch.setattr(recording, "TOGETHER", 4)
    training, record = recorded(recording, 2)
    record.replay(4 + 3)
    expected, _ = recorded(recording, 2)
    for _ in range(4 + 3):
        expected.work()
    assert training.state() == expected.state()


def test_graph_of_several_replays_is_made_once(steps, recording, cuda_double, monkeypatch):
    record, _, _ = steps
    made = []
    real = recording._Chain
    monkeypatch.setattr(recording, "_Chain", lambda *n: made.append(n) or real(*n))
    for times in (15, 1, 3):
        record.replay(times)
    assert made == []
    for times in (16, 32, 1, 40):
        record.replay(times)
    assert len(made) == 1


def test_results_of_several_replays_are_those_of_the_last_one(xp, recording):
    x, made = xp.ones(3), []

    def work():
        nonlocal x
        x += 1
        made.append(x * 2)

    record = recording.record(work)
    record.replay(16)
    assert len(made) == 1
    assert made[0].get().tolist() == [2 * (1 + 1 + 16)] * 3


def fail_in_the_driver(recording, record, patch):
    status = recording.driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    patch.setattr(recording.driver, "cuGraphAddChildGraphNode", lambda *_: (status, None))


def fail_in_the_runtime(recording, record, patch):
    def out_of_memory(graph):
        raise recording.cupy.cuda.runtime.CUDARuntimeError(2)

    patch.setattr(recording.cupy.cuda.runtime, "graphInstantiate", out_of_memory)


def destroy_the_captured_graph(recording, record, patch):
    """Do as older versions of CuPy when the graph is instantiated."""
    patch.setattr(record._graph, "graph", 0)


NO_CHAIN = {
    "driver": (fail_in_the_driver, "CUDA_ERROR_OUT_OF_MEMORY"),
    "runtime": (fail_in_the_runtime, "cudaErrorMemoryAllocation"),
    "older CuPy": (destroy_the_captured_graph, "does not keep the graph"),
}


@pytest.mark.parametrize("name", NO_CHAIN)
def test_replays_are_launched_singly_if_there_is_no_graph_of_several(
    name, steps, recording, cuda_double, monkeypatch, caplog
):
    record, _, (cursor, _) = steps
    fail, message = NO_CHAIN[name]
    before = len(graphs.definitions), len(graphs.executables)
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "minidl_kernels"):
        fail(recording, record, patch)
        record.replay(16)
    record.replay(16)  # it is not tried again
    (line,) = caplog.messages
    assert line.startswith("recording: each replay is a launch of its own: ")
    assert message in line
    assert cuda_double.graph_launches == 1 + 2 * 16
    assert (len(graphs.definitions), len(graphs.executables)) == before
    assert cursor.get().tolist() == [2 + 2 * 16]


def test_replays_within_a_capture_are_not_recorded(steps, recording):
    """CUDA rejects graphs that are launched into a capture, of one replay or of several."""
    record, _, (cursor, _) = steps
    for times in (1, 16):
        with pytest.raises(NotRecorded, match="CaptureUnsupported"):
            recording.record(lambda times=times: record.replay(times))
    assert state.capturing == []
    record.replay(16)
    assert cursor.get().tolist() == [2 + 16]


def test_mutant_without_an_order_of_its_steps_is_noticed(steps, recording, monkeypatch):
    """The negative control: as if no child graph depended on the one before it."""
    record, _, _ = steps
    add = recording.driver.cuGraphAddChildGraphNode
    monkeypatch.setattr(
        recording.driver,
        "cuGraphAddChildGraphNode",
        lambda whole, _, n, child: add(whole, [], 0, child),
    )
    with pytest.raises(Misuse, match="nothing orders them"):
        record.replay(16)


# ------------------------------------------------------------------------------ streams


def test_stream_is_one_that_can_capture(xp, recording):
    before = xp.cuda.get_current_stream()
    with recording.stream() as stream:
        assert xp.cuda.get_current_stream() is stream
        assert stream not in (before, xp.cuda.Stream.null)
        assert not stream.is_capturing()
        with recording.stream() as again:
            assert again is stream
    assert xp.cuda.get_current_stream() == before


@pytest.mark.parametrize("current", ["null", "blocking", "non-blocking", "ours"])
def test_work_of_the_caller_is_ordered_with_replays(current, xp, recording, cuda_double):
    """The double rejects what is not ordered; that it does is tested with it."""
    streams = {
        "null": lambda: xp.cuda.Stream.null,
        "blocking": xp.cuda.Stream,
        "non-blocking": lambda: xp.cuda.Stream(non_blocking=True),
        "ours": recording.stream,
    }
    with streams[current]():
        x, y = xp.ones(3), xp.zeros(3)
        cuda_double.reset()

        def work():
            nonlocal y
            y += x * 2

        record = recording.record(work)
        for _ in range(2):
            x += 1
            record.replay()
            y += 1
        assert cuda_double.synchronizations == 0
        assert y.get().tolist() == [2 + 5 + 7] * 3


def test_stream_may_be_entered_within_the_work(xp, recording):
    x = xp.zeros(3)

    def work():
        with recording.stream():
            x.fill(1)

    recording.record(work)
    assert x.get().tolist() == [1, 1, 1]


def test_stream_is_left_after_an_exception(xp, recording):
    x = xp.zeros(3)

    def fail():
        nonlocal x
        with recording.stream():
            x += 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert xp.cuda.get_current_stream() == xp.cuda.Stream.null
    assert x.get().tolist() == [1, 1, 1]


def test_each_device_has_a_stream(monkeypatch):
    from cuda_double.install import cuda_double

    with cuda_double(device_count=2):
        xp = sys.modules["cupy"]
        recording = importlib.import_module("minidl_kernels.cuda.recording")
        records = []
        for index in (0, 1):
            with xp.cuda.Device(index), recording.stream() as stream:
                x = xp.zeros(3)
                records.append((recording.record(lambda x=x: x.fill(4)), x, stream))
        assert records[0][2] != records[1][2]
        for index, (record, x, _) in enumerate(records):
            record.replay()
            with xp.cuda.Device(index):
                assert x.get().tolist() == [4, 4, 4]
        launched_on = []
        monkeypatch.setattr(xp.cuda.Graph, "launch", lambda _, stream: launched_on.append(stream))
        for record, _, _ in records:
            record.replay()
            record.close()
        assert launched_on == [stream for _, _, stream in records]


# ------------------------------------------------------------------------------ exceptions


def fails(xp, x):
    x += 1
    raise KeyError("step")


FAILURES = {
    "own": (fails, KeyError, "step"),
    "copy to the host": (lambda xp, x: float(x.sum()), NotRecorded, "D2H"),
    "product": (lambda xp, x: x @ x, NotRecorded, "cuBLAS"),
    "wait": (
        lambda xp, x: xp.cuda.get_current_stream().synchronize(),
        NotRecorded,
        "CaptureUnsupported",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_exception_leaves_everything_as_it_was(name, xp, recording):
    work, kind, message = FAILURES[name]
    x = xp.zeros(3)
    assert gc.isenabled()
    with pytest.raises(kind, match=message):
        recording.record(lambda: work(xp, x))
    assert gc.isenabled()
    assert state.allocator is None
    assert state.capturing == []
    assert xp.cuda.get_current_stream() == xp.cuda.Stream.null
    assert x.get().tolist() == [0, 0, 0]
    record = recording.record(lambda: x.fill(2))
    assert x.get().tolist() == [2, 2, 2]
    record.close()


def test_wait_that_the_work_hides_is_an_error(xp, recording):
    def work():
        with contextlib.suppress(RuntimeError):
            xp.cuda.get_current_stream().synchronize()

    with pytest.raises(NotRecorded, match="CaptureInvalidated"):
        recording.record(work)
    assert state.capturing == []


def test_garbage_is_not_collected_during_the_capture(xp, recording):
    class Garbage:
        pass

    x, found = xp.zeros(3), []

    def work():
        garbage = Garbage()
        garbage.itself = garbage
        found.append((weakref.ref(garbage), gc.isenabled()))
        x.fill(1)

    gc.disable()
    try:
        recording.record(work)
        assert not gc.isenabled()
    finally:
        gc.enable()
    recording.record(work)
    assert gc.isenabled()
    assert [was_enabled for _, was_enabled in found] == [False, False]
    gc.collect()
    assert [seen() for seen, _ in found] == [None, None]


# ------------------------------------------------------------------------------ memory


def test_results_are_valid_and_renewed(xp, recording):
    x, made = xp.ones(3), []
    record = recording.record(lambda: made.append(x * 2 + 1))
    assert made[0].get().tolist() == [3, 3, 3]
    x += 1
    record.replay()
    assert made[0].get().tolist() == [5, 5, 5]


@pytest.mark.parametrize("how", ["close", "drop"])
@pytest.mark.parametrize("times", [1, 16])
def test_graphs_are_destroyed_before_their_memory(times, how, xp, recording, monkeypatch):
    x, seen = xp.ones(3), []
    alive = len(graphs.definitions), len(graphs.executables)
    record = recording.record(lambda: x.fill(2))
    record.replay(times)
    assert len(graphs.definitions) == alive[0] + 1  # that of the chain is destroyed already
    assert len(graphs.executables) == alive[1] + (2 if times == 16 else 1)
    graph = weakref.ref(record._graph)
    free = xp.cuda.MemoryPool.free_all_blocks

    def free_all_blocks(pool):
        are_destroyed = (len(graphs.definitions), len(graphs.executables)) == alive
        seen.append((graph() is None and are_destroyed, weakref.ref(pool)))
        free(pool)

    monkeypatch.setattr(xp.cuda.MemoryPool, "free_all_blocks", free_all_blocks)
    assert graph() is not None
    if how == "close":
        record.close()
        record.close()
        with pytest.raises(RuntimeError, match="expected an open recording"):
            record.replay()
    del record
    ((were_destroyed, pool),) = seen
    assert were_destroyed
    assert pool() is None


def test_pool_lives_as_long_as_its_arrays(xp, recording):
    x, made = xp.ones(3), []
    record = recording.record(lambda: made.append(x * 2 + 1))
    record.close()
    assert len(recording._pools_in_use) == 1
    assert made[0].get().tolist() == [3, 3, 3]
    made.clear()
    recording.record(lambda: x.fill(2)).close()
    assert recording._pools_in_use == []


def test_replay_after_the_death_of_an_input_is_an_error(xp, recording):
    """The trap: whoever records keeps the arrays. The double detects it if they do not."""
    inputs, total = [xp.ones(3)], xp.zeros(3)

    def work():
        nonlocal total
        total += inputs[0]

    record = recording.record(work)
    inputs.clear()
    with pytest.raises(Misuse, match="freed since the capture"):
        record.replay()
