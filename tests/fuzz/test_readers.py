"""Short runs of the fuzzer, and files by Hypothesis; `readers.py` runs for longer."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import readers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidl import images, models
from minidl.datasets import idx
from minidl.storage import tensor_file

pytest.importorskip("PIL", reason="needs the extra images")
pytest.importorskip("h5py", reason="needs the extra keras")
FEW, MANY = (
    settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    for count in (40, 400)
)


def check_reader(name, count):
    """Fuzz a reader, and check that inputs are neither all too good nor all too bad."""
    numbers = readers.fuzz(name, count, seed=1)
    assert numbers["read"] >= count / 100
    assert numbers["rejected"] >= count / 10


@pytest.mark.parametrize("name", readers.READERS)
def test_reader_reads_or_rejects_damaged_files(name):
    check_reader(name, 100)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", readers.READERS)
def test_reader_reads_or_rejects_many_damaged_files(name):
    check_reader(name, 1_000)


def test_fuzz_keeps_the_input_that_raises_another_error(tmp_path, monkeypatch, capsys):
    def broken(path):
        if b"\xff" in path.read_bytes()[4:8]:
            raise IndexError("not ours")

    monkeypatch.setattr(readers, "readers", lambda: {"idx": broken})
    monkeypatch.setattr(readers.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(IndexError, match="not ours"):
        readers.fuzz("idx", 2000)
    (folder,) = tmp_path.iterdir()
    assert f"the inputs are in {folder}\n" in capsys.readouterr().err
    with pytest.raises(IndexError, match="not ours"):
        broken(folder / "input")


def test_fuzz_removes_its_folder_after_success(tmp_path, monkeypatch):
    monkeypatch.setattr(readers.tempfile, "tempdir", str(tmp_path))
    readers.fuzz("idx", 3)
    assert not list(tmp_path.iterdir())


def greedy(path):
    """Allocate 64 MiB for small files."""
    return np.ones(2**23) if path.stat().st_size < 15 else None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot reset the peak")
def test_fuzz_finds_a_greedy_reader_after_a_larger_peak(tmp_path, monkeypatch):
    calls = []

    def reader(path):
        calls.append(path)
        return np.ones(2**25) if len(calls) == 1 else greedy(path)

    monkeypatch.setattr(readers, "MEMORY_BOUND", 2**25)
    monkeypatch.setattr(readers, "readers", lambda: {"idx": reader})
    monkeypatch.setattr(readers.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(AssertionError, match=r"idx took [\d,]+ bytes"):
        readers.fuzz("idx", 2000)
    (kept,) = tmp_path.glob("minidl-fuzz-*/input")
    assert kept.stat().st_size < 15


GREEDY = """
import readers, test_readers
readers.MEMORY_BOUND = 2**25
readers.readers = lambda: {"idx": test_readers.greedy}
readers.fuzz("idx", 2000)
"""
HANGING = """
import itertools, readers
readers.HANG_SECONDS = 0.1
def hangs(path):
    if path.stat().st_size < 15:
        sum(itertools.repeat(0))  # in compiled code
readers.readers = lambda: {"idx": hangs}
readers.fuzz("idx", 2000)
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param(GREEDY, r"AssertionError: idx took [\d,]+ bytes", marks=pytest.mark.slow),
        (HANGING, r"Timeout \(0:00:00\.1.*\)!(.*\n)+.* in hangs"),
    ],
    ids=["greedy", "hanging"],
)
def test_fuzz_process_reports_bad_reader(code, message, tmp_path):
    np.ones(2**25)  # larger than all that the child takes, whose memory starts anew
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 1
    assert re.search(message, result.stderr), result.stderr
    (kept,) = tmp_path.glob("minidl-fuzz-*/input")
    assert kept.stat().st_size < 15


MAGIC = st.sampled_from(
    [b"", b"\0\0\x08\x01", b"\0\0\x0d\x03", b"\x1f\x8b\x08\0", b"\x93NUMPY\x01\0"]
)


def check_readers_of_arrays(folder, content):
    """Check that bytes are read or rejected."""
    path = folder / "x"
    path.write_bytes(content)
    for read in (lambda: images.read(path, (2,)), lambda: idx.read(path, max_bytes=2**20)):
        try:
            assert isinstance(read(), np.ndarray)
        except ValueError:
            continue


@FEW
@given(MAGIC, st.binary(max_size=300))
def test_readers_of_arrays_read_or_reject_random_bytes(tmp_path, magic, rest):
    check_readers_of_arrays(tmp_path, magic + rest)


@pytest.mark.exhaustive
@MANY
@given(MAGIC, st.binary(max_size=300))
def test_readers_of_arrays_read_or_reject_much_random_data(tmp_path, magic, rest):
    check_readers_of_arrays(tmp_path, magic + rest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = ["format", "version", "network", "training", "history"]
# Descriptions, as JSON or as any other text.
DESCRIPTIONS = st.one_of(
    st.builds(
        lambda texts, is_format: json.dumps(texts | ({"format": 1} if is_format else {})),
        st.dictionaries(st.sampled_from(KEYS), JSON),
        st.booleans(),
    ),
    st.binary(max_size=200).map(lambda content: content.decode("latin-1")),
)


def check_description(folder, text):
    """Check that a file with another description is no checkpoint."""
    path = folder / "x.safetensors"
    tensor_file.write(path, {"x": np.zeros(3)}, {"minidl": text})
    with pytest.raises(ValueError, match=r"x\.safetensors: expected a checkpoint of minidl"):
        models.load(path)


@FEW
@given(DESCRIPTIONS)
def test_load_rejects_random_descriptions(tmp_path, text):
    check_description(tmp_path, text)


@pytest.mark.exhaustive
@MANY
@given(DESCRIPTIONS)
def test_load_rejects_many_random_descriptions(tmp_path, text):
    check_description(tmp_path, text)
