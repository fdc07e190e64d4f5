"""Weights of classes and samples, and losses and metrics that are functions, in `fit`."""

import numpy as np
import pytest
from recorded_runs import RARE
from small_models import LABELS, TARGETS, X, bits, classifier, regressor

from minidl import layers, losses, metrics, models
from minidl.callbacks import Callback, ModelCheckpoint
from minidl.distributed import DataParallel
from minidl.optimizers import SGD

WEIGHTS = np.random.RandomState(1).random_sample(50) * 2
CLASS_WEIGHT = {0: 2.0, 2: 0.5}
QUIET = {"batch_size": 8, "verbose": 0}


def cubed(y_true, y_pred):
    return (((y_pred - y_true) ** 2).mean(axis=-1) + 1) ** 1.5


def bias(y_true, y_pred):
    return (y_pred - y_true).mean(axis=-1)


# ------------------------------------------------------------------------------ classes


@pytest.mark.slow_on("cuda-double")
@pytest.mark.parametrize(
    "y", [LABELS, LABELS[:, None], LABELS.astype("float32"), np.eye(3)[LABELS]]
)
def test_class_weight_is_the_sample_weight_of_each_class(y, device):
    loss = "categorical_crossentropy" if y.shape[1:] == (3,) else "sparse_categorical_crossentropy"
    expected, found = classifier(device=device), classifier(device=device)
    for model in (expected, found):
        model.compile(SGD(0.1), loss, metrics=["accuracy"])
    weights = np.array([2.0, 1.0, 0.5])[LABELS]
    by_sample = expected.fit(X, y, sample_weight=weights, **QUIET).history
    assert found.fit(X, y, class_weight=CLASS_WEIGHT, **QUIET).history == by_sample
    assert bits(found) == bits(expected)


def test_class_weight_does_not_weigh_the_validation():
    model = classifier()
    logged = model.fit(X, LABELS, validation_split=0.4, class_weight={0: 9.0}, **QUIET).history
    assert logged["val_loss"] == [pytest.approx(model.evaluate(X[30:], LABELS[30:], verbose=0)[0])]


def test_class_weight_of_labels_that_are_no_classes_is_rejected():
    model = models.Sequential([layers.Dense(1, input_shape=(6,))])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"^fit: class_weight: expected class numbers"):
        model.fit(X, TARGETS[:, 0], class_weight={0: 2.0}, verbose=0)
    for weight, error in (({0: -1.0}, ValueError), ({0: "a"}, TypeError)):
        with pytest.raises(error, match=r"^fit: expected class_weight\[0\] in \[0, inf\)"):
            model.fit(X, LABELS, class_weight=weight, verbose=0)
    with pytest.raises(ValueError, match=r"^fit: class_weight: a class: expected an integer"):
        model.fit(X, LABELS, class_weight={"a": 1.0}, verbose=0)


# ------------------------------------------------------------------------------ metrics


def weighted(**arguments):
    """Return a regression with metrics of both kinds."""
    model = regressor(SGD(0.01, momentum=0.9), **arguments)
    model.compile(
        model.optimizer,
        "mse",
        metrics=["mae", bias],
        weighted_metrics=["mae", metrics.RootMeanSquaredError("rmse"), bias, "mse"],
    )
    return model


NAMES = ["loss", "mae", "bias", "weighted_mae", "rmse", "weighted_bias", "mse"]


def test_only_weighted_metrics_get_the_weights(device):
    model = weighted(device=device, dtype="float64")
    found = model.evaluate(X, TARGETS, 8, sample_weight=WEIGHTS, return_dict=True, verbose=0)
    error = model.predict(X, verbose=0) - TARGETS
    mean, square = abs(error).mean(axis=1), (error**2).mean(axis=1)
    share = WEIGHTS / WEIGHTS.sum()
    values = [
        *((WEIGHTS * square).mean(), mean.mean(), error.mean()),
        *(share @ mean, (share @ square) ** 0.5, share @ error.mean(axis=1), share @ square),
    ]
    assert found == {n: pytest.approx(v, rel=1e-6) for n, v in zip(NAMES, values, strict=True)}


def test_weighted_metrics_without_weights_are_those_of_the_samples():
    found = weighted().evaluate(X, TARGETS, return_dict=True, verbose=0)
    assert found["weighted_mae"] == pytest.approx(found["mae"])
    assert found["rmse"] == pytest.approx(found["loss"] ** 0.5)


def test_compile_rejects_weighted_metrics_of_one_name():
    with pytest.raises(ValueError, match=r"^compile: expected metrics with unique names"):
        regressor().compile("sgd", "mse", weighted_metrics=["mae", "mae"])
    with pytest.raises(TypeError, match=r"^compile: expected weighted_metrics to be a list"):
        regressor().compile("sgd", "mse", weighted_metrics="mae")


class Breaks(Callback):
    """Interrupt a run at a step, once."""

    comes_last = True

    def on_train_batch_end(self, batch, logs):
        if self.model.step == 10:
            raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["from a file", pytest.param("in the process", marks=RARE)])
def test_run_with_weighted_metrics_and_functions_is_resumed(way, device, tmp_path):
    whole, model = weighted(device=device), weighted(device=device)
    for each in (whole, model):
        each.compile(each.optimizer, cubed, metrics=[*each.metrics, metrics.AUC()])
    options = {"sample_weight": WEIGHTS, "epochs": 3, **QUIET}
    y = (TARGETS > 0).astype(float)
    expected = whole.fit(X, y, **options).history
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, callbacks=[ModelCheckpoint(tmp_path, every_steps=1), Breaks()], **options)
    if way == "from a file":
        path = tmp_path / "step-0000000010.safetensors"
        model = models.load(path, device, custom_objects=[cubed, bias])
        assert model.loss.function is cubed
    assert model.fit(X, y, resume=True, **options).history == expected
    assert bits(model) == bits(whole)


# ------------------------------------------------------------------------------ functions


def test_function_as_loss_trains_as_the_loss_of_its_formula(device):
    expected, found = regressor(device=device), regressor(device=device)
    found.compile("sgd", lambda y_true, y_pred: ((y_pred - y_true) ** 2).mean(axis=-1))
    by_name = expected.fit(X, TARGETS, **QUIET).history
    assert found.fit(X, TARGETS, **QUIET).history == by_name
    assert bits(found) == bits(expected)


@pytest.mark.parametrize("custom_objects", [[], [cubed], [bias, type("cubed", (losses.Loss,), {})]])
def test_file_with_functions_needs_them_as_custom_objects(custom_objects, tmp_path):
    model = regressor()
    model.compile("sgd", cubed, metrics=[bias])
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"expected a function of custom_objects, got .*(cubed|bias)"
    ):
        models.load(tmp_path / "model.safetensors", custom_objects=custom_objects)


def test_function_is_recorded_if_it_declares_it(device, backend):
    def plain(y_true, y_pred):
        return y_pred - y_true

    def recordable(y_true, y_pred):
        return y_pred - y_true

    recordable.recordable = True
    for function, is_refused in ((plain, True), (recordable, False)):
        model = regressor(device=device)
        model.compile("sgd", "mse", metrics=[function])
        model.fit(X, TARGETS, batch_size=10, verbose=0)
        refusal = f"{function.__name__} does not declare recordable = True"
        assert (model.recording.reason == refusal) == is_refused


@pytest.mark.slow_on("cuda-double")
@pytest.mark.parametrize(
    ("loss", "activation", "names"),
    [
        ("binary_crossentropy", "sigmoid", ["accuracy", "top_k_categorical_accuracy"]),
        ("huber", None, ["mae", "mse"]),
    ],
)
def test_recorded_steps_have_the_numbers_of_eager_ones(loss, activation, names, device):
    eager, recorded = (
        models.Sequential([layers.Dense(2, activation, input_shape=(6,))], device=device)
        for _ in range(2)
    )
    y = (TARGETS > 0).astype(float)
    for model, record in ((eager, False), (recorded, True)):
        model.compile("adam", loss, metrics=names)
        model.fit(X, y, batch_size=10, epochs=2, record=record, verbose=0)
    assert recorded.history.history == eager.history.history
    assert bits(recorded) == bits(eager)
    assert (recorded.recording.replays > 0) == (device != "cpu")


# ------------------------------------------------------------------------------ reductions


def test_sum_multiplies_the_gradient_and_the_logged_loss(device):
    mean, total = regressor(SGD(0.08), device=device), regressor(SGD(0.01), device=device)
    total.compile(total.optimizer, losses.MeanSquaredError(reduction="sum"))
    first, second = (m.fit(X[:48], TARGETS[:48], **QUIET).history for m in (mean, total))
    np.testing.assert_allclose(second["loss"], np.multiply(first["loss"], 8), rtol=1e-5)
    for a, b in zip(mean.get_weights(), total.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_sum_is_also_that_of_a_classifier():
    model = classifier()
    mean = model.evaluate(X, LABELS, 50, verbose=0)[0]
    model.compile("sgd", losses.SparseCategoricalCrossentropy(reduction="sum"))
    assert model.evaluate(X, LABELS, 50, verbose=0) == pytest.approx(50 * mean, rel=1e-5)


# ------------------------------------------------------------------------------ shared runs


def test_shared_run_weighs_samples_and_metrics_as_one_process():
    plain, shared = weighted(dtype="float64"), weighted(dtype="float64")
    options = {"sample_weight": WEIGHTS, "validation_data": (X, TARGETS, WEIGHTS), **QUIET}
    expected = plain.fit(X, TARGETS, **options).history
    found = shared.fit(X, TARGETS, distribution=DataParallel(shards=4), **options).history
    assert found == {name: pytest.approx(values) for name, values in expected.items()}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (losses.MeanSquaredError(reduction="sum"), r"MeanSquaredError, with reduction='sum'"),
        (lambda y, p: ((y - p) ** 2).mean(), r"FunctionLoss, whose function returns one number"),
    ],
)
def test_shared_run_rejects_loss_that_is_no_mean(loss, message):
    model = regressor()
    model.compile("sgd", loss)
    before = bits(model)
    with pytest.raises(ValueError, match=f"^fit: expected a loss that is the mean .*{message}"):
        model.fit(X, TARGETS, distribution=DataParallel(shards=4), **QUIET)
    assert bits(model) == before


def test_shared_run_accepts_function_of_each_sample():
    expected, found = regressor(dtype="float64"), regressor(dtype="float64")
    for model, distribution in ((expected, None), (found, DataParallel(shards=4))):
        model.compile("sgd", cubed)
        model.fit(X, TARGETS, distribution=distribution, **QUIET)
    for a, b in zip(expected.get_weights(), found.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
