"""Registry of file formats: endings, and formats of your own."""

import json

import numpy as np
import pytest

from minidl import layers, models
from minidl.storage import registry
from minidl.storage.registry import Format


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """Remove the formats of a test afterwards."""
    monkeypatch.setattr(registry, "_formats", dict(registry._formats))


def network(seed):
    return models.Sequential([layers.Dense(3, input_shape=(2,)), layers.Dropout(0.5)], seed=seed)


def save_as_text(model, path):
    path.write_text(json.dumps([weight.tolist() for weight in model.get_weights()]))


def load_from_text(model, path):
    return [np.array(weight, "float32") for weight in json.loads(path.read_text())]


def test_registered_format_saves_and_loads_weights(tmp_path):
    path = tmp_path / "x.weights.json"
    with pytest.raises(ValueError, match=r"x\.weights\.json: expected a file name that ends in"):
        network(1).save_weights(path)
    registry.register("weights", ".weights.json", Format(save_as_text, load_from_text))
    saved, loaded = network(1), network(2)
    saved.save_weights(path)
    assert json.loads(path.read_text())[0] == saved.get_weights()[0].tolist()
    loaded.load_weights(path)
    pairs = zip(saved.get_weights(), loaded.get_weights(), strict=True)
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_registered_format_saves_checks_and_loads_models(tmp_path):
    def check(model):
        if model.dtype == np.float64:
            raise TypeError("save: expected float32")

    def load(path, device, custom_objects):
        model = network(0)
        model.set_weights(load_from_text(model, path))
        return model

    registry.register("model", ".json", Format(save_as_text, load, check))
    saved = network(1)
    saved.check_savable(tmp_path / "x.json")
    saved.save(tmp_path / "x.json")
    weights = models.load(tmp_path / "x.json").get_weights()
    assert all(map(np.array_equal, weights, saved.get_weights()))
    wide = models.Sequential([layers.Dense(3, input_shape=(2,))], dtype="float64")
    with pytest.raises(TypeError, match="expected float32"):
        wide.check_savable(tmp_path / "y.json")


def test_registered_format_of_one_kind_serves_no_other_kind(tmp_path):
    registry.register("network", ".json", Format(save_as_text))
    network(1).export(tmp_path / "x.json")
    with pytest.raises(
        ValueError, match=r"x\.json: expected a file name that ends in \.safetensors, got"
    ):
        network(1).save(tmp_path / "x.json")


def test_find_lists_the_endings_of_a_kind():
    registry.register("weights", ".one", Format(save_as_text))
    message = r"of\.two: expected a file .*ends in .*\.safetensors .*or \.one, got 'of\.two'\. Pass"
    with pytest.raises(ValueError, match=message):
        registry.find("weights", "folder/of.two")
    with pytest.raises(ValueError, match="ends in"):
        registry.find("weights", "folder.one/x")
