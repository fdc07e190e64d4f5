"""A short run of the fuzzer, and files that Hypothesis makes up; `readers.py` runs for long."""

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
FEW = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("name", ["checkpoint", "torch", "keras", "idx", "image"])
def test_damaged_files_end_in_a_result_or_in_our_error(name):
    numbers = readers.fuzz(name, 300, seed=1)
    # Both happen: else what is fed would be too good or too bad to find anything.
    assert numbers["read"] >= 3
    assert numbers["refused"] >= 30


def test_the_fuzzer_keeps_the_input_of_a_reader_that_raises_what_is_not_ours(
    tmp_path, monkeypatch, capsys
):
    def broken(path):
        if b"\xff" in path.read_bytes()[4:8]:
            raise IndexError("not ours")

    monkeypatch.setattr(readers, "readers", lambda: {"idx": broken})
    monkeypatch.setattr(readers.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(IndexError, match="not ours"):
        readers.fuzz("idx", 2000)
    (folder,) = tmp_path.iterdir()
    assert f"the inputs lie in {folder}\n" in capsys.readouterr().err
    with pytest.raises(IndexError, match="not ours"):
        broken(folder / "input")


def test_the_fuzzer_leaves_nothing_behind_a_good_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(readers.tempfile, "tempdir", str(tmp_path))
    readers.fuzz("idx", 3)
    assert not list(tmp_path.iterdir())


GREEDY = """
import numpy as np, readers
readers.MEMORY_BOUND = 2**25
readers.readers = lambda: {"idx": lambda path: np.ones(2**27) if path.stat().st_size < 15 else None}
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
        (GREEDY, r"AssertionError: idx took [\d,]+ bytes"),
        (HANGING, r"Timeout \(0:00:00\.1.*\)!(.*\n)+.* in hangs"),
    ],
    ids=["allocates too much", "hangs"],
)
def test_the_fuzzer_notices_a_reader_that(code, message, tmp_path):
    # In a process of its own, which may end, and whose parent's memory is not counted as its own.
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


@FEW
@given(MAGIC, st.binary(max_size=300))
def test_bytes_of_no_meaning_are_refused_or_read(tmp_path, magic, rest):
    path = tmp_path / "x"
    path.write_bytes(magic + rest)
    for read in (lambda: images.read(path, (2,)), lambda: idx.read(path, max_bytes=2**20)):
        try:
            assert isinstance(read(), np.ndarray)
        except ValueError:
            continue


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = ["format", "version", "network", "training", "history"]


@FEW
@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.booleans())
def test_texts_of_no_meaning_are_no_checkpoint(tmp_path, texts, is_format):
    path = tmp_path / "x.safetensors"
    text = json.dumps(texts | ({"format": 1} if is_format else {}))
    tensor_file.write(path, {"x": np.zeros(3)}, {"minidl": text})
    with pytest.raises(ValueError, match="expected a checkpoint of minidl, found: "):
        models.load(path)


@FEW
@given(st.binary(max_size=200))
def test_texts_that_are_no_json_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "x.safetensors"
    text = content.decode("latin-1")
    tensor_file.write(path, {"x": np.zeros(3)}, {"minidl": text})
    with pytest.raises(ValueError, match="expected a checkpoint of minidl, found: "):
        models.load(path)
