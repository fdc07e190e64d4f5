"""Recordings of CPU kernels: a replay computes what the launches compute."""

import functools
import gc
import threading
import weakref

import numpy as np
import pytest
from backends import assert_same_bits
from kernel_table import CUDA_KERNELS, FLOATS, Row, matmul
from minidl_kernels.cpu import blas, current, launch, pool, products
from minidl_kernels.mask_contract import Address
from minidl_kernels.placed import PlacedFloat, PlacedInt

from minidl import get_backend

ROWS = list({row.call: row for row in (*CUDA_KERNELS.values(), Row(matmul))}.values())
EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.call.__name__)
ADDRESS = Address(seed=2**40 + 17, stream=3, step=4)
CPU = get_backend("cpu")


@pytest.fixture
def pieces(request, monkeypatch):
    """Cut all work that threads can share into so many pieces."""
    number = request.param
    if number > 1 and not pool.has_tbb():
        pytest.skip("Numba's threads are not those of TBB")
    monkeypatch.setattr(pool, "pieces", lambda size: number)
    if blas.available:
        monkeypatch.setattr(products, "pieces_of_product", lambda *_: number)
    return number


EACH_NUMBER_OF_PIECES = pytest.mark.parametrize("pieces", [1, 3], indirect=True)


@pytest.fixture
def launches(monkeypatch):
    """List the launches: functions that launch the same again, and their arguments."""
    found = []
    whole, shared = launch.launch, launch.launch_pieces

    def launch_whole(kernel, *arguments):
        whole(kernel, *arguments)
        found.append((functools.partial(whole, kernel, *arguments), arguments))

    def launch_pieces(pieces, kernel, *arguments):
        shared(pieces, kernel, *arguments)
        if pieces > 1:  # else it is a launch as a whole
            found.append((functools.partial(shared, pieces, kernel, *arguments), arguments))

    monkeypatch.setattr(launch, "launch", launch_whole)
    monkeypatch.setattr(launch, "launch_pieces", launch_pieces)
    return found


def normal(shape, dtype="float32"):
    return np.random.default_rng(5).standard_normal(shape).astype(dtype)


def copies(arrays):
    return [array.copy() for array in arrays]


def restore(arrays, contents):
    for array, content in zip(arrays, contents, strict=True):
        array[...] = content


def assert_all_same_bits(received, expected):
    for a, b in zip(received, expected, strict=True):
        if a.dtype.kind == "f":
            assert_same_bits(a, b)
        else:
            np.testing.assert_array_equal(a, b, strict=True)


@EACH_ROW
@pytest.mark.parametrize("dtype", FLOATS)
@EACH_NUMBER_OF_PIECES
def test_replay_has_the_bits_of_the_launches(row, dtype, pieces, launches):
    x = normal(row.shape, dtype)
    if row.call is matmul and not products._is_compiled():
        pytest.skip("NumPy computes the products")
    recording = CPU.record(lambda: row.call(CPU, x))
    assert recording.launches == len(launches) > 0
    given = {id(a): a for _, arguments in launches for a in arguments if isinstance(a, np.ndarray)}
    arrays = [array for array in given.values() if array is not blas.holders]
    for array in arrays:  # other contents, which are valid labels, rows and squares, too
        array[...] = np.random.default_rng(6).permutation(array.ravel()).reshape(array.shape)
        if array.dtype == dtype:
            array /= 2
    before = copies(arrays)
    recording.replay()
    replayed = copies(arrays)
    assert any(a.tobytes() != b.tobytes() for a, b in zip(replayed, before, strict=True))
    restore(arrays, before)
    for launch_again, _ in list(launches):
        launch_again()
    assert_all_same_bits(replayed, copies(arrays))


def adam(arrays, rate, decay):
    CPU.adam(*arrays, rate=rate, beta_1=0.9, beta_2=0.99, epsilon=1e-7, decay=decay)


def sgd(arrays, rate, decay):
    CPU.sgd(*arrays[:2], None, rate=rate, momentum=0.0, nesterov=False, decay=decay)


def momentum(arrays, rate, decay):
    CPU.sgd(*arrays[:3], rate=rate, momentum=0.9, nesterov=False, decay=decay)


def nesterov(arrays, rate, decay):
    CPU.sgd(*arrays[:3], rate=rate, momentum=0.9, nesterov=True, decay=decay)


def rmsprop(arrays, rate, decay):
    CPU.rmsprop(*arrays[:3], rate=rate, rho=0.9, epsilon=1e-7, decay=decay)


def flat_arrays(dtype, size=1000):
    return [abs(normal(size, dtype)) + i for i in range(4)]


EACH_RULE = pytest.mark.parametrize("rule", [sgd, momentum, nesterov, rmsprop, adam])


@EACH_RULE
@pytest.mark.parametrize("dtype", FLOATS)
@EACH_NUMBER_OF_PIECES
def test_changed_rate_and_decay_take_effect(rule, dtype, pieces):
    arrays, expected = flat_arrays(dtype), flat_arrays(dtype)
    rate, decay = np.array([0.1], dtype), np.array([1], dtype)
    placed = PlacedFloat(0.1, rate), PlacedFloat(1.0, decay)
    recording = CPU.record(lambda: rule(arrays, *placed))
    rule(expected, 0.1, 1.0)
    for new_rate, new_decay in [(0.05, 1.0), (0.05, 0.5), (0.2, 0.25)]:
        rate[0], decay[0] = new_rate, new_decay
        recording.replay()
        rule(expected, new_rate, new_decay)
        assert_all_same_bits(arrays, expected)


@EACH_RULE
def test_plain_rate_and_decay_stay(rule):
    """The negative control."""
    arrays, expected = flat_arrays("float32"), flat_arrays("float32")
    numbers = {"rate": 0.1, "decay": 1.0}
    recording = CPU.record(lambda: rule(arrays, **numbers))
    numbers.update(rate=0.2, decay=0.5)
    recording.replay()
    for _ in range(2):
        rule(expected, 0.1, 1.0)
    assert_all_same_bits(arrays, expected)


def dropout(x, address):
    return CPU.dropout(x, 0.3, address)


def dense(x, address):
    weight, bias = np.eye(x.shape[1], dtype=x.dtype), np.ones(x.shape[1], x.dtype)
    return CPU.dense(x, weight, bias, activation="relu", rate=0.3, address=address)


@pytest.mark.needs_recordings
@pytest.mark.parametrize("operation", [dropout, dense])
@pytest.mark.parametrize("dtype", FLOATS)
@EACH_NUMBER_OF_PIECES
def test_changed_step_and_row_offset_take_effect(operation, dtype, pieces):
    x, results = normal((70, 130), dtype), []
    step, row_offset = np.array([4], "uint32"), np.array([0], "uint32")
    placed = ADDRESS._replace(step=PlacedInt(4, step), row_offset=PlacedInt(0, row_offset))
    recording = CPU.record(lambda: results.append(operation(x, placed)))
    assert_same_bits(results[0], operation(x, ADDRESS))
    for new_step, new_offset in [(5, 0), (5, 70), (2**32 - 1, 2**31)]:
        step[0], row_offset[0] = new_step, new_offset
        recording.replay()
        changed = ADDRESS._replace(step=new_step, row_offset=new_offset)
        assert_same_bits(results[0], operation(x, changed))


@pytest.mark.needs_recordings
@pytest.mark.parametrize("operation", [dropout, dense])
def test_plain_step_stays(operation):
    """The negative control."""
    x, results, numbers = normal((70, 130)), [], {"step": 4}
    recording = CPU.record(lambda: results.append(operation(x, ADDRESS._replace(**numbers))))
    numbers["step"] = 5
    recording.replay()
    assert_same_bits(results[0], operation(x, ADDRESS))
    assert (results[0] != operation(x, ADDRESS._replace(step=5))).any()


@EACH_NUMBER_OF_PIECES
def test_several_replays_at_once_are_one_after_the_other(pieces):
    arrays, expected = flat_arrays("float32"), flat_arrays("float32")
    recordings = [CPU.record(lambda a=a: adam(a, 0.1, 0.9)) for a in (arrays, expected)]
    recordings[0].replay(times=3)
    assert (arrays[0] != expected[0]).any()
    for _ in range(3):
        recordings[1].replay()
    assert_all_same_bits(arrays, expected)
    recordings[0].replay(times=0)
    assert_all_same_bits(arrays, expected)


@pytest.mark.parametrize(
    ("work", "obstacle"),
    [
        (lambda: CPU.matmul(np.ones((2, 3, 4)), np.ones((4, 5))), "a product is computed by NumPy"),
        (lambda: CPU.matmul(np.ones((4, 3)).T, np.ones((4, 5))), "a product is computed by NumPy"),
        (lambda: CPU.dropout(np.ones(3, "f2"), 0.5, ADDRESS), "float16 is cast"),
        (lambda: CPU.dropout(np.ones(3), 0, ADDRESS), "dropout at rate 0 copies"),
        (lambda: CPU.dropout(np.ones((4, 6))[:, ::2], 0.5, ADDRESS), "an array is copied"),
        (
            lambda: CPU.gather(np.ones((3, 2), "f2"), np.array([1, 0]), "float32"),
            "the samples have no kernel that gathers them",
        ),
    ],
)
def test_computation_of_numpy_is_an_obstacle(work, obstacle):
    assert CPU.record(work).obstacle == obstacle


@EACH_ROW
def test_kernels_are_no_obstacle(row):
    """The negative control; one row gives its kernel a reversed array, which is copied."""
    if not products._is_compiled():
        pytest.skip("NumPy computes the products")
    recording = CPU.record(lambda: row.call(CPU, normal(row.shape)))
    is_copied = row.call.__name__ == "bias_act_dropout_vjp"
    assert recording.obstacle == ("an array is copied" if is_copied else "")


def test_first_obstacle_is_named():
    def work():
        CPU.dropout(np.ones(3), 0, ADDRESS)
        CPU.dropout(np.ones(3, "f2"), 0.5, ADDRESS)

    assert CPU.record(work).obstacle == "dropout at rate 0 copies"


@pytest.mark.parametrize(("dtype", "label"), [("uint8", 200), ("int32", 2), ("uint64", 1)])
def test_labels_of_any_integer_dtype_are_recorded(dtype, label):
    z, bias, sums = normal((4, 201)), normal(201), np.empty(2, "float32")
    labels = np.full(4, label, dtype)
    recording = CPU.record(lambda: CPU.cross_entropy(z, bias, labels, sums))
    first = sums.copy()
    labels[...] = 0
    recording.replay()
    assert recording.obstacle == ""
    expected = np.empty(2, "float32")
    CPU.cross_entropy(z, bias, labels, expected)
    assert_same_bits(sums, expected)
    assert (sums != first).any()


@EACH_NUMBER_OF_PIECES
def test_launches_are_counted(pieces):
    x = normal((4, 6))
    assert CPU.record(lambda: None).launches == 0
    assert CPU.record(lambda: dropout(x, ADDRESS)).launches == 1
    assert CPU.record(lambda: [dropout(x, ADDRESS) for _ in range(5)]).launches == 5
    if products._is_compiled():
        assert CPU.record(lambda: dense(x, ADDRESS)).launches == 1


def test_empty_recording_can_be_replayed():
    CPU.record(lambda: None).replay(times=2)


@EACH_NUMBER_OF_PIECES
def test_results_live_as_long_as_the_recording(pieces):
    x, address, alive = normal((70, 130)), [], []

    def work():
        hidden = dropout(x, ADDRESS)
        result = dropout(hidden, ADDRESS._replace(stream=4))
        alive.extend(map(weakref.ref, (hidden, result)))
        address.append(result.ctypes.data)

    recording = CPU.record(work)
    gc.collect()
    garbage = [np.full(x.shape, 7, x.dtype) for _ in range(50)]
    assert not {array.ctypes.data for array in garbage} & set(address)
    x += 1
    recording.replay()
    hidden, result = (reference() for reference in alive)
    expected = dropout(x, ADDRESS)
    assert_same_bits(hidden, expected)
    assert_same_bits(result, dropout(expected, ADDRESS._replace(stream=4)))
    assert all((array == 7).all() for array in garbage)
    del hidden, result, recording
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_launches_of_another_thread_are_not_recorded():
    x = normal((4, 6))

    def work():
        dropout(x, ADDRESS)
        other = threading.Thread(target=dropout, args=(x, ADDRESS))
        other.start()
        other.join()

    assert CPU.record(work).launches == 1


def in_threads(*works):
    """Run functions at the same time, each on a thread of its own; return their results."""
    results = [None] * len(works)

    def keep(i):
        results[i] = works[i]()

    threads = [threading.Thread(target=keep, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_threads_record_at_the_same_time():
    x, barrier = normal((4, 6)), threading.Barrier(2, timeout=60)

    def record_alternately(first, then):
        def work():
            for _ in range(3):
                barrier.wait()
                first()
                barrier.wait()
                then()

        return lambda: CPU.record(work).launches

    def launch_it():
        dropout(x, ADDRESS)

    alternately = in_threads(
        record_alternately(launch_it, lambda: None), record_alternately(lambda: None, launch_it)
    )
    assert alternately == [3, 3]


@EACH_NUMBER_OF_PIECES
def test_two_threads_replay_at_the_same_time(pieces):
    def replayed(rate):
        arrays = flat_arrays("float32", 2**14)
        recording = CPU.record(lambda: adam(arrays, rate, 1.0))
        for _ in range(100):
            recording.replay()
        return arrays

    rates = 0.1, 0.2, 0.3
    expected = list(map(replayed, rates))
    received = in_threads(*(functools.partial(replayed, rate) for rate in rates))
    for arrays, others in zip(received, expected, strict=True):
        assert_all_same_bits(arrays, others)


def test_recording_ends_with_an_error():
    def fail():
        raise KeyError("reason")

    with pytest.raises(KeyError, match="reason"):
        CPU.record(fail)
    assert current.thread.recording is None


def test_recording_inside_of_a_recording_is_an_obstacle():
    x, inner = normal((4, 6)), []

    def work():
        dropout(x, ADDRESS)
        inner.append(CPU.record(lambda: [dropout(x, ADDRESS) for _ in range(3)]))
        dropout(x, ADDRESS)

    outer = CPU.record(work)
    assert (outer.launches, inner[0].launches) == (2, 3)
    assert outer.obstacle == "work is recorded on its own"
    assert inner[0].obstacle == ""
