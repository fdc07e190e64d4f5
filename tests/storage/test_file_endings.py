"""Endings of the names of files that models write and read."""

import pytest

from minidl import layers, models
from minidl.storage import registry


def network():
    return models.Sequential([layers.Dense(2, input_shape=(3,))])


def test_formats_of_minidl():
    known = {(kind, ending) for kind, ending in registry._formats}
    assert known == {
        ("model", ".safetensors"),
        ("weights", ".safetensors"),
        ("weights", ".weights.h5"),
        ("network", ".onnx"),
    }
    assert registry.find("model", "a.safetensors").check is not None
    assert registry.find("network", "a.onnx").load is None


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        ("save", "m.keras", r"m\.keras: expected NAME\.safetensors for a file of model"),
        ("save", "m", r"m: expected NAME\.safetensors .*got 'm'"),
        ("save", "m.pt", r"m\.pt: expected NAME\.safetensors"),
        ("save_weights", "m.h5", r"expected NAME\.weights\.h5 or NAME\.safetensors .*got 'm\.h5'"),
        ("export", "m.pb", r"expected NAME\.onnx for a file of network, got 'm\.pb'"),
    ],
)
def test_name_of_another_format_is_rejected_and_nothing_is_written(tmp_path, method, name, message):
    with pytest.raises(ValueError, match=message):
        getattr(network(), method)(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_load_rejects_the_name_of_another_format(tmp_path):
    with pytest.raises(ValueError, match=r"m\.keras: expected NAME\.safetensors"):
        models.load(tmp_path / "m.keras")
