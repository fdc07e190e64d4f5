"""Moving averages of layers: they move once for each step, however the step is run."""

import warnings

import numpy as np
import pytest
from recorded_runs import EPOCHS, FULL, LABELS, RARE, X, check, fit, network
from small_models import bits

from minidl import callbacks, layers, models, optimizers, training
from minidl.distributed import DataParallel
from minidl.layers import updates
from minidl.trainer.recorder import Recorder
from minidl.trainer.step import Step

QUICK = pytest.param(6, marks=pytest.mark.slow_on("cuda-double"))
FIT = {"batch_size": 4, "epochs": EPOCHS, "verbose": 0}


def stack(**arguments):
    return [
        layers.Dense(8, "gelu", input_shape=(6,)),
        layers.BatchNormalization(**arguments),
        layers.LayerNormalization(),
        layers.Dropout(0.5),
        layers.Dense(3, "softmax"),
    ]


def normalized(device="cpu", optimizer=None, **arguments):
    """Return a compiled classifier with both normalisations."""
    return network(device, optimizer, stack(**arguments))


def averages(model):
    """Return the bytes of the moving averages."""
    return [p.numpy().tobytes() for p in model.parameters() if not p.requires_grad]


class StopAfter(callbacks.Callback):
    """End training after a step, with a file of the model if a path is given."""

    def __init__(self, step, path=None):
        self.step, self.path = step, path

    def on_train_batch_end(self, batch, logs):
        if self.model.step == self.step:
            self.model.stop_training = True
            if self.path:
                self.model.save(self.path)


# ------------------------------------------------------------------------------ recorded steps


def test_recorded_steps_on_cuda_have_the_bits_of_eager_ones(cuda_double, tmp_path):
    model = check(lambda: normalized("cuda"), tmp_path)
    assert (model.recording.recordings, model.recording.reason) == (2, "")


def test_trial_compares_and_undoes_the_averages(cuda_double, monkeypatch):
    compared = []
    original = Recorder._try

    def noted(self, kept, batch):
        compared.append(sorted(kept.done.results))
        original(self, kept, batch)

    monkeypatch.setattr(Recorder, "_try", noted)
    fit(normalized("cuda"))
    names = [f"batch_normalization/running_{kind}" for kind in ("mean", "var")]
    assert len(compared) == 2
    for found in compared:
        assert [name for name in found if "running" in name] == [
            f"{number}: {name}" for number, name in enumerate(names)
        ]


@pytest.mark.needs_recordings
def test_steps_on_the_cpu_run_eagerly_with_the_reason(tmp_path):
    model = check(normalized, tmp_path, replays=0)
    assert model.recording.reason == "the operation gelu has no kernel"
    model = fit(network(stack=stack()[1:], optimizer=None))
    assert model.recording.reason == "the operation standardize has no kernel"


# ------------------------------------------------------------------------------ once for each step


def test_averages_are_those_of_a_loop_over_the_batches(device):
    model = network(device, stack=[layers.BatchNormalization(momentum=0.5), *stack()[3:]])
    model.fit(X, LABELS, shuffle=False, **FIT)
    mean, variance = np.zeros(6), np.ones(6)
    for _ in range(EPOCHS):
        for start in range(0, len(X), 4):
            batch = X[start : start + 4].astype("float32")
            mean = mean * 0.5 + batch.mean(0) * 0.5
            variance = variance * 0.5 + batch.var(0) * 0.5
    found = [p.numpy() for p in model.parameters() if not p.requires_grad]
    np.testing.assert_allclose(found, [mean, variance], rtol=1e-4, atol=1e-6)


def test_building_evaluating_and_predicting_keep_the_averages(device):
    model = normalized(device)
    before = averages(model)
    model.evaluate(X, LABELS, verbose=0)
    model.predict(X, verbose=0)
    model.predict(X, verbose=0, samples=3)
    assert averages(model) == before
    fit(model, epochs=1)
    after = averages(model)
    assert after != before
    model.evaluate(X, LABELS, verbose=0)
    model.predict(X, verbose=0, samples=3)
    assert averages(model) == after


def test_step_that_fails_before_its_update_keeps_the_averages(monkeypatch):
    model = normalized()
    fit(model, StopAfter(2))
    before = bits(model)

    def fail(step):
        raise KeyboardInterrupt

    monkeypatch.setattr(Step, "exchange", fail)  # after the forward pass, before the update
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, LABELS, **FIT, resume=True)
    assert bits(model) == before
    monkeypatch.undo()
    model.fit(X, LABELS, **FIT, resume=True)
    assert bits(model) == bits(fit(normalized()))


def test_collected_updates_change_nothing_until_they_are_assigned():
    layer = layers.BatchNormalization(input_shape=(6,))
    model = models.Sequential([layer, layers.Rescaling(2.0), layer], seed=1)
    with training(), updates.collected() as found:
        model(X)
    assert list(found) == [layer.moving_mean, layer.moving_variance]
    assert averages(model) == [np.zeros(6, "f4").tobytes(), np.ones(6, "f4").tobytes()]
    deferred = [values.tobytes() for values in found.values()]
    with training():
        model(X)
    assert averages(model) == deferred


# ------------------------------------------------------------------------------ resume, rollback


@pytest.mark.parametrize("step", [pytest.param(1, marks=RARE), pytest.param(4, marks=RARE), QUICK])
def test_run_resumed_within_an_epoch_has_the_bits_of_the_whole(step, device, tmp_path):
    path = tmp_path / "model.safetensors"
    whole = fit(normalized(device))
    stopped = fit(normalized(device), StopAfter(step, path))
    assert stopped.position.batch == step % (FULL + 1)
    assert bits(stopped) != bits(whole)
    loaded = models.load(path, device)
    assert averages(loaded) == averages(stopped)
    assert [p.requires_grad for p in loaded.parameters()] == [
        p.requires_grad for p in whole.parameters()
    ]
    for model in (stopped, loaded):
        model.fit(X, LABELS, **FIT, resume=True)
        assert bits(model) == bits(whole)
        assert model.history.history == whole.history.history


@pytest.mark.parametrize("every", [1, 2, 100])
def test_terminate_on_nan_returns_to_the_averages_of_the_last_good_step(every):
    x = X.copy()
    x[9, 1] = np.nan  # in the third batch
    model, expected = normalized(), normalized()
    options = {**FIT, "epochs": 1, "shuffle": False}
    guard = callbacks.TerminateOnNaN(every)
    with warnings.catch_warnings(action="ignore"):
        model.fit(x, LABELS, callbacks=[guard], **options)
    assert guard.found == "the inputs in step 2"
    expected.fit(X, LABELS, callbacks=[StopAfter(2)], **options)
    assert bits(model) == bits(expected)


def test_early_stopping_restores_the_averages_of_the_best_epoch():
    model, best = (
        normalized(optimizer=optimizers.SGD(5.0)),
        normalized(optimizer=optimizers.SGD(5.0)),
    )
    stopping = callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)
    model.fit(X, LABELS, **FIT | {"epochs": 8}, callbacks=[stopping])
    losses = model.history.history["loss"]
    epochs = int(np.argmin(losses)) + 1
    assert epochs < len(losses)
    best.fit(X, LABELS, **FIT | {"epochs": epochs})
    assert bits(model) == bits(best)


# ------------------------------------------------------------------------------ shards


class Centered(layers.Layer):
    """A user's layer that needs the whole batch."""

    needs_whole_batches = True

    def call(self, x):
        return x - x.mean(axis=0)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (layers.BatchNormalization(), "batch_normalization, a BatchNormalization"),
        (Centered(), "centered, a Centered"),
        (models.Sequential([layers.BatchNormalization()]), "batch_normalization, a Batch"),
    ],
)
def test_fit_rejects_layers_that_need_whole_batches_in_shards(layer, name):
    model = network(stack=[layers.Dense(8, input_shape=(6,)), layer, layers.Dense(3, "softmax")])
    before = bits(model)
    with pytest.raises(ValueError, match=f"fit: expected layers that .*, got {name}"):
        fit(model, distribution=DataParallel(shards=2))
    assert (bits(model), model.step) == (before, 0)
    fit(model)
    assert model.step == 4 * EPOCHS


def test_one_shard_has_the_bits_of_fit_without_distribution(device):
    alone, shared = normalized(device), normalized(device)
    fit(alone)
    fit(shared, distribution=DataParallel(shards=1))
    assert bits(alone) == bits(shared)
    assert (shared.recording.replays > 0) == (device != "cpu")


def test_layer_normalization_is_shared_by_shards():
    parts = [layers.Dense(8, "elu", input_shape=(6,)), layers.LayerNormalization()]
    model = network(stack=[*parts, layers.Dense(3, "softmax")])
    fit(model, distribution=DataParallel(shards=2))
    assert model.step == 4 * EPOCHS


@pytest.mark.parametrize("learned", [True, False])
def test_frozen_batch_normalization_infers_in_training_as_in_keras(learned):
    model = normalized(center=learned, scale=learned)
    fit(model, **FIT)
    layer = model.layers[1]
    before = layer.moving_mean.numpy()
    x = model.layers[0](model.backend.asarray(X[:4].astype("float32")))
    expected = layer(x).numpy()
    layer.trainable = False
    with training(step=0):
        assert (layer(x).numpy() == expected).all()
    model.compile("adam", "sparse_categorical_crossentropy")
    fit(model, **FIT)
    assert (layer.moving_mean.numpy() == before).all()
    layer.trainable = True
    with training(step=0):
        assert not (layer(x).numpy() == expected).all()
