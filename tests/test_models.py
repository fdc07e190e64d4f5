"""Models: how layers become one, and what compile, fit, evaluate and predict promise."""

import copy
import pickle
import re
import tracemalloc

import numpy as np
import pytest

import minidl
from minidl import Tensor, initializers, layers, losses, metrics, models, optimizers, rng
from minidl.callbacks import Callback
from minidl.optimizers import SGD, Adam

NUMBERS = np.random.default_rng(0)
X = NUMBERS.normal(size=(50, 6))
LABELS = NUMBERS.integers(0, 3, 50)
TARGETS = NUMBERS.normal(size=(50, 2))


def classifier(seed=1, optimizer=None, metrics=("accuracy",), **arguments):
    """Return a compiled model with two dropout layers, which learns LABELS from X."""
    model = models.Sequential(
        [
            layers.Dense(16, activation="relu", input_shape=(6,)),
            layers.Dropout(0.25),
            layers.Dense(12, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ],
        seed=seed,
        **arguments,
    )
    model.compile(
        optimizer or SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=metrics
    )
    return model


def regressor(optimizer="sgd", **arguments):
    """Return a compiled model without dropout, which learns TARGETS from X."""
    model = models.Sequential([layers.Dense(2, input_shape=(6,))], **arguments)
    model.compile(optimizer, "mse")
    return model


def same_weights(first, second):
    """Tell whether two lists of weights are equal bit for bit."""
    return [w.tobytes() for w in first] == [w.tobytes() for w in second]


class Watch(layers.Layer):
    """Pass the input on and keep a copy of what came."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, x):
        self.seen.append(x.numpy())
        return x


# ------------------------------------------------------------------------------ the same bits


def test_one_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(device):
    def trained(seed):
        model = classifier(seed, device=device)
        history = model.fit(X, LABELS, batch_size=8, epochs=3, verbose=0)
        return model.get_weights(), history.history

    first, again, other = trained(1), trained(1), trained(2)
    assert same_weights(first[0], again[0])
    assert first[1] == again[1]
    assert not any(np.array_equal(a, b) for a, b in zip(first[0], other[0], strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loop_written_by_hand_gives_the_weights_of_fit(shuffle, device):
    fitted = classifier(device=device)
    fitted.fit(X, LABELS, batch_size=8, epochs=3, shuffle=shuffle, verbose=0)

    model, step = classifier(device=device), 0
    loss, optimizer = losses.SparseCategoricalCrossentropy(), SGD(0.1, momentum=0.9)
    for epoch in range(3):
        order = rng.permutation(50, seed=1, epoch=epoch) if shuffle else np.arange(50)
        for start in range(0, 50, 8):
            rows = order[start : start + 8]
            with minidl.training(step=step):
                error = loss(LABELS[rows], model(X[rows]))
            error.backward()
            optimizer.update(model.parameters())
            step += 1
    assert step == fitted.step == 21
    for mine, theirs in zip(model.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)  # fit fuses the loss


def test_a_loop_with_other_steps_gives_other_weights():
    def trained(first_step):
        model = classifier()
        optimizer = SGD(0.1)
        for step in range(first_step, first_step + 3):
            with minidl.training(step=step):
                error = model.loss(LABELS, model(X))
            error.backward()
            optimizer.update(model.parameters())
        return model.get_weights()

    assert same_weights(trained(0), trained(0))
    assert not same_weights(trained(0), trained(1))


@pytest.mark.parametrize("cuts", [(8, 8, 8, 8), (1, 2, 3, 26)])
def test_micro_batches_meet_the_masks_and_the_gradients_of_the_whole(cuts, device):
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

    whole_masks, whole = gradients((32,))
    masks, summed = gradients(cuts)
    assert all(np.array_equal(a, b) for a, b in zip(masks, whole_masks, strict=True))
    for a, b in zip(summed, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)

    other_masks, _ = gradients(cuts, offsets=False)
    assert not any(np.array_equal(a, b) for a, b in zip(other_masks, whole_masks, strict=True))


def test_micro_batches_update_as_fit_does(device):
    fitted = classifier(dtype="float64", device=device)
    fitted.fit(X, LABELS, batch_size=50, epochs=2, shuffle=False, verbose=0)
    model = classifier(dtype="float64", device=device)
    optimizer = SGD(0.1, momentum=0.9)
    for step in range(2):
        for start in range(0, 50, 10):
            rows = slice(start, start + 10)
            with minidl.training(step=step, row_offset=start):
                part = model.loss(LABELS[rows], model(X[rows])) * 0.2
            part.backward()
        optimizer.update(model.parameters())
    for a, b in zip(model.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_two_fits_are_one_long_fit():
    long, short = classifier(), classifier()
    long.fit(X, LABELS, epochs=4, verbose=0)
    short.fit(X, LABELS, epochs=2, verbose=0)
    short.fit(X, LABELS, epochs=4, initial_epoch=2, verbose=0)
    assert same_weights(long.get_weights(), short.get_weights())
    assert (short.step, short.epoch) == (long.step, long.epoch) == (8, 4)


def test_compile_goes_on_counting_and_takes_the_weights_over():
    model = classifier()
    model.fit(X, LABELS, verbose=0)
    weights = model.get_weights()
    model.compile(Adam(0.01), "sparse_categorical_crossentropy")
    assert same_weights(model.get_weights(), weights)
    model.fit(X, LABELS, verbose=0)
    assert (model.step, model.epoch) == (4, 2)
    assert model.optimizer.iterations == 2


def test_masks_go_on_with_the_models_step_after_a_second_compile():
    watch = Watch()
    model = models.Sequential([layers.Dropout(0.5), watch, layers.Dense(2)], seed=5)
    for step in range(3):
        model.compile("sgd", "mse")
        model.fit(X, TARGETS, batch_size=50, verbose=0)
        mask = rng.keep_mask((50, 6), 0.5, seed=5, stream=0, step=step)
        assert np.array_equal(watch.seen[-1] != 0, mask)


def test_evaluate_and_predict_take_no_step_and_leave_training_as_it_was():
    model, plain = classifier(), classifier()
    for _ in range(2):
        model.fit(X, LABELS, verbose=0)
        model.evaluate(X, LABELS)
        model.predict(X)
        plain.fit(X, LABELS, verbose=0)
    assert same_weights(model.get_weights(), plain.get_weights())


def test_validation_does_not_change_the_training():
    model, plain = classifier(), classifier()
    model.fit(X, LABELS, epochs=2, validation_data=(X, LABELS), verbose=0)
    plain.fit(X, LABELS, epochs=2, verbose=0)
    assert same_weights(model.get_weights(), plain.get_weights())


def test_evaluate_and_predict_inside_a_training_block_are_in_inference_mode():
    model = classifier()
    outside = model.predict(X), model.evaluate(X, LABELS)
    with minidl.training(step=0):
        assert np.array_equal(model.predict(X), outside[0])
        assert model.evaluate(X, LABELS) == outside[1]
        assert not np.array_equal(model(X).numpy(), outside[0])
    assert [layer.step for layer in model.layers if isinstance(layer, layers.Dropout)] == [1, 1]


# ------------------------------------------------------------------------------ arguments of fit


def watched(**arguments):
    """Return a model that keeps what its first layer sees, and the list."""
    watch = Watch()
    model = models.Sequential([watch, layers.Dense(2)], **arguments)
    model.compile("sgd", "mse")
    model.predict(X[:1])
    watch.seen.clear()
    return model, watch.seen


def trained_batches(seen):
    """Return the batches without the single zero sample that each check of shapes sends."""
    return [x for x in seen if x.any()]


def test_a_batch_has_32_samples_and_the_last_is_smaller():
    model, seen = watched()
    model.fit(X, TARGETS, verbose=0)
    assert [len(x) for x in trained_batches(seen)] == [32, 18]
    assert model.step == 2
    seen.clear()
    model.fit(X, TARGETS, batch_size=20, verbose=0)
    assert [len(x) for x in trained_batches(seen)] == [20, 20, 10]
    seen.clear()
    model.predict(X)
    model.evaluate(X, TARGETS, batch_size=50)
    assert [len(x) for x in trained_batches(seen)] == [32, 18, 50]


def test_batches_follow_the_permutation_of_seed_and_epoch():
    model, seen = watched(seed=4, dtype="float64")
    model.fit(X, TARGETS, batch_size=50, epochs=2, verbose=0)
    for epoch, x in enumerate(trained_batches(seen)):
        assert np.array_equal(x, X[rng.permutation(50, seed=4, epoch=epoch)])


def test_without_shuffle_samples_keep_their_order():
    model, seen = watched(dtype="float64")
    model.fit(X, TARGETS, epochs=2, shuffle=False, verbose=0)
    assert np.array_equal(np.concatenate(trained_batches(seen)), np.concatenate([X, X]))


def test_validation_takes_the_last_share_before_shuffling():
    model, seen = watched(dtype="float64")
    model.fit(X, TARGETS, batch_size=50, validation_split=0.3, verbose=0)
    train, held_out = trained_batches(seen)
    assert np.array_equal(train, X[:35][rng.permutation(35, seed=0, epoch=0)])
    assert np.array_equal(held_out, X[35:])


def test_validation_is_evaluation_after_each_epoch():
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


def test_validation_without_weights():
    model = regressor()
    history = model.fit(X, TARGETS, validation_data=(X[:7], TARGETS[:7]), verbose=0).history
    assert history["val_loss"] == [model.evaluate(X[:7], TARGETS[:7])]


def test_sample_weights_scale_the_loss_of_each_sample():
    weights = np.where(np.arange(50) < 25, 2.0, 0.0)
    weighted, doubled = regressor(dtype="float64"), regressor(dtype="float64")
    weighted.fit(X, TARGETS, batch_size=50, sample_weight=weights, shuffle=False, verbose=0)
    # Half of the samples with weight 2 and the others without: the mean over the first half.
    doubled.fit(X[:25], TARGETS[:25], batch_size=25, shuffle=False, verbose=0)
    for a, b in zip(weighted.get_weights(), doubled.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_sample_weights_may_be_a_column():
    weights = np.arange(50.0)
    losses_of_both = [
        regressor().fit(X, TARGETS, sample_weight=given, verbose=0).history["loss"]
        for given in (weights, weights[:, None])
    ]
    assert losses_of_both[0] == losses_of_both[1]


def test_a_loss_of_ones_own_takes_targets_without_the_outputs_last_axis():
    class Square(losses.Loss, metrics.Metric):
        def per_sample(self, y_true, y_pred):
            return (y_pred - y_true) ** 2

    model = models.Sequential([layers.Dense(1, input_shape=(6,))], dtype="float64")
    model.compile(SGD(1e-12), Square(), metrics=[Square("square")])
    y = np.arange(50.0)
    logged = model.fit(X, y, batch_size=20, verbose=0).history
    expected = ((model.predict(X)[:, 0] - y) ** 2).mean()
    assert logged == {name: [pytest.approx(expected)] for name in ("loss", "square")}


def test_sample_weights_go_with_their_samples_when_these_are_shuffled():
    weights = np.where(np.arange(50) < 25, 1.0, 0.0)
    targets = TARGETS + np.where(weights, 0, 1e6)[:, None]  # what counts nothing is far away
    model = regressor(dtype="float64")
    history = model.fit(X, targets, batch_size=10, sample_weight=weights, verbose=0)
    assert history.history["loss"][0] < 100


def test_history_is_the_mean_over_the_samples():
    model = regressor(SGD(1e-12), dtype="float64")  # the weights as good as stay
    weights = np.arange(50) / 10
    history = model.fit(
        X, TARGETS, batch_size=20, sample_weight=weights, epochs=2, verbose=0
    ).history
    errors = ((model.predict(X) - TARGETS) ** 2).mean(axis=1)
    np.testing.assert_allclose(history["loss"], [(weights * errors).mean()] * 2, rtol=1e-6)


def test_initial_epoch_is_where_the_numbers_begin():
    model = regressor()
    assert model.fit(X, TARGETS, epochs=5, initial_epoch=3, verbose=0).epoch == [3, 4]
    assert model.fit(X, TARGETS, epochs=0, verbose=0).epoch == []


def test_lists_are_taken_as_arrays():
    a, b = regressor(), regressor()
    a.fit(X.tolist(), TARGETS.tolist(), verbose=0)
    b.fit(X, TARGETS, verbose=0)
    assert same_weights(a.get_weights(), b.get_weights())


def test_bytes_are_cast_a_batch_at_a_time():
    x = np.random.default_rng(0).integers(0, 256, (4000, 1000), dtype="uint8")
    watch = Watch()
    model = models.Sequential(
        [layers.Rescaling(1 / 255), layers.Activation(lambda x: x[:, :5]), watch, layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    y = np.zeros((4000, 1))
    model.evaluate(x[:20], y[:20], verbose=0)
    model.fit(x[:20], y[:20], verbose=0)  # the kernels are compiled outside of what is measured
    watch.seen.clear()
    tracemalloc.start()
    try:
        model.fit(x, y, batch_size=20, shuffle=False, verbose=0)
        model.evaluate(x, y)
        model.predict(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2  # as float32 the whole array would take four times its bytes
    assert {seen.dtype for seen in watch.seen} == {np.dtype("float32")}
    trained = np.concatenate(trained_batches(watch.seen))[:4000]
    np.testing.assert_allclose(trained, x[:, :5] / 255, rtol=1e-6)


def test_data_are_not_modified():
    x, y, w = X.astype("float32"), TARGETS.astype("float32"), np.ones(50, "float32")
    before = x.copy(), y.copy(), w.copy()
    model = regressor()
    model.fit(x, y, sample_weight=w, validation_split=0.1, verbose=0)
    model.evaluate(x, y)
    model.predict(x)
    assert all(np.array_equal(a, b) for a, b in zip((x, y, w), before, strict=True))


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_a_model_that_is_not_compiled_says_so(method):
    model = models.Sequential([layers.Dense(2)])
    message = f"{method}: the model is not compiled; call model.compile"
    with pytest.raises(RuntimeError, match=message):
        getattr(model, method)(X, TARGETS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y": TARGETS[:49]}, ValueError, r"fit: x has 50 samples and y has shape \(49, 2\)"),
        ({"y": TARGETS[:, :1]}, ValueError, r"mean_squared_error: y has shape \(50, 1\) and the"),
        ({"x": X[:0], "y": TARGETS[:0]}, ValueError, "fit: x must hold at least one sample"),
        ({"x": np.float64(3)}, ValueError, r"fit: x must hold at least one sample, .* \(\)"),
        ({"x": X.astype(str)}, TypeError, "fit: x must be .* numbers, received ndarray of <U"),
        ({"x": None}, TypeError, "fit: x must be an array of numbers, received NoneType of object"),
        ({"x": [[1.0, 2.0], [3.0]]}, ValueError, "fit: x .*, received list whose items differ in"),
        ({"y": [1, [2]]}, ValueError, "fit: y must .* differ in shape; give them one shape, for"),
        ({"x": np.ma.masked_array(X)}, TypeError, "fit: x: received a masked array, whose mask"),
        (
            {"y": np.ma.masked_array(TARGETS)},
            TypeError,
            r"fit: y: .*; give its filled\(\) values, or",
        ),
        ({"x": {"a": X}}, TypeError, "fit: x must be an array of numbers, received dict of"),
        ({"x": iter(X)}, TypeError, "fit: x must be .* numbers, received iterator of object"),
        ({"x": (X, TARGETS), "y": None}, TypeError, "fit: expected arrays x and y, received tuple"),
        ({"x": iter(X), "y": None}, TypeError, "received iterator and no y; .*loop by hand"),
        ({"x": X[:, :5]}, ValueError, r"expected samples of shape \(6,\), .* received \(5,\)"),
        ({"batch_size": 0}, ValueError, "fit: batch_size must be a positive integer, received 0"),
        ({"batch_size": 32.0}, ValueError, "fit: batch_size must be a positive .* received 32.0"),
        ({"batch_size": True}, ValueError, "fit: batch_size must be a positive .* received True"),
        ({"batch_size": "adam"}, ValueError, "fit: batch_size must be .* received 'adam'"),
        ({"verbose": 3}, ValueError, 'fit: verbose must be "auto", 0, 1 or 2, received 3'),
        ({"sample_weight": np.ones(49)}, ValueError, r"one number for each of 50 samples.*\(49,\)"),
        ({"sample_weight": np.ones((50, 2))}, ValueError, r"received shape \(50, 2\)"),
        ({"sample_weight": np.ones((1, 50))}, ValueError, r"received shape \(1, 50\)"),
        ({"validation_split": 1.0}, ValueError, r"validation_split must be in \[0, 1\)"),
        ({"validation_split": -0.1}, ValueError, "received -0.1"),
        ({"validation_split": 0.999}, ValueError, "0.999 of 50 samples leaves one part empty"),
        (
            {"validation_data": (X,)},
            ValueError,
            r"validation_data must be \(x, y\) or .* received tuple",
        ),
        (
            {"validation_data": (X, None)},
            TypeError,
            "fit: validation_data: expected arrays x and y, received ndarray and no y",
        ),
        (
            {"validation_data": (X, TARGETS[:7])},
            ValueError,
            r"fit: validation_data: x has 50 samples and y has shape \(7, 2\)",
        ),
        ({"class_weight": {0: 2.0}}, TypeError, r"fit: class_weight .* sample_weight=weights\[y\]"),
        ({"steps_per_epoch": 3}, TypeError, "fit: steps_per_epoch is not in minidl: .*slice x"),
        ({"validation_freq": 2}, TypeError, "fit: validation_freq is not in minidl"),
        ({"epoch": 2}, TypeError, "fit: got an unexpected argument 'epoch'"),
    ],
)
def test_fit_refuses_before_anything_is_trained(arguments, error, message):
    model = regressor()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        model.fit(**({"x": X, "y": TARGETS, "verbose": 0} | arguments))
    assert same_weights(before, model.get_weights())
    assert (model.step, model.epoch, model.optimizer.iterations) == (0, 0, 0)


def test_labels_out_of_range_are_refused_before_anything_is_trained():
    model = classifier()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"class numbers must be in \[0, 3\), received 0 to 3"):
        model.fit(X, np.r_[LABELS[:-1], 3], verbose=0)
    assert same_weights(before, model.get_weights())


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (losses.SparseCategoricalCrossentropy, LABELS),
        (losses.CategoricalCrossentropy, np.eye(3)[LABELS]),
    ],
)
def test_a_classifier_without_softmax_is_refused_before_anything_is_trained(
    activation, method, loss, y
):
    model = models.Sequential([layers.Dense(3, activation, input_shape=(6,))])
    model.compile("adam", loss())
    before = model.get_weights()
    message = (
        rf"{method}: {loss.__name__} expects probabilities, and the last layer \(dense\) has "
        rf'activation {activation}; give it activation="softmax", or use {loss.__name__}\(from_log'
    )
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(X, y, verbose=0)
    assert same_weights(before, model.get_weights())
    model.compile("adam", loss(from_logits=True))
    getattr(model, method)(X, y, verbose=0)


class Softened(models.Sequential):
    """A subclass that makes probabilities of the last layer's outputs itself."""

    def call(self, x):
        return super().call(x).softmax()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Softened([layers.Dense(3)]),
        lambda: models.Sequential([layers.Dense(3), layers.Softmax()]),
        lambda: models.Sequential([layers.Dense(3, "sigmoid")]),
        lambda: models.Sequential([layers.Dense(3, lambda x: x.softmax())]),
    ],
)
def test_outputs_that_may_be_probabilities_are_taken(make):
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy")
    assert np.isfinite(model.fit(X, LABELS, verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"run_eagerly": True}, "compile: run_eagerly is not in minidl: every model runs eagerly"),
        ({"loss_weights": [1]}, "compile: loss_weights is not in minidl"),
        ({"learning_rate": 1}, "compile: got an unexpected argument 'learning_rate'"),
    ],
)
def test_compile_refuses_what_it_does_not_know(arguments, message):
    with pytest.raises(TypeError, match=message):
        models.Sequential([layers.Dense(2)]).compile("sgd", "mse", **arguments)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_targets_must_be_given(method):
    with pytest.raises(TypeError, match=f"{method}: expected arrays x and y, received generator"):
        getattr(regressor(), method)(x for x in X)


@pytest.mark.parametrize("given", ["accuracy", metrics.Accuracy()])
def test_metrics_are_a_list(given):
    with pytest.raises(
        TypeError, match=r"compile: metrics must be a list, received .*; use \[.*\]"
    ):
        models.Sequential([layers.Dense(2)]).compile("sgd", "mse", metrics=given)


def test_an_optimizer_is_no_class_and_a_loss_no_function():
    model = models.Sequential([layers.Dense(2)])
    with pytest.raises(ValueError, match=r"optimizer: expected an Optimizer .*; use Adam\(\)$"):
        model.compile(Adam, "mse")
    with pytest.raises(ValueError, match=r"loss: expected a Loss .*; subclass Loss$"):
        model.compile("adam", lambda y_true, y_pred: (y_true - y_pred).mean())


@pytest.mark.parametrize("shape", [(6,), (4, 3)])
def test_one_sample_is_no_batch(shape):
    model = models.Sequential([layers.Flatten(input_shape=shape), layers.Dense(2)])
    message = rf"expected samples of shape .*, received {re.escape(str(shape[1:]))}; .*x\[None\]"
    with pytest.raises(ValueError, match=message):
        model.predict(np.zeros(shape))
    assert model.predict(np.zeros(shape)[None], verbose=0).shape == (1, 2)


def test_compile_wants_a_loss():
    with pytest.raises(ValueError, match=r"loss: expected a Loss or one of .*received None"):
        models.Sequential([layers.Dense(2)]).compile("sgd")


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_evaluate_and_predict_check_their_data(method):
    model = regressor()
    with pytest.raises(ValueError, match=f"{method}: batch_size must be a positive .* received -1"):
        getattr(model, method)(X, *([TARGETS] if method == "evaluate" else []), batch_size=-1)
    with pytest.raises(ValueError, match=f"{method}: x must hold at least one sample"):
        getattr(model, method)(X[:0], *([TARGETS[:0]] if method == "evaluate" else []))


def test_an_error_in_a_step_leaves_weights_and_step_and_training_goes_on():
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
            kept.append(self.model.get_weights())

    fault, kept = Fault(), []
    model = models.Sequential([layers.Dense(4), layers.Dropout(0.5), fault, layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(OverflowError, match="a fault"):
        model.fit(X, TARGETS, callbacks=[BreakAt(), Keep()], verbose=0)
    assert model.step == model.optimizer.iterations == len(kept) == 1
    assert same_weights(model.get_weights(), kept[0])
    assert rng.current_block() is None

    fault.broken = False
    model.fit(X, TARGETS, verbose=0)
    assert model.step == 3


def test_gradients_that_an_interrupted_step_left_are_forgotten():
    model, plain = regressor(), regressor()
    model.loss(TARGETS, model(X)).backward()
    model.fit(X, TARGETS, verbose=0)
    plain.fit(X, TARGETS, verbose=0)
    assert same_weights(model.get_weights(), plain.get_weights())


# ------------------------------------------------------------------------------ evaluate, predict


def test_evaluate_returns_what_keras_returns(device):
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


def test_metrics_of_an_epoch_do_not_reach_the_next():
    model = classifier(metrics=[metrics.SparseCategoricalAccuracy("right")])
    first = model.evaluate(X, LABELS, return_dict=True)
    assert model.evaluate(X, LABELS, return_dict=True) == first
    assert list(first) == ["loss", "right"]


def test_predict_returns_all_rows_on_the_host(device):
    model = classifier(device=device)
    outputs = model.predict(X, batch_size=7)
    assert isinstance(outputs, np.ndarray)
    assert (outputs.shape, outputs.dtype) == ((50, 3), np.float32)
    np.testing.assert_allclose(outputs, model(X).numpy(), rtol=1e-5)


def test_predict_needs_no_compile_and_builds_the_model():
    model = models.Sequential([layers.Dense(2)])
    assert model.predict(X[:3]).shape == (3, 2)
    assert model.built


# ------------------------------------------------------------------------------ dtypes


def test_a_float64_model_is_float64_throughout(device):
    model = classifier(dtype="float64", device=device)
    model.fit(X.astype("float32"), LABELS, verbose=0)
    assert {w.dtype for w in model.get_weights()} == {np.dtype("float64")}
    assert model.predict(X).dtype == np.float64
    assert model(X).dtype == "float64"


def test_a_float16_model_predicts(device):
    half, single = classifier(dtype="float16", device=device), classifier(device=device)
    outputs = half.predict(X)
    assert outputs.dtype == np.float16
    np.testing.assert_allclose(outputs, single.predict(X), atol=5e-3)


@pytest.mark.parametrize("dtype", ["int32", "complex64"])
def test_a_dtype_that_is_no_float_is_refused(dtype):
    with pytest.raises(ValueError, match=f"dtype must be one of float16, .* received '{dtype}'"):
        models.Sequential(dtype=dtype)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=rf"seed: expected an integer .* got {seed}"):
        models.Sequential(seed=seed)


# ------------------------------------------------------------------------------ weights


def test_get_weights_returns_copies_in_keras_order():
    model = classifier()
    weights = model.get_weights()
    assert [w.shape for w in weights] == [(6, 16), (16,), (16, 12), (12,), (12, 3), (3,)]
    weights[0][:] = 0
    assert model.get_weights()[0].any()


def test_set_weights_takes_them_over(device):
    source, model = classifier(1), classifier(2, device=device)
    model.set_weights(source.get_weights())
    assert same_weights(model.get_weights(), source.get_weights())
    np.testing.assert_allclose(model.predict(X), source.predict(X), rtol=1e-5)


@pytest.mark.parametrize("change", ["number", "shape"])
def test_set_weights_refuses_others_and_changes_nothing(change):
    model = classifier()
    before = model.get_weights()
    weights = [w + 1 for w in before]
    weights = weights[:-1] if change == "number" else [*weights[:-1], np.ones(4)]
    with pytest.raises(ValueError, match=r"sequential: set_weights expected arrays of shapes \[\("):
        model.set_weights(weights)
    assert same_weights(model.get_weights(), before)


# ------------------------------------------------------------------------------ building


def test_the_notes_network_as_keras_counts_it(capsys):
    model = models.Sequential(
        [
            layers.Flatten(input_shape=(28, 28)),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(256, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.summary()
    # Keras 3 prints this table for the same network: 784 * 512 + 512 and so on, 4 bytes each.
    assert (
        capsys.readouterr().out
        == """\
Model: "sequential"
┏━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━┓
┃ Layer (type)        ┃ Output Shape ┃ Param # ┃
┡━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━┩
│ flatten (Flatten)   │ (None, 784)  │       0 │
├─────────────────────┼──────────────┼─────────┤
│ dense (Dense)       │ (None, 512)  │ 401,920 │
├─────────────────────┼──────────────┼─────────┤
│ dropout (Dropout)   │ (None, 512)  │       0 │
├─────────────────────┼──────────────┼─────────┤
│ dense_1 (Dense)     │ (None, 256)  │ 131,328 │
├─────────────────────┼──────────────┼─────────┤
│ dropout_1 (Dropout) │ (None, 256)  │       0 │
├─────────────────────┼──────────────┼─────────┤
│ dense_2 (Dense)     │ (None, 10)   │   2,570 │
└─────────────────────┴──────────────┴─────────┘
 Total params: 535,818 (2.04 MB)
 Trainable params: 535,818 (2.04 MB)
 Non-trainable params: 0 (0.00 B)
"""
    )
    assert model.count_params() == 535_818


def test_summary_counts_what_is_frozen(capsys):
    model = regressor()
    model.layers[0].bias.requires_grad = False
    model.summary()
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines == [
        " Total params: 14 (56.00 B)",
        " Trainable params: 12 (48.00 B)",
        " Non-trainable params: 2 (8.00 B)",
    ]


def test_summary_of_a_model_that_is_not_built_is_refused():
    model = models.Sequential([layers.Dense(2)])
    with pytest.raises(
        ValueError, match="sequential: not built, so its shapes are not known; give"
    ):
        model.summary()
    model(np.zeros((1, 3)))
    model.summary()


def test_adding_layers_one_by_one_is_the_same_model():
    whole, grown = classifier(), models.Sequential(seed=1)
    for layer in classifier().layers:
        grown.add(type(layer)(**copied(layer)))
    assert same_weights(whole.get_weights(), grown.get_weights())
    assert grown.output_shape == whole.output_shape == (None, 3)
    with minidl.training(step=3):
        first = whole(X).numpy()
    with minidl.training(step=3):
        assert np.array_equal(first, grown(X).numpy())


def copied(layer):
    """Return the arguments that make such a layer."""
    names = {"Dense": ["units", "activation", "input_shape"], "Dropout": ["rate"]}
    return {name: getattr(layer, name) for name in names[type(layer).__name__]}


def test_a_model_that_grew_after_its_first_call_is_built_anew():
    model = models.Sequential([layers.Dense(4)])
    model(X)
    model.add(layers.Dense(2))
    with pytest.raises(ValueError, match="not built"):
        model.summary()
    assert model(X).shape == (50, 2)
    assert model.output_shape == (None, 2)


@pytest.mark.parametrize("first", [layers.Input((28, 28)), layers.Flatten(input_shape=(28, 28))])
def test_a_shape_that_is_given_builds_the_model(first):
    model = models.Sequential(
        [first, *([] if isinstance(first, layers.Flatten) else [layers.Flatten()])]
    )
    model.add(layers.Dense(3))
    assert model.built
    assert model.count_params() == 784 * 3 + 3
    assert [type(layer).__name__ for layer in model.layers] == ["Flatten", "Dense"]


def test_build_builds_for_any_number_of_samples(capsys):
    built, called = (models.Sequential([layers.Dense(3), layers.Dropout(0.5)]) for _ in range(2))
    built.build((None, 4))
    called(np.zeros((2, 4)))
    assert built.built
    assert built.count_params() == 15
    assert same_weights(built.get_weights(), called.get_weights())
    built.summary()
    assert "(None, 3)" in capsys.readouterr().out
    built.build((None, 4))  # is nothing new
    assert same_weights(built.get_weights(), called.get_weights())
    with pytest.raises(ValueError, match="dense: expected inputs with 4 features"):
        built.build((None, 5))


def test_build_of_a_subclass_builds_its_layers_and_its_own_weights():
    class Scaled(models.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def build(self, input_shape):
            super().build(input_shape)
            self.scale = self.add_weight("scale", (3,), "ones")

        def call(self, x):
            return self.dense(x) * self.scale

    model = Scaled()
    assert model(np.zeros((2, 4))).shape == (2, 3)
    assert model.count_params() == 18

    branches = Branches()
    branches.build((None, 6))
    assert branches.count_params() == (6 + 1) * 8 + (8 + 1) * 8 + (8 + 1) * 3


@pytest.mark.parametrize("shape", [(None, None), (None, 0), (None, 2.0)])
def test_build_wants_the_shape_of_a_sample(shape):
    model = models.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match="sequential: build: input_shape must be a positive int"):
        model.build(shape)
    assert not model.built


def test_a_model_is_not_half_built_where_a_layer_fails():
    model = models.Sequential([layers.Dense(3), refused()], seed=1)
    for build in (lambda: model.build((None, 4)), lambda: model.predict(X, verbose=0)):
        with pytest.raises(ValueError, match="HeNormal"):
            build()
        assert model.parameters() == []
        assert not any(layer.built for layer in model.walk())


def test_a_subclass_that_does_not_call_init_is_told_to():
    class Net(models.Model):
        def __init__(self):
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    for use in (lambda: Net()(X), lambda: Net().fit(X, LABELS), lambda: Net().dtype):
        with pytest.raises(AttributeError, match=r"^Net: no attribute .* call that first in __in"):
            use()


def test_input_is_the_first_element_or_refused():
    with pytest.raises(ValueError, match="sequential: Input must be the first element"):
        models.Sequential([layers.Dense(2), layers.Input((3,))])


def test_a_sequential_of_no_layers_is_refused_what_is_none():
    with pytest.raises(TypeError, match="sequential: expected layers, received 'dense'"):
        models.Sequential(["dense"])


def test_a_nested_model_takes_device_dtype_and_seed_of_the_outer(device):
    inside = models.Sequential([layers.Dense(4), layers.Dropout(0.5)], seed=99)
    model = models.Sequential([inside, layers.Dense(2)], dtype="float64", seed=3, device=device)
    flat = models.Sequential(
        [layers.Dense(4), layers.Dropout(0.5), layers.Dense(2)],
        dtype="float64",
        seed=3,
        device=device,
    )
    with minidl.training(step=1):
        first = model(X).numpy()
    with minidl.training(step=1):
        second = flat(X).numpy()
    assert same_weights(model.get_weights(), flat.get_weights())
    assert np.array_equal(first, second)
    assert (inside.dtype, inside.device, inside.seed) == (model.dtype, model.device, 3)


def test_a_layer_that_was_built_elsewhere_is_refused():
    inside = models.Sequential([layers.Dense(2, input_shape=(3,))])
    message = "dense/weight was built on cpu as float32, and the model is on cpu as float64"
    with pytest.raises(ValueError, match=message):
        models.Sequential([inside], dtype="float64")


def refused():
    """Return a layer whose first call fails, after it has added a weight."""
    return layers.Dense(2, kernel_initializer="ones", bias_initializer=initializers.HeNormal())


def stack():
    return [layers.Dense(8, input_shape=(4,)), layers.Dropout(0.5), layers.Dense(3)]


def test_layers_that_a_failed_model_had_are_as_new():
    used, nested = stack(), models.Sequential([layers.Dense(3)], seed=9, dtype="float64")
    with pytest.raises(ValueError, match="HeNormal: expected a weight with at least two axes"):
        models.Sequential([*used, nested, refused()], seed=1)
    assert not any(layer.built for layer in used)
    assert nested.seed == 9
    assert nested.dtype == "float64"
    with pytest.raises(ValueError, match="two layers are named 'b'"):
        models.Sequential([*used, layers.ReLU(name="b"), layers.ReLU(name="b")], dtype="float64")
    model, fresh = (models.Sequential(made, seed=2) for made in (used, stack()))
    assert list(map(repr, model.layers)) == list(map(repr, fresh.layers))
    assert [(p.name, p.stream) for p in model.parameters()] == [
        (p.name, p.stream) for p in fresh.parameters()
    ]
    assert same_weights(model.get_weights(), fresh.get_weights())


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_layer_that_fails_when_it_is_added_uses_up_nothing(is_nested):
    def grown(*failing):
        model = models.Sequential(stack(), seed=3)
        outer = (
            models.Sequential([model, layers.Dense(2, input_shape=(3,))]) if is_nested else model
        )
        outer(np.zeros((1, 4)))
        for layer in failing:
            with pytest.raises(ValueError, match="HeNormal"):
                model.add(layer)
        model.add(layers.Dense(3))
        outer(np.zeros((1, 4)))
        return [(p.name, p.stream, p.numpy().tobytes()) for p in outer.parameters()]

    nested = models.Sequential([layers.Dense(3), layers.Dropout(0.5), refused()])
    assert grown(refused(), nested) == grown()


def test_a_name_that_an_earlier_layer_takes_is_given_back_where_that_fails():
    inner = models.Sequential([layers.ReLU(input_shape=(4,))])
    model = models.Sequential([inner, layers.Dense(3)])
    model(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="HeNormal"):
        inner.add(models.Sequential([layers.Dense(4, name="dense"), refused()]))
    assert [p.name for p in model.parameters()] == ["dense/weight", "dense/bias"]
    assert model.layers[1].name == "dense"


def test_a_layer_that_another_model_will_build_otherwise_is_refused(device):
    shared = layers.Dense(3)
    models.Sequential([shared], device=device)
    message = rf"dense is a layer of another model, on {device} as float32, and the model is on cpu"
    with pytest.raises(ValueError, match=message):
        models.Sequential([layers.Dense(4), shared], dtype="float64")
    models.Sequential([models.Sequential([shared], device=device)], device=device)


def test_an_unbuilt_model_is_not_built_for_what_fit_refuses():
    model = models.Sequential([layers.Dense(3, activation="softmax")], seed=1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"y has shape \(5,\), and outputs of shape"):
        model.fit(np.ones((5, 2, 3)), LABELS[:5], verbose=0)
    assert not model.built
    model.fit(X, LABELS, verbose=0)


def test_a_nested_model_trains(device):
    inside = models.Sequential([layers.Dense(8, activation="relu"), layers.Dropout(0.1)])
    model = models.Sequential([inside, layers.Dense(2)], device=device)
    model.compile(Adam(0.01), "mse")
    history = model.fit(X, TARGETS, epochs=20, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert len(model.parameters()) == 4


def test_a_shared_layer_has_one_weight_and_sums_its_gradients():
    shared = layers.Dense(4, kernel_initializer="ones")
    model = models.Sequential([shared, shared], dtype="float64")
    y = model(np.ones((1, 4)))
    y.sum().backward()
    assert len(model.parameters()) == 2
    # y = (x W + b) W + b: at W = ones and b = 0 each element gets 4 from both places.
    np.testing.assert_allclose(shared.weight.grad.numpy(), np.full((4, 4), 4.0 + 4.0))


class Branches(models.Model):
    """A model with layers in attributes, a list and a dictionary."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.first = layers.Dense(8, activation="relu")
        self.blocks = [layers.Dense(8, activation="tanh"), layers.Dropout(0.2)]
        self.heads = {"out": layers.Dense(3, activation="softmax")}

    def call(self, x):
        x = x_first = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.heads["out"](x + x_first)


def test_a_subclass_trains_and_finds_its_layers(device, capsys):
    model = Branches(seed=3, device=device)
    model.compile(Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(X, LABELS, epochs=10, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert [layer.name for layer in model.layers] == ["dense", "dense_1", "dropout", "dense_2"]
    assert model.count_params() == 6 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3
    model.summary()
    assert 'Model: "branches"' in capsys.readouterr().out


def test_two_runs_of_a_subclass_give_the_same_weights():
    def trained():
        model = Branches(seed=3)
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(X, LABELS, epochs=2, verbose=0)
        return model.get_weights()

    assert same_weights(trained(), trained())


def test_a_tensor_is_taken_as_input_and_may_want_a_gradient(device):
    model = regressor(device=device)
    x = Tensor(X.astype("float32"), device=device, requires_grad=True)
    model(x).sum().backward()
    expected = np.tile(model.get_weights()[0].sum(axis=1), (50, 1))
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-5)


def test_a_schedule_counts_the_updates_of_its_optimizer():
    schedule = optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 1e-30])
    model = regressor(SGD(schedule))
    model.fit(X, TARGETS, batch_size=50, verbose=0)
    before = model.get_weights()
    model.fit(X, TARGETS, batch_size=50, verbose=0)
    assert same_weights(before, model.get_weights())


@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_model_goes_on_by_itself(copied_by):
    model = classifier(optimizer=Adam())
    model.fit(X, LABELS, verbose=0)
    twin = copied_by(model)
    assert twin.backend is model.backend
    before = model.get_weights()
    twin.fit(X, LABELS, verbose=0)
    assert same_weights(model.get_weights(), before)
    model.fit(X, LABELS, verbose=0)
    assert same_weights(model.get_weights(), twin.get_weights())
    assert not same_weights(model.get_weights(), before)


def test_a_layer_added_to_a_nested_model_gets_a_number_that_is_free_in_the_whole():
    inner = models.Sequential([layers.Dense(4), layers.Dropout(0.5)])
    outer = models.Sequential([inner, layers.Dense(4), layers.Dropout(0.5)])
    outer(X)
    inner.add(layers.Dropout(0.5))
    numbers = [layer.stream for layer in outer.walk() if isinstance(layer, layers.Dropout)]
    assert sorted(numbers) == [0, 1, 2]


def test_a_model_without_weights_is_not_trained():
    model = models.Sequential([layers.Flatten(), layers.Softmax()], name="empty")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="fit: empty has no weights to train; add a Dense layer"):
        model.fit(X, X)


def test_metrics_check_the_targets_before_anything_is_trained():
    model = models.Sequential([layers.Dense(1, input_shape=(6,))])
    model.compile("sgd", "mse", metrics=["accuracy"])
    with pytest.raises(ValueError, match="accuracy: expected one output for each class"):
        model.fit(X, TARGETS[:, :1])
    assert model.step == 0


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_evaluate_prints_a_line(verbose, capsys):
    model = classifier()
    loss, accuracy = model.evaluate(X, LABELS, verbose=verbose)
    expected = f"Evaluation - loss: {loss:.4f} - accuracy: {accuracy:.4f}\n"
    assert capsys.readouterr().out == expected


def test_evaluate_and_predict_are_silent_where_that_is_asked(capsys):
    model = classifier()
    model.evaluate(X, LABELS, verbose=0)
    model.predict(X, verbose=0)
    model.predict(X)  # its bar is for terminals
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_verbose_is_checked(method):
    data = (X, LABELS) if method == "evaluate" else (X,)
    with pytest.raises(ValueError, match=f'{method}: verbose must be "auto", 0, 1 or 2, received'):
        getattr(classifier(), method)(*data, verbose=3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epochs": 2.0}, TypeError, "fit: epochs: expected an integer .* got 2.0 of type float"),
        ({"epochs": "3"}, TypeError, "fit: epochs: expected an integer .* got '3' of type str"),
        ({"epochs": True}, TypeError, "fit: epochs: expected an integer .* got True"),
        ({"epochs": -1}, ValueError, r"fit: epochs: expected an integer .* got -1"),
        ({"initial_epoch": -1}, ValueError, r"fit: initial_epoch: expected an integer .* got -1"),
        ({"callbacks": [print]}, TypeError, "fit: expected a list of Callbacks, received"),
        ({"callbacks": [Callback]}, TypeError, "fit: expected a list of Callbacks, received"),
        ({"validation_data": 5}, ValueError, "fit: validation_data must be .*, received int"),
        (
            {"y": np.array(["a"] * 50)},
            TypeError,
            r"fit: y must be an array of numbers, received ndarray of <U1; number them: cla",
        ),
        ({"y": np.array(["a"] * 50, object)}, TypeError, "of object; number them: classes, y ="),
        ({"y": np.array([None] * 50)}, TypeError, "numbers, received ndarray of object$"),
        ({"sample_weight": ["a"] * 50}, TypeError, "sample_weight must be .*, received list of <U"),
    ],
)
def test_fit_refuses_what_is_of_the_wrong_kind_before_anything_is_trained(
    arguments, error, message
):
    model = classifier()
    with pytest.raises(error, match=message):
        model.fit(**({"x": X, "y": LABELS, "verbose": 0} | arguments))
    assert (model.step, model.epoch) == (0, 0)


def test_what_callbacks_add_to_the_logs_is_in_the_history():
    class Adds(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["epoch_squared"] = epoch**2

    history = classifier().fit(X, LABELS, epochs=3, verbose=0, callbacks=[Adds()])
    assert history.history["epoch_squared"] == [0, 1, 4]


def test_compile_refuses_two_metrics_of_one_name_and_changes_nothing():
    model = classifier()
    before = model.loss, model.metrics, model.optimizer
    for names in (["accuracy", "accuracy"], [metrics.Mean("loss")]):
        with pytest.raises(ValueError, match="compile: each metric needs a name of its own"):
            model.compile("adam", "mse", metrics=names)
    with pytest.raises(ValueError, match="optimizer: expected"):
        model.compile("bad", "mse")
    assert (model.loss, model.metrics, model.optimizer) == before


@pytest.mark.parametrize(
    ("metric", "y"),
    [("categorical_accuracy", LABELS), ("sparse_categorical_accuracy", np.eye(3)[LABELS])],
)
def test_a_metric_refuses_targets_of_the_other_kind(metric, y):
    model = models.Sequential([layers.Dense(3, input_shape=(6,), activation="softmax")])
    loss = "categorical_crossentropy" if y.ndim == 2 else "sparse_categorical_crossentropy"
    model.compile("sgd", loss, metrics=[metric])
    with pytest.raises(ValueError, match=f"{metric}: y has shape .* use accuracy"):
        model.fit(X, y, verbose=0)


def test_fit_runs_where_there_is_no_stdout(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert classifier().fit(X, LABELS).epoch == [0]


def test_a_layer_that_does_not_fit_leaves_the_model_as_it_was():
    model = classifier()
    model.add(layers.Dense(3, name="again"))
    before = model.predict(X)
    with pytest.raises(ValueError, match="two layers are named 'again'"):
        model.add(layers.Dense(3, name="again"))
    assert len(model.layers) == 6
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("make", [lambda: models.Sequential(layers.Dense(2))])
def test_a_layer_is_not_a_list_of_layers(make):
    with pytest.raises(TypeError, match="expected a list of layers, received"):
        make()


def test_a_callback_is_not_a_list_of_callbacks():
    with pytest.raises(TypeError, match="fit: callbacks must be a list"):
        classifier().fit(X, LABELS, callbacks=Callback())


def test_set_weights_of_what_is_no_number_changes_nothing():
    model = classifier()
    before = model.get_weights()
    wrong = [weight + 1 for weight in before[:-1]] + [["a", "b", "c"]]
    with pytest.raises(ValueError, match="could not convert"):
        model.set_weights(wrong)
    assert same_weights(model.get_weights(), before)


# ------------------------------------------------------------------------------ fit and its guests


class Evaluates(Callback):
    """Evaluate on a few samples after each step."""

    def on_train_batch_end(self, batch, logs):
        self.model.evaluate(X[:3], LABELS[:3], verbose=0)


def test_an_evaluation_in_a_callback_leaves_the_metrics_of_the_epoch_alone():
    alone, visited = (
        classifier().fit(X, LABELS, batch_size=8, verbose=0, callbacks=callbacks).history
        for callbacks in ([], [Evaluates()])
    )
    assert alone == visited


def test_a_model_does_not_keep_its_data():
    model = classifier()
    before = len(pickle.dumps(model))
    model.fit(np.repeat(X, 50, axis=0), np.repeat(LABELS, 50), verbose=0)
    assert len(pickle.dumps(model)) < before + 20_000  # the optimizer's state


def test_a_model_does_not_keep_its_data_where_a_callback_fails_at_the_end():
    class Fails(Callback):
        def on_train_end(self, logs):
            raise RuntimeError("at the end")

    model = classifier()
    before = set(vars(model))
    with pytest.raises(RuntimeError, match="at the end"):
        model.fit(X, LABELS, callbacks=[Fails()], verbose=0)
    assert model._run is None
    assert vars(model).keys() == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_that_a_callback_makes_has_no_data_and_can_be_trained(copied):
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
    assert same_weights(model.get_weights(), callback.copy.get_weights())


def test_a_fit_within_a_fit_is_refused_and_the_callbacks_are_told_of_the_end():
    told = []

    class Again(Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.fit(X, LABELS, verbose=0)

        def on_train_end(self, logs):
            told.append("end")

    model = classifier()
    with pytest.raises(RuntimeError, match=r"fit: sequential is in fit already; .* copy.deepcopy"):
        model.fit(X, LABELS, callbacks=[Again()], verbose=0)
    assert told == ["end"]
    assert model.history.epoch == [0]  # of the outer one
    model.fit(X, LABELS, verbose=0)


@pytest.mark.parametrize("moment", ["on_epoch_begin", "on_train_batch_begin", "on_train_batch_end"])
def test_gradients_that_a_callback_leaves_are_forgotten(moment):
    def leave(self, number, logs):
        self.model.loss(LABELS, self.model(X)).backward()

    guests = [type("Saliency", (Callback,), {moment: leave})()]
    first, second = classifier(), classifier()
    first.fit(X, LABELS, batch_size=8, verbose=0)
    second.fit(X, LABELS, batch_size=8, callbacks=guests, verbose=0)
    assert same_weights(first.get_weights(), second.get_weights())


def test_a_weight_that_is_unfrozen_within_fit_is_refused_and_not_forgotten():
    class Unfreezes(Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.parameters()[0].requires_grad = True

    model = classifier()
    model.parameters()[0].requires_grad = False
    with pytest.raises(ValueError, match="compile again"):
        model.fit(X, LABELS, epochs=2, callbacks=[Unfreezes()], verbose=0)


def test_a_loop_with_gradients_in_place_may_have_frozen_weights():
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


def test_a_model_without_layers_can_be_compared_with_its_input():
    model = models.Sequential([])
    model.compile("sgd", "mse")
    assert model.evaluate(np.ones((2, 3)), np.zeros((2, 3)), verbose=0) == 1.0
