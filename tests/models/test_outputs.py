"""Training of models with several outputs: agreement with Keras, files, workers and wrong input."""

import json

import numpy as np
import pytest
from record_keras_outputs import (
    CLASSES,
    KINDS,
    LABELS,
    PLACE,
    ROWS,
    TARGETS,
    VALUES,
    WEIGHTS,
    X,
    network,
    run,
)
from small_models import bits

from minidl import callbacks, checkpoint, layers, losses, metrics, models, optimizers
from minidl.distributed import DataParallel

KERAS = json.loads(PLACE.read_text())["runs"]
BY_NAME = dict(zip("abc", TARGETS, strict=True))
QUIET = {"verbose": 0, "batch_size": 4}


def compiled(kind="by name", **arguments):
    model = network(layers, models.Model, **arguments)
    model.compile(optimizers.Adam(0.01), **KINDS[kind])
    return model


@pytest.mark.slow_on("cuda-double")
@pytest.mark.parametrize("kind", KINDS)
def test_run_of_20_steps_equals_that_of_keras(kind, device):
    model = network(layers, models.Model, device=device)
    found, expected = run(model, KINDS[kind], optimizers.Adam(0.01)), KERAS[kind]
    assert model.step == 20
    assert set(found["history"]) == set(expected["history"])
    assert len(found["history"]) > 2 * len(TARGETS)
    for name, values in expected["history"].items():
        np.testing.assert_allclose(found["history"][name], values, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["evaluation"], expected["evaluation"], atol=1e-5)
    for ours, theirs in zip(found["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


def test_names_of_outputs_are_those_of_layers_and_unique():
    assert network(layers, models.Model).output_names == ["a", "b", "c"]
    x, shared = layers.Input((4,)), layers.Dense(4, name="shared")
    y = shared(x)
    assert models.Model(x, [y, shared(y)]).output_names == ["shared", "shared_1"]


def test_logs_have_the_loss_of_each_output_without_its_weight():
    model = compiled()
    logs = model.evaluate(X, BY_NAME, verbose=0, return_dict=True)
    names = ["loss", "a_loss", "b_loss", "c_loss", "a_accuracy", "b_mae", "b_mse"]
    assert [*logs] == [*names, "b_weighted_mae", "c_accuracy"]
    penalty = sum(term.item() for term in model.losses)
    expected = logs["a_loss"] + 0.5 * logs["b_loss"] + 2 * logs["c_loss"] + penalty
    assert logs["loss"] == pytest.approx(expected, rel=1e-6)
    assert logs["b_loss"] == pytest.approx(logs["b_mse"], rel=1e-6)


def test_one_loss_holds_for_all_outputs():
    model = network(layers, models.Model)
    model.compile("sgd", "mse", metrics={"b": "mae"})
    targets = [np.eye(3)[CLASSES], VALUES, LABELS]
    logs = model.evaluate(X, targets, verbose=0, return_dict=True)
    assert [*logs] == ["loss", "a_loss", "b_loss", "c_loss", "b_mae"]


def test_weights_of_samples_for_one_output_leave_the_others_alone():
    first, second = compiled("without weights"), compiled("without weights")
    first.fit(X, TARGETS, sample_weight=WEIGHTS, **QUIET)
    second.fit(X, TARGETS, sample_weight={"c": WEIGHTS, "a": WEIGHTS, "b": WEIGHTS}, **QUIET)
    assert bits(first) == bits(second)
    ones, zeros = np.ones(ROWS), np.zeros(ROWS)
    logs = first.evaluate(X, TARGETS, sample_weight=[ones, zeros, ones], return_dict=True)
    plain = first.evaluate(X, TARGETS, return_dict=True)
    assert (logs["a_loss"], logs["b_loss"]) == (plain["a_loss"], 0.0)
    before = second.get_weights()
    second.compile("sgd", KINDS["without weights"]["loss"])
    second.fit(X, TARGETS, sample_weight=[ones, zeros, zeros], **QUIET)
    pairs = zip(before, second.get_weights(), second.parameters(), strict=True)
    changed = {weight.name for old, new, weight in pairs if (old != new).any()}
    assert changed == {"h/weight", "h/bias", "a/weight", "a/bias"}


def test_batches_of_an_iterable_train_as_arrays_do():
    from_arrays, from_batches = compiled(), compiled()
    from_arrays.fit(X, TARGETS, shuffle=False, **QUIET)
    rows = [slice(n, n + 4) for n in range(0, ROWS, 4)]
    batches = [(X[part], {name: y[part] for name, y in BY_NAME.items()}) for part in rows]
    history = from_batches.fit(batches, validation_data=batches, verbose=0).history
    assert bits(from_batches) == bits(from_arrays)
    assert "val_b_weighted_mae" in history


def test_single_batches_report_what_evaluate_does():
    model = compiled()
    model.train_on_batch(X, TARGETS)
    values = model.test_on_batch(X, BY_NAME, return_dict=True)
    assert values == model.evaluate(X, TARGETS, ROWS, 0, return_dict=True)
    assert [y.shape[1] for y in model.predict_on_batch(X)] == [3, 2, 1]


class Heavier(callbacks.Callback):
    def on_epoch_begin(self, epoch, logs):
        if epoch == 2:
            self.model.loss.weights = (1.0, 4.0, 1.0)


@pytest.mark.slow_on("cuda-double")
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_run_has_the_bits_of_an_eager_one(kind, device):
    models_ = [compiled(kind, device=device) for _ in range(2)]
    histories = [
        model.fit(X, TARGETS, epochs=4, record=record, callbacks=Heavier(), **QUIET).history
        for model, record in zip(models_, (True, False), strict=True)
    ]
    assert bits(models_[0]) == bits(models_[1])
    assert histories[0] == histories[1]
    if device == "cuda-double" and kind == "without weights":
        assert (models_[0].recording.recordings, models_[0].recording.replays) == (2, 11)
    assert models_[0].loss.weights == (1.0, 4.0, 1.0)


class Stopping(callbacks.Callback):
    def on_train_batch_end(self, batch, logs):
        self.model.stop_training = batch == 1


@pytest.mark.slow_on("cuda-double")
def test_run_that_is_resumed_from_a_file_has_the_bits_of_an_uninterrupted_one(tmp_path, device):
    options = {**QUIET, "epochs": 3, "validation_data": (X[:5], [y[:5] for y in TARGETS])}
    compiled_with = KINDS["by position"] | {"weighted_metrics": {"c": [metrics.Precision()]}}
    whole, stopped = (network(layers, models.Model, device=device) for _ in range(2))
    for model in (whole, stopped):
        model.compile("adam", **compiled_with)
    expected = whole.fit(X, TARGETS, **options).history
    stopped.fit(X, TARGETS, callbacks=[Stopping(), callbacks.ModelCheckpoint(tmp_path)], **options)
    again = models.load(checkpoint.latest(tmp_path), device)
    assert again.position.batch == 2
    assert again.fit(X, TARGETS, resume=True, **options).history == expected
    assert bits(again) == bits(whole)


def test_change_of_a_weight_of_a_loss_is_noticed_before_a_run_is_resumed():
    model = compiled()
    model.fit(X, TARGETS, **QUIET)
    model.loss.weights = (1.0, 3.0, 2.0)
    with pytest.raises(ValueError, match="but the loss was changed since it ended"):
        model.fit(X, TARGETS, epochs=2, resume=True, **QUIET)


@pytest.mark.parametrize("kind", KINDS)
def test_shared_run_agrees_with_a_run_alone(kind):
    alone, shared = compiled(kind), compiled(kind)
    options = {**QUIET, "epochs": 2, "sample_weight": WEIGHTS, "validation_data": (X, TARGETS)}
    expected = alone.fit(X, TARGETS, **options).history
    found = shared.fit(X, TARGETS, distribution=DataParallel(shards=2), **options).history
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, err_msg=name)


def test_function_as_loss_of_an_output_decides_whether_steps_are_recorded_and_shared():
    def error(y_true, y_pred):
        return ((y_true - y_pred) ** 2).mean()

    model = network(layers, models.Model)
    model.compile("sgd", ["sparse_categorical_crossentropy", error, "mse"])
    model.fit(X, TARGETS, **QUIET)
    assert "error does not declare recordable" in model.recording.reason
    with pytest.raises(ValueError, match="FunctionLoss, whose function returns one number"):
        model.fit(X, TARGETS, distribution=DataParallel(shards=2), **QUIET)


def test_terminate_on_nan_names_the_step_of_a_loss_that_is_not_finite():
    model = compiled("without weights")
    values = VALUES.copy()
    values[9] = np.inf
    with pytest.warns(RuntimeWarning, match="not finite: the loss in step 2"):
        model.fit(
            X,
            [CLASSES, values, LABELS],
            shuffle=False,
            callbacks=[callbacks.TerminateOnNaN()],
            **QUIET,
        )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": ["mse"]}, ValueError, r"expected a loss for each of the outputs \['a', 'b', 'c'"),
        ({"loss": {"a": "mse"}}, ValueError, r"got keys \['a'\]"),
        ({"loss": ["mse", "mse", None]}, ValueError, "loss: expected a Loss or one of"),
        ({"loss": "mse", "loss_weights": [1, 2]}, ValueError, "one of loss_weights for each"),
        ({"loss": "mse", "loss_weights": 2.0}, ValueError, "one of loss_weights .*got a float"),
        ({"loss": "mse", "loss_weights": [1, 2, "3"]}, TypeError, r"expected loss_weights\['c'\]"),
        ({"loss": "mse", "metrics": ["mae"]}, ValueError, "metrics for each of the outputs"),
        ({"loss": "mse", "metrics": {"d": "mae"}}, ValueError, "metrics for each of the outputs"),
        ({"loss": "mse", "metrics": {"a": ["mae", "mae"]}}, ValueError, "unique names"),
        ({"loss": [losses.Huber(reduction=None)] * 3}, ValueError, "a loss that is one number"),
    ],
)
def test_compile_rejects_what_does_not_fit_the_outputs(arguments, error, message):
    model = compiled()
    before = model.loss, model.metrics
    with pytest.raises(error, match=message):
        model.compile("sgd", **arguments)
    assert (model.loss, model.metrics) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"y": VALUES},
            r"fit: expected y for each of the outputs \['a', 'b', 'c'\], got a ndarray",
        ),
        ({"y": [CLASSES, VALUES]}, "expected y for each of the outputs .*got a list of 2"),
        ({"y": {"a": CLASSES, "b": VALUES}}, r"got keys \['a', 'b'\]"),
        ({"y": [CLASSES, VALUES[:3], LABELS]}, "as many samples for each output, got shapes"),
        ({"y": [CLASSES[:3], VALUES[:3], LABELS[:3]]}, "expected y for 16 samples"),
        ({"y": [CLASSES, VALUES[:, :1], LABELS]}, "b: .*expected y of the outputs' shape"),
        ({"y": [CLASSES + 1, VALUES, LABELS]}, r"a: .*expected class numbers in \[0, 3\)"),
        ({"y": TARGETS, "sample_weight": [WEIGHTS] * 2}, "sample_weight for each of the outputs"),
        ({"y": TARGETS, "sample_weight": [VALUES] * 3}, "with one number for each sample"),
        ({"y": TARGETS, "class_weight": {0: 2.0}}, "y with one class for each sample"),
    ],
)
def test_fit_rejects_data_that_do_not_fit_the_outputs(arguments, message):
    model = compiled()
    before = bits(model)
    with pytest.raises(ValueError, match=message):
        model.fit(X, **arguments, **QUIET)
    assert bits(model) == before


def test_activation_of_an_output_that_does_not_fit_its_loss_is_rejected():
    model = network(layers, models.Model)
    model.compile("sgd", ["sparse_categorical_crossentropy", "binary_crossentropy", "mse"])
    with pytest.raises(ValueError, match=r"probabilities for BinaryCrossentropy, got linear .* b"):
        model.fit(X, [CLASSES, np.ones((ROWS, 2)), LABELS], **QUIET)


def test_weights_of_losses_that_are_replaced_by_too_few_are_rejected():
    model = compiled("without weights")
    model.loss.weights = (1.0, 1.0)
    with pytest.raises(ValueError, match="shorter than"):
        model.fit(X, TARGETS, **QUIET)


def test_model_without_metrics_is_saved_and_loaded(tmp_path):
    model = compiled("without weights")
    model.compile("sgd", KINDS["without weights"]["loss"], metrics=[])
    model.save(tmp_path / "model.safetensors")
    again = models.load(tmp_path / "model.safetensors")
    assert again.metrics == []
    assert again.evaluate(X, TARGETS, verbose=0) == model.evaluate(X, TARGETS, verbose=0)
    again.compile("sgd", model.loss, metrics=[], weighted_metrics={"b": "mae"})
    assert [metric.name for metric in again.metrics] == ["b_mae"]


def test_loss_weights_of_one_output_are_rejected():
    model = models.Sequential([layers.Dense(1)])
    for arguments in ({"loss": "mse", "loss_weights": [2.0]}, {"loss": compiled().loss}):
        with pytest.raises(TypeError, match="compile: expected loss_weights and OutputLosses for"):
            model.compile("sgd", **arguments)


def test_model_with_a_call_of_its_own_and_several_outputs_is_not_trained():
    class Two(models.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(2), layers.Dense(2)

        def call(self, x):
            return [self.first(x), self.second(x)]

    model = Two()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"fit: expected one output, got 2 of two\. Make the"):
        model.fit(X, VALUES, **QUIET)


def test_compiled_parts_of_one_model_compile_another():
    model, other = compiled(), network(layers, models.Model)
    other.compile("sgd", model.loss, metrics=model.metrics, loss_weights=[1, 1, 1])
    assert [m.name for m in other.metrics] == [m.name for m in model.metrics]
    assert (other.loss.weights, model.loss.weights) == ((1.0,) * 3, (1.0, 0.5, 2.0))


def test_layer_within_a_nested_model_and_outside_of_it_is_rejected_by_save(tmp_path):
    x, shared = layers.Input((4,)), layers.Dense(4, name="shared")
    inner = models.Sequential([shared], name="inner")
    model = models.Model(x, layers.Add()([shared(x), inner(x)]))
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)
    with pytest.raises(ValueError, match="save: expected each layer once in the model, got shared"):
        model.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="save: expected each layer once in the model, got shared"):
        model.fit(X, X, callbacks=[callbacks.ModelCheckpoint(tmp_path)], verbose=0)


def one_output():
    x = layers.Input((4,), name="input")
    return models.Model(x, layers.Dense(2, name="a")(x), seed=1)


def logs_of(x, y, weight, model, **arguments):
    """Return the logs and the bits of a short training."""
    model.compile("adam", **arguments)
    model.fit(x, y, sample_weight=weight, **QUIET)
    logs = model.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
    return logs, bits(model)


LISTED = {"loss": ["mse"], "metrics": [["mae"]], "weighted_metrics": [["mse"]]}
PLAIN = {"loss": "mse", "metrics": ["mae"], "weighted_metrics": ["mse"]}


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (([X], [VALUES], [WEIGHTS]), {}),
        (({"input": X}, {"a": VALUES}, {"a": WEIGHTS}), {}),
        ((X, VALUES, WEIGHTS), LISTED),
        (
            (X, VALUES, WEIGHTS),
            {"loss": {"a": "mse"}, "metrics": {"a": ["mae"]}, "weighted_metrics": {"a": "mse"}},
        ),
    ],
)
def test_lists_and_dictionaries_of_one_train_as_what_is_in_them(data, arguments):
    expected = logs_of(X, VALUES, WEIGHTS, one_output(), **PLAIN)
    assert logs_of(*data, one_output(), **PLAIN | arguments) == expected
    assert [*expected[0]] == ["loss", "mae", "mse"]


def test_lists_of_one_train_a_sequential_model_as_what_is_in_them():
    first, second = (
        models.Sequential([layers.Input((4,)), layers.Dense(2, name="a")]) for _ in range(2)
    )
    expected = logs_of(X, VALUES, WEIGHTS, first, **PLAIN)
    assert logs_of([X], [VALUES], [WEIGHTS], second, **LISTED) == expected


def test_list_of_one_array_holds_all_rows_in_calls_and_in_batches_of_one_row():
    model = one_output()
    model.compile("sgd", "mse")
    np.testing.assert_array_equal(model.predict([X], verbose=0), model.predict(X, verbose=0))
    assert model([X]).shape == (ROWS, 2)
    row, y = X[:1], VALUES[:1]
    assert model.test_on_batch([row], [y]) == model.test_on_batch(row, y)
    assert model.predict([X[0]], verbose=0).shape == (1, 2)  # a list of samples


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": {"b": "mse"}}, r"a loss for each of the outputs \['a'\], got keys \['b'\]"),
        ({"loss": "mse", "metrics": {"b": "mae"}}, r"expected metrics for each of .*keys \['b'\]"),
        ({"loss": ["mse", "mse"]}, "loss: expected a Loss or one of"),
    ],
)
def test_compile_of_one_output_rejects_other_names_and_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        one_output().compile("sgd", **arguments)


def test_fit_of_one_output_rejects_targets_of_other_names_and_numbers():
    model = one_output()
    model.compile("sgd", "mse")
    for y in ({"b": VALUES}, [VALUES, VALUES]):
        with pytest.raises(ValueError, match="fit: expected y for"):
            model.fit(X, y, **QUIET)
    with pytest.raises(TypeError, match="fit: expected arrays x and y"):
        model.fit(X, {"a": None}, **QUIET)


@pytest.mark.parametrize("is_by_name", [False, True])
def test_sample_weight_of_none_is_a_weight_of_one(is_by_name):
    models_ = [compiled(), compiled()]
    given = [[WEIGHTS, None, WEIGHTS], [WEIGHTS, np.ones(ROWS), WEIGHTS]]
    for model, weights in zip(models_, given, strict=True):
        weights = dict(zip("abc", weights, strict=True)) if is_by_name else weights
        model.fit(X, TARGETS, sample_weight=weights, **QUIET)
    assert bits(models_[0]) == bits(models_[1])
    without = compiled().evaluate(X, TARGETS, verbose=0)
    assert compiled().evaluate(X, TARGETS, sample_weight=[None] * 3, verbose=0) == without


def test_single_batches_pack_several_inputs_once(monkeypatch):
    pair = [layers.Input((4,)), layers.Input((4,))]
    model = models.Model(pair, layers.Dense(2)(layers.Add()(pair)))
    model.compile("sgd", "mse")
    calls, pack = [], models.Functional._host_inputs
    monkeypatch.setattr(
        models.Functional, "_host_inputs", lambda *given: calls.append(given[1]) or pack(*given)
    )
    loss = model.test_on_batch([X, X], VALUES)
    assert model.predict_on_batch([X, X]).shape == (ROWS, 2)
    assert calls == ["evaluate", "predict"]
    assert loss == model.evaluate([X, X], VALUES, ROWS, 0)


@pytest.mark.parametrize("is_by_name", [False, True])
def test_symbols_in_the_constructor_of_a_subclass_name_what_to_write(is_by_name):
    def define(base):
        class Net(base):
            def __init__(self):
                x = layers.Input((4,))
                y = layers.Dense(2)(x)
                if is_by_name:
                    super().__init__(inputs=x, outputs=y)
                else:
                    super().__init__(x, y)

        return Net()

    with pytest.raises(TypeError, match=r"Net: expected .* subclass models\.Functional"):
        define(models.Model)
    assert define(models.Functional).predict(X, verbose=0).shape == (ROWS, 2)
