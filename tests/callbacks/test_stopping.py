"""EarlyStopping: when training ends, and with which weights."""

import itertools

import numpy as np
import pytest
from callback_cases import WATCHED, Losses, SaveAll, Watched, curves, exceeds, fit, network
from small_models import bits

from minidl import layers, models
from minidl.callbacks import Callback, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from minidl.callbacks.monitor import direction


def play(stopper, values, monitor="val_loss"):
    """Tell a callback of epochs with these values, as `fit` would.

    Return the number of epochs until it stopped, and the epoch whose weights the model then has.
    """
    model = models.Sequential([layers.Dense(2, input_shape=(3,))], seed=1)
    stopper.model, stopper.params = model, {"metrics": [monitor], "may_log_more": False}
    model.stop_training = False
    stopper.on_train_begin({})
    for epoch, value in enumerate(values):
        model.set_weights([np.full((3, 2), epoch), np.full(2, epoch)])
        stopper.on_epoch_end(epoch, {monitor: value})
        if model.stop_training:
            break
    stopper.on_train_end({})
    return epoch + 1, model.get_weights()[1][0]


@pytest.mark.parametrize(
    ("arguments", "values", "epochs"),
    [
        ({"patience": 2}, [3, 2, 2.5, 2.4, 1], 4),
        ({"patience": 2}, [3, 2, 2.5, 1.9, 2, 2, 2], 6),
        ({"patience": 0}, [3, 2, 2, 1], 3),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6, 1], 2),
        ({"patience": 1, "min_delta": -0.5}, [3, 2.6, 1], 2),
        ({"patience": 1, "mode": "max"}, [1, 2, 3, 2, 9], 4),
        ({"patience": 2, "baseline": 1.0}, [3, 2, 2.5, 0.5], 3),
        ({"patience": 2, "baseline": 1.0}, [3, 0.5, 0.6, 0.4, 2], 5),
        ({"patience": 3, "baseline": 1.0}, [3, 2, 0.5, 0.4, 0.3], 5),
        ({"patience": 2}, [float("nan"), float("nan"), 1], 2),
    ],
)
def test_training_ends_after_patience_epochs_without_improvement(arguments, values, epochs):
    assert play(EarlyStopping(**arguments), values)[0] == epochs


def test_more_is_better_for_accuracies_unless_mode_says_otherwise():
    stopper = EarlyStopping("val_accuracy", patience=1)
    assert play(stopper, [0.1, 0.2, 0.3, 0.2, 0.9], "val_accuracy")[0] == 4
    assert (stopper.best_epoch, stopper.stopped_epoch) == (2, 3)
    stopper = EarlyStopping("val_accuracy", patience=1, mode="min")
    assert play(stopper, [0.1, 0.2], "val_accuracy")[0] == 2


@pytest.mark.parametrize(("restore", "expected"), [(True, 1), (False, 3)])
def test_best_weights_are_restored_only_if_asked(restore, expected):
    stopper = EarlyStopping(patience=2, restore_best_weights=restore)
    assert play(stopper, [3, 2, 2.5, 2.4]) == (4, expected)


def test_best_weights_are_restored_if_training_was_not_stopped():
    stopper = EarlyStopping(patience=9, restore_best_weights=True)
    assert play(stopper, [3, 2, 2.5]) == (3, 1)


def test_second_fit_with_the_same_callback_begins_anew():
    stopper = EarlyStopping("loss", patience=1, restore_best_weights=True)
    model = network()
    for _ in range(2):
        history = fit(model, Watched(), stopper, epochs=12)
        assert history.epoch == [0, 1, 2, 3]  # the loss is NaN, 3, 2 and 2.5
        assert (stopper.best_epoch, stopper.stopped_epoch) == (2, 3)


def test_unknown_monitor_is_rejected_before_training():
    model = network()
    model.predict(np.ones((1, 3)))
    before = bits(model)
    with pytest.raises(
        ValueError, match=r"EarlyStopping: expected monitor .* loss, got 'val_loss'"
    ):
        fit(model, EarlyStopping())
    assert model.step == 0
    assert bits(model) == before


def keras_stops(mode, values, patience, delta, baseline):
    """Return the epoch at which EarlyStopping of Keras 3 stops, its best epoch and value."""
    best, best_epoch, wait = None, 0, 0
    for epoch, value in enumerate(values):
        wait += 1
        if exceeds(mode, value, best, delta):
            best, best_epoch = value, epoch
            if exceeds(mode, value, baseline, delta):
                wait = 0
        elif wait >= patience and epoch > 0:
            break
    return epoch, best_epoch, best


@pytest.mark.parametrize("baseline", [None, 1.0])
@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("patience", [0, 1, 3])
def test_stops_and_best_values_are_those_of_keras(patience, delta, baseline):
    for mode, values in curves(40):
        stopper = EarlyStopping(patience=patience, min_delta=delta, baseline=baseline, mode=mode)
        epochs, _ = play(stopper, values)
        found = epochs - 1, stopper.best_epoch, stopper.best
        assert found == keras_stops(mode, values, patience, delta, baseline), (mode, values)


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([3.0, 2.0, 2.5], "min", 2.0),
        ([3.0, 2.0, 2.5], "max", 3.0),
        ([-3.0, -2.0], "max", -2.0),
        ([np.nan, np.inf, np.nan], "min", np.inf),
        ([np.nan, np.nan], "min", None),
        ([-np.inf, 1.0], "max", 1.0),
    ],
)
def test_best_is_the_value_itself_also_in_a_resumed_run(values, mode, best, tmp_path):
    model, stopper = network(), EarlyStopping("loss", patience=9, mode=mode)
    fit(model, Losses(values), stopper, epochs=len(values))
    assert stopper.best == best
    model.save(tmp_path / "x.safetensors")
    again = EarlyStopping("loss", patience=9, mode=mode)
    fit(models.load(tmp_path / "x.safetensors"), again, epochs=len(values), resume=True)
    assert again.best == best


# ------------------------------------------------------------------------------ names and modes


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("min", "loss val_loss accumulated_loss accuracy_loss val_error mean_squared_error mse"),
        ("min", "val_mae rmse mean_squared_error_1 kl_divergence Loss_2 perplexity nll"),
        ("max", "accuracy val_acc sparse_categorical_accuracy auc val_auc roc_auc AUC auc_1 f1"),
        (
            "max",
            "val_f1 f1_score recall val_recall_2 precision loss_accuracy top_k_acc iou r2_score",
        ),
        (None, "metric gap accumulator learning_rate score neg_mean_squared_error f1_macro"),
        (None, "negative_loss error_reduction loss_improvement val_ precision_at_recall_gap"),
    ],
)
def test_direction_follows_the_last_word_of_a_known_name(mode, names):
    assert {name: direction(name) for name in names.split()} == dict.fromkeys(names.split(), mode)


@pytest.mark.parametrize(
    "make",
    [
        lambda **arguments: EarlyStopping(**arguments),
        lambda **arguments: ReduceLROnPlateau(**arguments),
        lambda **arguments: ModelCheckpoint("files", **arguments),
    ],
    ids=["EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint"],
)
def test_unknown_direction_is_rejected_until_mode_is_given(make):
    with pytest.raises(
        ValueError, match=r'expected mode .*"max" for monitor=\'val_gap\', got "auto"'
    ):
        make(monitor="val_gap")
    assert make(monitor="val_gap", mode="max").sign == 1
    assert make(monitor="val_gap", mode="min").sign == -1
    with pytest.raises(TypeError, match="expected monitor to be a string, got 3"):
        make(monitor=3)


class Adds(Callback):
    """Callback that adds a value to the logs of each epoch."""

    def __init__(self, value=0.5, name="val_f1"):
        self.value, self.name = value, name

    def on_epoch_end(self, epoch, logs):
        logs[self.name] = self.value


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5), True])
def test_value_that_an_earlier_callback_adds_can_be_monitored(value, tmp_path):
    monitors = [
        EarlyStopping("val_f1", patience=2),
        ReduceLROnPlateau("val_f1", factor=0.5, patience=1),
        ModelCheckpoint(tmp_path, monitor="val_f1"),
    ]
    model = network()
    history = fit(model, Adds(value), *monitors, epochs=9)
    assert history.epoch == [0, 1, 2]
    assert history.history["learning_rate"] == [0.1, 0.1, 0.05]
    assert [monitor.best for monitor in monitors] == [float(value)] * 3
    assert models.load(tmp_path / "best.safetensors").history.epoch == [0]


@pytest.mark.parametrize("other", ["text", None, np.ones(2)], ids=repr)
def test_monitored_value_that_is_not_a_number_is_rejected(other):
    with pytest.raises(ValueError, match=r"EarlyStopping: expected monitor .*loss, got 'val_f1'"):
        fit(network(), Adds(other), EarlyStopping("val_f1"))


def test_monitor_that_no_earlier_callback_adds_is_rejected_after_the_first_epoch():
    model = network()
    with pytest.raises(ValueError, match=r"EarlyStopping: expected monitor .*loss, got 'val_f1'"):
        fit(model, EarlyStopping("val_f1"), Adds())
    assert model.history.epoch == [0]
    history = fit(model, Adds(), EarlyStopping("val_f1", patience=9), epochs=3, resume=True)
    assert history.history["val_f1"] == [0.5] * 3


def test_unknown_mode_is_rejected():
    with pytest.raises(ValueError, match=r"EarlyStopping: expected mode .*got 'most'"):
        EarlyStopping(mode="most")


# ------------------------------------------------------------------------------ resuming

STOPPERS = {
    "patience": lambda: EarlyStopping("loss", patience=3),
    "min_delta": lambda: EarlyStopping("loss", patience=4, min_delta=0.6),
    "baseline": lambda: EarlyStopping("loss", patience=4, baseline=1.2),
    "restore": lambda: EarlyStopping("loss", patience=3, restore_best_weights=True),
}


@pytest.mark.parametrize("name", sorted(STOPPERS))
def test_run_resumed_at_any_step_ends_with_weights_of_whole_run(name, tmp_path):
    """With restored weights, these are the best weights of the whole run."""
    arguments = {"epochs": 12, "batch_size": 6}
    whole, saver = network(), SaveAll(tmp_path)
    fit(whole, Watched(), STOPPERS[name](), saver, **arguments)
    assert len(saver.files) == 2 * len(whole.history.epoch)
    for file in saver.files:
        again = models.load(file)
        fit(again, Watched(), STOPPERS[name](), **arguments, resume=True)
        assert bits(again) == bits(whole), file.name
        assert (again.step, again.history.epoch) == (whole.step, whole.history.epoch), file.name


def test_restored_weights_are_those_of_the_best_epoch(tmp_path):
    model, saver = network(), SaveAll(tmp_path)
    fit(model, Watched(), STOPPERS["restore"](), saver, epochs=12)
    best = int(np.nanargmin(WATCHED[: len(model.history.epoch)]))
    saved = {file.name: models.load(file) for file in saver.files}
    assert bits(model) == bits(saved[f"{best + 1}-0.safetensors"])
    assert bits(model) != bits(saved[f"{len(model.history.epoch)}-0.safetensors"])


def test_run_resumed_after_a_break_in_the_process_restores_the_best_weights():
    class Breaks(Callback):
        def on_train_batch_end(self, batch, logs):
            if self.model.step == self.step:
                self.step = None
                raise OverflowError

    whole = network()
    fit(whole, Watched(), STOPPERS["restore"](), epochs=12)
    for step in (8, 9, 10, 14):
        model, breaks, stopper = network(), Breaks(), STOPPERS["restore"]()
        breaks.step = step
        with pytest.raises(OverflowError):
            fit(model, Watched(), stopper, breaks, epochs=12)
        fit(model, Watched(), stopper, breaks, epochs=12, resume=True)
        assert bits(model) == bits(whole)


def test_run_is_not_resumable_after_the_best_weights_were_restored(tmp_path):
    model = network()
    fit(model, Watched(), STOPPERS["restore"](), epochs=12)
    model.save(tmp_path / "model.safetensors")
    for ended in (model, models.load(tmp_path / "model.safetensors")):
        before = bits(ended)
        message = "fit: .*but EarlyStopping restored the best weights"
        with pytest.raises(ValueError, match=message):
            fit(ended, Watched(), STOPPERS["restore"](), epochs=20, resume=True)
        assert bits(ended) == before
        fit(ended, epochs=1)  # a new run begins
        assert fit(ended, epochs=2, resume=True).epoch == [0, 1]


def test_stopped_run_without_restoration_stays_stopped(tmp_path):
    model = network()
    epochs = fit(model, Watched(), STOPPERS["patience"](), epochs=12).epoch
    model.save(tmp_path / "model.safetensors")
    for stopped in (model, models.load(tmp_path / "model.safetensors")):
        step = stopped.step
        history = fit(stopped, Watched(), STOPPERS["patience"](), epochs=12, resume=True)
        assert history.epoch == epochs
        assert stopped.step == step


def test_resumed_callback_that_does_not_restore_leaves_the_last_weights(tmp_path):
    whole, saver = network(), SaveAll(tmp_path)
    fit(whole, Watched(), STOPPERS["restore"](), saver, epochs=12)
    last = models.load(saver.files[-1])
    again = models.load(saver.files[10])
    fit(again, Watched(), STOPPERS["patience"](), epochs=12, resume=True)
    assert bits(again) == bits(last)
    assert again.train_state.why_not_resumable() == ""


def test_restoration_added_to_a_resumed_run_restores_the_best_later_epoch(tmp_path):
    values = [1.0, 0.5, 0.9, 0.7, 0.8]

    class Values(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["loss"] = values[epoch]

    def stopper(restore):
        return EarlyStopping("loss", patience=9, restore_best_weights=restore)

    whole, saver = network(), SaveAll(tmp_path)
    fit(whole, Values(), stopper(False), saver, epochs=5)
    for begun in (2, 3):  # completed epochs
        again, added = models.load(tmp_path / f"{begun}-0.safetensors"), stopper(True)
        fit(again, Values(), added, epochs=5, resume=True)
        assert bits(again) == bits(models.load(tmp_path / "4-0.safetensors"))
        assert (added.best, added.best_epoch) == (0.7, 3)


def test_best_weights_stay_on_the_device_and_are_in_the_checkpoint(tmp_path, device):
    model, stopper, saver = network(device=device), STOPPERS["restore"](), SaveAll(tmp_path)
    fit(model, Watched(), stopper, saver, epochs=3, batch_size=12)
    again = models.load(saver.files[-1], device)
    best = models.load(tmp_path / "3-0.safetensors").train_state.state("weights")
    memory = again.train_state.progress.memories["EarlyStopping"]
    assert {name for name in memory if name.startswith("weights/")} == best.keys()
    for name, value in best.items():
        assert model.backend.is_array(stopper.state()[name])
        assert memory[name].tobytes() == value.tobytes()


def test_state_is_json_before_the_first_epoch():
    stopper = STOPPERS["patience"]()
    stopper.model = network()
    stopper.params = {"metrics": ["loss"], "may_log_more": False}
    stopper.on_train_begin({})
    assert stopper.state() == dict.fromkeys(("wait", "best_epoch", "stopped_epoch"), 0) | {
        "best": None
    }
    other = STOPPERS["patience"]()
    other.model = stopper.model
    other.load_state(stopper.state())
    assert other.best is None


def test_watched_values_contain_every_case():
    pairs = list(itertools.pairwise(WATCHED))
    assert np.isnan(WATCHED[0])
    assert any(a < b for a, b in pairs)
    assert any(a > b for a, b in pairs)
    assert any(a == b for a, b in pairs)
