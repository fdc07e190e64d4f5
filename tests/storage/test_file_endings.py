"""Endings of the names of files that models write and read."""

import pytest

from minidl import layers, models
from minidl.storage import registry


def network():
    return models.Sequential([layers.Dense(2, input_shape=(3,))])


def test_formats_of_the_readme_are_registered():
    assert registry._formats.keys() >= {
        ("model", ".safetensors"),
        ("weights", ".safetensors"),
        ("weights", ".weights.h5"),
        ("network", ".onnx"),
    }


def test_format_that_is_only_written_cannot_be_read():
    with pytest.raises(ValueError, match="expected a format that can be read"):
        registry.find("network", "a.onnx").load(network(), "a.onnx")


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        (
            "save",
            "m.keras",
            r"m\.keras: expected a file name that ends in \.safetensors, got 'm\.keras'",
        ),
        ("save", "m", r"m: expected .* ends in \.safetensors, got 'm'"),
        ("save", "m.pt", r"m\.pt: expected .* ends in \.safetensors"),
        ("save_weights", "m.h5", r"ends in \.weights\.h5 or \.safetensors.*, got 'm\.h5'"),
        ("export", "m.pb", r"ends in \.onnx, got 'm\.pb'"),
    ],
)
def test_name_of_another_format_is_rejected_and_nothing_is_written(tmp_path, method, name, message):
    with pytest.raises(ValueError, match=message):
        getattr(network(), method)(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_load_rejects_the_name_of_another_format(tmp_path):
    with pytest.raises(ValueError, match=r"m\.keras: expected .* ends in \.safetensors"):
        models.load(tmp_path / "m.keras")
