"""Programs as a Keras user writes them: two classes, several labels, and numbers."""

import numpy as np
import pytest

from minidl import callbacks, layers, losses, metrics, models, optimizers

STATE = np.random.RandomState(0)
X = STATE.normal(size=(400, 8)).astype("float32")
HIDDEN = X @ STATE.normal(size=(8, 3)).astype("float32")


@pytest.mark.slow_on("cuda-double")
def test_binary_classification_learns_and_reports(device):
    y = (HIDDEN[:, 0] > 0.5).astype("float32")
    model = models.Sequential(
        [
            layers.Dense(16, activation="relu", input_shape=(8,)),
            layers.Dropout(0.2),
            layers.Dense(1, activation="sigmoid"),
        ],
        device=device,
    )
    model.compile(
        optimizer=optimizers.Adam(0.01),
        loss="binary_crossentropy",
        metrics=["accuracy", metrics.Precision(), metrics.Recall(), metrics.AUC(name="area")],
    )
    history = model.fit(
        X,
        y,
        batch_size=32,
        epochs=8,
        validation_split=0.2,
        class_weight={0: 1.0, 1: 2.0},
        callbacks=[callbacks.EarlyStopping("val_area", patience=8, mode="max")],
        verbose=0,
    ).history
    names = ["loss", "accuracy", "precision", "recall", "area"]
    assert list(history) == [*names, *(f"val_{name}" for name in names)]
    assert history["loss"][-1] < history["loss"][0] / 2
    loss, accuracy, precision, recall, area = model.evaluate(X, y, verbose=0)
    p = model.predict(X, verbose=0)[:, 0].astype("float64")
    positive, true = p > 0.5, y > 0
    assert loss == pytest.approx(-np.log(np.where(true, p, 1 - p)).mean(), rel=1e-4)
    assert accuracy == (positive == true).mean() > 0.9
    assert precision == (positive & true).sum() / positive.sum()
    assert recall == (positive & true).sum() / true.sum()
    assert area > 0.95


@pytest.mark.slow_on("cuda-double")
def test_labels_that_hold_together_are_learnt(device):
    y = (HIDDEN > [0, 1, -1]).astype(int)
    model = models.Sequential(
        [
            layers.Dense(16, activation="relu", input_shape=(8,)),
            layers.Dense(3, activation="sigmoid"),
        ],
        device=device,
    )
    model.compile(
        optimizers.Adam(0.01),
        losses.BinaryCrossentropy(label_smoothing=0.02),
        metrics=["binary_accuracy", metrics.F1Score(average="macro", threshold=0.5)],
    )
    model.fit(X, y, epochs=15, verbose=0)
    found = model.evaluate(X, y, verbose=0, return_dict=True)
    positive = model.predict(X, verbose=0) > 0.5
    assert found["binary_accuracy"] == pytest.approx((positive == y).mean())
    assert found["binary_accuracy"] > 0.85
    hits = 2 * (positive & (y > 0)).sum(axis=0) / (positive.sum(axis=0) + y.sum(axis=0))
    assert found["f1_score"] == pytest.approx(hits.mean())


@pytest.mark.slow_on("cuda-double")
def test_regression_with_own_functions_learns(device):
    def relative_error(y_true, y_pred):
        return ((y_true - y_pred) ** 2).mean(axis=-1) / ((y_true**2).mean(axis=-1) + 1)

    y = HIDDEN[:, 1] * 2 + 1
    model = models.Sequential(
        [layers.Dense(16, activation="tanh", input_shape=(8,)), layers.Dense(1)], device=device
    )
    weights = 1 + (y > 0)
    for loss in (losses.Huber(delta=2.0), "mae", relative_error):
        model.compile(
            optimizers.Adam(0.01),
            loss,
            metrics=["mse", metrics.RootMeanSquaredError(), relative_error],
            weighted_metrics=["mae", "mse"],
        )
        history = model.fit(X, y, sample_weight=weights, epochs=6, verbose=0).history
        names = ["loss", "mse", "root_mean_squared_error", "relative_error", "mae", "weighted_mse"]
        assert list(history) == names
        assert history["loss"][-1] < history["loss"][0]
    found = model.evaluate(X, y, sample_weight=weights, verbose=0, return_dict=True)
    error = model.predict(X, verbose=0)[:, 0] - y
    expected = [
        (weights * error**2 / (y**2 + 1)).mean(),
        (error**2).mean(),
        (error**2).mean() ** 0.5,
        (error**2 / (y**2 + 1)).mean(),
        (weights * abs(error)).sum() / weights.sum(),
        (weights * error**2).sum() / weights.sum(),
    ]
    assert found == {n: pytest.approx(v, rel=1e-4) for n, v in zip(names, expected, strict=True)}
