"""Batches from an iterable have the bits of arrays in fit, evaluate and predict."""

import contextlib

import numpy as np
import pytest
from small_models import LABELS, TARGETS, X, bits, classifier, regressor

from minidl import callbacks, distributed, layers, models
from minidl.callbacks import Callback

SIZE = 16
PAIRS = [(X[n : n + SIZE], LABELS[n : n + SIZE]) for n in range(0, len(X), SIZE)]
WEIGHTS = np.linspace(0.0, 2.0, len(X))
PLAIN = {"epochs": 3, "verbose": 0, "batch_size": SIZE}


def endless():
    while True:
        yield from PAIRS


def loader():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(LABELS))
    return torch.utils.data.DataLoader(data, batch_size=SIZE)


KINDS = {
    "list": lambda: (PAIRS, {}),
    "endless": lambda: (endless(), {"steps_per_epoch": len(PAIRS)}),
    "loader": lambda: (loader(), {}),
}


@pytest.fixture(scope="module")
def of_arrays():
    """Return a model that arrays have trained."""
    model = classifier()
    model.fit(X, LABELS, shuffle=False, validation_data=(X, LABELS), **PLAIN)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_fit_on_batches_has_the_bits_of_arrays_without_shuffling(kind, of_arrays):
    batches, arguments = KINDS[kind]()
    model = classifier()
    model.fit(batches, validation_data=PAIRS, **arguments, **PLAIN)
    assert bits(model) == bits(of_arrays)
    assert model.history.history == of_arrays.history.history
    assert (model.step, model.epoch) == (of_arrays.step, of_arrays.epoch)
    assert model.recording.reason == "batches come from an iterable"


def test_fit_on_weighted_batches_has_the_bits_of_arrays(device):
    plain, model = (regressor("adam", device=device) for _ in range(2))
    plain.fit(X, TARGETS, sample_weight=WEIGHTS, shuffle=False, **(PLAIN | {"epochs": 1}))
    parts = zip(
        *(np.split(part, [SIZE, 2 * SIZE, 3 * SIZE]) for part in (X, TARGETS, WEIGHTS)), strict=True
    )
    model.fit(parts, verbose=0)
    assert bits(model) == bits(plain)


def test_train_on_batch_has_the_bits_and_means_of_fit(of_arrays):
    model = classifier()
    for _ in range(3):
        values = [model.train_on_batch(x, y, return_dict=True) for x, y in PAIRS]
    assert bits(model) == bits(of_arrays)
    means = np.average([v["loss"] for v in values], weights=[len(y) for _, y in PAIRS])
    assert means == pytest.approx(of_arrays.history.history["loss"][-1], rel=1e-6)
    assert (model.step, model.epoch) == (12, 0)
    loss, accuracy = model.train_on_batch(*PAIRS[0])
    assert loss > 0
    assert 0 <= accuracy <= 1


def test_train_on_batch_keeps_the_history_and_ends_the_resumability_of_a_run():
    model = regressor()
    history = model.fit(X, TARGETS, verbose=0).history
    assert isinstance(model.train_on_batch(X, TARGETS), float)
    assert model.history.history == history
    with pytest.raises(ValueError, match="train_on_batch changed the weights"):
        model.fit(X, TARGETS, verbose=0, epochs=2, resume=True)


def test_train_on_batch_is_rejected_within_fit():
    class Nested(Callback):
        def on_train_batch_end(self, batch, logs):
            self.model.train_on_batch(X, TARGETS)

    with pytest.raises(RuntimeError, match="train_on_batch: sequential is in fit"):
        regressor().fit(X, TARGETS, verbose=0, callbacks=Nested())


def test_evaluate_and_predict_on_batches_have_the_bits_of_arrays(of_arrays):
    size = {"batch_size": SIZE, "verbose": 0}
    assert of_arrays.evaluate(PAIRS, verbose=0) == of_arrays.evaluate(X, LABELS, **size)
    outputs = of_arrays.predict(X, **size)
    for x in (PAIRS, iter(PAIRS), (x for x, _ in PAIRS), endless()):
        steps = None if x is PAIRS else len(PAIRS)
        np.testing.assert_array_equal(of_arrays.predict(x, verbose=0, steps=steps), outputs)
    x, y = PAIRS[1]
    assert of_arrays.test_on_batch(x, y) == of_arrays.evaluate(x, y, **size)
    np.testing.assert_array_equal(of_arrays.predict_on_batch(x), of_arrays.predict(x, **size))


def test_draws_on_batches_have_the_rows_of_the_whole_as_addresses(of_arrays):
    size = {"samples": 6, "verbose": 0}
    expected = of_arrays.predict(X, batch_size=SIZE, **size)
    for name, value in of_arrays.predict(iter(PAIRS), **size)._asdict().items():
        np.testing.assert_array_equal(value, getattr(expected, name), err_msg=name)


def test_unbuilt_model_is_built_for_the_first_batch():
    model = models.Sequential([layers.Flatten(), layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(((x, TARGETS[: len(x)]) for x, _ in PAIRS), verbose=0)
    assert model.built_for == (6,)


# ------------------------------------------------------------------------------ epochs


def test_generator_that_ends_ends_training_with_a_warning():
    model = regressor()
    with pytest.warns(UserWarning, match="fit: expected batches for each epoch, got none after"):
        model.fit(((x, TARGETS[: len(x)]) for x, _ in PAIRS), epochs=3, verbose=0)
    assert model.history.epoch == [0]


def test_epoch_with_fewer_batches_than_steps_is_recorded_with_a_warning():
    model = classifier()
    with pytest.warns(UserWarning, match="fit: expected 6 batches in an epoch, got 4"):
        model.fit(PAIRS, epochs=2, verbose=0, steps_per_epoch=6)
    assert (model.history.epoch, model.step) == ([0, 1], 8)


def test_validation_by_a_generator_takes_its_steps_and_goes_on():
    seen = []

    def recorded():
        for number, pair in enumerate(PAIRS * 2):
            seen.append(number)
            yield pair

    classifier().fit(X, LABELS, validation_data=recorded(), validation_steps=2, **PLAIN)
    assert seen == [0, 1, 2, 3, 4, 5]


def test_validation_of_some_steps_begins_anew_as_in_keras():
    found = []
    for batches in (PAIRS, loader(), PAIRS[:2]):
        steps = {"validation_data": batches, "validation_steps": 2}
        model = classifier()
        found.append(model.fit(PAIRS, epochs=3, verbose=0, **steps).history["val_loss"])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("often", "epochs"), [(2, [1, 3]), ([1, 4], [0, 3]), (5, [])])
def test_validation_freq_chooses_the_epochs_to_validate(often, epochs):
    model = regressor()
    arguments = {"validation_data": (X, TARGETS), "validation_freq": often, "epochs": 4}
    stopping = callbacks.EarlyStopping("val_loss", patience=9)
    plateau = callbacks.ReduceLROnPlateau("val_loss")
    model.fit(X, TARGETS, verbose=0, callbacks=[stopping, plateau], **arguments)
    found = [n for n, logs in model.history.rows() if "val_loss" in logs]
    assert (found, stopping.wait) == (epochs, 0)


@pytest.mark.parametrize(("size", "batches"), [(None, 4), (30, 2), (50, 1)])
def test_validation_batch_size_is_that_of_the_validation_alone(size, batches):
    seen = []
    counting = callbacks.LambdaCallback(on_test_batch_end=lambda batch, logs: seen.append(batch))
    arguments = {"validation_data": (X, LABELS), "validation_batch_size": size, "verbose": 0}
    model, plain = classifier(), classifier()
    found = model.fit(X, LABELS, SIZE, callbacks=[counting], **arguments).history
    expected = plain.fit(X, LABELS, SIZE, verbose=0, validation_data=(X, LABELS)).history
    assert (seen, model.step) == ([*range(batches)], 4)
    assert found["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-6)
    assert found["loss"] == expected["loss"]


def test_csv_has_columns_of_validations_that_come_later(tmp_path):
    logger = callbacks.CSVLogger(tmp_path / "log.csv")
    arguments = {"validation_data": (X, TARGETS), "validation_freq": 2, "epochs": 2}
    regressor().fit(X, TARGETS, verbose=0, callbacks=[logger], **arguments)
    columns, first, second = (tmp_path / "log.csv").read_text().splitlines()
    assert columns == "epoch,loss,val_loss"
    assert first.endswith(",NA")
    assert not second.endswith(",NA")


# ------------------------------------------------------------------------------ resuming


class Stop(Callback):
    """Callback that raises after a batch."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, batch, logs):
        if self.model.step == self.step:
            raise KeyboardInterrupt


def test_run_on_batches_resumes_at_the_beginning_of_an_epoch(of_arrays, tmp_path):
    model = classifier()
    model.fit(PAIRS, validation_data=PAIRS, **(PLAIN | {"epochs": 2}))
    model.save(tmp_path / "m.safetensors")
    model = models.load(tmp_path / "m.safetensors")
    model.fit(PAIRS, validation_data=PAIRS, resume=True, **PLAIN)
    assert bits(model) == bits(of_arrays)
    assert model.history.history == of_arrays.history.history


def test_run_on_batches_is_not_resumed_within_an_epoch(tmp_path):
    model = classifier()
    with pytest.raises(KeyboardInterrupt):
        model.fit(PAIRS, callbacks=Stop(6), **PLAIN)
    model.save(tmp_path / "m.safetensors")
    loaded = models.load(tmp_path / "m.safetensors")
    assert bits(loaded) == bits(model)
    for each in (model, loaded):
        with pytest.raises(ValueError, match="position of its iterable is unknown"):
            each.fit(PAIRS, resume=True, **PLAIN)


def test_run_on_batches_is_not_resumed_with_arrays():
    model = classifier()
    model.fit(PAIRS, **PLAIN)
    with pytest.raises(ValueError, match="fit: expected samples 0 to resume the run, got 50"):
        model.fit(X, LABELS, resume=True, **PLAIN)


def test_divergence_on_batches_returns_to_finite_weights():
    model = regressor()
    guard = callbacks.TerminateOnNaN()
    bad = [(x, TARGETS[: len(x)] * (np.nan if n == 2 else 1)) for n, (x, _) in enumerate(PAIRS)]
    with pytest.warns(RuntimeWarning, match="after step 0, in batches that cannot be repeated"):
        model.fit(bad, verbose=0, callbacks=[guard], epochs=2)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


# ------------------------------------------------------------------------------ rejections


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"validation_split": 0.5}, ValueError, "expected arrays for validation_split"),
        ({"steps_per_epoch": 0}, ValueError, "fit: number of steps: expected a positive"),
        ({"validation_freq": 0}, ValueError, "fit: validation_freq: expected a positive"),
        (
            {"validation_batch_size": 0},
            ValueError,
            "fit: validation_batch_size: expected a positive",
        ),
        (
            {"validation_steps": 2},
            TypeError,
            "fit: validation_data: expected a number of steps for an",
        ),
        ({"sample_weight": WEIGHTS}, TypeError, "got a list and no y"),
    ],
)
def test_argument_that_does_not_fit_batches_is_rejected_before_training(arguments, error, message):
    model = classifier()
    before = bits(model)
    with pytest.raises(error, match=message):
        model.fit(PAIRS, verbose=0, **arguments)
    assert bits(model) == before


def test_distribution_is_rejected_for_batches_before_training():
    model = classifier()
    before = bits(model)
    with pytest.raises(ValueError, match="or a distribution, got"):
        model.fit(PAIRS, verbose=0, distribution=distributed.DataParallel(2))
    held_out = {"validation_data": PAIRS, "verbose": 0}
    with pytest.raises(ValueError, match="or a distribution, got"):
        model.fit(X, LABELS, distribution=distributed.DataParallel(2), **held_out)
    assert bits(model) == before


def test_steps_are_rejected_for_arrays():
    model = classifier()
    with pytest.raises(TypeError, match="evaluate: expected a number of steps for an iterable of"):
        model.evaluate(X, LABELS, steps=2)
    with pytest.raises(TypeError, match="predict: expected a number of steps for an iterable of"):
        model.predict(X, steps=2)


def test_bad_labels_of_a_later_batch_are_rejected_between_two_steps():
    model = classifier()
    with pytest.raises(ValueError, match=r"sparse_.*class numbers in \[0, 3\)"):
        model.fit([*PAIRS[:3], (X[:4], np.full(4, 9))], verbose=0)
    assert (model.step, model.train_state.is_torn) == (2, False)
    with contextlib.suppress(ValueError):
        model.fit(PAIRS, verbose=0)
    assert model.step == 6


@pytest.mark.parametrize("weight", [{0: 2.0, 2: 0.5}, {1: 0.0}])
def test_class_weights_of_batches_have_the_bits_of_arrays(weight):
    plain, model = classifier(), classifier()
    plain.fit(X, LABELS, class_weight=weight, shuffle=False, **PLAIN)
    model.fit(PAIRS, class_weight=weight, **PLAIN)
    assert bits(model) == bits(plain)
