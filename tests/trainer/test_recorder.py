"""Recorder: the table of numbers, guards, the trial, and why batches are not recorded."""

import contextlib
import copy
import dataclasses
import gc
import itertools
import logging
import math
import threading
import weakref

import numpy as np
import pytest
from recorded_runs import (
    EPOCHS,
    FULL,
    LABELS,
    REPLAYS,
    SPENT,
    STEPS,
    X,
    assert_equal,
    assert_outcome,
    check,
    eager_outcome,
    fit,
    network,
    quick,
)
from small_models import bits

from minidl import callbacks, get_backend, layers, losses, metrics, optimizers, rng
from minidl.batches import Feed, Samples
from minidl.constraints import MaxNorm
from minidl.engine import ops
from minidl.engine.tensor import apply
from minidl.optimizers import schedules
from minidl.trainer import loop, recorder
from minidl.trainer.fusion import Plan
from minidl.trainer.recorder import Recorder, Work
from minidl.trainer.table import Numbers, Table

pytestmark = pytest.mark.needs_recordings

LOGGER = "minidl.trainer.recorder"
RELU, SOFTMAX = {"activation": "relu"}, {"activation": "softmax"}


def lines(caplog):
    """Return the messages of the recorder."""
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


def stack(*hidden):
    """Return the layers of a classifier."""
    return [layers.Input((6,)), *hidden, layers.Dense(3, **SOFTMAX)]


# ------------------------------------------------------------------------------ the table


EXAMPLE = Numbers(0, 0, ((0.0, 1.0), (0.0, 1.0)), ((0, 1.0), (0.0,)))


def upcoming(batch, numbers):
    """Yield start and numbers of a batch and of the next ones, as a work does."""
    work = Work()
    work.numbers = numbers
    return Work.upcoming(work, batch)


class Placed:
    """A table over batches of a feed, and what kernels find in its places."""

    def __init__(self, backend, size=4, count=14, repeats=1):
        self.backend = backend
        self.feed = Feed(Samples(X[:count], LABELS[:count]), backend, np.dtype("float32"))
        self.order = rng.permutation(count, seed=1, epoch=0)
        self.table = Table(backend, np.dtype("float32"), count, size, repeats, EXAMPLE)
        self.asked = []

    def numbers_from(self, step):
        def numbers(ahead):
            self.asked.append(step + ahead)
            rates = ((step + ahead + 2**31, 0.25), (1.5 / (1 + step + ahead),))
            return Numbers(step + ahead, 7, ((1 / (1 + step + ahead), 0.5), (3.0, 0.1)), rates)

        return numbers

    def begin(self, batch, numbers):
        """Begin a batch; return its rows and its numbers, as kernels read them."""
        self.table.aim(batch, upcoming(batch, numbers))
        self.table.begin()
        placed = self.table.placed(numbers(0))
        return self.backend.to_numpy(self.table.rows).tolist(), [
            self.backend.to_numpy(number.place).item() for number in placed.flat()
        ]


@pytest.mark.parametrize("size", [1, 4, 7, 14])
def test_table_has_the_rows_and_numbers_of_each_batch(size, backend):
    placed = Placed(backend, size)
    for epoch in range(2):
        order = rng.permutation(14, seed=1, epoch=epoch)
        for number, batch in enumerate(placed.feed.batches(size, order)):
            if len(batch) < size:
                continue
            step = epoch * 10 + number
            rows, numbers = placed.begin(batch, placed.numbers_from(step))
            assert rows == order[number * size :][:size].tolist()
            updates, rates = [1 / (1 + step), 0.5, 3.0, 0.1], [step + 2**31, 0.25, 1.5 / (1 + step)]
            expected = step, 7, *updates, *rates
            assert numbers == [n if isinstance(n, int) else np.float32(n) for n in expected]


def test_placed_numbers_are_those_of_python(backend):
    table, numbers = Placed(backend).table, Numbers(5, 3, ((0.1, 0.9), (0.2, 0.8)), EXAMPLE.rates)
    assert table.placed(numbers) == numbers


def test_table_is_copied_to_the_device_once_in_an_epoch(cuda_double):
    placed = Placed(get_backend("cuda"), size=2)
    uploads = []
    for step, batch in enumerate(placed.feed.batches(2, placed.order)):
        cuda_double.reset()
        with placed.backend.active:
            placed.table.aim(batch, upcoming(batch, placed.numbers_from(step)))
            placed.table.begin()
        uploads.append(cuda_double.host_to_device)
    assert uploads == [3, 0, 0, 0, 0, 0, 0]  # starts, integers and floats


def test_table_after_an_unforeseen_change_is_filled_for_one_batch_then_for_more(backend):
    placed = Placed(backend, size=1)
    asked = []
    for step, batch in enumerate(placed.feed.batches(1, placed.order)):
        placed.asked = []
        shift = 100 if step >= 2 else 0  # a change after two batches
        rows, numbers = placed.begin(batch, placed.numbers_from(step + shift))
        assert (rows, numbers[0]) == ([placed.order[step]], step + shift)
        asked.append(max(placed.asked) - step - shift)
    # The batches that are filled beyond the current one: all 13; then none, 1, 3 and the last 5.
    assert asked == [13, 0, 0, 1, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0]


def test_table_ends_where_a_schedule_ends(backend):
    placed = Placed(backend, size=2)

    def numbers_from(step):
        def numbers(ahead):
            rate = [0.5, 0.25, 0.125][step + ahead]
            return EXAMPLE._replace(step=step + ahead, updates=((rate, 1.0), (rate, 1.0)))

        return numbers

    batches = list(placed.feed.batches(2, placed.order))
    for step in range(3):
        assert placed.begin(batches[step], numbers_from(step))[1][2] == 0.5 / 2**step
    with pytest.raises(IndexError):
        placed.begin(batches[3], numbers_from(3))


class Ending(schedules.LearningRateSchedule):
    """A user's schedule that knows the rates of 6 steps only."""

    def __call__(self, step):
        return [0.1, 0.2, 0.1, 0.2, 0.1, 0.2][step]


class StopAt(callbacks.Callback):
    """Stop after a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, batch, logs):
        self.model.stop_training = self.model.step == self.step


def test_schedule_with_an_end_that_is_not_reached_gives_eager_bits(device, tmp_path):
    def train(model, *used, record):
        return fit(model, *used, record=record, batch_size=2, epochs=1)  # 7 steps

    check(
        lambda: (network(device, optimizers.SGD(Ending())), StopAt(6)), tmp_path, 6 - SPENT, train
    )


# ------------------------------------------------------------------------------ the trial


# The field of `Numbers` that holds a number, and its place there.
BAKED = {
    "step": ("step",),
    "rate": ("updates", 0, 0),
    "decay": ("updates", 0, 1),
    "rate of a factor": ("updates", 1, 0),
    "decay of a factor": ("updates", 1, 1),
    "threshold": ("rates", 0, 0),
    "scale": ("rates", 0, 1),
    "threshold after a dense layer": ("rates", 1, 0),
    "scale after a dense layer": ("rates", 1, 1),
}


def with_part_of(values, place, others):
    """Return nested tuples with one value, at a place, of others."""
    if not place:
        return others
    first, *rest = place
    changed = with_part_of(values[first], rest, others[first])
    return (*values[:first], changed, *values[first + 1 :])


def bake(name, monkeypatch):
    """Let the recorded step have a number of its batch as Python passes it, not in its place."""
    if name == "rows":
        call, now = Recorder.__call__, []

        def called(self, batch, times=1):
            now[:] = [batch]
            return call(self, batch, times)

        monkeypatch.setattr(Recorder, "__call__", called)
        monkeypatch.setattr(recorder, "Batch", lambda feed, rows: now[0])
        return
    placed, (field, *place) = Table.placed, BAKED[name]

    def baked_number(self, numbers):
        return placed(self, numbers)._replace(
            **{
                field: with_part_of(
                    getattr(placed(self, numbers), field), place, getattr(numbers, field)
                )
            }
        )

    monkeypatch.setattr(Table, "placed", baked_number)


def decaying():
    return optimizers.AdamW(schedules.ExponentialDecay(0.05, 3, 0.5), weight_decay=0.1)


def moving_network(device):
    """Return a network with scheduled rates and two factors of the learning rate."""
    stack = [
        layers.Input((6,)),
        layers.Dropout(schedules.PolynomialDecay(0.0, 4, 0.8)),
        layers.Dense(40, activation="relu"),
        layers.Dropout(schedules.PolynomialDecay(0.8, 4, 0.0)),
        layers.Dense(3, **SOFTMAX),
    ]
    model = network(device, decaying(), stack)
    model.layers[1].bias.learning_rate_factor = 2.0
    return model


@pytest.mark.parametrize("name", quick([*BAKED, "rows"], "step", "threshold"))
def test_trial_finds_a_number_that_is_baked_in(name, device, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    eager = fit(moving_network(device), record=False)
    bake(name, monkeypatch)
    with pytest.warns(UserWarning, match="^fit: expected the bits of an eager batch"):
        model = fit(moving_network(device))
    reason = "a replayed batch had other bits than an eager one"
    assert model.recording[:2] == (1, 0)
    assert model.recording.reason == reason
    assert lines(caplog) == [f"fit: batches are not recorded: {reason}"]
    assert_equal(model, eager, tmp_path)


@pytest.mark.slow_on("cuda-double")
def test_numbers_that_nothing_bakes_pass_the_trial(device, tmp_path):
    check(lambda: moving_network(device), tmp_path)


class Lying(layers.Layer):
    """A layer whose mask depends on a hidden counter of its calls, against its promise."""

    recordable = True

    def __init__(self):
        super().__init__()
        self.hidden = iter(range(100))  # no attribute changes

    def call(self, x):
        if not rng.is_training():
            return x
        return apply(ops.dropout, x, rate=0.5, address=rng.Address(0, 5, next(self.hidden)))


def test_trial_finds_a_layer_that_breaks_its_promise(device, tmp_path):
    def network_with_lie():
        return network(device, stack=[layers.Input((6,)), Lying(), layers.Dense(3, **SOFTMAX)])

    with pytest.warns(UserWarning, match="^fit: expected the bits of an eager batch"):
        model = fit(network_with_lie())
    eager = fit(network_with_lie(), record=False)
    assert bits(model) == bits(eager)
    assert repr(model.history.history) == repr(eager.history.history)
    assert model.recording.replays == 0


class Counting(layers.Layer):
    """A layer that counts its calls in an attribute, which is watched."""

    recordable = True

    def __init__(self):
        super().__init__()
        self.calls = 0

    def call(self, x):
        self.calls += 1
        if not rng.is_training():
            return x
        return apply(ops.dropout, x, rate=0.5, address=rng.Address(0, 5, self.calls))


def test_layer_that_changes_its_attributes_is_given_up(device, caplog):
    caplog.set_level(logging.INFO, LOGGER)

    def network_with_counter():
        return network(device, stack=[layers.Input((6,)), Counting(), layers.Dense(3, **SOFTMAX)])

    model, eager = fit(network_with_counter()), fit(network_with_counter(), record=False)
    assert bits(model) == bits(eager)
    assert model.recording.replays == 0
    reason = "layers, weights or settings change from batch to batch"
    assert lines(caplog) == [f"fit: batches are not recorded: {reason}"]


# ------------------------------------------------------------------------------ obstacles


class Plain(layers.Layer):
    """A user's layer without a promise."""

    def call(self, x):
        return x


class Doubling(layers.Layer):
    """A user's layer with a promise."""

    recordable = True

    def call(self, x):
        return x * 2


class Derived(Doubling):
    """A subclass does not inherit the promise."""


class OwnLoss(losses.SparseCategoricalCrossentropy):
    """A user's loss."""


class OwnAccuracy(metrics.SparseCategoricalAccuracy):
    """A user's metric."""


class OwnRule(optimizers.SGD):
    """A user's optimizer with a rule, which could keep the rate of the recorded step."""

    recordable = True

    def rule(self, weights, gradients, rate, decay):
        weights -= rate * gradients


class OwnStepSize(optimizers.SGD):
    """A user's optimizer with a rule of minidl."""

    def step_size(self, rate, iterations):
        return rate / (1 + iterations)


class OwnNorm(MaxNorm):
    """A user's constraint."""


class Seen(metrics.Metric):
    """A metric with a state of its own."""

    is_mean = False

    def __init__(self, name="seen"):
        super().__init__(name)
        self.batches = 0

    def update_state(self, y_true, y_pred):
        self.batches += 1

    def result(self):
        return self.batches

    def reset(self):
        self.batches = 0

    def state(self):
        return {"batches": self.batches}

    def load_state(self, state):
        self.batches = state["batches"]


def swish(x):
    """Compute a user's activation."""
    return x * x.sigmoid()


def promising_swish(x):
    """Compute a user's activation with a promise."""
    return x * x.sigmoid()


promising_swish.recordable = True


def norm_of(kind):
    return layers.Dense(4, "relu", kernel_constraint=kind(0.5))


# What is trained, why the CPU does not record it, and why CUDA does not; None if it does.
PROMISE = "does not declare recordable = True"
OBSTACLES = {
    "tanh": ({"hidden": lambda: layers.Dense(4, "tanh")}, "the operation tanh has no kernel", None),
    "linear": ({"hidden": lambda: layers.Dense(4)}, "a dense layer without relu adds up", None),
    "constraint": ({"hidden": lambda: norm_of(MaxNorm)}, "dense/weight has a constraint", None),
    "promise": ({"hidden": Doubling}, "the operation multiply has no kernel", None),
    "layer": ({"hidden": Plain}, f"Plain {PROMISE}", f"Plain {PROMISE}"),
    "subclass": ({"hidden": Derived}, f"Derived {PROMISE}", f"Derived {PROMISE}"),
    "loss": ({"loss": OwnLoss}, f"OwnLoss {PROMISE}", f"OwnLoss {PROMISE}"),
    "metric": ({"metric": OwnAccuracy}, f"OwnAccuracy {PROMISE}", f"OwnAccuracy {PROMISE}"),
    "state": ({"metric": Seen}, "the metric seen keeps a state", "the metric seen keeps a state"),
    "rule": ({"optimizer": OwnRule}, "the rule of OwnRule is not", "the rule of OwnRule is not"),
    "step size": ({"optimizer": OwnStepSize}, None, None),
    "norm": (
        {"hidden": lambda: norm_of(OwnNorm)},
        f"OwnNorm {PROMISE}",
        f"OwnNorm {PROMISE}",
    ),
    "promising activation": (
        {"hidden": lambda: layers.Dense(4, promising_swish)},
        "the operation sigmoid has no kernel",
        None,
    ),
    "activation": (
        {"hidden": lambda: layers.Dense(4, swish)},
        f"swish {PROMISE}",
        f"swish {PROMISE}",
    ),
}


def network_of(device, hidden=None, optimizer=None, metric=None, loss=None):
    """Return a classifier with parts that these functions return."""
    options = {"loss": loss()} if loss else {}
    return network(
        device,
        optimizer and optimizer(),
        stack(*([hidden()] if hidden else [])),
        metrics=[metric("seen")] if metric else ["accuracy"],
        **options,
    )


@pytest.mark.parametrize("name", quick(OBSTACLES, "tanh", "promise", "layer"))
def test_fit_says_once_why_it_does_not_record(name, device, tmp_path, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    parts, on_cpu, on_cuda = OBSTACLES[name]
    expected = on_cpu if device == "cpu" else on_cuda
    eager = fit(network_of(device, **parts), record=False)
    assert lines(caplog) == []
    model = fit(network_of(device, **parts))
    assert bits(model) == bits(eager)
    assert repr(model.history.history) == repr(eager.history.history)
    if expected is None:
        assert (model.recording.replays, model.recording.reason) == (REPLAYS, "")
        assert lines(caplog) == []
    else:
        assert model.recording.replays == 0
        assert expected in model.recording.reason
        assert lines(caplog) == [f"fit: batches are not recorded: {model.recording.reason}"]


def test_fit_with_sample_weights_is_recorded_on_cuda_only(device, tmp_path, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    weight = np.linspace(0.5, 2, 14)

    def train(model, *used, record):
        return fit(model, *used, record=record, sample_weight=weight)

    model = check(lambda: network(device), tmp_path, 0 if device == "cpu" else REPLAYS, train)
    reason = "samples are gathered without a kernel" if device == "cpu" else ""
    assert model.recording.reason == reason
    assert lines(caplog) == [f"fit: batches are not recorded: {reason}"] * (device == "cpu")


def test_fit_of_a_regressor_is_recorded_on_cuda_only(device, tmp_path):
    def make():
        return network(device, stack=[layers.Dense(1, input_shape=(6,))], loss="mse", metrics=[])

    check(make, tmp_path, 0 if device == "cpu" else REPLAYS)


def test_float16_is_evaluated_with_eager_results(device, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    model = network(device, dtype="float16")
    found = model.evaluate(X, LABELS, 1, verbose=0)
    assert model.recording.replays == 0
    assert lines(caplog) == [f"evaluate: batches are not recorded: {model.recording.reason}"]
    assert repr(found) == repr(model.evaluate(X, LABELS, 1, verbose=0, record=False))


def test_data_set_too_large_for_the_device_is_not_recorded(cuda_double, caplog, monkeypatch):
    caplog.set_level(logging.INFO, LOGGER)
    model = network("cuda:0")
    from minidl.backend import cupy_backend

    monkeypatch.setattr(cupy_backend, "DATASET_SHARE", 0.0)
    fit(model, epochs=1)
    assert lines(caplog) == [
        "fit: batches are not recorded: the samples are too large for the device"
    ]


@pytest.mark.slow_on("cuda-double")
def test_callback_that_compiles_a_users_loss_ends_the_recording(device, tmp_path, caplog):
    caplog.set_level(logging.INFO, LOGGER)

    class Compile(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 1:
                model = self.model
                model.compile(model.optimizer, OwnLoss(), metrics=model.metrics)

    model = check(lambda: (network(device), Compile()), tmp_path, 2 * FULL - SPENT)
    assert lines(caplog) == [f"fit: batches are not recorded: OwnLoss {PROMISE}"]
    assert model.recording.reason == f"OwnLoss {PROMISE}"


class Promising(losses.SparseCategoricalCrossentropy):
    """A user's loss with a promise and a setting."""

    recordable = True

    def __init__(self):
        super().__init__()
        self.factor = 1.0

    def per_sample(self, y_true, y_pred):
        return super().per_sample(y_true, y_pred) * self.factor


class AtStep10(callbacks.Callback):
    """Call ``action(model)`` after 10 steps."""

    def __init__(self, action):
        self.action = action

    def on_train_batch_end(self, batch, logs):
        if self.model.step == 10:
            self.action(self.model)


def tighten(model):
    model.layers[0].weight.constraint.max_value = 0.2


def strengthen(model):
    model.loss.factor = 3.0


@pytest.mark.parametrize(
    ("parts", "action"),
    [({"hidden": lambda: norm_of(MaxNorm)}, tighten), ({"loss": Promising}, strengthen)],
)
def test_changed_constraint_or_loss_is_recorded_anew(parts, action, cuda_double):
    def train(*used, record):
        return fit(network_of("cuda:0", **parts), *used, record=record)

    model, eager = train(AtStep10(action), record=True), train(AtStep10(action), record=False)
    assert bits(model) == bits(eager)
    assert (model.recording.recordings, model.recording.replays) == (4, 5 + 1)
    assert bits(model) != bits(train(record=False))


def replace_weight(model):
    weight = model.parameters()[0]
    weight.data = weight.data.copy()


def load_state(model):
    state = model.train_state
    state.load_state(state.snapshot("weights", "optimizer"))


@pytest.mark.parametrize("action", [replace_weight, load_state])
def test_arrays_of_one_element_that_equal_ones_replace_are_recorded_anew(action, cuda_double):
    """NumPy compares arrays of one element without an error."""

    def train(record):
        one = [layers.Dense(1, use_bias=False, input_shape=(1,))]
        model = network("cuda:0", stack=one, loss="mse", metrics=[])
        options = {"callbacks": [AtStep10(action)], "record": record, "verbose": 0}
        model.fit(X[:, :1], LABELS, 4, EPOCHS, **options)
        return model

    model, eager = train(record=True), train(record=False)
    assert bits(model) == bits(eager)
    assert [*model.optimizer.buffers.values()][1].size == 1
    assert (model.recording.recordings, model.recording.replays) == (4, 5 + 1)


# ------------------------------------------------------------------------------ faults


class Reading(layers.Layer):
    """A layer that reads values or waits, against its promise; then it hides the error."""

    recordable = True

    def __init__(self, is_hiding=False):
        super().__init__()
        self.is_hiding = is_hiding

    def call(self, x):
        if self.is_hiding:
            with contextlib.suppress(RuntimeError):
                x.backend.synchronize()
        else:
            x.numpy()
        return x


@pytest.mark.parametrize("is_hiding", [False, True])
def test_step_that_cannot_be_captured_is_done_eagerly(is_hiding, cuda_double, tmp_path, caplog):
    caplog.set_level(logging.INFO, LOGGER)

    def make():
        hidden = [layers.Dense(8, **RELU), layers.Dropout(0.5), Reading(is_hiding)]
        return network("cuda:0", stack=stack(*hidden))

    model, eager = fit(make()), fit(make(), record=False)
    assert (model.recording.recordings, model.recording.replays) == (0, 0)
    assert lines(caplog) == [f"fit: batches are not recorded: {model.recording.reason}"]
    assert repr(model.history.history) == repr(eager.history.history)
    assert [s.step for s in model.streams()] == [s.step for s in eager.streams()]
    assert bits(model) == bits(eager)


class Fault(Exception):
    """What a layer raises."""


@pytest.mark.parametrize("call", quick([1, 2, 3], 2))
def test_exception_in_a_step_that_is_recorded_leaves_a_run_that_resumes(
    call, device, tmp_path, monkeypatch
):
    """The first steps of a size are eager, recorded and tried; the layer fails in one of them."""
    model, calls = network(device), itertools.count(1)
    original = Plan.compare

    def failing(self, batch):
        result = original(self, batch)
        if next(calls) == call:
            raise Fault
        return result

    monkeypatch.setattr(Plan, "compare", failing)
    with pytest.raises(Fault):
        fit(model)
    monkeypatch.undo()
    assert (model.step, model.train_state.is_torn) == (call - 1, False)
    fit(model, resume=True)
    assert model.recording.replays > 0
    assert_outcome(model, eager_outcome(device), tmp_path)


class FaultAt(callbacks.Callback):
    """Raise `Fault` after a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, batch, logs):
        if self.model.step == self.step:
            raise Fault


def test_run_that_breaks_off_after_each_step_is_never_recorded(device, tmp_path):
    model = network(device)
    for step in range(1, STEPS + 2):
        with pytest.raises(Fault):
            fit(model, FaultAt(step), resume=step > 1)
        assert (model.step, model.recording.recordings) == (step, 0)
    fit(model, resume=True)
    assert model.recording.replays > 0
    assert_outcome(model, eager_outcome(device), tmp_path)


# ------------------------------------------------------------------------------ costs and copies


class Counted(callbacks.Callback):
    """What each step of an epoch does on the double."""

    def __init__(self, counts):
        self.counts, self.steps = counts, []

    def on_train_batch_begin(self, batch, logs):
        self.before = dataclasses.replace(self.counts)

    def on_train_batch_end(self, batch, logs):
        names = [field.name for field in dataclasses.fields(self.counts)]
        now, before = self.counts, self.before
        self.steps.append({name: getattr(now, name) - getattr(before, name) for name in names})


def test_replayed_step_is_one_launch_without_copies_and_waits(cuda_double):
    recorded, eager = Counted(cuda_double), Counted(cuda_double)
    model = fit(network("cuda:0"), recorded, batch_size=2, epochs=2)
    fit(network("cuda:0"), eager, batch_size=2, epochs=1, record=False)
    nothing = dict.fromkeys(recorded.steps[0], 0)
    assert recorded.steps[SPENT:7] == [nothing | {"graph_launches": 1}] * (7 - SPENT)
    assert recorded.steps[8:] == [nothing | {"graph_launches": 1}] * 6
    launches = eager.steps[3]["launches"]
    assert eager.steps[1:] == [nothing | {"launches": launches}] * 6
    # The graph has one more: the kernel `begin`.
    assert recorded.steps[1] == nothing | {"graph_launches": 1, "nodes": launches + 1}
    assert model.recording.launches == launches + 1


def test_first_step_of_an_epoch_copies_the_order_and_the_table(cuda_double):
    recorded = Counted(cuda_double)
    fit(network("cuda:0"), recorded, batch_size=2, epochs=2)
    nothing = dict.fromkeys(recorded.steps[0], 0)
    # The launch is the fill that puts the cursor back.
    expected = nothing | {"graph_launches": 1, "host_to_device": 3, "launches": 1}
    assert recorded.steps[7] == expected


def test_steps_without_callbacks_are_launched_several_at_once(cuda_double, tmp_path, monkeypatch):
    from minidl_kernels.cuda import recording

    monkeypatch.setattr(recording, "TOGETHER", 4)
    monkeypatch.setattr(loop, "LONGEST_WAIT", math.inf)  # the double is slow

    def train(model, *used, record):
        cuda_double.reset()
        fit(model, *used, record=record, batch_size=1, epochs=2)  # 14 steps in an epoch
        if record:
            # Recorded and tried; 11 steps, 2 times 4 and 3; 14 steps, 3 times 4 and 2.
            assert cuda_double.graph_launches == 2 + (2 + 3) + (3 + 2)
            assert cuda_double.nodes == (1 + 4) * model.recording.launches
        return model

    check(lambda: network("cuda:0", decaying()), tmp_path, 2 * len(X) - SPENT, train)


def test_recording_is_dropped_after_a_change(device):
    class Watching(callbacks.Callback):
        def on_train_batch_end(self, batch, logs):
            kept = self.model.run.recorder._kept
            if self.model.step == 6:
                self.recording = weakref.ref(kept[4].recording)
                self.model.layers[0].rate = 0.6
            elif self.model.step == 7:
                gc.collect()
                self.is_gone = self.recording() is None

    watching = Watching()
    fit(network(device), watching)
    assert watching.is_gone


def test_recordings_are_dropped_after_fit(device):
    class Watching(callbacks.Callback):
        def on_train_end(self, logs):
            kept = self.model.run.recorder._kept.values()
            self.recordings = [weakref.ref(each.recording) for each in kept]

    watching = Watching()
    model = fit(network(device), watching)
    gc.collect()
    assert [recording() for recording in watching.recordings] == [None, None]
    assert model.recording.recordings == 2


def test_recording_says_what_became_of_the_latest_call(device):
    model = network(device)
    assert model.recording == (0, 0, 0, "")
    fit(model)
    assert model.recording[:2] == (2, REPLAYS)
    assert model.recording.launches > 5
    assert copy.deepcopy(model).recording == model.recording
    model.evaluate(X, LABELS, 1, verbose=0)
    assert model.recording[:2] == (1, 14 - SPENT)
    model.predict(X, 2, verbose=0, record=False)
    assert model.recording == (0, 0, 0, "record=False")


def test_copies_and_files_that_a_callback_makes_have_eager_bits(device, tmp_path):
    class Copying(callbacks.Callback):
        def on_train_batch_end(self, batch, logs):
            if self.model.step == 10:
                self.copy = copy.deepcopy(self.model)
                self.model.save(tmp_path / "model.safetensors")
                self.file = (tmp_path / "model.safetensors").read_bytes()

    recorded, eager = Copying(), Copying()
    check(lambda: (network(device), recorded), tmp_path)
    fit(network(device), eager, record=False)
    assert recorded.file == eager.file
    assert bits(recorded.copy) == bits(eager.copy)
    # The copy goes on by itself.
    fit(recorded.copy, batch_size=2, epochs=1)
    fit(eager.copy, batch_size=2, epochs=1, record=False)
    assert recorded.copy.recording.replays == 7 - SPENT
    assert bits(recorded.copy) == bits(eager.copy)


class Keeping(callbacks.Callback):
    """Keep the logs, and look them up in the next epoch only."""

    def __init__(self):
        self.kept, self.losses = None, []

    def on_train_batch_end(self, batch, logs):
        if batch == 0 and self.kept is not None:
            self.losses.append(self.kept["loss"])
        if batch == STEPS - 1:
            self.kept = logs


def test_logs_of_an_epoch_keep_their_values(device):
    recorded, eager = Keeping(), Keeping()
    model = fit(network(device), recorded, epochs=2)
    fit(network(device), eager, epochs=2, record=False)
    assert model.recording.replays == 2 * FULL - SPENT
    assert recorded.losses == eager.losses == model.history.history["loss"][:-1]


def test_models_in_two_threads_train_to_eager_bits(tmp_path):
    made = [network(optimizer=decaying()) for _ in range(2)]
    barrier = threading.Barrier(2)

    def train(model):
        barrier.wait()
        fit(model, epochs=60)

    threads = [threading.Thread(target=train, args=(model,)) for model in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eager = fit(network(optimizer=decaying()), epochs=60, record=False)
    for model in made:
        assert model.recording.replays == 60 * STEPS - 2 * SPENT
        assert_equal(model, eager, tmp_path)
