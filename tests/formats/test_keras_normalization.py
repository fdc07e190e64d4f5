"""Both normalisations and the activations in training, compared with Keras over 20 steps.

`record_normalization.py` wrote ``normalization.weights.h5`` (35 kB) and ``normalization.json`` with
Keras 3.15.1, PyTorch 2.13.0 as its backend, and Python 3.11, on 2026-11-27.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from record_normalization import BATCH, STEPS, initial, samples

from minidl import callbacks, layers, models, optimizers

pytest.importorskip("h5py", reason="needs the extra keras")

HERE = Path(__file__).parent
ANSWERS = json.loads((HERE / "normalization.json").read_text())


def network(device="cpu", momentum=0.9):
    """Return the network of `record_normalization.py`."""
    return models.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(5),
            layers.BatchNormalization(momentum=momentum),
            layers.Dense(4, activation="gelu"),
            layers.LayerNormalization(),
            layers.LeakyReLU(),
            layers.ReLU(max_value=1.25, negative_slope=0.5, threshold=0.1),
            layers.ELU(),
            layers.Dense(2, activation="silu"),
        ],
        device=device,
    )


class Losses(callbacks.Callback):
    """Losses of single batches, from the means of the epoch so far."""

    def on_train_begin(self, logs):
        self.means = []

    def on_train_batch_end(self, batch, logs):
        self.means.append(logs["loss"])


def trained(model):
    """Train a model as Keras was, and return the loss of each step."""
    x, y = samples()
    model.set_weights(initial([w.shape for w in model.get_weights()]))
    model.compile(optimizers.SGD(0.05, momentum=0.9), "mse")
    losses = Losses()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[losses])
    sums = np.array(losses.means) * np.arange(1, STEPS + 1)
    return np.diff(sums, prepend=0)


def test_twenty_steps_agree_with_keras(device):
    model, theirs = network(device), network()
    np.testing.assert_allclose(trained(model), ANSWERS["losses"], rtol=1e-4)
    theirs.load_weights(HERE / "normalization.weights.h5")
    for ours, expected in zip(model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    x, _ = samples()
    np.testing.assert_allclose(model.predict(x[:BATCH]), ANSWERS["predictions"], rtol=1e-4)
    np.testing.assert_allclose(theirs.predict(x[:BATCH]), ANSWERS["predictions"], rtol=1e-5)


def test_steps_with_another_momentum_differ_from_keras_in_the_averages_alone():
    model, other = network(), network(momentum=0.8)
    assert (trained(model) == trained(other)).all()
    differing = [
        ours.name
        for ours, theirs in zip(model.parameters(), other.parameters(), strict=True)
        if (ours.numpy() != theirs.numpy()).any()
    ]
    name = "batch_normalization"
    assert differing == [f"{name}/running_mean", f"{name}/running_var"]


def test_save_weights_writes_the_names_and_shapes_of_keras(tmp_path):
    h5py = pytest.importorskip("h5py")
    model = network()
    model.load_weights(HERE / "normalization.weights.h5")
    model.save_weights(tmp_path / "ours.weights.h5")
    found = []
    for path in (tmp_path / "ours.weights.h5", HERE / "normalization.weights.h5"):
        with h5py.File(path) as file:
            names = [name for name in file["layers"] if len(file[f"layers/{name}/vars"])]
            found.append(
                {
                    f"{name}/{place}": data[...].tobytes()
                    for name in names
                    for place, data in file[f"layers/{name}/vars"].items()
                }
            )
    assert found[0] == found[1]
    assert len(found[0]) == 12
