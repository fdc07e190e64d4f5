"""Totals: running means that stay on the device until they are looked up."""

import math

import numpy as np
import pytest

from minidl import get_backend
from minidl.trainer.totals import Totals

COLUMNS = {"loss": 0, "accuracy": 1}


def add(totals, backend, rows, loss, correct):
    """Add a batch of `rows` samples with a mean loss and a number of correct predictions."""
    totals.add(backend.asarray(np.array([loss, correct], "float32")), counts=(rows, rows))


def test_totals_without_batches_are_nan():
    totals = Totals(COLUMNS, get_backend("cpu"))
    assert list(totals) == ["loss", "accuracy"]
    assert len(totals) == 2
    assert all(math.isnan(value) for value in totals.values())
    with pytest.raises(KeyError, match="recall"):
        totals["recall"]


def test_totals_weigh_the_mean_loss_of_a_batch_by_its_samples(backend):
    totals = Totals(COLUMNS, backend)
    add(totals, backend, 4, 0.5, 3)
    add(totals, backend, 4, 1.5, 4)
    add(totals, backend, 2, 4.0, 0)
    assert dict(totals) == {"loss": (4 * 0.5 + 4 * 1.5 + 2 * 4.0) / 10, "accuracy": 0.7}


def test_metric_may_count_other_values_than_samples():
    totals = Totals(COLUMNS, get_backend("cpu"))
    totals.add(np.array([1.0, 6.0]), counts=(2, 8))
    totals.add(np.array([1.0, 6.0]), counts=(2, 4))
    assert totals["accuracy"] == 1.0


def test_names_may_share_a_column():
    totals = Totals({"loss": 0, "accuracy": 1, "acc": 1}, get_backend("cpu"))
    totals.add(np.array([1.0, 3.0]), counts=(4, 4))
    assert totals["acc"] == totals["accuracy"] == 0.75


def test_looking_values_up_does_not_change_their_bits():
    numbers = np.random.default_rng(0)
    read, unread = (Totals(COLUMNS, get_backend("cpu")) for _ in range(2))
    for batch in range(519):
        rows = 3 if batch % 50 == 49 else 8
        sums = numbers.random(2).astype("float32")
        for totals in (read, unread):
            totals.add(sums, counts=(rows, rows))
        if batch % 10 == 0:
            dict(read)
    assert dict(read) == dict(unread)


def test_float32_batches_are_summed_in_float64():
    totals = Totals(COLUMNS, get_backend("cpu"))
    for _ in range(1000):
        totals.add(np.array([1e8, 1.0], "float32"), counts=(1, 1))
        totals.add(np.array([1.0, 0.0], "float32"), counts=(1, 1))
    assert totals["loss"] == (1e8 + 1) / 2


def test_totals_wait_for_the_device_only_when_they_are_looked_up(cuda_double):
    backend = get_backend("cuda")
    totals = Totals(COLUMNS, backend)
    sums = backend.asarray(np.ones(2, "float32"))
    cuda_double.reset()
    for _ in range(256):
        totals.add(sums, counts=(2, 2))
    list(totals)
    assert cuda_double.device_to_host == cuda_double.synchronizations == 0
    assert (totals["loss"], totals["accuracy"]) == (1.0, 0.5)
    assert cuda_double.device_to_host == cuda_double.synchronizations == 1


def test_loaded_state_continues_with_the_same_bits(backend):
    numbers = np.random.default_rng(1).random((20, 2))
    whole, first = Totals(COLUMNS, backend), Totals(COLUMNS, backend)
    for loss, correct in numbers:
        add(whole, backend, 8, loss, correct)
    for loss, correct in numbers[:9]:
        add(first, backend, 8, loss, correct)
    second = Totals(COLUMNS, backend, before=first.state())
    for loss, correct in numbers[9:]:
        add(second, backend, 8, loss, correct)
    assert second.state() == whole.state()
    assert dict(second) == dict(whole)


def test_names_that_were_not_seen_before_begin_at_zero():
    before = {"loss": (6.0, 4), "recall": (1.0, 4)}
    totals = Totals(COLUMNS, get_backend("cpu"), before)
    assert totals["loss"] == 1.5
    assert totals.state()["accuracy"] == (0.0, 0)
    assert math.isnan(totals["accuracy"])
