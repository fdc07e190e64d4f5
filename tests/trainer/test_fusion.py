"""Fusion: what is planned as one operation, and that it equals the separate operations."""

import numpy as np
import pytest

import minidl
from minidl import Tensor, layers, losses, metrics, models, rng
from minidl.backend import get_backend
from minidl.batches import Samples
from minidl.trainer import fusion
from minidl.trainer.fusion import DenseThenDropout, Plan, stages

NUMBERS = np.random.default_rng(0)
X = NUMBERS.normal(size=(40, 70))
LABELS = NUMBERS.integers(0, 3, 40)
SEED = 1


class MyDense(layers.Dense):
    """A subclass, whose own call must run."""


class MyDropout(layers.Dropout):
    """A subclass, whose own call must run."""


class MyLoss(losses.SparseCategoricalCrossentropy):
    """A subclass, whose own call must run."""


def stack(activation="relu", rate=0.3, scaling="train"):
    return [
        layers.Dense(65, activation=activation),
        layers.Dropout(rate, scaling=scaling),
        layers.Dense(33, activation=activation),
        layers.Dropout(rate, scaling=scaling),
        layers.Dense(3, activation="softmax"),
    ]


@pytest.fixture
def applied(monkeypatch):
    """Return a list that gets the name of each operation that fusion applies."""
    names = []
    apply = fusion.apply

    def record(op, *inputs, **static):
        names.append(op.__name__)
        return apply(op, *inputs, **static)

    monkeypatch.setattr(fusion, "apply", record)
    return names


# ------------------------------------------------------------------------------ stages


def test_stages_join_each_dense_layer_with_the_dropout_after_it():
    dense, dropout, second, drop_second, last = stack()
    found = stages([dense, dropout, second, drop_second, last])
    assert found == [DenseThenDropout(dense, dropout), DenseThenDropout(second, drop_second), last]


@pytest.mark.parametrize(
    "apart",
    [
        list,
        lambda: [layers.Dropout(0.5), layers.Dense(2)],
        lambda: [layers.Dense(2), layers.ReLU(), layers.Dropout(0.5)],
        lambda: [layers.Dense(2), MyDropout(0.5)],
        lambda: [MyDense(2), layers.Dropout(0.5)],
        lambda: [layers.Dense(2), layers.Dense(2)],
    ],
)
def test_stages_leave_other_neighbours_apart(apart):
    given = apart()
    assert stages(given) == given


def test_stages_join_only_the_first_of_two_dropouts():
    dense, first, second = layers.Dense(2), layers.Dropout(0.5), layers.Dropout(0.5)
    assert stages([dense, first, second]) == [DenseThenDropout(dense, first), second]


def test_stages_keep_the_given_list():
    given = [layers.Dense(2), layers.Dropout(0.5)]
    stages(given)
    assert len(given) == 2


# ------------------------------------------------------------------------------ DenseThenDropout


def pair(device="cpu", dtype="float32", activation="relu", rate=0.3, scaling="train", bias=True):
    """Return a dense layer and dropout, built in a model for X."""
    dense = layers.Dense(67, activation=activation, use_bias=bias, bias_initializer="ones")
    dropout = layers.Dropout(rate, scaling=scaling)
    models.Sequential([dense, dropout], device=device, dtype=dtype, seed=SEED)(X)
    return dense, dropout


def outcome(function, dense, x):
    """Return the value of a training step, and the gradients of input, weight and bias."""
    x = Tensor(x, dense.weight.device, requires_grad=True)
    with minidl.training(step=4, row_offset=9):
        y = function(x)
    gradient = np.random.default_rng(2).normal(size=y.shape).astype(y.dtype)
    y.backward(y.backend.asarray(gradient))
    found = [y, x.grad, *(parameter.grad for parameter in dense.parameters())]
    for parameter in dense.parameters():
        parameter.grad = None
    return [tensor.numpy() for tensor in found]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("scaling", ["train", "inference"])
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_dense_then_dropout_equals_both_layers(activation, scaling, rate, dtype, device, applied):
    dense, dropout = pair(device, dtype, activation, rate, scaling)
    x = X[:5].astype(dtype)
    expected = outcome(lambda x: dropout(dense(x)), dense, x)
    assert applied == []
    received = outcome(DenseThenDropout(dense, dropout), dense, x)
    assert applied == ["dense"]
    for mine, theirs in zip(received, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs, strict=True)


def test_dense_then_dropout_has_the_mask_of_the_address(device, applied):
    dense, dropout = pair(device, activation="linear")
    with minidl.training(step=4, row_offset=9):
        y = DenseThenDropout(dense, dropout)(Tensor(X.astype("float32"), device))
    assert applied == ["dense"]
    mask = rng.keep_mask((40, 67), 0.3, seed=SEED, stream=0, step=4, row_offset=9)
    np.testing.assert_array_equal(y.numpy() != 0, mask)
    assert dropout.step == 5


def pair_with(unbuilt):
    """Return a pair of which one layer, or both, are not built."""
    dense = layers.Dense(67, activation="relu", kernel_initializer="ones")
    dropout = layers.Dropout(0.3, seed=0)
    if unbuilt == "dropout":
        dense(Tensor(X.astype("float32")))
    if unbuilt == "dense":
        dropout(Tensor(X.astype("float32")))
    return dense, dropout


@pytest.mark.parametrize(
    ("make", "x"),
    [
        pytest.param(lambda: pair(rate=0.0), X.astype("float32"), id="rate 0"),
        pytest.param(lambda: pair(activation="tanh"), X.astype("float32"), id="activation"),
        pytest.param(lambda: pair(bias=False), X.astype("float32"), id="no bias"),
        pytest.param(lambda: pair(dtype="float16"), X.astype("float16"), id="float16"),
        pytest.param(pair, X, id="other dtype"),
        pytest.param(pair, X.astype("float32").reshape(4, 10, 70), id="three axes"),
        *(
            pytest.param(
                lambda name=name: pair_with(name), X.astype("float32"), id=f"unbuilt {name}"
            )
            for name in ("dense", "dropout", "both")
        ),
    ],
)
def test_dense_then_dropout_calls_both_layers_if_one_operation_is_impossible(make, x, applied):
    dense, dropout = make()
    with minidl.training(step=0):
        y = DenseThenDropout(dense, dropout)(Tensor(x))
    with minidl.training(step=0):
        expected = dropout(dense(Tensor(x)))
    assert applied == []
    np.testing.assert_array_equal(y.numpy(), expected.numpy())


def test_dense_then_dropout_in_inference_draws_nothing(device, applied):
    dense, dropout = pair(device)
    x = Tensor(X.astype("float32"), device)
    y = DenseThenDropout(dense, dropout)(x)
    np.testing.assert_array_equal(y.numpy(), dense(x).numpy())
    assert (applied, dropout.step) == ([], 0)


def test_dense_then_dropout_checks_its_input():
    dense, dropout = pair()
    with (
        minidl.training(step=0),
        pytest.raises(ValueError, match=r"^dense: expected 70 features.*\(40, 5\)"),
    ):
        DenseThenDropout(dense, dropout)(Tensor(X[:, :5].astype("float32")))
    assert dropout.step == 0


# ------------------------------------------------------------------------------ Plan: the feed


def plan_of(
    stack, x=X, y=LABELS, weight=None, loss=None, metrics=(), device="cpu", dtype="float32"
):
    """Return the plan of a model that is built for the samples."""
    model = models.Sequential(stack, seed=SEED, dtype=dtype, device=device)
    if stack:
        model(x[:2])
    samples = Samples(x, y, weight)
    return Plan(model.layers, get_backend(device), np.dtype(dtype), samples, loss, metrics)


IMAGES = np.random.default_rng(3).integers(0, 256, (6, 4, 5)).astype("uint8")


@pytest.mark.parametrize(
    ("first", "count"),
    [
        (lambda: [layers.Rescaling(1 / 255, 0.5), layers.Flatten()], 2),
        (lambda: [layers.Rescaling(1 / 255)], 1),
        (lambda: [layers.Flatten()], 1),
        (lambda: [layers.Rescaling(1 / 255), layers.Rescaling(3.0), layers.Flatten()], 1),
        (lambda: [layers.Flatten(), layers.Rescaling(1 / 255)], 1),
        (lambda: [layers.ReLU(), layers.Rescaling(1 / 255)], 0),
        (lambda: [type("MyFlatten", (layers.Flatten,), {})()], 0),
        (lambda: [type("MyRescaling", (layers.Rescaling,), {})(2.0), layers.Flatten()], 0),
        (list, 0),
    ],
)
def test_feed_computes_first_layers(first, count, device):
    given = first()
    plan = plan_of([*given, layers.ReLU()], IMAGES, y=None, device=device)
    assert plan.layers == [*given[count:], *plan.layers[-1:]]
    batch = next(plan.feed.batches(4))
    expected = Tensor(IMAGES[:4].astype("float32"), device)
    for layer in given[:count]:
        expected = layer(expected)
    np.testing.assert_allclose(batch.x.numpy(), expected.numpy(), rtol=1e-6)
    assert batch.x.shape == expected.shape


def test_plan_without_layers_returns_its_input():
    plan = plan_of([])
    batch = next(plan.feed.batches(4))
    assert plan.outputs(batch) is batch.x


# ------------------------------------------------------------------------------ Plan: classifiers

ACCURACIES = [metrics.Accuracy("a"), metrics.SparseCategoricalAccuracy("b")]
CROSS_ENTROPY = losses.SparseCategoricalCrossentropy()


def classifier(**arguments):
    return [layers.Dense(3, activation="softmax", **arguments)]


FORBIDDEN = {
    "subclass of Dense": (lambda: [MyDense(3, activation="softmax")], {}),
    "other layer": (lambda: [layers.Dense(3), layers.Softmax()], {}),
    "other activation": (lambda: [layers.Dense(3, activation="sigmoid")], {}),
    "sample weights": (classifier, {"weight": np.ones(40)}),
    "labels in a column": (classifier, {"y": LABELS[:, None]}),
    "subclass of loss": (classifier, {"loss": MyLoss()}),
    "other loss": (classifier, {"loss": losses.MeanSquaredError()}),
    "logits": (classifier, {"loss": losses.SparseCategoricalCrossentropy(from_logits=True)}),
    "other metric": (
        classifier,
        {"metrics": [metrics.Accuracy("a"), metrics.CategoricalAccuracy("b")]},
    ),
}


def test_classifier_with_its_loss_and_accuracies_is_one_operation(device, applied):
    plan = plan_of(classifier(), loss=CROSS_ENTROPY, metrics=ACCURACIES, device=device)
    assert plan.columns == {"loss": 0, "a": 1, "b": 1}
    loss, sums, counts, _ = plan.compare(next(plan.feed.batches(16)))
    assert applied == ["dense_cross_entropy"]
    assert (loss.shape, sums.shape, counts) == ((), (2,), (16, 16))


def test_classifier_without_metrics_is_one_operation(applied):
    plan = plan_of(classifier(), loss=CROSS_ENTROPY)
    assert plan.columns == {"loss": 0}
    loss, sums, counts, _ = plan.compare(next(plan.feed.batches(16)))
    assert applied == ["dense_cross_entropy"]
    assert (sums.shape, counts, loss.item()) == ((1,), (16,), sums[0])


@pytest.mark.parametrize("case", FORBIDDEN)
def test_plan_does_not_fuse_classifier(case):
    make, options = FORBIDDEN[case]
    plan = plan_of(make(), **{"loss": CROSS_ENTROPY, "metrics": ACCURACIES} | options)
    assert plan.columns == {"loss": 0, "a": 1, "b": 2}


def test_classifier_that_is_not_built_is_not_fused():
    samples = Samples(X, LABELS)
    backend, dtype = get_backend("cpu"), np.dtype("float32")
    plan = Plan(classifier(), backend, dtype, samples, CROSS_ENTROPY, ACCURACIES)
    assert plan.columns == {"loss": 0, "a": 1, "b": 2}


def test_plan_without_targets_is_not_fused():
    plan = plan_of(classifier(), y=None, loss=CROSS_ENTROPY, metrics=ACCURACIES)
    assert plan.columns == {"loss": 0, "a": 1, "b": 2}


def test_plan_without_loss_returns_outputs():
    plan = plan_of(classifier(), y=None)
    assert plan.columns == {"loss": 0}
    assert plan.outputs(next(plan.feed.batches(16))).logits is not None


def test_set_comparison_plans_anew(applied):
    plan = plan_of(classifier(), loss=CROSS_ENTROPY, metrics=ACCURACIES)
    batch = next(plan.feed.batches(16))
    plan.set_comparison(MyLoss(), [metrics.Accuracy()])
    assert plan.columns == {"loss": 0, "accuracy": 1}
    plan.compare(batch)
    assert applied == []
    plan.set_comparison(CROSS_ENTROPY, [])
    assert plan.columns == {"loss": 0}
    plan.compare(batch)
    assert applied == ["dense_cross_entropy"]


class Float64(layers.Layer):
    """A layer whose outputs are float64, as a NumPy array in it makes them."""

    def call(self, x):
        return x * Tensor(np.linspace(1, 2, x.shape[-1]), x.device)


@pytest.mark.parametrize(
    ("make", "dtype", "expected"),
    [
        pytest.param(lambda: [Float64(), *classifier()], "float32", "float64", id="other dtype"),
        pytest.param(lambda: classifier(use_bias=False), "float32", "float32", id="no bias"),
        pytest.param(classifier, "float16", "float16", id="float16"),
    ],
)
def test_classifier_that_one_operation_cannot_compute_is_computed_apart(
    make, dtype, expected, device, applied
):
    plan = plan_of(make(), loss=CROSS_ENTROPY, metrics=ACCURACIES, device=device, dtype=dtype)
    assert plan.columns == {"loss": 0, "a": 1, "b": 1}
    loss, sums, counts, _ = plan.compare(next(plan.feed.batches(16)))
    assert applied == []
    assert (loss.dtype, sums.shape, counts) == (expected, (2,), (16, 16))


def test_classifier_checks_its_input():
    plan = plan_of(classifier(), loss=CROSS_ENTROPY)
    batch = next(plan.feed.batches(16))
    batch.x = batch.x[:, :5]
    with pytest.raises(ValueError, match=r"^dense: expected 70 features.*\(16, 5\)"):
        plan.compare(batch)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_comparison_of_fused_classifier_equals_that_of_separate_operations(
    dtype, tolerance, device, applied
):
    options = {"metrics": ACCURACIES, "device": device, "dtype": dtype}
    results = []
    for loss_function in (CROSS_ENTROPY, MyLoss()):
        plan = plan_of(stack(), loss=loss_function, **options)
        with minidl.training(step=2):
            loss, sums, counts, _ = plan.compare(next(plan.feed.batches(16)))
        loss.backward()
        weights = [p for layer in plan.layers for p in layer.parameters()]
        columns = [plan.columns[name] for name in ("loss", "a", "b")]
        totals = loss.backend.to_numpy(sums)[columns]
        results.append([totals, [counts[c] for c in columns], *(p.grad.numpy() for p in weights)])
    assert applied == ["dense", "dense", "dense_cross_entropy", "dense", "dense"]
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


def test_outputs_of_fused_classifier_are_those_of_its_layers(device):
    plan = plan_of(stack(), loss=CROSS_ENTROPY, metrics=ACCURACIES, device=device)
    batch = next(plan.feed.batches(16))
    x = batch.x
    for layer in plan.layers:
        x = layer(x)
    np.testing.assert_array_equal(plan.outputs(batch).numpy(), x.numpy())


def test_loss_of_outputs_uses_sample_weights():
    weight = np.linspace(0, 2, 40)
    plan = plan_of(classifier(), weight=weight, loss=CROSS_ENTROPY)
    batch = next(plan.feed.batches(16))
    outputs = plan.outputs(batch)
    expected = CROSS_ENTROPY(LABELS[:16], outputs, weight[:16]).item()
    assert plan.loss_of(outputs, batch).item() == pytest.approx(expected, rel=1e-6)
    assert plan.compare(batch)[0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("use", ["outputs", "compare"])
def test_batch_size_is_declared_for_row_offsets(use):
    plan = plan_of(
        [layers.Activation(lambda x: x.T), layers.Dropout(0.5), layers.Activation(lambda x: x.T)],
        y=X,
        loss=losses.MeanSquaredError(),
    )
    batch = next(plan.feed.batches(16))
    with (
        minidl.training(step=0, row_offset=0),
        pytest.raises(ValueError, match=r"row_offset: .*16 samples.*70 rows"),
    ):
        getattr(plan, use)(batch)


# ------------------------------------------------------------------------------ training


class Apart(models.Model):
    """A model that calls the layers of a `Sequential` one by one."""

    def __init__(self, stack, **arguments):
        super().__init__(**arguments)
        self.stack = stack

    def call(self, x):
        for layer in self.stack:
            x = layer(x)
        return x


def trained(kind, device="cpu", dtype="float32", *, x=X, is_weighted=False, first=(), **options):
    """Return a trained model; sample weights keep the last layer and the loss apart."""
    model = kind([*first, *stack(**options)], seed=SEED, dtype=dtype, device=device)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    weight = np.ones(len(x)) if is_weighted else None
    model.fit(x, LABELS[: len(x)], batch_size=16, verbose=0, sample_weight=weight)
    return model


OPTIONS = [
    {},
    {"activation": "linear"},
    {"scaling": "inference"},
    {"rate": 0.0},
    {"rate": 1.0},
    {"activation": "tanh"},
]


def check_training_apart(device, dtype, **options):
    fused = trained(models.Sequential, device, dtype, is_weighted=True, **options)
    apart = trained(Apart, device, dtype, is_weighted=True, **options)
    for mine, theirs in zip(fused.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert [repr(s) for s in fused.streams()] == [repr(s) for s in apart.streams()]


def test_fused_training_equals_separate_layers_bit_for_bit(device, applied):
    check_training_apart(device, "float32")
    assert applied.count("dense") == 2 * 3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS)
def test_fused_training_of_all_options_equals_separate_layers_bit_for_bit(options, dtype, device):
    check_training_apart(device, dtype, **options)


def check_classifier_training(device, dtype, tolerance, applied):
    fused = trained(models.Sequential, device, dtype, x=X[:24])
    assert applied.count("dense_cross_entropy") == 2
    apart = trained(Apart, device, dtype, x=X[:24])
    assert applied.count("dense_cross_entropy") == 2
    for name, values in apart.history.history.items():
        np.testing.assert_allclose(fused.history.history[name], values, rtol=tolerance)
    for mine, theirs in zip(fused.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)
    results = [model.evaluate(X[:24], LABELS[:24], verbose=0) for model in (fused, apart)]
    np.testing.assert_allclose(*results, rtol=tolerance)


def test_fused_classifier_trains_as_separate_layers(device, applied):
    check_classifier_training(device, "float32", 1e-3, applied)


def test_fused_classifier_in_float64_trains_as_separate_layers(applied):
    check_classifier_training("cpu", "float64", 1e-9, applied)


def test_model_that_begins_with_rescaling_trains_as_separate_layers(device):
    images = np.random.default_rng(3).integers(0, 256, (24, 7, 10)).astype("uint8")
    whole, apart = (
        trained(
            kind,
            device,
            x=images,
            is_weighted=True,
            first=[layers.Rescaling(1 / 255, 0.5), layers.Flatten()],
        )
        for kind in (models.Sequential, Apart)
    )
    for mine, theirs in zip(whole.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(whole.predict(images), apart.predict(images))


class Halved(models.Sequential):
    """A subclass with its own call, which must run."""

    def call(self, x):
        return super().call(x * 0.5)


def test_subclass_with_its_own_call_is_not_bypassed():
    half = trained(Halved, is_weighted=True, first=[layers.Rescaling(2.0)])
    whole = trained(models.Sequential, is_weighted=True)
    for mine, theirs in zip(half.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(half.predict(X), whole.predict(X))


class Outside(models.Sequential):
    """A subclass with its own `__call__`, which must run."""

    def __call__(self, x):
        return super().__call__(x) * 0.5


def test_subclass_with_its_own_dunder_call_is_not_bypassed():
    model = Outside(stack(), seed=SEED)
    expected = model(X.astype("float32")).numpy()  # of one batch: the sums of two round otherwise
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-5)


def test_model_with_tensors_of_another_dtype_is_trained(device):
    model = models.Sequential([*stack()[:-1], Float64(), stack()[-1]], seed=SEED, device=device)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(X, LABELS, batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert {p.dtype for p in model.parameters()} == {np.dtype("float32")}


@pytest.mark.parametrize("name", ["accuracy", "sparse_categorical_accuracy"])
def test_accuracy_of_one_output_is_not_that_of_a_classifier(name):
    model = models.Sequential([layers.Dense(1, activation="softmax", input_shape=(70,))])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[name])
    # The output is always 1. As in Keras, "accuracy" of one output compares it with the target.
    expected = 1 if name.startswith("sparse") else 0
    assert model.evaluate(X, LABELS * 0, verbose=0) == [0, expected]
