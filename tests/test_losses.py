"""Losses: values by NumPy formulas in float64, stability, and rejected targets."""

import re

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, losses, metrics, models, no_grad
from minidl.backend.numpy_backend import NumpyBackend
from minidl.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    FunctionLoss,
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from minidl.losses.crossentropies import expects_probabilities
from minidl.testing import check_gradient

LABELS = np.array([0, 2, 1, 2])
ONE_HOT = np.eye(3)[LABELS]
SOFT = np.array([[0.2, 0.3, 0.5], [0, 1, 0], [0.1, 0.9, 0], [1 / 3, 1 / 3, 1 / 3]])
LOGITS = np.random.default_rng(0).normal(0, 2, (4, 3))
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
TARGETS = np.random.default_rng(1).normal(size=(4, 3))
SAMPLE_WEIGHT = np.array([0.5, 2.0, 0.0, 1.0])


def cross_entropy(targets, probabilities):
    """Return -sum(t log p) of each sample."""
    return -(targets * np.log(probabilities)).sum(axis=-1)


def binary_cross_entropy(targets, probabilities):
    """Return -t log p - (1 - t) log(1 - p)."""
    return -targets * np.log(probabilities) - (1 - targets) * np.log(1 - probabilities)


YES_NO = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]])
ODDS = 1 / (1 + np.exp(-LOGITS))
DIFFERENCES = np.abs(TARGETS - LOGITS)


def huber(d, delta):
    """Return the losses of absolute differences."""
    return np.where(d <= delta, d**2 / 2, delta * (d - delta / 2))


# For each class: a function that makes the loss, targets, outputs, and the loss of each sample.
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
            LABELS.reshape(2, 2),  # two labels for each sample
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
        (
            lambda: CategoricalCrossentropy(label_smoothing=0.3),
            ONE_HOT,
            PROBABILITIES,
            cross_entropy(ONE_HOT * 0.7 + 0.1, PROBABILITIES),
        ),
        (CategoricalCrossentropy, SOFT, PROBABILITIES, cross_entropy(SOFT, PROBABILITIES)),
        (CategoricalCrossentropy, ONE_HOT, PROBABILITIES, cross_entropy(ONE_HOT, PROBABILITIES)),
    ],
    "BinaryCrossentropy": [
        (BinaryCrossentropy, YES_NO, ODDS, binary_cross_entropy(YES_NO, ODDS).mean(axis=1)),
        (
            lambda: BinaryCrossentropy(from_logits=True),
            YES_NO,
            LOGITS,
            binary_cross_entropy(YES_NO, ODDS).mean(axis=1),
        ),
        (
            BinaryCrossentropy,
            YES_NO[:, 0],
            ODDS[:, :1],
            binary_cross_entropy(YES_NO, ODDS)[:, 0],
        ),
        (
            lambda: BinaryCrossentropy(from_logits=True, label_smoothing=0.2),
            SOFT,
            LOGITS,
            binary_cross_entropy(SOFT * 0.8 + 0.1, ODDS).mean(axis=1),
        ),
    ],
    "FunctionLoss": [
        (
            lambda: FunctionLoss(lambda y_true, y_pred: (y_pred - y_true) ** 2),
            TARGETS,
            LOGITS,
            DIFFERENCES**2,
        )
    ],
    "Huber": [
        (Huber, TARGETS, LOGITS, huber(DIFFERENCES, 1.0).mean(axis=1)),
        (lambda: Huber(0.4), TARGETS[:, 0], LOGITS[:, :1], huber(DIFFERENCES[:, 0], 0.4)),
    ],
    "MeanAbsoluteError": [
        (MeanAbsoluteError, TARGETS, LOGITS, DIFFERENCES.mean(axis=1)),
        (MeanAbsoluteError, TARGETS[:, :1], LOGITS[:, 0], DIFFERENCES[:, 0]),
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
every_case = pytest.mark.parametrize(("make", "y", "outputs", "expected"), CASES)


def test_table_names_every_loss():
    public = {
        name
        for name, value in vars(losses).items()
        if isinstance(value, type) and issubclass(value, Loss) and not name.startswith("_")
    }
    assert set(LOSSES) == public - {"Loss", "OutputLosses"}


# ------------------------------------------------------------------------------ values, gradients


@every_case
def test_value_equals_formula(make, y, outputs, expected, device):
    loss = make()
    loss.check(y, (None, *outputs.shape[1:]))
    targets = Tensor(y, device=device)
    wide = Tensor(outputs, device=device)
    np.testing.assert_allclose(loss.per_sample(targets, wide).numpy(), expected, rtol=1e-12)
    assert loss(targets, wide).item() == pytest.approx(expected.mean(), rel=1e-12)
    assert loss(targets, wide).dtype == "float64"
    narrow = loss(targets, Tensor(outputs.astype("float32"), device=device))
    assert narrow.dtype == "float32"
    assert narrow.item() == pytest.approx(expected.mean(), rel=1e-5)


@every_case
def test_gradient_equals_central_differences(make, y, outputs, expected, device):
    loss, targets = make(), Tensor(y, device=device)
    weights = SAMPLE_WEIGHT[: len(y)]
    x = Tensor(outputs, device=device, requires_grad=True)
    check_gradient(lambda x: loss(targets, x), x)
    check_gradient(lambda x: loss(targets, x, weights), x)


@every_case
def test_sample_weights_multiply_losses_and_divisor_stays(make, y, outputs, expected):
    weights = SAMPLE_WEIGHT[: len(y)]
    value = make()(y, Tensor(outputs), weights).item()
    spread = weights.reshape(-1, *(1,) * (expected.ndim - 1))
    assert value == pytest.approx((spread * expected).sum() / expected.size, rel=1e-12)


@every_case
def test_array_and_tensor_of_targets_have_same_loss(make, y, outputs, expected):
    assert make()(y, Tensor(outputs)).item() == make()(Tensor(y), Tensor(outputs)).item()


@pytest.mark.parametrize("output_shape", [(4,), (4, 1), (4, 2)])
def test_sample_weights_may_be_a_column(output_shape):
    y, outputs = np.zeros(output_shape), Tensor(np.arange(1.0, 5) * np.ones(output_shape[::-1])).T
    loss = MeanSquaredError()
    column = loss(y, outputs, SAMPLE_WEIGHT[:, None]).item()
    assert column == loss(y, outputs, SAMPLE_WEIGHT).item() == 6.125


COLUMN_PAIRS = [((4,), (4, 1)), ((4, 1), (4,)), ((4, 3), (4, 3, 1)), ((4, 3, 1), (4, 3))]


@pytest.mark.parametrize(("shape", "output_shape"), COLUMN_PAIRS)
def test_last_axis_of_length_one_does_not_broadcast(shape, output_shape, device):
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


def test_custom_loss_is_the_mean_of_its_losses_per_sample():
    class MeanAbsoluteError(Loss):
        def per_sample(self, y_true, y_pred):
            difference = y_pred - y_true
            return (difference * ((difference > 0).astype("float64") * 2 - 1)).mean(axis=1)

    value = MeanAbsoluteError()(TARGETS, Tensor(LOGITS)).item()
    assert value == pytest.approx(np.abs(TARGETS - LOGITS).mean())


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_class_numbers_may_be_of_any_integer_dtype(dtype):
    loss = SparseCategoricalCrossentropy()
    loss.check(LABELS.astype(dtype), (None, 3))
    expected = cross_entropy(ONE_HOT, PROBABILITIES).mean()
    assert loss(LABELS.astype(dtype), Tensor(PROBABILITIES)).item() == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[0, 0], [[0], [0]]])
def test_cross_entropy_of_single_class_is_zero(labels):
    outputs = Tensor([[2.0], [3.0]])
    assert SparseCategoricalCrossentropy(from_logits=True)(labels, outputs).item() == 0


# ------------------------------------------------------------------------------ stability


CROSS_ENTROPIES = [
    pytest.param(SparseCategoricalCrossentropy, LABELS[:2], id="sparse"),
    pytest.param(CategoricalCrossentropy, ONE_HOT[:2], id="dense"),
]
every_cross_entropy = pytest.mark.parametrize(("make", "y"), CROSS_ENTROPIES)
EXTREME = np.array([[-1e4, 1e4, 0.0], [-1e4, 1e4, 1e4]])
EXTREME_LOSSES = [2e4, np.log(2)]  # labels 0 and 2
EXTREME_GRADIENT = np.array([[-1, 1, 0], [0, 0.5, -0.5]]) / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_cross_entropy
@pytest.mark.parametrize("form", ["logits", "softmax"])
def test_large_logits_have_finite_loss_and_right_gradient(form, make, y, dtype, device):
    logits = Tensor(EXTREME.astype(dtype), device=device, requires_grad=True)
    loss = make(from_logits=form == "logits")
    value = loss(Tensor(y, device=device), logits if form == "logits" else logits.softmax())
    value.backward()
    assert value.item() == pytest.approx(np.mean(EXTREME_LOSSES), rel=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), EXTREME_GRADIENT, atol=1e-7)


@every_cross_entropy
def test_loss_without_graph_equals_loss_with_graph(make, y):
    logits = Tensor(EXTREME, requires_grad=True)
    recorded = make()(y, logits.softmax()).item()
    with no_grad():
        assert make()(y, logits.softmax()).item() == recorded
    assert recorded == pytest.approx(np.mean(EXTREME_LOSSES))


@every_cross_entropy
def test_evaluate_and_training_have_same_loss_of_softmax_model(make, y, device):
    model = models.Sequential(
        [layers.Dense(3, activation="softmax", use_bias=False, input_shape=(2,))], device=device
    )
    model.set_weights([np.array([[-1e4, 1e4, 0], [0, 0, 1e4]])])
    model.compile("sgd", make())
    x = np.array([[1.0, 0], [1, 1]])
    with minidl.training(step=0):
        trained = model.loss(Tensor(y, device=device), model(x)).item()
    assert model.evaluate(x, y) == trained == pytest.approx(np.mean(EXTREME_LOSSES), rel=1e-6)


@every_cross_entropy
def test_probability_zero_is_clipped_as_in_keras(make, y):
    outputs = Tensor(np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), requires_grad=True)
    value = make()(y, outputs)
    value.backward()
    expected = (-np.log(1e-7) + np.log(2)) / 2  # the first label has probability 0
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(outputs.grad.numpy()).all()


@every_cross_entropy
def test_outputs_that_do_not_sum_to_one_are_normalized(make, y):
    halves = make()(y, Tensor(PROBABILITIES[:2] / 2)).item()
    assert halves == pytest.approx(make()(y, Tensor(PROBABILITIES[:2])).item(), rel=1e-12)


BINARY_EXTREME = np.array([[-1e4], [1e4], [1e4], [-1e4], [0.0]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["logits", "sigmoid"])
def test_large_binary_logits_have_finite_loss_and_right_gradient(form, dtype, device):
    logits = Tensor(BINARY_EXTREME.astype(dtype), device=device, requires_grad=True)
    loss = BinaryCrossentropy(from_logits=form == "logits", reduction="sum")
    value = loss(np.array([1, 0, 1, 0, 1]), logits if form == "logits" else logits.sigmoid())
    value.backward()
    assert value.item() == pytest.approx(2e4 + np.log(2), rel=1e-6)
    np.testing.assert_allclose(logits.grad.numpy().ravel(), [-1, 1, 0, 0, -0.5], atol=1e-7)


def test_small_binary_loss_keeps_its_digits():
    value = BinaryCrossentropy(from_logits=True)([1], Tensor([[20.0]])).item()
    assert value == pytest.approx(np.log1p(np.exp(-20)), rel=1e-6)


def test_binary_probability_zero_is_clipped_as_in_keras():
    outputs = Tensor(np.array([[0.0], [1.0], [1.0]]), requires_grad=True)
    value = BinaryCrossentropy()([1, 0, 1], outputs)
    value.backward()
    assert value.item() == pytest.approx((-2 * np.log(1e-7)) / 3, rel=1e-6)
    assert np.isfinite(outputs.grad.numpy()).all()


def test_binary_loss_without_graph_equals_loss_with_graph():
    logits = Tensor(BINARY_EXTREME, requires_grad=True)
    recorded = BinaryCrossentropy()([1, 0, 1, 0, 1], logits.sigmoid()).item()
    with no_grad():
        assert BinaryCrossentropy()([1, 0, 1, 0, 1], logits.sigmoid()).item() == recorded


def test_sigmoid_has_no_logits_of_a_softmax():
    y = Tensor(LOGITS).sigmoid()
    assert y.logits is None
    found = CategoricalCrossentropy()(ONE_HOT, y).item()
    shares = ODDS / ODDS.sum(axis=1, keepdims=True)
    assert found == pytest.approx(cross_entropy(ONE_HOT, shares).mean())


# ------------------------------------------------------------------------------ reductions


@every_case
def test_reductions_are_sum_mean_and_losses(make, y, outputs, expected):
    loss, weights = make(), SAMPLE_WEIGHT[: len(y)]
    spread = weights.reshape(-1, *(1,) * (expected.ndim - 1)) * expected
    for name, value in {
        "sum_over_batch_size": spread.mean(),
        "mean": spread.mean(),
        "sum": spread.sum(),
        "none": spread,
        None: spread,
    }.items():
        loss.reduction = name
        found = loss(y, Tensor(outputs), weights).numpy()
        np.testing.assert_allclose(found, value, rtol=1e-12, err_msg=str(name))


@pytest.mark.parametrize("kind", [MeanSquaredError, CategoricalCrossentropy, Huber])
@pytest.mark.parametrize("wrong", ["median", 3, True, np.ones(2)])
def test_unknown_reduction_is_rejected(kind, wrong):
    with pytest.raises(ValueError, match=f"^{kind.__name__}: expected reduction to be 'sum_over"):
        kind(reduction=wrong)


@pytest.mark.parametrize("wrong", [-0.1, 1.1])
@pytest.mark.parametrize("kind", [CategoricalCrossentropy, BinaryCrossentropy])
def test_label_smoothing_out_of_range_is_rejected(kind, wrong):
    with pytest.raises(
        ValueError, match=rf"^{kind.__name__}: expected label_smoothing in \[0, 1\]"
    ):
        kind(label_smoothing=wrong)


def test_huber_rejects_delta_that_is_not_positive():
    with pytest.raises(ValueError, match=r"^Huber: expected delta in \(0, inf\), got 0"):
        Huber(0)


# ------------------------------------------------------------------------------ functions


def test_get_makes_a_loss_of_any_function():
    def cubed(y_true, y_pred):
        return (y_pred - y_true) ** 3

    class Callable:
        def __call__(self, y_true, y_pred):
            return cubed(y_true, y_pred)

    for function in (cubed, Callable(), lambda y_true, y_pred: cubed(y_true, y_pred).mean()):
        found = losses.get(function)(TARGETS[:, 0], Tensor(LOGITS[:, :1])).item()
        assert found == pytest.approx(((LOGITS - TARGETS)[:, 0] ** 3).mean())


def test_function_gets_targets_in_the_dtype_of_the_outputs():
    loss = FunctionLoss(lambda y_true, y_pred: y_pred - y_true)
    assert loss(np.array([1, 2]), Tensor([3.0, 4.0])).dtype == "float32"


@pytest.mark.parametrize("function", [lambda y_true: y_true, lambda a, b, c: a, len])
def test_get_rejects_function_of_other_arguments(function):
    with pytest.raises(TypeError, match=r"^loss: expected a function of \(y_true, y_pred\)"):
        losses.get(function)


def test_function_that_returns_an_array_is_named():
    def root(y_true, y_pred):
        return y_pred.numpy()

    with pytest.raises(TypeError, match=r"^root: expected it to return a Tensor, got a ndarray"):
        losses.get(root)(TARGETS, Tensor(LOGITS))


# ------------------------------------------------------------------------------ rejected targets

SPARSE, DENSE, SQUARED = (
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
    "mean_squared_error",
)


@pytest.mark.parametrize(
    ("make", "y", "shape", "message"),
    [
        (
            SparseCategoricalCrossentropy,
            np.array([0, 3]),
            (None, 3),
            SPARSE + r".*\[0, 3\).*0 to 3",
        ),
        (
            SparseCategoricalCrossentropy,
            np.array([-1, 2]),
            (None, 3),
            SPARSE + r".*\[0, 3\).*-1 to",
        ),
        (
            SparseCategoricalCrossentropy,
            np.array([0.0, 1.5]),
            (None, 3),
            SPARSE + ".*1.5 .*float64",
        ),
        (
            SparseCategoricalCrossentropy,
            ONE_HOT.astype(int),
            (None, 3),
            SPARSE + r".*one class number.*\(None, 3\).*\(4, 3\).*one-hot.*categorical_cross",
        ),
        (
            SparseCategoricalCrossentropy,
            ONE_HOT,
            (None, 3),
            SPARSE + r".*one class number.*\(None, 3\).*\(4, 3\).*one-hot.*categorical_cross",
        ),
        (
            SparseCategoricalCrossentropy,
            LABELS,
            (None, 2, 3),
            SPARSE + r".*\(None, 2, 3\).*\(4,\)",
        ),
        (
            SparseCategoricalCrossentropy,
            np.zeros((4, 2, 2), int),
            (None, 3),
            SPARSE + r".*\(None, 3\).*\(4, 2, 2\).*one-hot",
        ),
        (CategoricalCrossentropy, LABELS, (None, 3), DENSE + r".*\(None, 3\).*\(4,\).* sparse_"),
        (
            CategoricalCrossentropy,
            LABELS[:, None],
            (None, 3),
            DENSE + r".*\(None, 3\).*\(4, 1\).* sparse_",
        ),
        (
            CategoricalCrossentropy,
            ONE_HOT,
            (None, 4),
            DENSE + r".*\(None, 4\).*\(4, 3\).*unit.*each class",
        ),
        (
            CategoricalCrossentropy,
            ONE_HOT,
            (5, 3),
            DENSE + r".*\(5, 3\).*\(4, 3\).*as many targets",
        ),
        (BinaryCrossentropy, LABELS, (None, 1), r"binary_crossentropy: .*\[0, 1\], got 0 to 2"),
        (
            BinaryCrossentropy,
            LABELS - 1,
            (None, 1),
            r"binary_crossentropy: .*\[0, 1\], got -1 to 1",
        ),
        (BinaryCrossentropy, LABELS / np.nan, (None, 1), r"binary_crossentropy: .*got nan"),
        (BinaryCrossentropy, ONE_HOT, (None, 1), r"binary_crossentropy: .*\(None, 1\).*\(4, 3\)"),
        (MeanAbsoluteError, TARGETS, (None, 1), r"mean_absolute_error: .*\(None, 1\).*\(4, 3\)"),
        (Huber, TARGETS, (None, 1), r"huber_loss: .*\(None, 1\).*\(4, 3\)"),
        (MeanSquaredError, TARGETS, (None, 1), SQUARED + r".*\(None, 1\).*\(4, 3\)"),
        (MeanSquaredError, TARGETS[:, 0], (None, 3), SQUARED + r".*\(None, 3\).*\(4,\)"),
    ],
)
def test_check_rejects_targets_that_do_not_fit(make, y, shape, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make().check(y, shape)


@pytest.mark.parametrize(
    ("loss", "name", "shape"),
    [
        (MeanSquaredError(), SQUARED, (2, 4)),
        (MeanSquaredError(), SQUARED, (3, 2)),
        (CategoricalCrossentropy(), DENSE, (1, 2)),
        (SparseCategoricalCrossentropy(), SPARSE, (3,)),
        (SparseCategoricalCrossentropy(), SPARSE, (1, 4)),
    ],
)
@pytest.mark.parametrize("kind", [Tensor, np.asarray])
def test_loss_rejects_targets_of_another_shape(loss, name, shape, kind):
    with pytest.raises(ValueError, match=rf"^{name}: .*\(4, 2\).*{re.escape(str(shape))}"):
        loss(kind(np.zeros(shape, int)), Tensor(np.full((4, 2), 0.5)))


@pytest.mark.parametrize("label", [-1, 3])
def test_loss_rejects_class_number_out_of_range_in_host_array(label):
    with pytest.raises(ValueError, match=rf"{SPARSE}.*\[0, 3\).*{label} to {label}"):
        SparseCategoricalCrossentropy()(np.array([label]), Tensor(LOGITS[:1]))


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 4), (4, 4)])
def test_loss_rejects_weights_of_another_shape(shape):
    message = rf"^loss: expected sample_weight .*\(4,\).*{re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        MeanSquaredError()(np.zeros((4, 2)), Tensor(np.zeros((4, 2))), np.ones(shape))


@pytest.mark.parametrize("loss", [MeanSquaredError(), SparseCategoricalCrossentropy()])
def test_loss_rejects_arguments_in_other_order(loss):
    message = rf"{type(loss).__name__}: expected y_pred .*ndarray.*loss\(y_true, y_pred\)"
    with pytest.raises(TypeError, match=message):
        loss(Tensor(PROBABILITIES), LABELS)


def test_loss_rejects_class_numbers_as_outputs():
    with pytest.raises(ValueError, match=rf"{SPARSE}.*\(4, 3\).*loss\(y_true, y_pred\)"):
        SparseCategoricalCrossentropy()(Tensor(PROBABILITIES), Tensor(LABELS))


@pytest.mark.parametrize(
    ("loss", "y"), [(SparseCategoricalCrossentropy, LABELS), (CategoricalCrossentropy, ONE_HOT)]
)
def test_loss_from_logits_rejects_outputs_of_softmax(loss, y):
    with pytest.raises(ValueError, match=r"^loss: .*from_logits=True.*softmax"):
        loss(from_logits=True)(y, Tensor(LOGITS).softmax())


def test_binary_loss_from_logits_rejects_outputs_of_sigmoid():
    with pytest.raises(ValueError, match=r"^loss: .*from_logits=True.*sigmoid"):
        BinaryCrossentropy(from_logits=True)(ONE_HOT, Tensor(LOGITS).sigmoid())


class OtherBackend(NumpyBackend):
    """A second device."""

    name = "other:0"


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (SparseCategoricalCrossentropy(from_logits=True), Tensor([0, 1])),
        (CategoricalCrossentropy(from_logits=True), Tensor([[0, 1], [1, 0]])),
        (MeanSquaredError(), Tensor([[0.0, 1.0], [1.0, 0.0]])),
    ],
)
@pytest.mark.parametrize("misplaced", ["targets", "weights"])
def test_loss_rejects_targets_and_weights_on_another_device(loss, targets, misplaced):
    outputs, weights = Tensor([[1.0, 2.0], [3.0, 4.0]]), Tensor([1.0, 1.0])
    assert np.isfinite(loss(targets, outputs, weights).item())
    if misplaced == "targets":
        targets = Tensor.of(targets.data, OtherBackend())
    else:
        weights = Tensor.of(weights.data, OtherBackend())
    with pytest.raises(ValueError, match=r'^loss: .*on cpu.*other:0.*\.to\("cpu"\)'):
        loss(targets, outputs, weights)


# ------------------------------------------------------------------------------ choice by name


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (
            "sparse_categorical_crossentropy SparseCategoricalCrossentropy",
            SparseCategoricalCrossentropy,
        ),
        ("categorical_crossentropy CategoricalCrossentropy", CategoricalCrossentropy),
        ("binary_crossentropy BinaryCrossentropy bce BCE", BinaryCrossentropy),
        ("mean_squared_error MeanSquaredError mse MSE", MeanSquaredError),
        ("mean_absolute_error MeanAbsoluteError mae MAE", MeanAbsoluteError),
        ("huber Huber", Huber),
    ],
)
def test_get_returns_loss_of_each_spelling_of_keras(names, kind):
    assert [type(losses.get(name)) for name in names.split()] == [kind] * len(names.split())
    own = kind()
    assert losses.get(own) is own


@pytest.mark.parametrize("unknown", ["hinge", None])
def test_get_rejects_unknown_loss_with_the_names(unknown):
    message = f"^loss: expected a Loss or one of .*mse.*, got {unknown!r}"
    with pytest.raises(ValueError, match=message):
        losses.get(unknown)


def test_expects_probabilities_of_own_cross_entropies_without_logits():
    class Subclass(SparseCategoricalCrossentropy):
        pass

    expecting = [SparseCategoricalCrossentropy(), CategoricalCrossentropy(), BinaryCrossentropy()]
    others = [CategoricalCrossentropy(from_logits=True), MeanSquaredError(), Subclass()]
    assert [expects_probabilities(loss) for loss in expecting] == [True] * 3
    assert [expects_probabilities(loss) for loss in others] == [False] * 3


# ------------------------------------------------------------------------------ class numbers


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bool", "uint8"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_whole_numbers_are_class_numbers_in_any_dtype(dtype, shape, device):
    labels = np.array([0, 1, 1, 0])
    outputs = Tensor(PROBABILITIES, device)
    loss = SparseCategoricalCrossentropy()
    expected = loss(labels, outputs).item()
    assert loss(labels.astype(dtype).reshape(shape), outputs).item() == expected
    assert loss(labels.astype(dtype).reshape(shape).tolist(), outputs).item() == expected


@pytest.mark.parametrize("wrong", [1.5, np.nan, np.inf, -np.inf, 0.1])
def test_class_numbers_that_are_not_whole_are_rejected(wrong):
    labels = np.array([0.0, 1.0, wrong, 2.0])
    message = rf"expected class numbers \(integers\), got {wrong} "
    with pytest.raises(ValueError, match="^sparse_categorical_crossentropy: " + message):
        SparseCategoricalCrossentropy()(labels, Tensor(PROBABILITIES))
    for metric in (metrics.SparseCategoricalAccuracy(), metrics.Accuracy()):
        with pytest.raises(ValueError, match=f"^{metric.name}: {message}"):
            metric.check(labels, (None, 3))


@pytest.mark.parametrize("wrong", [-1.0, 3.0, 1e300])
def test_float_class_numbers_out_of_range_are_rejected(wrong):
    labels = np.array([0.0, 1.0, wrong, 2.0])
    with pytest.raises(ValueError, match=r"class numbers in \[0, 3\), got "):
        SparseCategoricalCrossentropy()(labels, Tensor(PROBABILITIES))


def test_tensor_of_float_class_numbers_is_rejected_with_remedy():
    with pytest.raises(ValueError, match=r'got float32\. Use y\.astype\("int64"\)'):
        SparseCategoricalCrossentropy()(Tensor([0.0, 1.0, 2.0, 1.0]), Tensor(PROBABILITIES))


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (SparseCategoricalCrossentropy(), np.array([0, 1, 1, 0])),
        (SparseCategoricalCrossentropy(from_logits=True), np.array([0, 1, 1, 0])),
        (CategoricalCrossentropy(), np.array([0, 1, 1, 0])),
        (CategoricalCrossentropy(), np.eye(2)[[0, 1, 1, 0]]),
    ],
)
def test_one_output_for_two_classes_is_rejected_with_remedy(loss, targets):
    outputs = Tensor(np.full((4, 1), 0.5))
    if targets.ndim == 2 and isinstance(loss, SparseCategoricalCrossentropy):
        targets = targets.argmax(axis=1)
    with pytest.raises(ValueError, match=r"two classes, use binary_crossentropy"):
        loss(targets, outputs)


# ------------------------------------------------------------------------------ weights of steps

STEPS = np.array([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])  # outputs (2, 3, 1)
STEP_WEIGHTS = np.array([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]])


def test_squared_error_takes_weights_of_time_steps(device):
    # Keras: mean over the last axis, times the weights, mean over all six.
    expected = (1 * 1 + 9 * 2 + 16 * 0.5 + 25 * 1) / 6
    for weights in (STEP_WEIGHTS, STEP_WEIGHTS[:, :, None], STEP_WEIGHTS.tolist()):
        loss = MeanSquaredError()(np.zeros((2, 3, 1)), Tensor(STEPS, device), weights)
        assert loss.item() == pytest.approx(expected)


def test_squared_error_of_time_steps_is_a_loss_of_each_step(device):
    targets, outputs = Tensor(STEPS * 0, device), Tensor(STEPS, device)
    found = MeanSquaredError().per_sample(targets, outputs)
    assert found.shape == (2, 3)
    assert found.numpy().tolist() == (STEPS[:, :, 0] ** 2).tolist()


@pytest.mark.parametrize("weights", [[2.0, 0.5], [[2.0], [0.5]], [[2.0] * 3, [0.5] * 3]])
def test_weights_of_samples_apply_to_all_their_steps(weights):
    loss = MeanSquaredError()(np.zeros((2, 3, 1)), Tensor(STEPS), np.array(weights))
    assert loss.item() == pytest.approx((2 * (1 + 4 + 9) + 0.5 * (16 + 25 + 36)) / 6)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (CategoricalCrossentropy(from_logits=True), np.eye(4)[[[0, 1, 2], [3, 2, 1]]]),
        (SparseCategoricalCrossentropy(from_logits=True), np.array([[0, 1, 2], [3, 2, 1]])),
        (MeanSquaredError(), np.random.default_rng(2).normal(size=(2, 3, 4))),
    ],
)
def test_every_loss_takes_weights_of_time_steps(loss, targets, device):
    outputs = np.random.default_rng(3).normal(size=(2, 3, 4))
    found = loss(targets, Tensor(outputs, device), STEP_WEIGHTS).item()
    steps = [
        loss(targets[:, step], Tensor(outputs[:, step], device), STEP_WEIGHTS[:, step]).item()
        for step in range(3)
    ]
    assert found == pytest.approx(np.mean(steps), rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (1, 3), (2, 3, 2), (2, 3, 1, 1), (3,), ()])
def test_weights_that_fit_no_loss_are_rejected(shape):
    message = r"^loss: expected sample_weight for losses of shape \(2, 3\), got \("
    with pytest.raises(ValueError, match=message):
        MeanSquaredError()(np.zeros((2, 3, 1)), Tensor(STEPS), np.ones(shape))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda y: y.numpy().sum(axis=-1), "ndarray"),
        (lambda y: [0.0] * len(y), "list"),
        (lambda y: float(y.sum()), "float"),
        (lambda y: None, "NoneType"),
    ],
)
def test_loss_that_returns_no_tensor_is_rejected(make, kind, device):
    class Mine(losses.Loss):
        def per_sample(self, y_true, y_pred):
            return make(y_pred)

    with pytest.raises(TypeError, match=rf"^Mine\.per_sample: .* a Tensor, got a {kind}\. "):
        Mine()([0.0, 1.0], Tensor(np.ones((2, 3)), device))
