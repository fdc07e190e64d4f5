"""ModelCheckpoint: which files it writes, keeps and deletes, and what it rejects."""

import os
from pathlib import Path

import numpy as np
import pytest
from callback_cases import Losses, curves, exceeds, fit, network
from small_models import bits

from minidl import callbacks, checkpoint, layers, models, optimizers
from minidl.callbacks import Callback, ModelCheckpoint
from minidl.storage.folders import lock_folder
from minidl.trainer.loop import Run

STEPS = 3  # of an epoch; `fit` trains for 4 epochs


@pytest.fixture(scope="module")
def whole():
    """Return the bits of the weights of an uninterrupted run."""
    model = network()
    fit(model)
    return bits(model)


def steps_in(folder):
    return [int(path.stem.removeprefix("step-")) for path in sorted(folder.glob("step-*"))]


# ------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"keep": 9}, [3, 6, 9, 12]),
        ({}, [6, 9, 12]),
        ({"keep": 1}, [12]),
        ({"every_epochs": 3, "keep": 9}, [9, 12]),
        ({"every_steps": 5, "keep": 9}, [5, 10, 12]),
        ({"every_steps": 4, "every_epochs": 2, "keep": 9}, [4, 6, 8, 12]),
        ({"every_steps": 10**6}, [12]),
    ],
)
def test_files_are_written_and_kept_as_asked_and_each_resumes(tmp_path, whole, arguments, expected):
    folder = tmp_path / "new" / "folder"
    model = network()
    fit(model, ModelCheckpoint(folder, **arguments))
    assert steps_in(folder) == expected
    assert bits(model) == whole  # saving changes nothing
    for step in expected:
        again = models.load(folder / f"step-{step:010d}.safetensors")
        fit(again, resume=True)
        assert bits(again) == whole


class Values(Callback):
    """Callback that replaces the validation loss of each epoch."""

    def on_epoch_end(self, epoch, logs):
        logs["val_loss"] = [3.0, 1.0, 2.0, 1.5][epoch]


def test_best_epoch_is_kept_and_remembered_by_a_resumed_run(tmp_path):
    saver = ModelCheckpoint(tmp_path, monitor="val_loss")
    fit(network(), Values(), saver, validation_split=0.25)
    assert models.load(tmp_path / "best.safetensors").step == 2 * STEPS
    again = models.load(tmp_path / "step-0000000006.safetensors")
    for later in (9, 12):
        (tmp_path / f"step-{later:010d}.safetensors").unlink()
    fit(again, Values(), saver, validation_split=0.25, resume=True)
    assert models.load(tmp_path / "best.safetensors").step == 2 * STEPS


def test_best_file_is_written_before_the_step_file(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(models.Model, "save", lambda _, path: written.append(path.name))
    fit(network(), ModelCheckpoint(tmp_path, monitor="loss"), epochs=1)
    assert written == ["best.safetensors", "step-0000000003.safetensors"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path, caplog):
    class Break(Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 2:
                self.model.set_weights([weight * np.nan for weight in self.model.get_weights()])

    with np.errstate(all="ignore"):
        fit(network(), Break(), ModelCheckpoint(tmp_path))
    assert steps_in(tmp_path) == [3, 6]
    assert "not saved: weights of the model are not finite" in caplog.text


class Spoil(Callback):
    """Callback that makes the weights NaN at the end of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs):
        if epoch == self.epoch:
            self.model.set_weights([weight * np.nan for weight in self.model.get_weights()])


@pytest.mark.parametrize("epoch", [1, 2])
def test_older_files_stay_if_weights_are_not_finite(tmp_path, epoch):
    saver = ModelCheckpoint(tmp_path, keep=1)
    with np.errstate(all="ignore"):
        fit(network(), Spoil(epoch), saver, epochs=3)
    assert steps_in(tmp_path) == [STEPS * epoch]


def test_weights_that_are_not_finite_do_not_count_as_saved(tmp_path):
    class Repair(Callback):
        def on_train_batch_begin(self, batch, logs):
            if self.model.position.epoch == 1:
                self.model.set_weights([np.ones_like(w) for w in self.model.get_weights()])
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit(network(), Spoil(0), Repair(), ModelCheckpoint(tmp_path))
    assert steps_in(tmp_path) == [STEPS]


def test_best_value_is_that_of_a_written_file(tmp_path):
    class Values(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["loss"] = [3.0, 1.0][epoch]

    saver = ModelCheckpoint(tmp_path, monitor="loss")
    with np.errstate(all="ignore"):
        fit(network(), Values(), Spoil(1), saver, epochs=2)
    assert models.load(tmp_path / "best.safetensors").step == STEPS
    assert saver.best == 3.0


@pytest.mark.parametrize(("mode", "values"), list(curves(6, length=6)))
def test_best_files_are_written_as_often_as_by_keras(tmp_path, monkeypatch, mode, values):
    written, best, expected = [], None, []
    for epoch, value in enumerate(values):
        if exceeds(mode, value, best):
            best = value
            expected.append(epoch + 1)
    record = lambda model, path: written.append((path.name, model.position.epoch))  # noqa: E731
    monkeypatch.setattr(models.Model, "save", record)
    saver = ModelCheckpoint(tmp_path, monitor="loss", mode=mode)
    fit(network(), Losses(values), saver, epochs=len(values), batch_size=12)
    assert [epoch for name, epoch in written if name == "best.safetensors"] == expected
    assert saver.best == best


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_best_value_is_not_recorded_if_its_file_cannot_be_written(
    tmp_path, monkeypatch, mode, error
):
    values = {"min": [3.0, 1.0, 2.0], "max": [1.0, 3.0, 2.0]}[mode]
    write = models.Model.save

    def save(model, path):
        if path.name == "best.safetensors" and model.step == 2 * STEPS:
            raise error("full")
        write(model, path)

    model, saver = network(), ModelCheckpoint(tmp_path, monitor="loss", mode=mode)
    with monkeypatch.context() as broken:
        broken.setattr(models.Model, "save", save)
        with pytest.raises(error, match="full"):
            fit(model, Losses(values), saver, epochs=3)
    assert saver.best == values[0]
    fit(model, Losses(values), saver, epochs=3, resume=True)
    assert models.load(tmp_path / "best.safetensors").step == 2 * STEPS


@pytest.mark.parametrize("keep", [1, 2])
def test_save_keeps_new_file_if_later_steps_have_files(tmp_path, keep):
    saver = ModelCheckpoint(tmp_path, keep=keep)
    model = network()
    fit(model, saver)
    model.train_state.step = 5  # as after a rollback
    saver.save()
    assert steps_in(tmp_path) == [5, 12][:keep]


def test_temporary_files_of_a_killed_run_are_deleted_and_no_others(tmp_path):
    for name in ("step-0000000003", "best"):
        (tmp_path / f".{name}.safetensors.0a1b2c3d.tmp").write_bytes(b"half")
    others = [".notes.tmp", ".notes.0a1b2c3d.tmp", ".best.safetensors.tmp", "notes.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    folders = [".cache.tmp", ".best.safetensors.0a1b2c3e.tmp"]
    for name in folders:
        (tmp_path / name).mkdir()
    fit(network(), ModelCheckpoint(tmp_path))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        ".lock",
        *others,
        *folders,
        *(f"step-{n:010d}.safetensors" for n in (6, 9, 12)),
    }


def test_folder_is_unlocked_if_temporary_files_cannot_be_deleted(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError("not mine")

    (tmp_path / ".best.safetensors.0a1b2c3d.tmp").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", denied)
        with pytest.raises(PermissionError, match="not mine"):
            fit(network(), ModelCheckpoint(tmp_path))
    lock_folder(tmp_path).close()


def test_checkpoint_has_what_later_callbacks_of_the_list_did(tmp_path):
    class Halve(Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.optimizer.learning_rate /= 2

    fit(network(), ModelCheckpoint(tmp_path), Halve(), epochs=2)
    assert models.load(checkpoint.latest(tmp_path)).optimizer.learning_rate == 0.025


# ------------------------------------------------------------------------------ broken runs


class BreakAt(Callback):
    """Callback that raises after a step, once."""

    def __init__(self, step, error):
        self.step, self.error = step, error

    def on_train_batch_end(self, batch, logs):
        if self.model.step == self.step:
            self.step = None
            raise self.error


@pytest.mark.parametrize("error", [OverflowError("mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", [1, 5, 6, 7])
def test_last_step_is_saved_if_training_is_broken_off(tmp_path, whole, step, error):
    model = network()
    with pytest.raises(type(error)):
        fit(model, BreakAt(step, error), ModelCheckpoint(tmp_path, keep=9))
    assert model.step == steps_in(tmp_path)[-1] == step
    again = models.load(checkpoint.latest(tmp_path))
    fit(again, resume=True)
    assert bits(again) == whole


@pytest.mark.parametrize("error", [OverflowError("mine"), KeyboardInterrupt()])
def test_step_before_a_broken_batch_is_saved(tmp_path, whole, error):
    class BreakBefore(Callback):
        def on_train_batch_begin(self, batch, logs):
            if self.model.step == 5:
                raise error

    with pytest.raises(type(error)):
        fit(network(), BreakBefore(), ModelCheckpoint(tmp_path))
    assert steps_in(tmp_path) == [3, 5]
    again = models.load(checkpoint.latest(tmp_path))
    fit(again, resume=True)
    assert bits(again) == whole


def test_step_at_which_training_is_stopped_is_saved(tmp_path, whole):
    class StopAt(Callback):
        def on_train_batch_end(self, batch, logs):
            self.model.stop_training = self.model.step == 5

    fit(network(), ModelCheckpoint(tmp_path), StopAt())
    assert steps_in(tmp_path) == [3, 5]
    again = models.load(checkpoint.latest(tmp_path))
    fit(again, resume=True)
    assert bits(again) == whole


@pytest.mark.parametrize("position", [0, 1])
def test_rejected_run_saves_nothing_and_unlocks_the_folder(tmp_path, position):
    class Refuses(Callback):
        def on_train_begin(self, logs):
            raise ValueError("at the beginning")

    used = [ModelCheckpoint(tmp_path)]
    used.insert(position, Refuses())
    model = network()
    fit(model, epochs=1)
    with pytest.raises(ValueError, match="at the beginning"):
        fit(model, *used)
    assert steps_in(tmp_path) == []
    lock_folder(tmp_path).close()


@pytest.mark.parametrize("error", [OverflowError, KeyboardInterrupt])
def test_torn_update_is_not_saved(tmp_path, whole, error, monkeypatch, caplog):
    rule = optimizers.SGD.rule

    def torn(optimizer, weights, *arguments):
        if optimizer.iterations == 5:
            weights[:3] += 1
            raise error
        rule(optimizer, weights, *arguments)

    monkeypatch.setattr(optimizers.SGD, "rule", torn)
    caplog.set_level("WARNING", "minidl")  # minidl.train, in tests before, logs more
    model = network()
    with pytest.raises(error):
        fit(model, ModelCheckpoint(tmp_path))
    monkeypatch.undo()
    assert model.train_state.is_torn
    assert steps_in(tmp_path) == [3]
    assert caplog.records == []  # nothing was tried
    again = models.load(checkpoint.latest(tmp_path))
    fit(again, resume=True)
    assert bits(again) == whole


def test_break_within_validation_is_saved_and_resumed(tmp_path, whole, monkeypatch):
    def broken(*_):
        raise OverflowError("in the validation")

    model = network()
    monkeypatch.setattr(Run, "_validate", broken)
    with pytest.raises(OverflowError, match="in the validation"):
        fit(model, ModelCheckpoint(tmp_path), validation_data=(np.ones((2, 3)), np.ones((2, 2))))
    monkeypatch.undo()
    assert steps_in(tmp_path) == [3]
    again = models.load(checkpoint.latest(tmp_path))
    assert again.history.epoch == []
    fit(again, resume=True, validation_data=(np.ones((2, 3)), np.ones((2, 2))))
    assert again.history.epoch == [0, 1, 2, 3]
    assert len(again.history.history["val_loss"]) == 4
    assert bits(again) == whole


def test_failure_to_save_a_broken_run_is_logged_and_its_exception_raised(
    tmp_path, caplog, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    class BreakBefore(Callback):
        def on_train_batch_begin(self, batch, logs):
            if self.model.step == 2:
                monkeypatch.setattr(models.Model, "save", full)
                raise OverflowError("mine")

    with pytest.raises(OverflowError, match="mine"):
        fit(network(), BreakBefore(), ModelCheckpoint(tmp_path))
    assert "step-0000000002.safetensors: not saved: [Errno 28] No space left" in caplog.text
    lock_folder(tmp_path).close()


# ------------------------------------------------------------------------------ rejected folders


def test_two_runs_in_one_folder_are_rejected(tmp_path):
    class Second(Callback):
        def on_epoch_begin(self, epoch, logs):
            with pytest.raises(BlockingIOError, match=f"{tmp_path}: another run"):
                fit(network(), ModelCheckpoint(tmp_path))

    fit(network(), ModelCheckpoint(tmp_path), Second())
    assert steps_in(tmp_path) == [6, 9, 12]
    again = models.load(checkpoint.latest(tmp_path))
    fit(again, ModelCheckpoint(tmp_path), resume=True)  # the folder is unlocked


def test_two_callbacks_in_one_folder_are_rejected(tmp_path):
    model = network()
    with pytest.raises(BlockingIOError, match=f"{tmp_path}: .*another callback"):
        fit(model, ModelCheckpoint(tmp_path), ModelCheckpoint(tmp_path))
    assert model.step == 0
    lock_folder(tmp_path).close()


def test_folder_with_later_checkpoints_is_rejected_and_unlocked(tmp_path):
    fit(network(), ModelCheckpoint(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("step-*")}
    model = network()
    message = f"{tmp_path}: expected no checkpoint later than step 0, .*step-0000000012"
    with pytest.raises(FileExistsError, match=message):
        fit(model, ModelCheckpoint(tmp_path))
    assert model.step == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("step-*")} == before
    lock_folder(tmp_path).close()


def test_unknown_monitor_unlocks_the_folder_of_another_callback(tmp_path):
    used = [ModelCheckpoint(tmp_path), ModelCheckpoint(tmp_path, monitor="x", mode="min")]
    with pytest.raises(ValueError, match=r"ModelCheckpoint: expected monitor .*got 'x'"):
        fit(network(), *used)
    lock_folder(tmp_path).close()


@pytest.mark.parametrize("name", ["best.keras", "best.weights.h5", "a/best.h5"])
def test_whole_model_in_a_file_of_another_format_is_rejected(name):
    with pytest.raises(
        ValueError, match=rf"{name}: expected a file name that ends in .safetensors"
    ):
        ModelCheckpoint(name)


@pytest.mark.parametrize("name", ["every_steps", "every_epochs", "keep"])
def test_number_below_1_is_rejected(name, tmp_path):
    with pytest.raises(ValueError, match=f"ModelCheckpoint: {name}: .*got 0"):
        ModelCheckpoint(tmp_path, **{name: 0})


def joined():
    """Return a model of built layers, two of which have one name."""
    parts = [models.Sequential([layers.Dense(4, input_shape=(4,))], seed=n) for n in range(2)]
    return models.Sequential([layer for part in parts for layer in part.layers])


def renamed():
    """Return a trained model, one of whose layers got another name."""
    model = models.Sequential([layers.Dense(4, input_shape=(4,))])
    model.compile("sgd", "mse")
    model.fit(np.ones((6, 4)), np.ones((6, 4)), verbose=0)
    model.layers[0].name = "encoder"
    return model


@pytest.mark.parametrize("make", [joined, renamed])
def test_model_that_cannot_be_saved_is_rejected_before_training(tmp_path, make):
    model = make()
    model.compile("sgd", "mse")
    step = model.step
    with pytest.raises(ValueError, match="save: "):
        model.fit(*[np.ones((6, 4))] * 2, callbacks=[ModelCheckpoint(tmp_path / "run")], verbose=0)
    assert model.step == step
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 256, "nul\0", f"file{os.sep}run"])
def test_folder_that_cannot_be_made_is_rejected_before_training(tmp_path, name):
    (tmp_path / "file").touch()
    model = network()
    with pytest.raises((OSError, ValueError)):
        fit(model, ModelCheckpoint(tmp_path / name))
    assert model.step == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folder_in_place_of_the_best_file_is_rejected_before_training(tmp_path):
    (tmp_path / "best.safetensors").mkdir()
    model = network()
    with pytest.raises(IsADirectoryError, match=r"best\.safetensors: expected a file"):
        fit(model, ModelCheckpoint(tmp_path, monitor="loss"))
    assert model.step == 0


def test_callbacks_namespace_has_the_documented_names():
    documented = callbacks.__doc__.replace("`", " ").split()
    assert set(callbacks.__all__) - set(documented) == {"CallbackList", "Logs"}
