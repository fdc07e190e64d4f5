"""Recorder: the table of numbers, guards, the trial, and why batches are not recorded."""

import copy
import dataclasses
import gc
import itertools
import logging
import threading
import weakref

import numpy as np
import pytest
from recorded_runs import (
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
    outcome,
    quick,
)
from small_models import bits

from minidl import callbacks, layers, losses, metrics, optimizers, rng
from minidl.batches import Feed, Samples
from minidl.constraints import MaxNorm
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply
from minidl.optimizers import schedules
from minidl.trainer import recorder
from minidl.trainer.recorder import Numbers, Recorder, Table

LOGGER = "minidl.trainer.recorder"
RELU, SOFTMAX = {"activation": "relu"}, {"activation": "softmax"}


def lines(caplog):
    """Return the messages of the recorder."""
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


def stack(*hidden):
    """Return the layers of a classifier."""
    return [layers.Input((6,)), *hidden, layers.Dense(3, **SOFTMAX)]


# ------------------------------------------------------------------------------ the table


class Placed:
    """A table over batches of a feed, and what kernels find in its places."""

    def __init__(self, backend, size=4, count=14, repeats=1):
        self.backend = backend
        self.feed = Feed(Samples(X[:count], LABELS[:count]), backend, np.dtype("float32"))
        self.order = rng.permutation(count, seed=1, epoch=0)
        self.table = Table(backend, np.dtype("float32"), count, size, repeats)
        self.asked = []

    def numbers_from(self, step):
        def numbers(ahead):
            self.asked.append(step + ahead)
            return Numbers(step + ahead, 7, 1 / (1 + step + ahead), 0.5)

        return numbers

    def begin(self, batch, numbers):
        """Begin a batch; return its rows and its numbers, as kernels read them."""
        self.table.aim(batch, numbers)
        self.table.begin()
        placed = self.table.placed(numbers(0))
        return self.backend.to_numpy(self.table.rows).tolist(), [
            self.backend.to_numpy(number.place).item() for number in placed
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
            assert numbers == [step, 7, float(np.float32(1 / (1 + step))), 0.5]


def test_placed_numbers_are_those_of_python(backend):
    table, numbers = Placed(backend).table, Numbers(5, 3, 0.1, 0.9)
    assert table.placed(numbers) == numbers


def test_table_is_copied_to_the_device_once_in_an_epoch(cuda_double):
    from minidl import get_backend

    placed = Placed(get_backend("cuda"), size=2)
    uploads = []
    for step, batch in enumerate(placed.feed.batches(2, placed.order)):
        cuda_double.reset()
        with placed.backend.active:
            placed.table.aim(batch, placed.numbers_from(step))
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
            return Numbers(step + ahead, 0, [0.5, 0.25, 0.125][step + ahead], 1.0)

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
    placed = Table.placed

    def baked_number(self, numbers):
        return placed(self, numbers)._replace(**{name: getattr(numbers, name)})

    monkeypatch.setattr(Table, "placed", baked_number)


def decaying():
    return optimizers.AdamW(schedules.ExponentialDecay(0.05, 3, 0.5), weight_decay=0.1)


@pytest.mark.parametrize("name", ["step", "rate", "decay", "rows"])
def test_trial_finds_a_number_that_is_baked_in(name, device, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    eager = fit(network(device, decaying()), record=False)
    bake(name, monkeypatch)
    with pytest.warns(UserWarning, match="^fit: expected the bits of an eager batch"):
        model = fit(network(device, decaying()))
    reason = "a replayed batch had other bits than an eager one"
    assert model.recording[:2] == (1, 0)
    assert model.recording.reason == reason
    assert lines(caplog) == [f"fit: batches are not recorded: {reason}"]
    assert_equal(model, eager, tmp_path)


def test_numbers_that_nothing_bakes_pass_the_trial(device, tmp_path):
    check(lambda: network(device, decaying()), tmp_path)


class Lying(layers.Layer):
    """A layer whose mask depends on a hidden counter of its calls, against its promise."""

    recordable = True

    def __init__(self):
        super().__init__()
        self.hidden = itertools.count()

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


class OwnSGD(optimizers.SGD):
    """A user's optimizer."""


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
    return x * x.sigmoid()


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
    "optimizer": ({"optimizer": OwnSGD}, f"OwnSGD {PROMISE}", f"OwnSGD {PROMISE}"),
    "norm": (
        {"hidden": lambda: norm_of(OwnNorm)},
        f"OwnNorm {PROMISE}",
        f"OwnNorm {PROMISE}",
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
