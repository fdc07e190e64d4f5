"""The losses against plain NumPy formulas in float64, stable at the ends, and what they refuse."""

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, losses, metrics, models, no_grad
from minidl.losses import (
    CategoricalCrossentropy,
    Loss,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from minidl.testing import check_gradient

LABELS = np.array([0, 2, 1, 2])
ONE_HOT = np.eye(3)[LABELS]
SOFT = np.array([[0.2, 0.3, 0.5], [0, 1, 0], [0.1, 0.9, 0], [1 / 3, 1 / 3, 1 / 3]])
LOGITS = np.random.default_rng(0).normal(0, 2, (4, 3))
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
TARGETS = np.random.default_rng(1).normal(size=(4, 3))


def cross_entropy(targets, probabilities):
    """Return -sum(t log p) of each sample."""
    return -(targets * np.log(probabilities)).sum(axis=-1)


# Each loss: a maker, targets, outputs, and what each sample's loss is. A new loss needs a row.
LOSSES = {
    "SparseCategoricalCrossentropy": [
        (
            lambda: SparseCategoricalCrossentropy(from_logits=True),
            LABELS,
            LOGITS,
            cross_entropy(ONE_HOT, PROBABILITIES),
        ),
        (
            SparseCategoricalCrossentropy,
            LABELS,
            PROBABILITIES,
            cross_entropy(ONE_HOT, PROBABILITIES),
        ),
        (
            SparseCategoricalCrossentropy,
            LABELS[:, None],  # as Keras' data sets have them
            PROBABILITIES,
            cross_entropy(ONE_HOT, PROBABILITIES),
        ),
        (
            SparseCategoricalCrossentropy,
            LABELS.reshape(2, 2),  # one label for each place of a sample
            PROBABILITIES.reshape(2, 2, 3),
            cross_entropy(ONE_HOT, PROBABILITIES).reshape(2, 2),
        ),
    ],
    "CategoricalCrossentropy": [
        (
            lambda: CategoricalCrossentropy(from_logits=True),
            SOFT,
            LOGITS,
            cross_entropy(SOFT, PROBABILITIES),
        ),
        (CategoricalCrossentropy, SOFT, PROBABILITIES, cross_entropy(SOFT, PROBABILITIES)),
        (CategoricalCrossentropy, ONE_HOT, PROBABILITIES, cross_entropy(ONE_HOT, PROBABILITIES)),
    ],
    "MeanSquaredError": [
        (MeanSquaredError, TARGETS, LOGITS, ((TARGETS - LOGITS) ** 2).mean(axis=1)),
        (
            MeanSquaredError,
            TARGETS[:, 0],
            LOGITS[:, :1],
            (TARGETS[:, 0] - LOGITS[:, 0]) ** 2,
        ),
        (MeanSquaredError, TARGETS[:, :1], LOGITS[:, 0], (TARGETS[:, 0] - LOGITS[:, 0]) ** 2),
    ],
}
CASES = [
    pytest.param(*row, id=f"{name}{number}")
    for name, rows in LOSSES.items()
    for number, row in enumerate(rows)
]


def test_every_loss_has_a_row():
    public = {
        name
        for name, value in vars(losses).items()
        if isinstance(value, type) and issubclass(value, Loss) and not name.startswith("_")
    }
    assert set(LOSSES) == public - {"Loss"}


@pytest.mark.parametrize(("make", "y", "outputs", "expected"), CASES)
def test_value(make, y, outputs, expected, device):
    loss = make()
    loss.check(y, (None, *outputs.shape[1:]))
    t, outputs = Tensor(y, device=device), Tensor(outputs, device=device)
    np.testing.assert_allclose(loss.per_sample(t, outputs).numpy(), expected, rtol=1e-12)
    assert loss(t, outputs).item() == pytest.approx(expected.mean(), rel=1e-12)
    assert loss(t, outputs).dtype == "float64"


@pytest.mark.parametrize(("make", "y", "outputs", "expected"), CASES)
def test_value_in_float32(make, y, outputs, expected, device):
    outputs = Tensor(outputs.astype("float32"), device=device)
    value = make()(Tensor(y, device=device), outputs)
    assert value.dtype == "float32"
    assert value.item() == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.parametrize(("make", "y", "outputs", "expected"), CASES)
def test_gradient(make, y, outputs, expected, device):
    loss, targets = make(), Tensor(y, device=device)
    weights = np.array([0.5, 2.0, 0.0, 1.0])[: len(y)]
    x = Tensor(outputs, device=device, requires_grad=True)
    check_gradient(lambda x: loss(targets, x), x)
    check_gradient(lambda x: loss(targets, x, weights), x)


@pytest.mark.parametrize(("make", "y", "outputs", "expected"), CASES)
def test_sample_weights_multiply_and_the_divisor_stays(make, y, outputs, expected):
    weights = np.array([0.5, 2.0, 0.0, 1.0])[: len(y)]
    value = make()(y, Tensor(outputs), weights).item()
    spread = weights.reshape(-1, *(1,) * (expected.ndim - 1))
    assert value == pytest.approx((spread * expected).sum() / expected.size, rel=1e-12)


@pytest.mark.parametrize(("make", "y", "outputs", "expected"), CASES)
def test_host_arrays_and_tensors_of_targets_are_alike(make, y, outputs, expected):
    assert make()(y, Tensor(outputs)).item() == make()(Tensor(y), Tensor(outputs)).item()


# ------------------------------------------------------------------------------ stability


CROSS_ENTROPIES = [
    pytest.param(SparseCategoricalCrossentropy, LABELS[:2], id="sparse"),
    pytest.param(CategoricalCrossentropy, ONE_HOT[:2], id="dense"),
]
EXTREME = np.array([[-1e4, 1e4, 0.0], [-1e4, 1e4, 1e4]])
EXTREME_LOSSES = [2e4, np.log(2)]  # labels 0 and 2
EXTREME_GRADIENT = np.array([[-1, 1, 0], [0, 0.5, -0.5]]) / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("make", "y"), CROSS_ENTROPIES)
@pytest.mark.parametrize("form", ["logits", "softmax"])
def test_extreme_logits_have_a_finite_loss_and_the_right_gradient(form, make, y, dtype, device):
    logits = Tensor(EXTREME.astype(dtype), device=device, requires_grad=True)
    loss = make(from_logits=form == "logits")
    value = loss(Tensor(y, device=device), logits if form == "logits" else logits.softmax())
    value.backward()
    assert value.item() == pytest.approx(np.mean(EXTREME_LOSSES), rel=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), EXTREME_GRADIENT, atol=1e-7)


@pytest.mark.parametrize(("make", "y"), CROSS_ENTROPIES)
def test_without_a_graph_the_value_is_the_same(make, y):
    logits = Tensor(EXTREME, requires_grad=True)
    recorded = make()(y, logits.softmax()).item()
    with no_grad():
        assert make()(y, logits.softmax()).item() == recorded
    assert recorded == pytest.approx(np.mean(EXTREME_LOSSES))


@pytest.mark.parametrize(("make", "y"), CROSS_ENTROPIES)
def test_evaluate_and_training_see_the_same_loss_of_a_softmax_model(make, y, device):
    model = models.Sequential(
        [layers.Dense(3, activation="softmax", use_bias=False, input_shape=(2,))], device=device
    )
    model.set_weights([np.array([[-1e4, 1e4, 0], [0, 0, 1e4]])])
    model.compile("sgd", make())
    x = np.array([[1.0, 0], [1, 1]])
    with minidl.training(step=0):
        trained = model.loss(Tensor(y, device=device), model(x)).item()
    assert model.evaluate(x, y) == trained == pytest.approx(np.mean(EXTREME_LOSSES), rel=1e-6)


@pytest.mark.parametrize(("make", "y"), CROSS_ENTROPIES)
def test_probabilities_of_no_softmax_are_held_off_0(make, y):
    outputs = Tensor(np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), requires_grad=True)
    value = make()(y, outputs)
    value.backward()
    # The first label has probability 0, held at Keras' 1e-7.
    expected = (-np.log(1e-7) + np.log(2)) / 2
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(outputs.grad.numpy()).all()


@pytest.mark.parametrize(("make", "y"), CROSS_ENTROPIES)
def test_outputs_that_do_not_sum_to_1_are_scaled(make, y):
    halves = make()(y, Tensor(PROBABILITIES[:2] / 2)).item()
    assert halves == pytest.approx(make()(y, Tensor(PROBABILITIES[:2])).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "y"), [(SparseCategoricalCrossentropy, LABELS), (CategoricalCrossentropy, ONE_HOT)]
)
def test_from_logits_refuses_the_outputs_of_a_softmax(loss, y):
    with pytest.raises(ValueError, match="from_logits=True, but the outputs went through a soft"):
        loss(from_logits=True)(y, Tensor(LOGITS).softmax())


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 4), (4, 4)])
def test_weights_that_are_not_one_for_each_sample_are_refused(shape):
    outputs = Tensor(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"loss: sample_weight must have the shape \(4,\)"):
        MeanSquaredError()(np.zeros((4, 2)), outputs, np.ones(shape))


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (MeanSquaredError(), (2, 4)),
        (MeanSquaredError(), (3, 2)),
        (CategoricalCrossentropy(), (1, 2)),
        (SparseCategoricalCrossentropy(), (3,)),
        (SparseCategoricalCrossentropy(), (1, 4)),
    ],
)
@pytest.mark.parametrize("kind", [Tensor, np.asarray])
def test_targets_of_another_shape_are_refused(loss, shape, kind):
    with pytest.raises(ValueError, match="y has shape"):
        loss(kind(np.zeros(shape, int)), Tensor(np.full((4, 2), 0.5)))


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("make", "y", "shape", "message"),
    [
        (
            SparseCategoricalCrossentropy,
            np.array([0, 3]),
            (None, 3),
            r"class numbers must be in \[0, 3\), received 0 to 3",
        ),
        (
            SparseCategoricalCrossentropy,
            np.array([-1, 2]),
            (None, 3),
            r"class numbers must be in \[0, 3\), received -1 to 2",
        ),
        (
            SparseCategoricalCrossentropy,
            np.array([0.0, 1.0]),
            (None, 3),
            r"class numbers \(integers\), received float64; use y.astype\(int\)",
        ),
        (
            SparseCategoricalCrossentropy,
            np.array([True, False]),
            (None, 3),
            r"received bool; use y.astype\(int\)",
        ),
        (
            SparseCategoricalCrossentropy,
            ONE_HOT.astype(int),
            (None, 3),
            r"y has shape \(4, 3\).*one class number for each; for one-hot targets use categorical",
        ),
        (
            SparseCategoricalCrossentropy,
            ONE_HOT,
            (None, 3),
            r"y has shape \(4, 3\).*one class number for each; for one-hot targets use categorical",
        ),
        (
            SparseCategoricalCrossentropy,
            LABELS,
            (None, 2, 3),
            r"y has shape \(4,\), and outputs of shape \(None, 2, 3\)",
        ),
        (
            CategoricalCrossentropy,
            LABELS,
            (None, 3),
            r"y has shape \(4,\) and the outputs \(None, 3\); for class numbers use sparse_",
        ),
        (
            CategoricalCrossentropy,
            LABELS[:, None],
            (None, 3),
            r"y has shape \(4, 1\) and the outputs \(None, 3\); for class numbers use sparse_",
        ),
        (
            CategoricalCrossentropy,
            ONE_HOT,
            (None, 4),
            r"y has shape \(4, 3\) and the outputs \(None, 4\); give the last layer one unit for",
        ),
        (CategoricalCrossentropy, ONE_HOT, (5, 3), "give as many targets as outputs"),
        (SparseCategoricalCrossentropy, np.zeros((4, 2, 2), int), (None, 3), "for one-hot targets"),
        (MeanSquaredError, TARGETS, (None, 1), r"y has shape \(4, 3\) and the outputs \(None, 1\)"),
        (MeanSquaredError, TARGETS[:, 0], (None, 3), "they must agree"),
    ],
)
def test_targets_that_do_not_fit_are_refused(make, y, shape, message):
    with pytest.raises(ValueError, match=message):
        make().check(y, shape)


@pytest.mark.parametrize("loss", [MeanSquaredError(), SparseCategoricalCrossentropy()])
def test_arguments_in_the_other_order_are_refused(loss):
    message = r"y_pred must be a Tensor.*received ndarray; the order is loss\(y_true, y_pred\)"
    with pytest.raises(TypeError, match=f"{type(loss).__name__}: {message}"):
        loss(Tensor(PROBABILITIES), LABELS)


def test_class_numbers_in_the_place_of_outputs_are_refused():
    with pytest.raises(ValueError, match=r"shape \(4, 3\).*the order is loss\(y_true, y_pred\)"):
        SparseCategoricalCrossentropy()(Tensor(PROBABILITIES), Tensor(LABELS))


@pytest.mark.parametrize("label", [-1, 3])
def test_targets_of_the_host_are_checked_in_a_loop_written_by_hand_too(label):
    with pytest.raises(ValueError, match=rf"in \[0, 3\), received {label} to {label}"):
        SparseCategoricalCrossentropy()(np.array([label]), Tensor(LOGITS[:1]))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_class_numbers_of_any_integer_type(dtype):
    loss = SparseCategoricalCrossentropy()
    loss.check(LABELS.astype(dtype), (None, 3))
    expected = cross_entropy(ONE_HOT, PROBABILITIES).mean()
    assert loss(LABELS.astype(dtype), Tensor(PROBABILITIES)).item() == pytest.approx(expected)


def test_losses_by_name():
    assert isinstance(losses.get("sparse_categorical_crossentropy"), SparseCategoricalCrossentropy)
    assert isinstance(losses.get("categorical_crossentropy"), CategoricalCrossentropy)
    assert isinstance(losses.get("mse"), MeanSquaredError)
    assert isinstance(losses.get("mean_squared_error"), MeanSquaredError)
    mine = MeanSquaredError()
    assert losses.get(mine) is mine
    for unknown in ("hinge", None):
        with pytest.raises(ValueError, match=f"loss: expected a Loss or one of .*{unknown}"):
            losses.get(unknown)


def test_a_loss_of_ones_own():
    class MeanAbsoluteError(Loss):
        def per_sample(self, y_true, y_pred):
            difference = y_pred - y_true
            return (difference * ((difference > 0).astype("float64") * 2 - 1)).mean(axis=1)

    value = MeanAbsoluteError()(TARGETS, Tensor(LOGITS)).item()
    assert value == pytest.approx(np.abs(TARGETS - LOGITS).mean())


COLUMN_PAIRS = [((4,), (4, 1)), ((4, 1), (4,)), ((4, 3), (4, 3, 1)), ((4, 3, 1), (4, 3))]


@pytest.mark.parametrize(("shape", "output_shape"), COLUMN_PAIRS)
def test_a_last_axis_of_length_1_is_no_reason_to_compare_each_with_each(
    shape, output_shape, device
):
    class Square(Loss, metrics.Metric):
        def per_sample(self, y_true, y_pred):
            return (y_pred - y_true) ** 2

    y = np.random.default_rng(2).normal(size=shape)
    outputs = np.random.default_rng(3).normal(size=output_shape)
    expected = ((outputs.ravel() - y.ravel()) ** 2).mean()
    square = Square()
    assert square(y, Tensor(outputs, device)).item() == pytest.approx(expected)
    square.update_state(Tensor(y, device), Tensor(outputs, device))
    assert square.result() == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[0, 0], [[0], [0]]])
def test_class_numbers_of_a_single_class(labels):
    outputs = Tensor([[2.0], [3.0]])
    assert SparseCategoricalCrossentropy(from_logits=True)(labels, outputs).item() == 0
    accuracy = metrics.SparseCategoricalAccuracy()
    accuracy.update_state(Tensor(labels), outputs)
    assert accuracy.total() == (2, 2)


@pytest.mark.parametrize("output_shape", [(4,), (4, 1), (4, 2)])
def test_weights_may_be_a_column_where_samples_have_one_loss_each(output_shape):
    y, outputs = np.zeros(output_shape), Tensor(np.arange(1.0, 5) * np.ones(output_shape[::-1])).T
    weights = np.array([0.5, 2.0, 0.0, 1.0])
    loss = MeanSquaredError()
    assert loss(y, outputs, weights[:, None]).item() == loss(y, outputs, weights).item() == 6.125


# ------------------------------------------------------------------------------ metrics


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None]])
def test_sparse_accuracy_counts_over_batches(labels, device):
    accuracy = metrics.SparseCategoricalAccuracy()
    outputs = np.eye(3)[[0, 2, 0, 1]]  # the first two are right
    for rows in (slice(0, 3), slice(3, 4)):
        accuracy.update_state(Tensor(labels[rows], device), Tensor(outputs[rows], device))
    assert accuracy.result() == 0.5
    accuracy.reset_state()
    assert np.isnan(accuracy.result())


def test_categorical_accuracy(device):
    accuracy = metrics.CategoricalAccuracy("right")
    accuracy.update_state(Tensor(ONE_HOT, device), Tensor(np.eye(3)[[0, 2, 1, 1]], device))
    assert (accuracy.name, accuracy.result()) == ("right", 0.75)


@pytest.mark.parametrize("labels", [[0, 2, 1, 1], [[0], [2], [1], [1]], np.eye(3)[[0, 2, 1, 1]]])
def test_accuracy_takes_class_numbers_and_distributions(labels, device):
    outputs = Tensor(np.eye(3)[[0, 2, 1, 0]], device)
    accuracy = metrics.get("accuracy")
    accuracy.check(np.asarray(labels), outputs.shape)
    accuracy.update_state(Tensor(np.asarray(labels), device), outputs)
    assert (accuracy.name, accuracy.result()) == ("accuracy", 0.75)


@pytest.mark.parametrize("output_shape", [(None, 1), (None,)])
def test_accuracy_refuses_outputs_that_are_no_classes(output_shape):
    with pytest.raises(ValueError, match="accuracy: expected one output for each class"):
        metrics.get("accuracy").check(np.zeros(4), output_shape)


def test_metrics_by_name():
    for name in ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy"):
        assert metrics.get(name).name == name
    with pytest.raises(ValueError, match=r"metric: expected a Metric or one of .*'precision'"):
        metrics.get("precision")


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        (metrics.SparseCategoricalAccuracy, [0, 1, 0]),
        (metrics.CategoricalAccuracy, [[1, 0], [0, 1], [1, 0]]),
        (metrics.Accuracy, [0, 1, 0]),
        (metrics.Accuracy, [[1, 0], [0, 1], [1, 0]]),
    ],
)
def test_a_prediction_with_a_nan_is_not_right_and_logits_tell_close_classes_apart(
    kind, targets, device
):
    accuracy = kind()
    logits = Tensor([[np.nan, 0.0], [0.0, 1e-9], [2.0, 1.0]], device)
    accuracy.update_state(Tensor(targets, device), logits.softmax())
    assert accuracy.total() == (2, 3)
