"""ModelCheckpoint for the names of files, as in Keras, and lines of callbacks with verbose."""

import pytest
from callback_cases import Losses, X, Y, fit, network

from minidl import models
from minidl.callbacks import (
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)

VALUES = [3.0, 2.0, 2.5, 1.0]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_is_written_after_each_epoch_with_epoch_and_metric_in_its_name(tmp_path):
    saver = ModelCheckpoint(tmp_path / "new" / "m-{epoch:02d}-{loss:.1f}.safetensors")
    fit(network(), Losses(VALUES), saver)
    assert files(tmp_path / "new") == [
        f"m-{epoch:02d}-{value}.safetensors" for epoch, value in enumerate(VALUES, start=1)
    ]


def test_file_of_one_name_holds_the_last_epoch_and_resumes(tmp_path):
    whole, model = network(), network()
    fit(whole)
    fit(model, ModelCheckpoint(filepath=tmp_path / "m.safetensors"), epochs=2)
    assert files(tmp_path) == ["m.safetensors"]
    again = models.load(tmp_path / "m.safetensors")
    fit(again, resume=True)
    assert [w.tobytes() for w in again.get_weights()] == [w.tobytes() for w in whole.get_weights()]


@pytest.mark.parametrize("ending", [".safetensors", ".weights.h5"])
def test_only_improvements_of_the_weights_are_saved(ending, tmp_path):
    if ending == ".weights.h5":
        pytest.importorskip("h5py")
    name = tmp_path / ("{epoch}" + ending)
    saver = ModelCheckpoint(name, "loss", save_best_only=True, save_weights_only=True)
    model = network()
    fit(model, Losses(VALUES), saver)
    assert files(tmp_path) == [f"{epoch}{ending}" for epoch in (1, 2, 4)]
    twin = network()
    twin.build((None, 3))
    twin.load_weights(tmp_path / f"4{ending}")
    assert [w.tolist() for w in twin.get_weights()] == [w.tolist() for w in model.get_weights()]


def test_best_only_watches_the_validation_loss_by_default(tmp_path):
    saver = ModelCheckpoint(tmp_path / "m.safetensors", save_best_only=True)
    with pytest.raises(ValueError, match="expected monitor to be one of loss, got 'val_loss'"):
        fit(network(), saver)
    fit(network(), saver, validation_data=(X, Y))
    assert files(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize(("threshold", "epochs"), [(2.2, [2, 4]), (0.5, []), (None, [1, 2, 4])])
def test_first_improvement_betters_the_threshold(threshold, epochs, tmp_path):
    options = {"save_best_only": True, "initial_value_threshold": threshold}
    saver = ModelCheckpoint(tmp_path / "{epoch}.safetensors", "loss", **options)
    fit(network(), Losses(VALUES), saver)
    assert files(tmp_path) == [f"{epoch}.safetensors" for epoch in epochs]


def test_threshold_decides_on_the_best_file_of_a_folder_too(tmp_path):
    saver = ModelCheckpoint(tmp_path, "loss", initial_value_threshold=0.5)
    fit(network(), Losses(VALUES), saver)
    assert "best.safetensors" not in files(tmp_path)
    with pytest.raises(TypeError, match="ModelCheckpoint: expected initial_value_threshold"):
        ModelCheckpoint(tmp_path, "loss", initial_value_threshold="low")


def test_best_value_of_a_resumed_run_is_kept(tmp_path):
    def saver():
        return ModelCheckpoint(tmp_path / "{epoch}.safetensors", "loss", save_best_only=True)

    model = network()
    fit(model, Losses([1.0, 2.0]), saver(), epochs=2)
    fit(model, Losses([1.0, 2.0, 1.5, 0.5]), saver(), resume=True)
    assert files(tmp_path) == ["1.safetensors", "4.safetensors"]


def test_callback_that_is_used_again_keeps_its_best_value_as_in_keras(tmp_path):
    saver = ModelCheckpoint(tmp_path / "{epoch}.safetensors", "loss", save_best_only=True)
    fit(network(), Losses([1.0]), saver, epochs=1)
    fit(network(), Losses([3.0, 2.0, 0.5]), saver, epochs=3)
    assert files(tmp_path) == ["1.safetensors", "3.safetensors"]


def test_file_is_written_after_every_so_many_steps(tmp_path):
    fit(network(), ModelCheckpoint(tmp_path / "{epoch}-{batch}.safetensors", save_freq=5))
    assert files(tmp_path) == ["2-2.safetensors", "4-1.safetensors"]


@pytest.mark.parametrize("name", ["{nothing}", "{val_loss}", "{epoch:x.y}", "{0}", "{"])
def test_name_that_cannot_be_filled_in_is_rejected_before_training(name, tmp_path):
    model = network()
    with pytest.raises(ValueError, match="ModelCheckpoint: expected names of epoch, loss in"):
        fit(model, ModelCheckpoint(tmp_path / f"{name}.safetensors"))
    assert model.step == 0


def test_best_step_by_a_value_of_the_validation_is_rejected():
    options = {"save_freq": 5, "save_weights_only": True}
    with pytest.raises(ValueError, match=r"^ModelCheckpoint: .* steps have, got 'val_loss' with"):
        ModelCheckpoint("best.safetensors", save_best_only=True, **options)
    ModelCheckpoint("all.safetensors", **options)


def test_errors_of_the_form_for_files_name_the_class_of_the_user(tmp_path):
    name = tmp_path / "m.safetensors"
    with pytest.raises(TypeError, match=r"^ModelCheckpoint: expected initial_value_threshold in"):
        ModelCheckpoint(name, initial_value_threshold="0.5")
    unknown = ModelCheckpoint(name, "val_loss", save_best_only=True)
    with pytest.raises(ValueError, match=r"^ModelCheckpoint: expected monitor to be one of"):
        fit(network(), unknown)


@pytest.mark.parametrize("option", ["every_steps", "every_epochs", "keep"])
def test_options_of_folders_are_rejected_for_files(option):
    with pytest.raises(TypeError, match=option):
        ModelCheckpoint("m.safetensors", **{option: 2})


def test_save_freq_of_a_folder_is_every_steps(tmp_path):
    fit(network(), ModelCheckpoint(tmp_path, save_freq=5), epochs=4)
    steps = [name for name in files(tmp_path) if name.startswith("step")]
    assert steps == [f"step-{step:010d}.safetensors" for step in (5, 10, 12)]


# ------------------------------------------------------------------------------ verbose


def test_verbose_callbacks_print_what_they_do(tmp_path, capsys):
    name = tmp_path / "m.safetensors"
    fit(
        network(),
        Losses([1.0, 2.0, 3.0, 4.0]),
        LearningRateScheduler(lambda epoch, rate: 0.5, verbose=1),
        ReduceLROnPlateau("loss", patience=1, factor=0.5, verbose=1),
        EarlyStopping("loss", patience=2, restore_best_weights=True, verbose=1),
        ModelCheckpoint(name, "loss", verbose=1, save_best_only=True),
    )
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 1: LearningRateScheduler setting learning rate to 0.5.",
        f"Epoch 1: loss improved to 1, saved {name}",
        "Epoch 2: LearningRateScheduler setting learning rate to 0.5.",
        "Epoch 2: ReduceLROnPlateau reducing learning rate to 0.25.",
        "Epoch 2: loss did not improve from 1",
        "Epoch 3: LearningRateScheduler setting learning rate to 0.5.",
        "Epoch 3: ReduceLROnPlateau reducing learning rate to 0.25.",
        "Epoch 3: early stopping",
        "Epoch 3: loss did not improve from 1",
        "Restoring model weights from the end of the best epoch: 1.",
    ]


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, ["Epoch 1: saved {}", "Epoch 2: saved {}"]),
        ({"save_freq": 4}, ["Step 4: saved {}"]),
        (
            {"save_best_only": True, "initial_value_threshold": 2.5},
            [
                "Epoch 1: loss did not improve from 2.5",
                "Epoch 2: loss improved from 2.5 to 2, saved {}",
            ],
        ),
        ({"save_best_only": True, "mode": "max"}, ["Epoch 1: loss improved to 3, saved {}"]),
    ],
)
def test_verbose_files_name_the_epoch_or_step_and_the_value(options, lines, tmp_path, capsys):
    name = tmp_path / "m.safetensors"
    fit(
        network(), Losses([3.0, 2.0]), ModelCheckpoint(name, "loss", verbose=1, **options), epochs=2
    )
    assert capsys.readouterr().out.splitlines()[: len(lines)] == [
        each.format(name) for each in lines
    ]


def test_verbose_folder_names_the_value_of_its_best_file(tmp_path, capsys):
    fit(network(), Losses([3.0]), ModelCheckpoint(tmp_path, "loss", verbose=1), epochs=1)
    assert capsys.readouterr().out.splitlines() == [
        f"Epoch 1: loss improved to 3, saved {tmp_path / 'best.safetensors'}",
        f"Step 3: saved {tmp_path / 'step-0000000003.safetensors'}",
    ]


def test_callbacks_print_nothing_by_default(tmp_path, capsys):
    stopping = EarlyStopping("loss", patience=1, restore_best_weights=True)
    saver = ModelCheckpoint(tmp_path / "m.safetensors")
    fit(network(), Losses(VALUES), ReduceLROnPlateau("loss", patience=1), stopping, saver)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("start", "stopped"), [(0, 1), (1, 2), (2, 3)])
def test_early_stopping_begins_to_count_at_start_from_epoch(start, stopped):
    stopping = EarlyStopping("loss", patience=1, start_from_epoch=start)
    fit(network(), Losses([1.0, 2.0, 3.0, 4.0]), stopping)
    assert (stopping.stopped_epoch, stopping.best_epoch) == (stopped, start)


def test_repr_of_a_checkpoint_whose_constructor_has_not_run_names_no_path():
    assert repr(object.__new__(ModelCheckpoint)) == "ModelCheckpoint(None)"
