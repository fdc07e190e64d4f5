"""TerminateOnNaN: what it finds, and the step to which the model returns."""

import shutil
import warnings

import numpy as np
import pytest
from callback_cases import X, Y, fit, network
from small_models import bits

from minidl import layers, metrics, models, optimizers
from minidl.callbacks import Callback, CSVLogger, TerminateOnNaN
from minidl.commands.run_folder import RunFolder


def guarded(model, *, every=100, x=X, epochs=4):
    """Train with the callback, and check that one warning says what it found."""
    guard = TerminateOnNaN(every)
    catching = warnings.catch_warnings(record=True, action="always")
    with np.errstate(all="ignore"), catching as caught:
        history = model.fit(
            x, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[guard], shuffle=False
        )
    said = [] if guard.found is None else [f"TerminateOnNaN: stopped, not finite: {guard.found}"]
    assert [str(warning.message) for warning in caught] == said
    assert {(warning.category, warning.filename) for warning in caught} <= {
        (RuntimeWarning, __file__)
    }
    return guard, history


def is_finite(model):
    return all(np.isfinite(weight).all() for weight in model.get_weights())


def test_finite_training_is_not_changed(device):
    one, other = network(device=device), network(device=device)
    guard, history = guarded(one, every=2, epochs=2)
    expected = fit(other, epochs=2, shuffle=False)
    assert guard.found is None
    assert history.history == expected.history
    assert bits(one) == bits(other)


@pytest.mark.parametrize("every", [1, 2, 100])
def test_layer_that_overflows_is_named_and_its_step_undone(every, device):
    model = network(optimizers.SGD(1e25), device=device)
    guard, history = guarded(model, every=every)
    # Step 0 is finite, and its update makes weights of about 1e25. Two such layers overflow.
    assert guard.found == "the outputs of last in step 1"
    assert (model.step, model.optimizer.iterations) == (1, 1)
    assert history.epoch == [0]
    assert not np.isfinite(history.history["loss"][0])
    assert is_finite(model)
    assert [layer.step for layer in model.layers if isinstance(layer, layers.Dropout)] == [1]


def test_bad_input_is_named():
    x = X.copy()
    x[9, 1] = np.nan  # in the third batch
    model = network()
    guard, _ = guarded(model, x=x)
    assert guard.found == "the inputs in step 2"
    assert is_finite(model)


def test_update_that_overflows_is_named_and_undone():
    model = network(optimizers.SGD(3e38))
    guard, _ = guarded(model)
    assert guard.found.startswith("the update of ")
    assert guard.found.endswith(" in step 0")
    assert is_finite(model)


def test_run_resumed_with_spoiled_weights_stops_without_repeated_steps():
    class Spoil(Callback):
        is_first = True

        def on_train_batch_end(self, batch, logs):
            if self.is_first:
                self.is_first = False
                raise KeyboardInterrupt
            self.model.layers[-1].bias.data[...] = np.inf

    model, spoil, guard = network(), Spoil(), TerminateOnNaN(1)
    with pytest.raises(KeyboardInterrupt):
        fit(model, spoil, guard)
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="not finite"):
        fit(model, spoil, guard, resume=True)
    assert guard.found.startswith("the loss or a weight at step 1. The model stays there")
    assert "TerminateOnNaN" in model.train_state.why_not_resumable()
    assert model.step == 1


def test_model_returns_into_a_later_epoch_and_training_can_go_on():
    class Spoil(Callback):
        def on_train_batch_begin(self, batch, logs):
            if self.model.step == 7:
                self.model.layers[-1].bias.data[...] = np.inf

    model, reference = network(optimizers.Adam()), network(optimizers.Adam())
    guard = TerminateOnNaN(2)
    found = (
        "unknown cause: repeating the steps after step 6 gave finite numbers. "
        "Check what your callbacks change."
    )
    with (
        np.errstate(all="ignore"),
        pytest.warns(RuntimeWarning, match=f"TerminateOnNaN: stopped, not finite: {found}"),
    ):
        fit(model, Spoil(), guard)
    # Repeated without the spoiling, no step fails: the model is where the epoch began.
    assert guard.found == found
    assert is_finite(model)
    fit(model, resume=True)
    fit(reference)
    assert bits(model) == bits(reference)
    assert model.history.history == reference.history.history


@pytest.mark.parametrize(
    ("moment", "every"),
    [("on_train_batch_begin", 100), ("on_train_batch_end", 100), ("on_train_batch_end", 1)],
)
def test_run_resumed_after_the_failed_step_is_not_called_rolled_back(moment, every):
    class Breaks(Callback):
        step = 2

        def on_train_batch_begin(self, batch, logs):
            self.break_at("on_train_batch_begin")

        def on_train_batch_end(self, batch, logs):
            self.break_at("on_train_batch_end")

        def break_at(self, name):
            if name == moment and self.model.step == self.step:
                self.step = None
                raise KeyError("mine")

    model = network(optimizers.SGD(1e25))
    used = [Breaks(), TerminateOnNaN(every)]
    with np.errstate(all="ignore"):
        with pytest.raises(KeyError, match="mine"):
            fit(model, *used)
        assert not is_finite(model)
        with pytest.warns(RuntimeWarning, match="TerminateOnNaN: .*Load an earlier checkpoint"):
            fit(model, *used, resume=True)
    with pytest.raises(ValueError, match=r"fit: .*TerminateOnNaN knew no finite state"):
        fit(model, resume=True)


def test_resumed_run_returns_to_its_finite_beginning():
    class Breaks(Callback):
        step = 1

        def on_train_batch_begin(self, batch, logs):
            if self.model.step == self.step:
                self.step = None
                raise KeyError("mine")

    model, used = network(optimizers.SGD(1e25)), [Breaks(), TerminateOnNaN()]
    with np.errstate(all="ignore"):
        with pytest.raises(KeyError, match="mine"):
            fit(model, *used)
        with pytest.warns(RuntimeWarning, match="the outputs of last in step 1"):
            fit(model, *used, resume=True)
    assert is_finite(model)
    assert model.train_state.why_not_resumable() == ""


def test_subclass_of_model_is_named_as_a_whole():
    class Net(models.Model):
        def __init__(self):
            super().__init__(name="net")
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Net()
    model.compile(optimizers.SGD(1e30), "mse")
    guard, _ = guarded(model, x=X * 1e10)
    assert guard.found in ("the outputs of net in step 1", "the update of dense/weight in step 0")


# ------------------------------------------------------------------------------ the record


class SpoilAt(Callback):
    """Make a weight infinite at one step, once."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_begin(self, batch, logs):
        if self.model.step == self.step:
            self.step = None
            self.model.layers[-1].bias.data[...] = np.inf


def diverged(model, *used, step=4, **arguments):
    """Train until a step spoils the weights; three steps are an epoch."""
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="TerminateOnNaN: stopped"):
        fit(model, TerminateOnNaN(1), SpoilAt(step), *used, **arguments)
    return model


def compiled(device="cpu"):
    model = network(device=device)
    model.compile("adam", "mse", metrics=[Largest()])
    return model


class Largest(metrics.Metric):
    """Mean of each sample's largest output."""

    def per_sample(self, y_true, y_pred):
        return y_pred.max(axis=-1)


@pytest.mark.parametrize("step", [3, 4, 5])
@pytest.mark.parametrize("validation", [{}, {"validation_split": 0.1}])
def test_history_records_the_epoch_that_diverged(step, validation, device):
    model = diverged(compiled(device), step=step, **validation)
    names = ["loss", "metric", *(["val_loss", "val_metric"] if validation else [])]
    history = model.history
    assert history.epoch == [0, 1]
    assert {name: len(values) for name, values in history.history.items()} == dict.fromkeys(
        names, 2
    )
    assert all(np.isfinite(list(history.logs[0].values())))
    assert not np.isfinite(list(history.logs[1].values())).any()
    assert (model.position.epoch, model.position.batch, model.step) == (1, step - 3, step)
    assert is_finite(model)


def test_record_is_replaced_if_the_epoch_is_repeated(tmp_path):
    def loggers(folder):
        folder.mkdir(exist_ok=True)
        logger = CSVLogger(folder / "log.csv", append=True)
        return [logger, RunFolder(folder / "run", {}, is_resumed=(folder / "run").exists())]

    def files(folder):
        return [(folder / name).read_text() for name in ("log.csv", "run/history.jsonl")]

    fit(reference := compiled(), *loggers(tmp_path / "whole"))
    model = diverged(compiled(), *loggers(tmp_path / "broken"))
    log, history = files(tmp_path / "broken")
    assert [line.split(",")[0] for line in log.splitlines()] == ["epoch", "0", "1"]
    assert log.splitlines()[-1] in ("1,inf,inf", "1,nan,nan")
    assert history.splitlines()[1] == '{"epoch": 2, "loss": null, "metric": null}'
    model.save(tmp_path / "diverged.safetensors")
    loaded = models.load(tmp_path / "diverged.safetensors", custom_objects=[Largest])
    assert loaded.history.epoch == [0, 1]
    shutil.copytree(tmp_path / "broken", tmp_path / "other")
    for trained, folder in ((model, "broken"), (loaded, "other")):
        fit(trained, *loggers(tmp_path / folder), resume=True)
        assert bits(trained) == bits(reference)
        assert trained.history.history == reference.history.history
        assert files(tmp_path / folder) == files(tmp_path / "whole")


def test_record_in_the_first_epoch_and_a_new_run_after_it(tmp_path):
    path = tmp_path / "log.csv"
    model = diverged(compiled(), CSVLogger(path), step=1)
    assert (model.history.epoch, model.step) == ([0], 1)
    assert [line[:2] for line in path.read_text().splitlines()] == ["ep", "0,"]
    fit(model, CSVLogger(path), epochs=2)
    assert model.history.epoch == [0, 1]
    assert all(np.isfinite(model.history.history["loss"]))
    assert len(path.read_text().splitlines()) == 3


def test_second_fit_forgets_what_the_first_found():
    model = network(optimizers.SGD(1e25))
    guard, _ = guarded(model)
    assert guard.found is not None
    fit(network(), guard, epochs=1)
    assert guard.found is None


def test_every_below_1_is_rejected():
    with pytest.raises(ValueError, match=r"TerminateOnNaN: every: .*got 0"):
        TerminateOnNaN(0)
