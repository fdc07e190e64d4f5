"""EarlyStopping: when training ends, and with which weights."""

import itertools

import numpy as np
import pytest
from callback_cases import WATCHED, SaveAll, Watched, fit, network
from small_models import bits

from minidl import models
from minidl.callbacks import Callback, EarlyStopping


def play(stopper, values, monitor="val_loss"):
    """Tell a callback of epochs with these values, as `fit` would.

    Return the number of epochs until it stopped, and the epoch whose weights the model then has.
    """
    model = models.Sequential([models.sequential.Dense(2, input_shape=(3,))], seed=1)
    stopper.model, stopper.params = model, {"metrics": [monitor]}
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
        assert (added.best, added.best_epoch) == (-0.7, 3)


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
    stopper.model, stopper.params = network(), {"metrics": ["loss"]}
    stopper.on_train_begin({})
    assert stopper.state() == dict.fromkeys(("wait", "best_epoch", "stopped_epoch"), 0) | {
        "best": None
    }
    other = STOPPERS["patience"]()
    other.model = stopper.model
    other.load_state(stopper.state())
    assert other.best == -np.inf


def test_watched_values_contain_every_case():
    pairs = list(itertools.pairwise(WATCHED))
    assert np.isnan(WATCHED[0])
    assert any(a < b for a, b in pairs)
    assert any(a > b for a, b in pairs)
    assert any(a == b for a, b in pairs)
