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


# ------------------------------------------------------------------------------ values of samples


class Returns(Metric):
    """A metric whose `per_sample` returns what a function makes of an array."""

    def __init__(self, make):
        super().__init__("returns")
        self.make = make

    def per_sample(self, y_true, y_pred):
        return self.make(y_pred)


@pytest.mark.parametrize(
    "make",
    [
        lambda y: y.max(axis=-1),
        lambda y: y.numpy().max(axis=-1),
        lambda y: y.numpy().max(axis=-1).tolist(),
        lambda y: y.max(axis=-1).data,
        lambda y: y.numpy().max(axis=-1, keepdims=True),
        lambda y: np.float16(y.numpy()).max(axis=-1),
    ],
)
def test_values_of_samples_may_be_any_array(make, device):
    metric = Returns(make)
    for values in ([[1.0, 2.0], [4.0, 3.0]], [[5.0, 1.0]]):
        metric.update_state(Tensor([0.0] * len(values), device), Tensor(values, device))
    assert metric.result() == (2 + 4 + 5) / 3


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda y: y.mean(), r"\(\)"),
        (lambda y: float(y.mean()), r"\(\)"),
        (lambda y: y.numpy().sum(axis=0), r"\(2,\)"),
        (lambda y: [], r"\(0,\)"),
    ],
)
def test_values_that_are_not_one_for_each_sample_are_rejected(make, shape, device):
    with pytest.raises(ValueError, match=rf"^Returns\.per_sample: .* 3 samples, got shape {shape}"):
        Returns(make).update_state(Tensor([0.0] * 3, device), Tensor(np.ones((3, 2)), device))


# ------------------------------------------------------------------------------ own states


class RootMeanSquare(Metric):
    """A metric that changes only the result of the mean."""

    def per_sample(self, y_true, y_pred):
        return y_pred * y_pred

    def result(self):
        return super().result() ** 0.5


def test_result_alone_may_be_defined(device):
    metric = RootMeanSquare()
    metric.update_state(Tensor([0.0], device), Tensor([[3.0]], device))
    metric.update_state(Tensor([0.0], device), Tensor([[4.0]], device), sample_weight=None)
    assert metric.result() == 12.5**0.5
    assert (metric.is_mean, SparseCategoricalAccuracy().is_mean) == (False, True)


def test_fresh_copy_has_seen_nothing_and_shares_nothing():
    class Seen(Metric):
        def __init__(self):
            super().__init__()
            self.kept = []

        def reset_state(self):
            self.kept = []

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.kept.append(len(y_pred))

        def result(self):
            return len(self.kept)

    metric = Seen()
    metric.update_state(Tensor([0.0]), Tensor([[3.0]]))
    twin = metric.fresh()
    twin.update_state(Tensor([0.0]), Tensor([[3.0]]))
    twin.update_state(Tensor([0.0]), Tensor([[3.0]]))
    assert (metric.result(), twin.result()) == (1, 2)
    metric.load_state(twin.state())
    assert metric.result() == 2
