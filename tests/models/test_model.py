"""Model: compile, fit, evaluate and predict."""

import copy
import pickle
import re
import tracemalloc

import numpy as np
import pytest
from small_models import LABELS, TARGETS, Watch, X, bits, classifier, regressor

import minidl
from minidl import layers, losses, metrics, models, optimizers, rng
from minidl.callbacks import Callback
from minidl.optimizers import SGD, Adam

# ------------------------------------------------------------------------------ equal bits


def test_fit_with_one_seed_returns_equal_bits_and_another_seed_others(device):
    def trained(seed):
        model = classifier(seed, device=device)
        history = model.fit(X[:16], LABELS[:16], batch_size=8, epochs=2, verbose=0)
        return bits(model), history.history

    first, again, other = trained(1), trained(1), trained(2)
    assert first == again
    assert not any(a == b for a, b in zip(first[0], other[0], strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_equals_a_hand_written_loop(shuffle, device):
    x, labels = X[:22], LABELS[:22]
    fitted = classifier(device=device)
    fitted.fit(x, labels, batch_size=8, epochs=2, shuffle=shuffle, verbose=0)

    model, step = classifier(device=device), 0
    loss, optimizer = losses.SparseCategoricalCrossentropy(), SGD(0.1, momentum=0.9)
    for epoch in range(2):
        order = rng.permutation(22, seed=1, epoch=epoch) if shuffle else np.arange(22)
        for start in range(0, 22, 8):
            rows = order[start : start + 8]
            with minidl.training(step=step):
                error = loss(labels[rows], model(x[rows]))
            error.backward()
            optimizer.update(model.parameters())
            step += 1
    assert step == fitted.step == 6
    for mine, theirs in zip(model.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)  # fit fuses the loss


def test_hand_written_loop_with_other_steps_gets_other_weights():
    def trained(first_step):
        model = classifier()
        optimizer = SGD(0.1)
        for step in range(first_step, first_step + 3):
            with minidl.training(step=step):
                error = model.loss(LABELS, model(X))
            error.backward()
            optimizer.update(model.parameters())
        return bits(model)

    assert trained(0) == trained(0)
    assert trained(0) != trained(1)


@pytest.mark.parametrize("cuts", [(8, 8), (1, 2, 13)])
def test_micro_batches_get_masks_and_gradients_of_the_whole_batch(cuts, device):
    def gradients(cuts, offsets=True):
        watches = Watch(), Watch()
        model = models.Sequential(
            [
                layers.Dense(16, activation="sigmoid", input_shape=(6,)),
                layers.Dropout(0.25),
                watches[0],
                layers.Dense(12, activation="sigmoid"),
                layers.Dropout(0.5),
                watches[1],
                layers.Dense(3, activation="softmax"),
            ],
            device=device,
            dtype="float64",
        )
        loss, start = losses.SparseCategoricalCrossentropy(), 0
        for watch in watches:
            watch.seen.clear()
        for rows in cuts:
            place = slice(start, start + rows)
            with minidl.training(step=9, row_offset=start if offsets else None):
                part = loss(LABELS[place], model(X[place])) * (rows / sum(cuts))
            part.backward()
            start += rows
        masks = [np.concatenate(watch.seen) != 0 for watch in watches]
        return masks, [p.grad.numpy() for p in model.parameters()]

    whole_masks, whole = gradients((16,))
    masks, summed = gradients(cuts)
    assert all(np.array_equal(a, b) for a, b in zip(masks, whole_masks, strict=True))
    for a, b in zip(summed, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)

    other_masks, _ = gradients(cuts, offsets=False)
    assert not any(np.array_equal(a, b) for a, b in zip(other_masks, whole_masks, strict=True))


def test_micro_batches_update_as_fit_does(device):
    x, labels = X[:20], LABELS[:20]
    fitted = classifier(dtype="float64", device=device)
    fitted.fit(x, labels, batch_size=20, epochs=2, shuffle=False, verbose=0)
    model = classifier(dtype="float64", device=device)
    optimizer = SGD(0.1, momentum=0.9)
    for step in range(2):
        for start in range(0, 20, 10):
            rows = slice(start, start + 10)
            with minidl.training(step=step, row_offset=start):
                part = model.loss(labels[rows], model(x[rows])) * 0.5
            part.backward()
        optimizer.update(model.parameters())
    for a, b in zip(model.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_two_fits_equal_one_long_fit():
    long, short = classifier(), classifier()
    long.fit(X, LABELS, epochs=4, verbose=0)
    short.fit(X, LABELS, epochs=2, verbose=0)
    short.fit(X, LABELS, epochs=4, initial_epoch=2, verbose=0)
    assert bits(long) == bits(short)
    assert (short.step, short.epoch) == (long.step, long.epoch) == (8, 4)


def test_evaluate_and_predict_do_not_change_training():
    model, plain = classifier(), classifier()
    for _ in range(2):
        model.fit(X, LABELS, verbose=0)
        model.evaluate(X, LABELS)
        model.predict(X)
        plain.fit(X, LABELS, verbose=0)
    assert bits(model) == bits(plain)


def test_validation_does_not_change_training():
    model, plain = classifier(), classifier()
    model.fit(X, LABELS, epochs=2, validation_data=(X, LABELS), verbose=0)
    plain.fit(X, LABELS, epochs=2, verbose=0)
    assert bits(model) == bits(plain)


def test_evaluate_and_predict_in_a_training_block_use_inference_mode():
    model = classifier()
    outside = model.predict(X), model.evaluate(X, LABELS)
    with minidl.training(step=0):
        assert np.array_equal(model.predict(X), outside[0])
        assert model.evaluate(X, LABELS) == outside[1]
        assert not np.array_equal(model(X).numpy(), outside[0])
    assert [layer.step for layer in model.layers if isinstance(layer, layers.Dropout)] == [1, 1]


# ------------------------------------------------------------------------------ compile


def test_compile_again_keeps_weights_and_counters():
    model = classifier()
    model.fit(X, LABELS, verbose=0)
    weights = bits(model)
    model.compile(Adam(0.01), "sparse_categorical_crossentropy")
    assert bits(model) == weights
    model.fit(X, LABELS, verbose=0)
    assert (model.step, model.epoch) == (4, 2)
    assert model.optimizer.iterations == 2


def test_compile_again_continues_masks_at_the_models_step():
    watch = Watch()
    model = models.Sequential([layers.Dropout(0.5), watch, layers.Dense(2)], seed=5)
    for step in range(3):
        model.compile("sgd", "mse")
        model.fit(X, TARGETS, batch_size=50, verbose=0)
        mask = rng.keep_mask((50, 6), 0.5, seed=5, stream=0, step=step)
        assert np.array_equal(watch.seen[-1] != 0, mask)


@pytest.mark.parametrize("name", ["run_eagerly", "loss_weights", "learning_rate"])
def test_compile_rejects_unknown_argument_and_changes_nothing(name):
    model = regressor()
    before = model.loss, model.optimizer
    with pytest.raises(TypeError, match=name):
        model.compile("adam", "mse", **{name: 1})
    assert (model.loss, model.optimizer) == before


@pytest.mark.parametrize("given", ["accuracy", metrics.Accuracy()])
def test_compile_rejects_metrics_that_are_not_a_list(given):
    with pytest.raises(TypeError, match="compile: expected metrics to be a list, got"):
        regressor().compile("sgd", "mse", metrics=given)


def test_compile_rejects_optimizer_class_and_loss_class():
    model = models.Sequential([layers.Dense(2)])
    with pytest.raises(ValueError, match=r"optimizer: expected an Optimizer .*Adam.*Use Adam\(\)"):
        model.compile(Adam, "mse")
    with pytest.raises(ValueError, match=r"loss: expected a Loss .*Huber.*Use Huber\(\)"):
        model.compile("adam", losses.Huber)


def test_compile_rejects_loss_that_is_not_reduced():
    model = regressor()
    before = model.loss
    with pytest.raises(ValueError, match=r"^compile: expected a loss that is one number.*None"):
        model.compile("adam", losses.MeanSquaredError(reduction=None))
    assert model.loss is before


def test_compile_rejects_missing_loss():
    with pytest.raises(ValueError, match=r"loss: expected a Loss .*got None"):
        models.Sequential([layers.Dense(2)]).compile("sgd")


class MetricNamedLoss(metrics.Metric):
    name = "loss"


@pytest.mark.parametrize("given", [["accuracy", "accuracy"], [MetricNamedLoss()]])
def test_compile_rejects_metrics_of_one_name_and_changes_nothing(given):
    model = classifier()
    before = model.loss, model.metrics, model.optimizer, model.train_state.logged
    with pytest.raises(ValueError, match="compile: expected metrics with unique names"):
        model.compile("adam", "mse", metrics=given)
    with pytest.raises(ValueError, match=r"optimizer: expected .* got 'bad'"):
        model.compile("bad", "mse")
    assert (model.loss, model.metrics, model.optimizer, model.train_state.logged) == before


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_uncompiled_model_rejects_fit_and_evaluate(method):
    model = models.Sequential([layers.Dense(2)])
    with pytest.raises(RuntimeError, match=rf"{method}: expected a compiled model.*model\.compile"):
        getattr(model, method)(X, TARGETS)


# ------------------------------------------------------------------------------ arguments of fit


def watched(**arguments):
    """Return a built model that keeps the inputs of its first layer, and their list."""
    watch = Watch()
    model = models.Sequential([watch, layers.Dense(2)], **arguments)
    model.compile("sgd", "mse")
    model.predict(X[:1])
    watch.seen.clear()
    return model, watch.seen


def test_batches_have_32_samples_by_default_and_the_last_is_smaller():
    model, seen = watched()
    model.fit(X, TARGETS, verbose=0)
    assert [len(x) for x in seen] == [32, 18]
    assert model.step == 2
    seen.clear()
    model.fit(X, TARGETS, batch_size=20, verbose=0)
    assert [len(x) for x in seen] == [20, 20, 10]
    seen.clear()
    model.predict(X)
    model.evaluate(X, TARGETS, batch_size=50)
    assert [len(x) for x in seen] == [32, 18, 50]


def test_batches_follow_the_permutation_of_seed_and_epoch():
    model, seen = watched(seed=4, dtype="float64")
    model.fit(X, TARGETS, batch_size=50, epochs=2, verbose=0)
    assert len(seen) == 2
    for epoch, x in enumerate(seen):
        assert np.array_equal(x, X[rng.permutation(50, seed=4, epoch=epoch)])


def test_batches_without_shuffle_keep_the_order_of_samples():
    model, seen = watched(dtype="float64")
    model.fit(X, TARGETS, epochs=2, shuffle=False, verbose=0)
    assert np.array_equal(np.concatenate(seen), np.concatenate([X, X]))


def test_validation_split_holds_out_the_last_samples_before_shuffling():
    model, seen = watched(dtype="float64")
    model.fit(X, TARGETS, batch_size=50, validation_split=0.3, verbose=0)
    train, held_out = seen
    assert np.array_equal(train, X[:35][rng.permutation(35, seed=0, epoch=0)])
    assert np.array_equal(held_out, X[35:])


def test_validation_equals_evaluation_after_each_epoch():
    model = classifier()
    evaluated = []

    class Evaluate(Callback):
        def on_epoch_end(self, epoch, logs):
            evaluated.append(model.evaluate(X[:20], LABELS[:20], sample_weight=np.arange(20)))

    history = model.fit(
        X,
        LABELS,
        epochs=3,
        validation_data=(X[:20], LABELS[:20], np.arange(20)),
        validation_split=0.5,  # validation_data has precedence
        callbacks=[Evaluate()],
        verbose=0,
    ).history
    assert list(zip(history["val_loss"], history["val_accuracy"], strict=True)) == [
        tuple(values) for values in evaluated
    ]
    assert model.step == 6  # no sample was held out


def test_validation_data_may_lack_weights():
    model = regressor()
    history = model.fit(X, TARGETS, validation_data=(X[:7], TARGETS[:7]), verbose=0).history
    assert history["val_loss"] == [model.evaluate(X[:7], TARGETS[:7])]


def test_sample_weights_scale_the_loss_of_each_sample():
    weights = np.where(np.arange(50) < 25, 2.0, 0.0)
    weighted, half = regressor(dtype="float64"), regressor(dtype="float64")
    weighted.fit(X, TARGETS, batch_size=50, sample_weight=weights, shuffle=False, verbose=0)
    # Half of the samples have weight 2 and the others 0: the mean over the first half.
    half.fit(X[:25], TARGETS[:25], batch_size=25, shuffle=False, verbose=0)
    for a, b in zip(weighted.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_sample_weights_may_be_a_column():
    weights = np.arange(50.0)
    losses_of_both = [
        regressor().fit(X, TARGETS, sample_weight=given, verbose=0).history["loss"]
        for given in (weights, weights[:, None])
    ]
    assert losses_of_both[0] == losses_of_both[1]


def test_sample_weights_are_shuffled_with_their_samples():
    weights = np.where(np.arange(50) < 25, 1.0, 0.0)
    targets = TARGETS + np.where(weights, 0, 1e6)[:, None]  # samples of weight 0 are far away
    model = regressor(dtype="float64")
    history = model.fit(X, targets, batch_size=10, sample_weight=weights, verbose=0)
    assert history.history["loss"][0] < 100


def test_user_loss_gets_targets_without_the_last_axis_of_the_outputs():
    class Square(losses.Loss, metrics.Metric):
        def per_sample(self, y_true, y_pred):
            return (y_pred - y_true) ** 2

    model = models.Sequential([layers.Dense(1, input_shape=(6,))], dtype="float64")
    model.compile(SGD(1e-12), Square(), metrics=[Square("square")])
    y = np.arange(50.0)
    logged = model.fit(X, y, batch_size=20, verbose=0).history
    expected = ((model.predict(X)[:, 0] - y) ** 2).mean()
    assert logged == {name: [pytest.approx(expected)] for name in ("loss", "square")}


def test_history_holds_the_mean_over_the_samples():
    model = regressor(SGD(1e-12), dtype="float64")  # the weights change by almost nothing
    weights = np.arange(50) / 10
    history = model.fit(
        X, TARGETS, batch_size=20, sample_weight=weights, epochs=2, verbose=0
    ).history
    errors = ((model.predict(X) - TARGETS) ** 2).mean(axis=1)
    np.testing.assert_allclose(history["loss"], [(weights * errors).mean()] * 2, rtol=1e-6)


def test_initial_epoch_is_the_number_of_the_first_epoch():
    model = regressor()
    assert model.fit(X, TARGETS, epochs=5, initial_epoch=3, verbose=0).epoch == [3, 4]
    assert model.fit(X, TARGETS, epochs=0, verbose=0).epoch == []


def test_fit_accepts_lists():
    a, b = regressor(), regressor()
    a.fit(X.tolist(), TARGETS.tolist(), verbose=0)
    b.fit(X, TARGETS, verbose=0)
    assert bits(a) == bits(b)


def test_uint8_samples_are_cast_one_batch_at_a_time():
    x = np.random.default_rng(0).integers(0, 256, (2000, 1000), dtype="uint8")
    watch = Watch()
    model = models.Sequential(
        [layers.Rescaling(1 / 255), layers.Activation(lambda x: x[:, :5]), watch, layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    y = np.zeros((2000, 1))
    model.evaluate(x[:20], y[:20], verbose=0)
    model.fit(x[:20], y[:20], verbose=0)  # compiles the kernels before memory is measured
    watch.seen.clear()
    tracemalloc.start()
    try:
        model.fit(x, y, batch_size=20, shuffle=False, verbose=0)
        model.evaluate(x, y)
        model.predict(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2  # float32 copies of all samples would take four times x
    assert {seen.dtype for seen in watch.seen} == {np.dtype("float32")}
    trained = np.concatenate(watch.seen)[:2000]
    np.testing.assert_allclose(trained, x[:, :5] / 255, rtol=1e-6)


def test_data_are_not_modified():
    x, y, w = X.astype("float32"), TARGETS.astype("float32"), np.ones(50, "float32")
    before = x.copy(), y.copy(), w.copy()
    model = regressor()
    model.fit(x, y, sample_weight=w, validation_split=0.1, verbose=0)
    model.evaluate(x, y)
    model.predict(x)
    assert all(np.array_equal(a, b) for a, b in zip((x, y, w), before, strict=True))


def test_fit_runs_without_stdout(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert classifier().fit(X, LABELS).epoch == [0]


# ------------------------------------------------------------------------------ rejected arguments


class Sparse:
    """What the sparse matrices of SciPy have in common."""

    dtype = np.dtype(object)

    def toarray(self):
        return X


BAD_ARGUMENTS = [
    ({"y": TARGETS[:49]}, ValueError, r"fit: expected y for 50 samples.*\(49, 2\)"),
    ({"y": TARGETS[:, :1]}, ValueError, r"mean_squared_error: expected y .*\(None, 2\).*\(50, 1\)"),
    ({"x": X[:0], "y": TARGETS[:0]}, ValueError, r"fit: .*one sample in x, got shape \(0, 6\)"),
    ({"x": np.float64(3)}, ValueError, r"fit: .*one sample in x, got shape \(\)"),
    ({"x": X.astype(str)}, TypeError, "fit: expected x .*numbers, got a ndarray of <U"),
    ({"x": None}, TypeError, "fit: expected x .*numbers, got a NoneType of object"),
    ({"x": [[1.0, 2.0], [3.0]]}, ValueError, "fit: expected x .*got a list .*differ in shape"),
    ({"y": [1, [2]]}, ValueError, "fit: expected y .*got a list .*differ in shape"),
    ({"x": np.ma.masked_array(X)}, TypeError, "fit: x: .*got a masked array"),
    ({"y": np.ma.masked_array(TARGETS)}, TypeError, r"fit: y: .*masked array.*filled\(\)"),
    ({"x": {"a": X}}, TypeError, "fit: expected x .*got a dict of object"),
    ({"x": iter(X)}, TypeError, "fit: expected x .*got a iterator of object"),
    ({"x": (X, TARGETS), "y": None}, TypeError, "fit: .*arrays x and y, got a tuple and no y"),
    ({"x": iter(X), "y": None}, TypeError, r"fit: expected batches \(x, y\), got x without y"),
    ({"x": X[:, :5]}, ValueError, r"sequential: expected samples .*\(6,\), got \(5,\)"),
    ({"batch_size": 0}, ValueError, "fit: batch_size: .*positive integer, got 0"),
    ({"batch_size": 32.0}, ValueError, "fit: batch_size: .*positive integer, got 32.0"),
    ({"batch_size": True}, ValueError, "fit: batch_size: .*positive integer, got True"),
    ({"batch_size": "adam"}, ValueError, "fit: batch_size: .*positive integer, got 'adam'"),
    ({"verbose": 3}, ValueError, "fit: expected verbose .*got 3"),
    ({"shuffle": "yes"}, ValueError, "fit: expected shuffle .*got 'yes'"),
    ({"shuffle": None}, ValueError, "fit: expected shuffle .*got None"),
    ({"shuffle": 2}, ValueError, "fit: expected shuffle .*got 2"),
    ({"sample_weight": np.ones(49)}, ValueError, r"fit: .*sample_weight .*50 samples.*\(49,\)"),
    ({"sample_weight": np.ones((50, 2))}, ValueError, r"fit: .*sample_weight .*\(50, 2\)"),
    ({"sample_weight": np.ones((1, 50))}, ValueError, r"fit: .*sample_weight .*\(1, 50\)"),
    ({"sample_weight": ["a"] * 50}, TypeError, "fit: expected sample_weight .*got a list of <U1"),
    ({"validation_split": 1.0}, ValueError, r"fit: .*validation_split in \[0, 1\), got 1.0"),
    ({"validation_split": -0.1}, ValueError, r"fit: .*validation_split in \[0, 1\), got -0.1"),
    ({"validation_split": 0.999}, ValueError, "fit: .*validation_split .*0.999 of 50 samples"),
    ({"validation_data": (X,)}, ValueError, r"fit: expected validation_data .*got a tuple"),
    ({"validation_data": 5}, ValueError, "fit: expected validation_data .*got a int"),
    ({"validation_data": (X, None)}, TypeError, "fit: validation_data: .*got a ndarray and no y"),
    (
        {"validation_data": (X, TARGETS[:7])},
        ValueError,
        r"fit: validation_data: expected y for 50 samples.*\(7, 2\)",
    ),
    ({"epochs": 2.0}, TypeError, "fit: epochs.* integer.* 2.0"),
    ({"epochs": "3"}, TypeError, "fit: epochs.* integer.* '3'"),
    ({"epochs": True}, TypeError, "fit: epochs.* integer.* True"),
    ({"epochs": -1}, ValueError, "fit: epochs.* -1"),
    ({"initial_epoch": -1}, ValueError, "fit: initial_epoch.* -1"),
    ({"callbacks": [None]}, TypeError, "fit: .*list of Callbacks, got None in it"),
    ({"callbacks": [[Callback()]]}, TypeError, r"fit: .*list of Callbacks, got \[Callback\(\)\]"),
    ({"callbacks": Callback}, TypeError, "fit: expected callbacks to be a list, got <class"),
    ({"callbacks": {Callback()}}, TypeError, "fit: expected callbacks to be a list, got {"),
    ({"callbacks": "csv"}, TypeError, "fit: expected callbacks to be a list, got 'csv'"),
    ({"callbacks": 0}, TypeError, "fit: expected callbacks to be a list, got 0"),
    ({"callbacks": {"a": Callback()}}, TypeError, "fit: expected callbacks to be a list, got {'a'"),
    ({"callbacks": [print]}, TypeError, "fit: .*list of Callbacks, got <built-in function print>"),
    ({"callbacks": [Callback]}, TypeError, "fit: .*list of Callbacks, got <class .*Callback"),
    ({"y": np.array(["a"] * 50)}, TypeError, "fit: expected y .*ndarray of <U1.*Number all labels"),
    ({"y": np.array(["a"] * 50, object)}, TypeError, "ndarray of object.*Number all labels"),
    (
        {"y": np.array([None] * 50)},
        TypeError,
        r"fit: expected y .*ndarray of object\. Convert it to numbers\.$",
    ),
    ({"x": Sparse()}, TypeError, r"fit: expected x .*got a Sparse of object\. Pass its toarray"),
    ({"class_weight": [1, 2]}, TypeError, "fit: expected class_weight to map class numbers"),
    ({"class_weight": {0: 2.0}}, ValueError, "fit: expected y with one class for each sample"),
    (
        {"class_weight": {0: 2.0}, "sample_weight": np.ones(50)},
        ValueError,
        "fit: expected class_weight or sample_weight, got both",
    ),
    ({"steps_per_epoch": 3}, TypeError, "fit: expected a number of steps for an iterable"),
    ({"epoch": 2}, TypeError, "'epoch'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
def test_fit_rejects_bad_argument_before_training(arguments, error, message):
    model = regressor()
    before, history = bits(model), model.history
    with pytest.raises(error, match=message):
        model.fit(**({"x": X, "y": TARGETS, "verbose": 0} | arguments))
    assert bits(model) == before
    assert (model.step, model.epoch, model.optimizer.iterations) == (0, 0, 0)
    assert model.history is history


def test_fit_rejects_labels_out_of_range_before_training():
    model = classifier()
    before = bits(model)
    with pytest.raises(ValueError, match=r"sparse_.*class numbers in \[0, 3\), got 0 to 3"):
        model.fit(X, np.r_[LABELS[:-1], 3], verbose=0)
    assert bits(model) == before


def test_fit_rejects_targets_that_a_metric_rejects_before_training():
    model = models.Sequential([layers.Dense(1, input_shape=(6,))])
    model.compile("sgd", lambda y, p: p.mean(), metrics=["accuracy"])
    with pytest.raises(ValueError, match="accuracy: expected y of the outputs' shape"):
        model.fit(X, TARGETS)
    assert model.step == 0


@pytest.mark.parametrize(
    ("metric", "y"),
    [("categorical_accuracy", LABELS), ("sparse_categorical_accuracy", np.eye(3)[LABELS])],
)
def test_metric_rejects_targets_of_the_other_kind(metric, y):
    model = models.Sequential([layers.Dense(3, input_shape=(6,), activation="softmax")])
    loss = "categorical_crossentropy" if y.ndim == 2 else "sparse_categorical_crossentropy"
    model.compile("sgd", loss, metrics=[metric])
    shape = re.escape(str(y.shape))
    with pytest.raises(ValueError, match=rf"^{metric}: .*got .*{shape}.*Use accuracy"):
        model.fit(X, y, verbose=0)


@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_training_rejects_model_without_weights_to_train(method):
    empty = models.Sequential([layers.Flatten(), layers.Softmax()], name="empty")
    frozen = models.Sequential([layers.Dense(6, input_shape=(6,))], name="frozen")
    frozen.layers[0].trainable = False
    for model in (empty, frozen):
        model.compile("sgd", "mse")
        with pytest.raises(
            ValueError, match=f"{method}: expected weights to train, got none in {model.name}"
        ):
            getattr(model, method)(X, X)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_generator_without_targets_is_rejected(method):
    with pytest.raises(TypeError, match=rf"{method}: expected batches \(x, y\), got x without y"):
        getattr(regressor(), method)(x for x in X)


@pytest.mark.parametrize("shape", [(6,), (4, 3)])
def test_predict_rejects_one_sample_without_a_batch_axis(shape):
    model = models.Sequential([layers.Flatten(input_shape=shape), layers.Dense(2)])
    message = rf"expected samples of .*{re.escape(str(shape))}, got .*x\[None\]"
    with pytest.raises(ValueError, match=message):
        model.predict(np.zeros(shape))
    assert model.predict(np.zeros(shape)[None], verbose=0).shape == (1, 2)


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_evaluate_and_predict_reject_bad_arguments(method):
    model = regressor()
    rest = [TARGETS] if method == "evaluate" else []
    with pytest.raises(ValueError, match=f"{method}: batch_size: .*got -1"):
        getattr(model, method)(X, *rest, batch_size=-1)
    with pytest.raises(ValueError, match=f"{method}: expected at least one sample in x"):
        getattr(model, method)(X[:0], *[y[:0] for y in rest])
    with pytest.raises(ValueError, match=f"{method}: expected verbose .*got 3"):
        getattr(model, method)(X, *rest, verbose=3)


# ------------------------------------------------------------------------------ exceptions in fit


def test_exception_in_a_step_leaves_weights_and_step_and_training_can_go_on():
    class Fault(layers.Layer):
        broken = False

        def call(self, x):
            if self.broken:
                raise OverflowError("a fault")
            return x

    class BreakAt(Callback):
        def on_train_batch_begin(self, batch, logs):
            fault.broken = batch == 1

    class Keep(Callback):
        def on_train_batch_end(self, batch, logs):
            kept.append(bits(self.model))

    fault, kept = Fault(), []
    model = models.Sequential([layers.Dense(4), layers.Dropout(0.5), fault, layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(OverflowError, match="a fault"):
        model.fit(X, TARGETS, callbacks=[BreakAt(), Keep()], verbose=0)
    assert model.step == model.optimizer.iterations == len(kept) == 1
    assert bits(model) == kept[0]
    assert not rng.is_training()

    fault.broken = False
    model.fit(X, TARGETS, verbose=0)
    assert model.step == 3


def test_fit_ignores_gradients_of_an_interrupted_step():
    model, plain = regressor(), regressor()
    model.loss(TARGETS, model(X)).backward()
    model.fit(X, TARGETS, verbose=0)
    plain.fit(X, TARGETS, verbose=0)
    assert bits(model) == bits(plain)


@pytest.mark.parametrize("moment", ["on_epoch_begin", "on_train_batch_begin", "on_train_batch_end"])
def test_fit_ignores_gradients_that_a_callback_leaves(moment):
    def leave(self, number, logs):
        self.model.loss(LABELS, self.model(X)).backward()

    callbacks = [type("Saliency", (Callback,), {moment: leave})()]
    first, second = classifier(), classifier()
    first.fit(X, LABELS, batch_size=8, verbose=0)
    second.fit(X, LABELS, batch_size=8, callbacks=callbacks, verbose=0)
    assert bits(first) == bits(second)


def test_fit_rejects_nested_fit_and_keeps_the_outer_history():
    class Again(Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.fit(X, LABELS, verbose=0)

    model = classifier()
    with pytest.raises(RuntimeError, match=r"fit: sequential is already being trained.*deepcopy"):
        model.fit(X, LABELS, callbacks=[Again()], verbose=0)
    assert model.history.epoch == [0]
    model.fit(X, LABELS, verbose=0)


def test_fit_rejects_weight_that_a_callback_unfreezes():
    class Unfreezes(Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.parameters()[0].requires_grad = True

    model = classifier()
    model.parameters()[0].requires_grad = False
    with pytest.raises(ValueError, match=r"SGD: expected the 5 weights .*compile again"):
        model.fit(X, LABELS, epochs=2, callbacks=[Unfreezes()], verbose=0)


def test_hand_written_loop_with_gradients_in_place_leaves_frozen_weights():
    model, optimizer = classifier(), SGD(0.1)
    model.parameters()[0].requires_grad = False
    before = model.get_weights()
    with minidl.training(step=0):
        error = model.loss(LABELS, model(X))
    error.backward(into=optimizer.gradients_of(model.parameters()))
    optimizer.update(model.parameters())
    moved = [not np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True)]
    assert moved == [False, *[True] * (len(before) - 1)]
    assert optimizer.gradients_of([]) == {}


def test_values_that_callbacks_add_to_the_logs_are_in_the_history():
    class Adds(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["epoch_squared"] = epoch**2

    history = classifier().fit(X, LABELS, epochs=3, verbose=0, callbacks=[Adds()])
    assert history.history["epoch_squared"] == [0, 1, 4]


def test_evaluation_in_a_callback_leaves_the_metrics_of_the_epoch():
    class Evaluates(Callback):
        def on_train_batch_end(self, batch, logs):
            self.model.evaluate(X[:3], LABELS[:3], verbose=0)

    alone, visited = (
        classifier().fit(X, LABELS, batch_size=8, verbose=0, callbacks=callbacks).history
        for callbacks in ([], [Evaluates()])
    )
    assert alone == visited


@pytest.mark.parametrize("moment", ["on_train_begin", "on_epoch_begin"])
def test_weights_that_a_callback_sets_are_trained(moment):
    class Sets(Callback):
        def on_train_begin(self, *_):
            self.replace("on_train_begin")

        def on_epoch_begin(self, *_):
            self.replace("on_epoch_begin")

        def replace(self, name):
            if name == moment:
                self.model.set_weights([weight * 0 for weight in self.model.get_weights()])

    model, plain = regressor(), regressor()
    plain.set_weights([weight * 0 for weight in plain.get_weights()])
    history = model.fit(X, TARGETS, callbacks=[Sets()], verbose=0)
    plain.fit(X, TARGETS, verbose=0)
    assert history.epoch == [0]
    assert bits(model) == bits(plain)


# ------------------------------------------------------------------------------ copies


def test_trained_model_does_not_keep_its_data():
    model = classifier()
    before = len(pickle.dumps(model))
    model.fit(np.repeat(X, 50, axis=0), np.repeat(LABELS, 50), verbose=0)
    assert len(pickle.dumps(model)) < before + 20_000  # the optimizer's state


def test_model_does_not_keep_its_data_if_a_callback_fails_at_the_end():
    class Fails(Callback):
        def on_train_end(self, logs):
            raise RuntimeError("at the end")

    model = classifier()
    before = vars(model).keys() | {"recording", "run", "stop_training"}
    with pytest.raises(RuntimeError, match="at the end"):
        model.fit(X, LABELS, callbacks=[Fails()], verbose=0)
    assert model.run is None
    assert vars(model).keys() == before


def test_model_can_be_trained_after_a_callback_failed_to_close():
    class Fails(Callback):
        def close(self):
            raise OSError("the disk is full")

    model = classifier()
    with pytest.raises(OSError, match="the disk is full"):
        model.fit(X, LABELS, callbacks=[Fails()], verbose=0)
    assert model.run is None
    assert model.fit(X, LABELS, verbose=0).epoch == [0]


COPIES = [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]


@pytest.mark.parametrize("copied", COPIES, ids=["deepcopy", "pickle"])
def test_copy_trains_on_its_own(copied):
    model = classifier(optimizer=Adam())
    model.fit(X, LABELS, verbose=0)
    twin = copied(model)
    assert twin.backend is model.backend
    before = bits(model)
    twin.fit(X, LABELS, verbose=0)
    assert bits(model) == before
    model.fit(X, LABELS, verbose=0)
    assert bits(model) == bits(twin)
    assert bits(model) != before


@pytest.mark.parametrize("copied", COPIES, ids=["deepcopy", "pickle"])
def test_copy_made_by_a_callback_has_no_data_and_can_be_trained(copied):
    class Copies(Callback):
        def on_train_batch_end(self, batch, logs):
            self.copy = copied(self.model)
            self.size = len(pickle.dumps(self.copy))

    model, callback = classifier(), Copies()
    small = len(pickle.dumps(model))
    model.fit(
        np.repeat(X, 50, axis=0), np.repeat(LABELS, 50), 1250, callbacks=[callback], verbose=0
    )
    assert callback.size < small + 20_000  # the optimizer's state
    ours, theirs = (m.fit(X, LABELS, verbose=0).history for m in (model, callback.copy))
    assert ours == theirs
    assert bits(model) == bits(callback.copy)


# ------------------------------------------------------------------------------ evaluate, predict


def test_evaluate_returns_loss_list_or_dict(device):
    plain = regressor(device=device)
    loss = plain.evaluate(X, TARGETS)
    assert isinstance(loss, float)
    assert loss == pytest.approx(((plain.predict(X) - TARGETS) ** 2).mean(), rel=1e-5)
    assert plain.evaluate(X, TARGETS, return_dict=True) == {"loss": loss}

    model = classifier(device=device)
    values = model.evaluate(X, LABELS)
    probabilities = model.predict(X)
    assert isinstance(values, list)
    assert values[0] == pytest.approx(-np.log(probabilities[range(50), LABELS]).mean(), rel=1e-5)
    assert values[1] == (probabilities.argmax(axis=1) == LABELS).mean()
    by_name = model.evaluate(X, LABELS, return_dict=True)
    assert by_name == {"loss": values[0], "accuracy": values[1]}


def test_evaluate_does_not_depend_on_the_batch_size():
    model = classifier(dtype="float64")
    whole = model.evaluate(X, LABELS, batch_size=50, sample_weight=np.arange(50))
    cut = model.evaluate(X, LABELS, batch_size=7, sample_weight=np.arange(50))
    assert cut == pytest.approx(whole, rel=1e-12)


def test_evaluate_twice_returns_equal_metrics():
    model = classifier(metrics=[metrics.SparseCategoricalAccuracy("right")])
    first = model.evaluate(X, LABELS, return_dict=True)
    assert model.evaluate(X, LABELS, return_dict=True) == first
    assert list(first) == ["loss", "right"]


def test_evaluate_of_a_model_without_layers_compares_its_input():
    model = models.Sequential([])
    model.compile("sgd", "mse")
    assert model.evaluate(np.ones((2, 3)), np.zeros((2, 3)), verbose=0) == 1.0


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_evaluate_prints_a_line(verbose, capsys):
    model = classifier()
    loss, accuracy = model.evaluate(X, LABELS, verbose=verbose)
    expected = f"Evaluation - loss: {loss:.4f} - accuracy: {accuracy:.4f}\n"
    assert capsys.readouterr().out == expected


def test_evaluate_with_verbose_0_and_predict_print_nothing(capsys):
    model = classifier()
    model.evaluate(X, LABELS, verbose=0)
    model.predict(X, verbose=0)
    model.predict(X)  # its bar is for terminals
    assert capsys.readouterr().out == ""


def test_predict_returns_all_rows_on_the_host(device):
    model = classifier(device=device)
    outputs = model.predict(X, batch_size=17)
    assert isinstance(outputs, np.ndarray)
    assert (outputs.shape, outputs.dtype) == ((50, 3), np.float32)
    np.testing.assert_allclose(outputs, model(X).numpy(), rtol=1e-5)


def test_predict_builds_an_uncompiled_model():
    model = models.Sequential([layers.Dense(2)])
    assert model.predict(X[:3]).shape == (3, 2)
    assert model.built


class CountedCalls(layers.Layer):
    """Identity that counts its calls."""

    calls = 0

    def call(self, x):
        self.calls += 1
        return x


def test_predict_of_a_built_model_calls_each_layer_once_a_batch():
    counted = CountedCalls()
    model = models.Sequential([counted, layers.Activation("tanh")])
    model.predict(X[:2])
    counted.calls = 0
    model.predict(X, batch_size=25)
    assert counted.calls == 2


def test_evaluate_and_fit_of_a_built_model_call_each_layer_once_a_batch():
    counted = CountedCalls()
    model = models.Sequential([counted, layers.Dense(2)])
    model.compile("sgd", "mse")
    model.predict(X[:2])
    counted.calls = 0
    model.evaluate(X, TARGETS, batch_size=25, verbose=0)
    model.fit(X, TARGETS, batch_size=25, epochs=2, verbose=0)
    assert counted.calls == 2 + 2 * 2


# ------------------------------------------------------------------------------ dtypes


def test_float64_model_uses_float64_throughout(device):
    model = classifier(dtype="float64", device=device)
    model.fit(X[:10].astype("float32"), LABELS[:10], verbose=0)
    assert {w.dtype for w in model.get_weights()} == {np.dtype("float64")}
    assert model.predict(X).dtype == np.float64
    assert model(X).dtype == "float64"


def test_float16_model_predicts(device):
    half, single = classifier(dtype="float16", device=device), classifier(device=device)
    outputs = half.predict(X[:9])
    assert outputs.dtype == np.float16
    np.testing.assert_allclose(outputs, single.predict(X[:9]), atol=5e-3)


def test_schedule_counts_the_updates_of_its_optimizer():
    schedule = optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 1e-30])
    model = regressor(SGD(schedule))
    model.fit(X, TARGETS, batch_size=50, verbose=0)
    before = bits(model)
    model.fit(X, TARGETS, batch_size=50, verbose=0)
    assert bits(model) == before


# ------------------------------------------------------------------------------ rejected runs


class Opens(Callback):
    """Count the runs that have begun."""

    begun = 0

    def on_train_begin(self, logs):
        self.begun += 1


def freeze_a_weight(model):
    model.parameters()[0].requires_grad = False


def share_an_optimizer(model):
    other = classifier()
    other.fit(X, LABELS, verbose=0)
    model.train_state.optimizer = other.optimizer


def take_logits_of_a_softmax(model):
    model.loss = losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("change", [freeze_a_weight, share_an_optimizer, take_logits_of_a_softmax])
def test_fit_rejects_what_the_first_step_would_reject_before_it_begins(change):
    model, opens = classifier(), Opens()
    model.fit(X, LABELS, epochs=2, verbose=0)
    before, step = model.history.history, model.step
    change(model)
    with pytest.raises(ValueError, match=r"expected .* got"):
        model.fit(X, LABELS, epochs=2, verbose=0, callbacks=[opens])
    assert (model.history.history, model.step, opens.begun) == (before, step, 0)


def test_fit_of_a_float16_model_is_rejected_before_it_begins():
    model, opens = classifier(dtype="float16"), Opens()
    with pytest.raises(TypeError, match="expected float32 or float64 weights, got float16"):
        model.fit(X, LABELS, verbose=0, callbacks=[opens])
    assert opens.begun == 0


def test_fit_rejects_validation_samples_of_another_width_before_the_first_step():
    model = models.Sequential([layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    held_out = np.ones((5, X.shape[1] + 1), "float32"), np.zeros(5, int)
    with pytest.raises(ValueError, match="features"):
        model.fit(X, LABELS % 3, validation_data=held_out, verbose=0)
    assert model.step == 0


class Rejects(Callback):
    """Change learning rate and stop, then reject the run."""

    def on_train_begin(self, logs):
        self.model.optimizer.learning_rate = 0.7
        self.model.stop_training = False
        raise ValueError("rejected")


def test_rejected_fit_leaves_history_learning_rate_and_stop_as_they_were():
    model = classifier()
    model.fit(X, LABELS, epochs=2, verbose=0)
    model.stop_training = True
    before, rate = model.history.history, model.optimizer.learning_rate
    with pytest.raises(ValueError, match="rejected"):
        model.fit(X, LABELS, verbose=0, callbacks=[Rejects()])
    assert model.history.history == before
    assert (model.optimizer.learning_rate, model.stop_training) == (rate, True)


def test_fit_without_memory_for_the_data_leaves_the_last_run(monkeypatch):
    def no_memory(values):
        raise MemoryError

    model = classifier()
    model.fit(X, LABELS, epochs=2, verbose=0)
    before = model.history.history
    monkeypatch.setattr(model.backend, "dataset_array", no_memory)
    with pytest.raises(MemoryError):
        model.fit(X, LABELS, verbose=0)
    assert model.history.history == before


class CompilesAnew(Callback):
    """Choose another loss at a step, and see whether the run could be resumed then and later."""

    def __init__(self):
        self.obstacles = []

    def on_train_batch_end(self, batch, logs):
        if self.model.step == 2:
            self.model.compile(self.model.optimizer, "sparse_categorical_crossentropy")
            self.obstacles.append(self.model.train_state.why_not_resumable())

    def on_epoch_end(self, epoch, logs):
        self.obstacles.append(self.model.train_state.why_not_resumable())


def test_run_cannot_be_resumed_in_an_epoch_in_which_compile_was_called():
    model, compiles = classifier(), CompilesAnew()
    model.fit(X[:32], LABELS[:32], batch_size=8, epochs=2, verbose=0, callbacks=[compiles])
    assert "compile was called" in compiles.obstacles[0]
    assert compiles.obstacles[1:] == ["", ""]
    assert model.history.epoch == [0, 1]


def test_compile_rejects_a_metric_that_validation_would_hide():
    metric = metrics.Accuracy("val_loss")
    with pytest.raises(ValueError, match=r"without val_, got .*val_loss"):
        classifier().compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])


def test_models_do_not_share_an_empty_history():
    classifier().history.epoch.append(5)
    assert classifier().history.epoch == []


def test_set_weights_accepts_the_live_weights_of_the_same_model():
    model = models.Sequential([layers.Dense(3, input_shape=(3,)), layers.Dense(3)])
    (a, a_bias), (b, b_bias) = ([p.data for p in layer.parameters()] for layer in model.layers)
    expected = [array.copy() for array in (b, b_bias, a, a_bias)]
    model.set_weights(array for array in (b, b_bias, a, a_bias))
    for weight, array in zip(model.get_weights(), expected, strict=True):
        assert (weight == array).all()


# ------------------------------------------------------------------------------ interrupted builds


@pytest.mark.parametrize("x", [np.arange(7.0), np.arange(3.0)], ids=["long", "short"])
def test_samples_without_features_are_rejected_and_the_model_stays_unbuilt(x):
    model = models.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match=r"^dense: expected inputs with a batch axis and features"):
        model.predict(x, verbose=0)
    with pytest.raises(ValueError, match=r"^dense: expected inputs with a batch axis"):
        model.build((4,))
    assert not model.built
    assert model.predict(np.ones((2, 7)), verbose=0).shape == (2, 3)


def test_interrupted_build_leaves_the_initial_weights_of_the_seed(monkeypatch):
    def network():
        return models.Sequential([layers.Dense(4), layers.Dense(3)], seed=7)

    whole, interrupted = network(), network()
    whole.build((None, 5))
    draws, draw = [], type(whole.layers[0].parameters()[0]).__init__

    def interrupt(self, values, backend, name, stream):
        draws.append(name)
        if len(draws) == 4 + 2:  # after the rehearsal, in the first layer
            raise KeyboardInterrupt
        draw(self, values, backend, name, stream)

    with monkeypatch.context() as patch:
        patch.setattr(type(whole.layers[0].parameters()[0]), "__init__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            interrupted.build((None, 5))
    interrupted.build((None, 5))
    assert bits(interrupted) == bits(whole)


def test_weights_do_not_share_the_array_of_an_initializer():
    values = np.zeros((3, 3))

    class Stored(minidl.initializers.Initializer):
        def draw(self, shape, *, seed, stream):
            return np.broadcast_to(values, shape)

    stack = [layers.Dense(3, kernel_initializer=Stored(), use_bias=False) for _ in range(2)]
    model = models.Sequential([layers.Input((3,)), *stack], dtype="float64")
    model.set_weights([np.ones((3, 3)), np.full((3, 3), 2.0)])
    assert [weight.flat[0] for weight in model.get_weights()] == [1.0, 2.0]
    assert not values.any()


# ------------------------------------------------------------------------------ inputs as in Keras


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bool"])
@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_fit_with_float_class_numbers_equals_integers(dtype, shape):
    labels = LABELS % 2
    plain, other = classifier(), classifier()
    plain.fit(X, labels, validation_data=(X, labels), epochs=2, verbose=0)
    given = labels.astype(dtype)
    other.fit(X, given, validation_data=(X, given), epochs=2, verbose=0)
    assert bits(plain) == bits(other)
    assert plain.history.history == other.history.history
    found = other.evaluate(X, given.reshape(shape), verbose=0)
    assert found == pytest.approx(plain.evaluate(X, labels, verbose=0))


@pytest.mark.parametrize("wrong", [1.5, np.nan, np.inf, -1.0, 3.0])
def test_wrong_float_class_numbers_are_rejected_before_training(wrong):
    labels = LABELS.astype(float)
    labels[-1] = wrong
    model = classifier()
    before = bits(model)
    for call in (
        lambda: model.fit(X, labels, verbose=0),
        lambda: model.fit(X, LABELS, validation_data=(X, labels), verbose=0),
        lambda: model.evaluate(X, labels, verbose=0),
    ):
        with pytest.raises(ValueError, match=r"sparse_categorical_crossentropy: .*class numbers"):
            call()
    assert bits(model) == before
    assert model.step == 0


@pytest.mark.parametrize("activation", ["sigmoid", "relu", None])
def test_fit_of_one_output_with_two_classes_names_the_remedy(activation):
    model = models.Sequential([layers.Dense(1, activation)])
    model.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"two classes, use binary_crossentropy, with Dense\("):
        model.fit(X, LABELS % 2, verbose=0)


@pytest.mark.parametrize("input_shape", [None, (1,)])
@pytest.mark.parametrize("first", [layers.Dense, lambda *a, **k: layers.ReLU(**k)])
def test_numbers_as_samples_are_rejected_with_remedy(first, input_shape):
    shape = {} if input_shape is None else {"input_shape": input_shape}
    model = models.Sequential([first(2, **shape), layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.arange(6.0)
    for call in (
        lambda: model.fit(x, x, verbose=0),
        lambda: model.evaluate(x, x, verbose=0),
        lambda: model.predict(x, verbose=0),
        lambda: model(x),
    ):
        with pytest.raises(ValueError, match=r"samples of one number as x\.reshape\(-1, 1\)"):
            call()
    model.fit(x.reshape(-1, 1), x, verbose=0)


def steps_model(loss="mse", units=1, **arguments):
    """Return a compiled model with an output for each of 3 time steps."""
    model = models.Sequential([layers.Dense(units, input_shape=(3, 2))], seed=1, **arguments)
    model.compile("sgd", loss)
    return model


STEPS = np.random.default_rng(5).normal(size=(8, 3, 2))
STEP_TARGETS = np.random.default_rng(6).normal(size=(8, 3, 1))
STEP_WEIGHTS = np.random.default_rng(7).random((8, 3))


def test_fit_and_evaluate_take_weights_of_time_steps(device):
    model = steps_model(device=device)
    outputs = model.predict(STEPS, verbose=0)
    expected = ((outputs - STEP_TARGETS)[:, :, 0] ** 2 * STEP_WEIGHTS).mean()
    for batch_size in (8, 3):
        found = model.evaluate(
            STEPS, STEP_TARGETS, batch_size, verbose=0, sample_weight=STEP_WEIGHTS
        )
        assert found == pytest.approx(expected, rel=1e-5)
    history = model.fit(
        STEPS,
        STEP_TARGETS,
        batch_size=8,
        verbose=0,
        sample_weight=STEP_WEIGHTS,
        validation_data=(STEPS, STEP_TARGETS, STEP_WEIGHTS * 0),
    ).history
    assert history["loss"] == pytest.approx([expected], rel=1e-5)
    assert history["val_loss"] == [0]


def test_weights_of_ones_for_time_steps_train_as_none():
    plain, weighted = steps_model(dtype="float64"), steps_model(dtype="float64")
    plain.fit(STEPS, STEP_TARGETS, epochs=3, verbose=0)
    weighted.fit(STEPS, STEP_TARGETS, epochs=3, verbose=0, sample_weight=np.ones((8, 3)))
    for a, b in zip(plain.get_weights(), weighted.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("shape", [(8, 2), (8, 3, 2), (8, 1, 3)])
def test_weights_that_fit_no_step_are_rejected_before_training(shape):
    model = steps_model()
    weights = np.ones(shape)
    message = rf"expected sample_weight .*got shape {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=f"^fit: {message}"):
        model.fit(STEPS, STEP_TARGETS, verbose=0, sample_weight=weights)
    with pytest.raises(ValueError, match=f"^fit: validation_data: {message}"):
        model.fit(STEPS, STEP_TARGETS, verbose=0, validation_data=(STEPS, STEP_TARGETS, weights))
    with pytest.raises(ValueError, match=f"^evaluate: {message}"):
        model.evaluate(STEPS, STEP_TARGETS, verbose=0, sample_weight=weights)
    assert model.step == 0


# ------------------------------------------------------------------------------ ensembles


class Ensemble(models.Model):
    """The mean of the outputs of several networks."""

    def __init__(self, members):
        super().__init__()
        self.members = list(members)

    def call(self, x):
        return sum(member(x) for member in self.members) * (1 / len(self.members))


def trained_members(seeds):
    members = [classifier(seed) for seed in seeds]
    for member in members:
        member.fit(X, LABELS, batch_size=16, verbose=0)
    return members


@pytest.mark.parametrize("seeds", [(0, 0, 0), (1, 2, 3), (4, 4, 5)])
def test_trained_networks_form_an_ensemble_that_predicts_and_is_trained(seeds):
    members = trained_members(seeds)
    outputs = [member.predict(X, verbose=0) for member in members]
    one_draw = [member.predict(X, verbose=0, samples=1).mean for member in members]
    addresses = [(s.seed, s.number) for member in members for s in member.streams()]
    ensemble = Ensemble(members)
    np.testing.assert_allclose(ensemble.predict(X, verbose=0), np.mean(outputs, axis=0), rtol=1e-5)
    drawn = ensemble.predict(X, verbose=0, samples=1).mean
    np.testing.assert_allclose(drawn, np.mean(one_draw, axis=0), rtol=1e-5)
    assert [(s.seed, s.number) for s in ensemble.streams()] == addresses
    ensemble.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    before = ensemble.evaluate(X, LABELS, verbose=0)[0]
    ensemble.fit(X, LABELS, epochs=20, verbose=0)
    assert ensemble.evaluate(X, LABELS, verbose=0)[0] < before
    assert [(s.seed, s.number) for s in ensemble.streams()] == addresses


def test_trained_networks_form_a_sequential_that_can_be_saved_and_loaded(tmp_path):
    def trained():
        model = models.Sequential([layers.Dropout(0.5), layers.Dense(6, input_shape=(6,))])
        model.compile("sgd", "mse")
        model.fit(X, X, verbose=0)
        return model

    chain = models.Sequential([trained(), trained()])
    expected = chain.predict(X, verbose=0, samples=3).mean
    chain.save(tmp_path / "chain.safetensors")
    loaded = models.load(tmp_path / "chain.safetensors")
    assert [(s.seed, s.number) for s in loaded.streams()] == [(0, 0), (0, 0)]
    assert (loaded.predict(X, verbose=0, samples=3).mean == expected).all()


def test_members_with_one_seed_are_equal_and_with_others_have_a_spread():
    def spread(seeds):
        return np.std([member.predict(X, verbose=0) for member in trained_members(seeds)], axis=0)

    assert not spread((1, 1)).any()
    assert (spread((1, 2)) > 0).any()
