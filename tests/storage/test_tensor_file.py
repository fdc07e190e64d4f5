"""Tensor files: arrays and metadata in the safetensors format, with a checksum."""

import re

import numpy as np
import pytest

from minidl.storage import tensor_file
from minidl.storage.tensor_file import TensorFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "arrays.safetensors"


@pytest.mark.parametrize("dtype", list(map(str, tensor_file.DTYPES.values())))
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4), (257,), (2, 0, 3)])
def test_arrays_are_read_as_they_were_written(path, dtype, shape):
    array = (np.random.default_rng(0).normal(size=shape) * 9).astype(dtype)
    tensor_file.write(path, {"x": array, "transposed": array.T})
    with TensorFile(path) as file:
        for name, expected in (("x", array), ("transposed", array.T)):
            assert file.shapes[name] == expected.shape
            assert file.read(name).dtype == file.dtypes[name] == expected.dtype
            assert np.array_equal(file.read(name), expected)


@pytest.mark.parametrize("dtype", [">f8", "complex64", "datetime64[s]", "object", "U1"])
def test_write_rejects_dtypes_that_files_cannot_hold(path, dtype):
    array = np.ones(3, dtype)
    with pytest.raises(TypeError, match=f"save: expected .*x.* got .*{re.escape(array.dtype.str)}"):
        tensor_file.write(path, {"x": array})
    assert not path.exists()


def test_other_readers_read_the_files(path):
    from safetensors.numpy import load, load_file

    arrays = {"b": np.arange(6, dtype="float16").reshape(2, 3).T, "a": np.ones(3, "bool")}
    tensor_file.write(path, arrays, {"é": "ü", "z": "\n"})
    for found in (load_file(path), load(path.read_bytes())):
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    content = path.read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    with TensorFile(path) as file:
        assert file.metadata == {"é": "ü", "z": "\n"}


def test_equal_arrays_and_metadata_give_equal_files(path):
    arrays = {name: np.arange(3.0) for name in "cab"}
    contents = set()
    for _ in range(3):
        tensor_file.write(path, arrays, {"b": "1", "a": "2"})
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_header_that_is_too_long_is_not_written(path):
    with pytest.raises(ValueError, match=r"save: expected .*at most 16,777,216 bytes"):
        tensor_file.write(path, {"x": np.ones(3)}, {"history": " " * 2**24})
    assert not path.exists()


def test_longest_header_that_is_written_can_be_read(path, monkeypatch):
    monkeypatch.setattr(tensor_file, "MAX_HEADER_BYTES", 2**12)
    for length in range(2**12, 2**12 - 400, -8):
        try:
            tensor_file.write(path, {"x": np.ones(3)}, {"history": " " * length})
        except ValueError:
            continue
        break
    assert length > 2**12 - 400
    assert int.from_bytes(path.read_bytes()[:8], "little") == 2**12
    TensorFile(path).close()


@pytest.mark.slow
def test_header_of_almost_16_mib_can_be_read(path):
    tensor_file.write(path, {"x": np.ones(3)}, {"history": " " * (2**24 - 1000)})
    with TensorFile(path) as file:
        assert len(file.metadata["history"]) == 2**24 - 1000


# ------------------------------------------------------------------------------ rejected files


@pytest.mark.parametrize(
    ("written", "found"), [(b"rate 0.5", b"rate 0.4"), (b'"mean"', b'"meam"'), (b"2, 3", b"3, 2")]
)
def test_changed_metadata_names_and_shapes_are_detected(path, written, found):
    tensor_file.write(path, {"mean": np.zeros((2, 3))}, {"network": "rate 0.5"})
    content = path.read_bytes()
    assert content.count(written) == 1
    path.write_bytes(content.replace(written, found))
    with pytest.raises(ValueError, match=f"{path}: .*the file is damaged"):
        TensorFile(path)


def test_every_changed_byte_of_the_values_is_detected(path):
    tensor_file.write(path, {"x": np.arange(5, dtype="int64")})
    content = path.read_bytes()
    for place in range(len(content) - 5 * 8, len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="the file is damaged"):
            TensorFile(path)


def header(text):
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a safetensors file, got"),
        (b"\xff" * 64, r"header of at most 16,777,216 bytes, got .*starts with b'\\xff"),
        (
            (2**24 + 1).to_bytes(8, "little") + b" " * 64,
            "header of at most 16,777,216 bytes, got a file",
        ),
        (header(b"[]"), "expected a safetensors file, got"),
        (
            header(b'{"x":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4]}}  ') + bytes(4),
            "expected a safetensors file, got",
        ),
        (
            header(b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}   ') + bytes(4),
            "expected x to have one of the dtypes BOOL, F16, F32, F64, I8, .*, U64, got BF16",
        ),
    ],
)
def test_files_of_other_formats_are_rejected(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        TensorFile(path)


def test_folders_and_missing_files_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: expected a regular file"):
        TensorFile(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        TensorFile(tmp_path / "missing")
