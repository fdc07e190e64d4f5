"""Files that models.load rejects, and how little memory it needs to do so."""

import json
import tracemalloc

import numpy as np
import pytest
from checkpoint_cases import network, rewritten, setter

from minidl import layers, models
from minidl.storage import tensor_file
from minidl.storage.tensor_file import TensorFile

LAYER = ("network", "layers", 2)
BAD_HEADERS = [
    (setter("format", value=2), "format 2, written by version '0.1.0'"),
    (setter(*LAYER, "class", value="OwnLayer"), "expected a Layer of minidl .*'OwnLayer'"),
    (setter(*LAYER, "class", value="Adam"), "expected a Layer of minidl .*'Adam'"),
    (setter(*LAYER, "class", value=["x"]), r"expected a Layer of minidl .*\['x'\]"),
    (setter(*LAYER, "arguments", "units", value=2**40), "weights/dense/"),
    (setter(*LAYER, "arguments", "units", value="8"), "Dense: units: .*got '8'"),
    (
        setter("network", "layers", 0, "arguments", "input_shape", value=[2**40]),
        r"Rescaling: expected its own arguments, got \['input_shape'\]",
    ),
    (setter("network", "built_for", value=[2**20, 2**20]), "at most 16,777,216 numbers"),
    (setter("network", "built_for", value=[2]), r"input_shape \(4, 3\), got \(2,\)"),
    (setter("network", "dtype", value="object"), "expected dtype .*got 'object'"),
    (setter("network", "dtype", value="float64"), "weights/dense/weight of shape"),
    (setter("network", "seed", value=-1), "seed.*-1"),
    (setter("network", "weights", value=[]), r"expected the weights \[\('dense/weight'.*got \[\]"),
    (setter("network", "layers", value=7), ""),
    (setter("network", value=None), ""),
    (setter("training", "optimizer", "class", value="Dense"), "expected a Optimizer .*'Dense'"),
    (
        setter("training", "optimizer", "arguments", "beta_1", value=2),
        "AdamW: expected beta_1 .*got 2",
    ),
    (setter("network", "name", value=3), r"Sequential: expected name .*got 3"),
    (setter("network", "layers", 4, "name", value=["x"]), r"Sequential: .*name .*got \['x'\]"),
    (setter(*LAYER, "arguments", "name", value=[]), r"Dense: expected name .*got \[\]"),
    (
        setter("network", "layers", 0, "arguments", "scale", value="two"),
        r"Rescaling: expected scale in .*, got 'two'",
    ),
    (setter("network", "input_shape", value=[2, 6]), r"input_shape \(2, 6\), got .*\(4, 3\)"),
    (
        setter("network", "layers", 4, "input_shape", value=[7]),
        r"nested: .*input_shape \(7,\), got .*\(8,\)",
    ),
    (setter("network", "weights", 0, "shape", value=[1, 2]), r"weights \[\('dense/weight', "),
    (setter("network", "weights", 0, "stream", value=-1), "dense/weight: stream.*-1"),
    (setter("network", "weights", 0, "stream", value=2**32), "dense/weight: stream.*4294967296"),
    (setter("history", 0, 1, "loss", value="high"), "to float: 'high'"),
    (setter("history", 0, 1, "loss", value=[1.0, 2.0]), "a real number, not 'list'"),
    (setter("history", 0, 0, value=-1), "history: epoch.*-1"),
    (setter("history", 0, 0, value=0.5), "history: epoch.*integer.*0.5"),
    (setter("history", 0, value=[0]), "not enough values"),
    (setter("history", 0, value=[0, 0.5]), "'float' object has no attribute 'items'"),
    (
        setter("history", value={"epoch": [0], "history": {"loss": [1.0, 2.0]}}),
        "too many values",
    ),
    (setter("state", "run/moment", value=["on_epoch_end", -1, 3, []]), "number.*-1"),
    (setter("state", "run/moment", value=["on_epoch_end", 1, 2**32, []]), "step.*4294967296"),
    (setter("state", "run/moment", value=[1, 2]), "not enough values"),
    (setter("state", "random/seed", value=[1]), "list index out of range"),
    (setter("state", "random/seed", value=[-1, 1, 2]), "seed.*-1"),
    (setter("state", "random/stream", value=[0, 1, 2**20]), "RandomStream: number.*1048576"),
]


@pytest.mark.parametrize(("change", "message"), BAD_HEADERS)
def test_load_rejects_bad_header(trained, change, message):
    rewritten(trained, change)
    with pytest.raises(ValueError, match=f"{trained}: expected a checkpoint .*, got: .*{message}"):
        models.load(trained)


BAD_ARRAYS = [
    ({"model/step": np.array(-1)}, (), "model/step.*-1"),
    ({"model/step": np.array(2**32)}, (), "model/step.*4294967296"),
    ({"model/epoch": np.array(2**32)}, (), "model/epoch.*4294967296"),
    ({"optimizer/iterations": np.array(2**63 - 1)}, (), "optimizer/iterations"),
    ({"random/step": np.array([0, 0, -1])}, (), "random/step.*-1"),
    ({"random/step": np.array([0, 0, 2**32])}, (), "random/step.*4294967296"),
    ({"position/batch": np.array(4)}, (), "position/batch 4 in an epoch of 3 batches"),
    ({"position/batch_size": np.array(2**62)}, (), "position/batch_size"),
    ({"position/counts": np.array([-1, 0])}, (), "position/counts.*-1"),
    ({"model/step": np.array([1])}, (), r"model/step of shape \(1,\)"),
    ({"model/step": np.array(1.0)}, (), r"model/step of shape .* float64"),
    ({}, ("model/step",), "no array 'model/step'"),
    ({"random/step": np.zeros(2, "int64")}, (), r"random/step of shape \(2,\)"),
    ({"optimizer/mean": np.zeros(3, "float32")}, (), r"optimizer/mean of shape \(3,\)"),
    ({"weights/new": np.zeros(3, "float32")}, (), r"does not have: \['weights/new'\]"),
    ({"position/totals": np.zeros(1)}, (), r"position/totals of shape \(1,\)"),
    ({"names/is_given": np.zeros(2, "bool")}, (), r"names/is_given of shape \(2,\)"),
]


@pytest.mark.parametrize(("arrays", "drop", "message"), BAD_ARRAYS)
def test_load_rejects_arrays_that_do_not_fit(trained, arrays, drop, message):
    rewritten(trained, None, drop, **arrays)
    with pytest.raises(ValueError, match=f"{trained}: expected a checkpoint .*{message}"):
        models.load(trained)


def test_rewritten_file_without_a_change_is_loaded(trained):
    rewritten(trained)
    assert models.load(trained).history.epoch == [0]


@pytest.mark.parametrize(
    ("stack", "shape"),
    [
        ([layers.Softmax() for _ in range(8)], [2**24]),
        ([layers.Dense(1000)], [2**24, 1]),
    ],
    ids=["softmax", "dense"],
)
def test_small_file_takes_little_memory_however_large_its_samples(path, stack, shape):
    models.Sequential([layers.Input((1,)), *stack]).save(path)

    def change(header):
        header["network"] |= {"built_for": shape, "input_shape": shape}

    rewritten(path, change)
    tracemalloc.start()
    try:
        model = models.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert model.built_for == tuple(shape)


def test_load_rejects_a_folder(tmp_path):
    message = rf"{tmp_path}: expected a file, got a folder.*checkpoint\.latest\('{tmp_path}'\)"
    with pytest.raises(ValueError, match=message):
        models.load(tmp_path)


def test_load_rejects_weights_without_a_network(path):
    tensor_file.write(path, {"x": np.zeros(3)})
    with pytest.raises(ValueError, match=r"no description of a network; .*load_weights"):
        models.load(path)


def test_load_rejects_deeply_nested_header(path):
    deep = '{"format": 1, "network": ' + "[" * 100_000 + "]" * 100_000 + "}"
    tensor_file.write(path, {"x": np.zeros(3)}, {"minidl": deep})
    with pytest.raises(ValueError, match=f"{path}: expected a checkpoint of minidl"):
        models.load(path)


def test_unknown_device_is_not_reported_as_the_fault_of_the_file(trained):
    with pytest.raises(ValueError, match=r"^device: .*'tpu'"):
        models.load(trained, "tpu")


# ------------------------------------------------------------------------------ damage


def flip_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("array", ["weights/dense/weight", "optimizer/mean", "model/step"])
def test_one_changed_bit_of_an_array_is_detected(trained, trained_content, array):
    end = 8 + int.from_bytes(trained_content[:8], "little")
    first, last = json.loads(trained_content[8:end])[array]["data_offsets"]
    for place in (end + first, end + last - 1):
        trained.write_bytes(trained_content)
        flip_bit(trained, place)
        with pytest.raises(ValueError, match=f"{trained}: .*the file is damaged"):
            models.load(trained)


def test_weights_of_other_programs_are_read_without_a_checksum(path):
    from safetensors.numpy import load_file, save_file

    model = network()
    model.save_weights(path)
    flip_bit(path, -1)
    with pytest.raises(ValueError, match=f"{path}: .*the file is damaged"):
        model.load_weights(path)
    flip_bit(path, -1)
    before = model.get_weights()
    save_file(load_file(path), path)  # as PyTorch writes it: no metadata
    with TensorFile(path) as file:
        assert file.metadata == {}
    model.load_weights(path)
    assert all(map(np.array_equal, before, model.get_weights()))
