"""Metrics: means over the samples of all batches."""

import numpy as np
import pytest

from minidl import Tensor, metrics
from minidl.metrics import (
    AUC,
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    F1Score,
    FunctionMetric,
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    Precision,
    Recall,
    RootMeanSquaredError,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
    Weighted,
)

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


@pytest.mark.parametrize(
    ("y", "outputs", "kind"),
    [
        (np.array([1, 0]), [[0.7], [0.7]], BinaryAccuracy),
        (np.array([[1], [0]]), [[0.7], [0.7]], BinaryAccuracy),
        (np.array([1, 0]), [[0.2, 0.8], [0.4, 0.6]], SparseCategoricalAccuracy),
        (np.array([[1], [0]]), [[0.2, 0.8], [0.4, 0.6]], SparseCategoricalAccuracy),
        (np.array([[0, 1], [1, 0]]), [[0.2, 0.8], [0.4, 0.6]], CategoricalAccuracy),
    ],
)
def test_accuracy_is_the_one_that_keras_chooses(y, outputs, kind, device):
    accuracy, chosen = Accuracy(), kind()
    for metric in (accuracy, chosen):
        metric.check(y, (None, len(outputs[0])))
        metric.update_state(Tensor(y, device), Tensor(outputs, device))
    assert accuracy.result() == chosen.result() == 0.5


@pytest.mark.parametrize("y", [[1, 0, 1, 0], [[1.0], [0.0], [1.0], [0.0]], [True, False] * 2])
def test_binary_accuracy_compares_with_the_threshold(y, device):
    outputs = Tensor([[0.9], [0.5], [0.5], [np.nan]], device)
    metric = BinaryAccuracy()
    metric.update_state(Tensor(y, device), outputs)
    assert metric.result() == 0.5  # 0.5 is not above 0.5, and NaN is not correct
    lower = BinaryAccuracy("mine", threshold=0.4)
    lower.update_state(Tensor(y, device), outputs)
    assert (lower.name, lower.result()) == ("mine", 0.5)


def test_top_k_counts_ties_and_rejects_nan(device):
    outputs = Tensor([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.1, np.nan, 0.3]], device)
    metric = SparseTopKCategoricalAccuracy(k=1)
    metric.update_state(Tensor([0, 1, 2], device), outputs)
    assert metric.result() == 2 / 3
    dense = TopKCategoricalAccuracy(k=3)
    dense.update_state(Tensor(np.eye(3), device), outputs)
    assert dense.result() == 2 / 3


@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_top_k_rejects_number_that_is_not_positive(k):
    with pytest.raises(ValueError, match=r"^TopKCategoricalAccuracy: k: expected a positive int"):
        TopKCategoricalAccuracy(k)


# ------------------------------------------------------------------------------ counts

YES_NO = np.array([[1, 0], [0, 0], [1, 1]])
SURE = np.array([[0.9, 0.8], [0.6, 0.1], [0.2, 0.7]])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Precision(), 2 / 4),
        (Precision(thresholds=0.75), 1 / 2),
        (Precision(1.0), 0),
        (Precision(class_id=0), 1 / 2),
        (Precision(top_k=1), 2 / 3),
        (Recall(), 2 / 3),
        (Recall(0.65, top_k=1, class_id=1), 1),
        (F1Score("micro", 0.5), 4 / 7),
        (F1Score("macro", 0.5), (1 / 2 + 2 / 3) / 2),
        (F1Score("weighted", 0.5), (2 * 1 / 2 + 2 / 3) / 3),
        (AUC(), 6 / 9),
        (RootMeanSquaredError(), (1.75 / 6) ** 0.5),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Metric) else "",
)
def test_metric_of_labels_equals_the_count_by_hand(metric, expected, device):
    metric = metric.fresh()
    assert np.isnan(metric.result())
    for rows in (slice(0, 1), slice(1, 3)):
        metric.update_state(Tensor(YES_NO[rows], device), Tensor(SURE[rows], device))
    assert metric.result() == pytest.approx(expected, abs=1e-7)
    metric.reset_state()
    assert np.isnan(metric.result())


def test_auc_equals_the_share_of_ordered_pairs_up_to_its_thresholds():
    state = np.random.RandomState(0)
    y, p = state.random_sample(500) < 0.3, state.random_sample(500)
    metric = AUC(num_thresholds=5_000)
    metric.update_state(Tensor(y), Tensor(p))
    order = p[y][:, None] - p[~y]
    assert metric.result() == pytest.approx((order > 0).mean(), abs=1e-3)


@pytest.mark.parametrize("outputs", [[np.nan, np.nan], [0.9, np.nan], [np.nan, 0.1]])
def test_auc_counts_nan_as_below_all_thresholds(outputs, device):
    metric = AUC()
    metric.update_state(Tensor([1, 0], device), Tensor(outputs, device))
    assert metric.result() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Precision(thresholds=1.5), r"Precision: expected thresholds in \[0, 1\], got 1.5"),
        (lambda: Precision(top_k=0), "Precision: top_k: expected a positive integer, got 0"),
        (lambda: Recall(class_id=-1), "Recall: class_id: expected an integer, 0 or above, got -1"),
        (lambda: F1Score(average="mean"), r"F1Score: expected average to be 'micro' or 'macro'"),
        (lambda: F1Score(threshold=0.0), r"F1Score: expected threshold in \(0, 1\], got 0.0"),
        (lambda: AUC(1), r"AUC: num_thresholds: expected an integer, 2 or above, got 1"),
        (lambda: AUC(curve="roc"), r"AUC: expected curve to be 'ROC' or 'PR', got 'roc'"),
        (lambda: BinaryAccuracy(threshold=2), r"BinaryAccuracy: expected threshold in \[0, 1\]"),
    ],
)
def test_metric_rejects_argument_out_of_range(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


@pytest.mark.parametrize("metric", [Precision(top_k=3), Recall(class_id=2)])
def test_precision_and_recall_reject_more_outputs_than_there_are(metric):
    with pytest.raises(ValueError, match="top_k of at most 2 and class_id below it, got top_k="):
        metric.update_state(Tensor(YES_NO), Tensor(SURE))


def test_precision_rejects_several_thresholds():
    message = r"^Precision: expected thresholds in \[0, 1\], got \[0.3"
    with pytest.raises(TypeError, match=message):
        Precision(thresholds=[0.3, 0.5])


# ------------------------------------------------------------------------------ weights


def test_weighted_mean_is_divided_by_the_weights(device):
    metric = Weighted(MeanAbsoluteError())
    zeros = Tensor(np.zeros((2, 2)), device)
    metric.update_state(zeros, Tensor([[1.0, 3.0], [4.0, 4.0]], device), Tensor([3.0, 1.0], device))
    metric.update_state(zeros, zeros)  # without weights, all weigh 1
    assert metric.result() == (3 * 2 + 4) / (3 + 1 + 2)


def test_mean_of_samples_without_weight_is_0_as_in_keras(device):
    metric = Weighted(MeanAbsoluteError())
    metric.update_state(Tensor([1.0], device), Tensor([3.0], device), Tensor([0.0], device))
    assert metric.result() == 0


def test_weights_of_steps_weigh_each_value(device):
    metric = MeanSquaredError()
    zeros, weights = Tensor(np.zeros((1, 3, 1)), device), Tensor([[1.0, 0.0, 2.0]], device)
    metric.update_state(zeros, Tensor([[[1.0], [2.0], [3.0]]], device), weights)
    assert metric.result() == (1 + 2 * 9) / 3


@pytest.mark.parametrize("metric", [Accuracy(), AUC(), F1Score("micro"), RootMeanSquaredError()])
@pytest.mark.parametrize("shape", [(3,), (2, 3), ()])
def test_weights_that_do_not_fit_are_rejected(metric, shape):
    metric, y = metric.fresh(), Tensor(np.eye(2))
    with pytest.raises(ValueError, match=rf"^{metric.name}: expected sample_weight for .*\(2,"):
        metric.update_state(y, y, Tensor(np.ones(shape)))


# ------------------------------------------------------------------------------ functions


def test_get_makes_a_metric_with_the_name_of_a_function(device):
    def largest_error(y_true, y_pred):
        return (y_pred - y_true).max(axis=-1)

    metric = metrics.get(largest_error)
    y = np.array([[0, 1], [2, 3]])
    metric.update_state(Tensor(y, device), Tensor([[1.0, 1.0], [2.0, 6.0]], device))
    assert (type(metric), metric.name, metric.result()) == (FunctionMetric, "largest_error", 2)
    assert metrics.get(lambda y_true, y_pred: y_pred).name == "<lambda>"


def test_function_that_returns_one_number_is_rejected_by_name():
    def mean(y_true, y_pred):
        return y_pred.mean()

    message = r"^mean: expected one value for each .*Leave out the mean"
    with pytest.raises(ValueError, match=message):
        metrics.get(mean).update_state(Tensor([0.0, 1.0]), Tensor([0.0, 1.0]))


def test_get_rejects_function_of_other_arguments():
    with pytest.raises(TypeError, match=r"^metric: expected a function of \(y_true, y_pred\)"):
        metrics.get(lambda y_pred: y_pred)


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
        (Accuracy(), np.zeros((4, 2)), (None, 1), r"accuracy: .*\(None, 1\).*\(4, 2\)"),
        (Precision(), np.zeros((4, 2)), (None, 1), r"precision: .*\(None, 1\).*\(4, 2\)"),
        (F1Score(), ONE_HOT, (None, 3), r"f1_score: .*one output.*\(None, 3\).*average="),
        (AUC(), LABELS, (None, 3), r"auc: .*\(None, 3\).*\(4,\)"),
        (RootMeanSquaredError(), LABELS, (None, 3), r"mean_squared_error: .*\(4,\)"),
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
    ("names", "kind"),
    [
        ("accuracy acc Accuracy ACC", Accuracy),
        ("sparse_categorical_accuracy SparseCategoricalAccuracy", SparseCategoricalAccuracy),
        ("categorical_accuracy CategoricalAccuracy", CategoricalAccuracy),
        ("binary_accuracy BinaryAccuracy", BinaryAccuracy),
        ("top_k_categorical_accuracy TopKCategoricalAccuracy", TopKCategoricalAccuracy),
        (
            "sparse_top_k_categorical_accuracy SparseTopKCategoricalAccuracy",
            SparseTopKCategoricalAccuracy,
        ),
        ("mean_absolute_error MeanAbsoluteError mae MAE", MeanAbsoluteError),
        ("mean_squared_error MeanSquaredError mse MSE", MeanSquaredError),
        ("root_mean_squared_error RootMeanSquaredError", RootMeanSquaredError),
        ("precision Precision", Precision),
        ("recall Recall", Recall),
        ("f1_score F1Score", F1Score),
        ("auc AUC", AUC),
    ],
)
def test_get_returns_metric_of_each_spelling_of_keras_with_that_name(names, kind):
    found = [metrics.get(name) for name in names.split()]
    assert {type(metric) for metric in found} == {kind}
    assert [metric.name for metric in found] == names.split()
    assert kind().name == metrics.get(kind()).name
    assert kind().name in names.split()


def test_get_rejects_unknown_metric_with_the_names():
    with pytest.raises(ValueError, match=r"^metric: expected a Metric or one of .*'precise'"):
        metrics.get("precise")


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


# ------------------------------------------------------------------------------ arrays

MADE_OF_OTHERS = {"FunctionMetric", "Metric", "OutputMetric", "Weighted"}


@pytest.mark.parametrize("name", sorted({*metrics.__all__} - {"get"} - MADE_OF_OTHERS))
def test_arrays_count_as_tensors(name, device):
    is_sparse, has_classes = name.startswith("Sparse"), "Categorical" in name
    y_true = LABELS if is_sparse else ONE_HOT if has_classes else np.array([1, 0, 1, 1])
    y_pred = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]])
    y_pred = y_pred if has_classes else y_pred[:, :1]
    results = []
    for targets, outputs, weight in (
        (Tensor(y_true, device), Tensor(y_pred, device), Tensor([1.0, 2.0, 3.0, 4.0], device)),
        (y_true, Tensor(y_pred, device), np.arange(1.0, 5.0)),
        (y_true.tolist(), y_pred, [1, 2, 3, 4]),
    ):
        metric = getattr(metrics, name)()
        metric.update_state(targets, outputs)
        metric.update_state(targets, outputs, weight)
        results.append(metric.result())
    np.testing.assert_allclose(results[1:], results[0], rtol=1e-12)


def test_targets_on_another_device_are_rejected(cuda_double):
    outputs, y_true = Tensor([[0.5]], "cuda"), Tensor([1.0])
    for metric in (AUC(), MeanSquaredError()):
        with pytest.raises(ValueError, match=rf"^{metric.name}: expected targets .* on cuda"):
            metric.update_state(y_true, outputs)
