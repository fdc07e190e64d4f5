"""Checkpoints of older versions keep loading and resuming."""

from pathlib import Path

import numpy as np
import pytest
from old.record import data
from safetensors import safe_open

from minidl import callbacks, models

FOLDER = Path(__file__).parent / "old"
FILES = sorted(FOLDER.glob("*.safetensors"))


def saved_arrays(path):
    """Return the arrays of a file, by name, read without minidl."""
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_all_old_checkpoints_are_there():
    assert [path.stem for path in FILES] == ["finished", "interrupted", "untrained"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_old_checkpoint_loads_with_all_its_numbers(path, device):
    model = models.load(path, device)
    arrays = saved_arrays(path)
    weights = {parameter.name: parameter.numpy() for parameter in model.parameters()}
    assert {f"weights/{name}" for name in weights} == {n for n in arrays if n[:8] == "weights/"}
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, arrays[f"weights/{name}"])
    assert {parameter.learning_rate_factor for parameter in model.parameters()} == {1.0}
    assert (model.step, model.epoch) == (arrays["model/step"], arrays["model/epoch"])


def test_old_run_resumes_in_the_middle_of_its_epoch(device):
    x, y, _ = data()
    model = models.load(FOLDER / "interrupted.safetensors", device)
    assert (model.position.epoch, model.position.batch, model.step) == (1, 4, 12)
    first_epoch = dict(model.history.logs[0])
    steps = []

    class Count(callbacks.Callback):
        def on_train_batch_end(self, batch, logs):
            steps.append((self.model.step, batch))

    history = model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[Count()], resume=True)
    assert steps == [*((12 + n, 3 + n) for n in range(1, 5)), *((17 + n, n) for n in range(8))]
    assert history.epoch == [0, 1, 2]
    assert history.logs[0] == first_epoch
    assert np.isfinite(history.history["loss"]).all()


def test_old_run_resumes_between_two_epochs(device):
    x, _, target = data()
    model = models.load(FOLDER / "finished.safetensors", device)
    velocity = saved_arrays(FOLDER / "finished.safetensors")["optimizer/velocity"]
    np.testing.assert_array_equal(
        model.backend.to_numpy(model.optimizer.state["velocity"]), velocity
    )
    held_out = (x[:9], target[:9])
    history = model.fit(x, target, epochs=4, verbose=0, validation_data=held_out, resume=True)
    assert history.epoch == [0, 1, 2, 3]
    assert model.step == model.optimizer.iterations == 8


def test_old_run_is_resumed_with_its_own_data_only():
    x, y, _ = data()
    model = models.load(FOLDER / "interrupted.safetensors")
    with pytest.raises(ValueError, match="data_checksum"):
        model.fit(x + 1, y, batch_size=8, epochs=3, verbose=0, resume=True)


def test_old_checkpoint_keeps_what_was_frozen():
    model = models.load(FOLDER / "untrained.safetensors")
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
