"""Metrics: means over the samples of all batches."""

import numpy as np
import pytest

from minidl import Tensor, metrics
from minidl.metrics import Accuracy, CategoricalAccuracy, Metric, SparseCategoricalAccuracy

LABELS = np.array([0, 2, 1, 2])
ONE_HOT = np.eye(3)[LABELS]


# ------------------------------------------------------------------------------ accuracy


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None]])
def test_sparse_accuracy_is_the_mean_over_batches(labels, device):
    accuracy = SparseCategoricalAccuracy()
    outputs = np.eye(3)[[0, 2, 0, 1]]  # the first two are correct
    for rows in (slice(0, 3), slice(3, 4)):
        accuracy.update_state(Tensor(labels[rows], device), Tensor(outputs[rows], device))
    assert accuracy.result() == 0.5


def test_result_without_samples_is_nan():
    accuracy = SparseCategoricalAccuracy()
    assert np.isnan(accuracy.result())
    accuracy.update_state(Tensor([0]), Tensor([[1.0, 0.0]]))
    assert accuracy.result() == 1
    accuracy.reset_state()
    assert np.isnan(accuracy.result())


def test_categorical_accuracy_compares_largest_outputs(device):
    accuracy = CategoricalAccuracy("right")
    accuracy.update_state(Tensor(ONE_HOT, device), Tensor(np.eye(3)[[0, 2, 1, 1]], device))
    assert (accuracy.name, accuracy.result()) == ("right", 0.75)


@pytest.mark.parametrize("labels", [[0, 2, 1, 1], [[0], [2], [1], [1]], np.eye(3)[[0, 2, 1, 1]]])
def test_accuracy_accepts_class_numbers_and_distributions(labels, device):
    outputs = Tensor(np.eye(3)[[0, 2, 1, 0]], device)
    accuracy = metrics.get("accuracy")
    accuracy.check(np.asarray(labels), outputs.shape)
    accuracy.update_state(Tensor(np.asarray(labels), device), outputs)
    assert (accuracy.name, accuracy.result()) == ("accuracy", 0.75)


@pytest.mark.parametrize("labels", [[0, 0], [[0], [0]]])
def test_sparse_accuracy_accepts_single_class(labels):
    total, count = SparseCategoricalAccuracy().batch_sum(Tensor(labels), Tensor([[2.0], [3.0]]))
    assert (total, count) == (2, 2)


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        (SparseCategoricalAccuracy, [0, 1, 0]),
        (CategoricalAccuracy, [[1, 0], [0, 1], [1, 0]]),
        (Accuracy, [0, 1, 0]),
        (Accuracy, [[1, 0], [0, 1], [1, 0]]),
    ],
)
def test_nan_is_not_correct_and_logits_decide_equal_probabilities(kind, targets, device):
    logits = Tensor([[np.nan, 0.0], [0.0, 1e-9], [2.0, 1.0]], device)
    total, count = kind().batch_sum(Tensor(targets, device), logits.softmax())
    assert (float(total), count) == (2, 3)


# ------------------------------------------------------------------------------ batch_sum


def test_batch_sum_is_float64_on_the_device(device, backend):
    outputs = Tensor(np.eye(3, dtype="float32")[[0, 2, 1, 0]], device)
    total, count = SparseCategoricalAccuracy().batch_sum(Tensor(LABELS, device), outputs)
    assert backend.is_array(backend.xp.asarray(total))
    assert (total.dtype, float(total), count) == (np.float64, 3, 4)


def test_batch_sum_of_custom_metric_counts_all_values():
    class Error(Metric):
        name = "error"

        def per_sample(self, y_true, y_pred):
            return (y_pred - y_true) ** 2

    error = Error()
    total, count = error.batch_sum(Tensor([[1.0, 2.0]] * 3), Tensor([[0.0, 0.0]] * 3))
    assert (total, count) == (15, 6)
    error.update_state(Tensor([[1.0, 2.0]]), Tensor([[0.0, 0.0]]))
    error.update_state(Tensor([[0.0, 0.0]] * 3), Tensor([[0.0, 0.0]] * 3))
    assert error.result() == 5 / 8


def test_batch_sum_checks_the_targets():
    with pytest.raises(ValueError, match=r"^categorical_accuracy: .*\(4, 3\).*\(4,\)"):
        CategoricalAccuracy().batch_sum(Tensor(LABELS), Tensor(ONE_HOT))


# ------------------------------------------------------------------------------ rejected targets


@pytest.mark.parametrize(
    ("metric", "y", "output_shape", "message"),
    [
        (Accuracy(), np.zeros(4), (None, 1), r"accuracy: .*one output for each class.*\(None, 1\)"),
        (Accuracy(), np.zeros(4), (None,), r"accuracy: .*one output for each class.*\(None,\)"),
        (Accuracy(), np.zeros((4, 2)), (None, 3), r"accuracy: .*\(None, 3\).*\(4, 2\)"),
        (
            SparseCategoricalAccuracy(),
            ONE_HOT,
            (None, 3),
            r"sparse_categorical_accuracy: .*\(None, 3\).*\(4, 3\).*one-hot",
        ),
        (
            CategoricalAccuracy("mine"),
            LABELS,
            (None, 3),
            r"mine: .*\(None, 3\).*\(4,\).*class numbers",
        ),
    ],
)
def test_check_rejects_targets_that_do_not_fit(metric, y, output_shape, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        metric.check(y, output_shape)


# ------------------------------------------------------------------------------ choice by name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("accuracy", Accuracy),
        ("acc", Accuracy),
        ("sparse_categorical_accuracy", SparseCategoricalAccuracy),
        ("categorical_accuracy", CategoricalAccuracy),
    ],
)
def test_get_returns_metric_of_that_name(name, kind):
    metric = metrics.get(name)
    assert (type(metric), metric.name) == (kind, name)
    assert metrics.get(metric) is metric


def test_get_rejects_unknown_metric_with_the_names():
    with pytest.raises(ValueError, match=r"^metric: expected a Metric or one of .*'precision'"):
        metrics.get("precision")
