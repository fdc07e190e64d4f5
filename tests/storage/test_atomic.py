"""Atomic file writes: the old file or the new one, and nothing else."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from minidl import layers, models
from minidl.storage import atomic
from minidl.storage.atomic import (
    TEMPORARY,
    check_regular_file,
    check_writable,
    write_atomically,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.bin"


def test_reader_gets_the_old_file_or_the_new_one(path):
    contents = [bytes([value]) * 800_000 for value in (1, 2)]
    write_atomically(path, contents[0])
    done = threading.Event()

    def write():
        try:
            for turn in range(30):
                write_atomically(path, contents[turn % 2])
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert path.read_bytes() in contents
    thread.join()
    assert list(path.parent.iterdir()) == [path]


def test_link_stays_and_its_target_is_replaced(path, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path.symlink_to(Path("elsewhere", "real.bin"))
    for content in (b"first", b"second"):  # the first creates the target
        write_atomically(path, content)
        assert path.is_symlink()
        assert [file.name for file in folder.iterdir()] == ["real.bin"]
        assert (folder / "real.bin").read_bytes() == content


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_replaced_file_keeps_its_permissions(path):
    before = os.umask(0o027)
    try:
        write_atomically(path, b"new")
        assert path.stat().st_mode & 0o7777 == 0o640
        for mode in (0o600, 0o666, 0o440):
            path.chmod(mode)
            write_atomically(path, b"again")
            assert path.stat().st_mode & 0o7777 == mode
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_content_is_written_with_the_final_permissions(path, monkeypatch):
    path.touch(mode=0o600)
    modes = []
    monkeypatch.setattr(os, "fsync", lambda file: modes.append(os.fstat(file).st_mode & 0o777))
    write_atomically(path, b"new")
    assert modes[0] == 0o600


def test_link_into_a_missing_folder_is_rejected(tmp_path):
    nowhere = tmp_path / "nowhere.bin"
    nowhere.symlink_to(tmp_path / "missing" / "real.bin")
    with pytest.raises(FileNotFoundError, match=f"{nowhere}: the folder {tmp_path}/missing does"):
        write_atomically(nowhere, b"")


def test_folder_in_place_of_a_file_is_rejected(path):
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=f"{path}: expected a file name, got a folder"):
        write_atomically(path, b"")
    assert list(path.parent.iterdir()) == [path]
    assert list(path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_is_not_writable_is_rejected(path):
    path.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=f"{path}: the folder .* is not writable"):
            write_atomically(path, b"")
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_failed_write_leaves_the_old_file_and_no_other(path, monkeypatch, function):
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_interrupted_write_leaves_the_old_file_and_no_other(path, monkeypatch):
    write_atomically(path, b"old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_content_is_on_the_disk_before_it_has_its_name(path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("fsync") or fsync(file))
    monkeypatch.setattr(os, "replace", lambda *names: calls.append("replace") or replace(*names))
    write_atomically(path, b"new")
    folder = [] if os.name == "nt" else ["fsync"]
    assert calls == ["fsync", "replace", *folder]


def test_temporary_file_has_the_name_that_is_cleared_away(path, monkeypatch):
    seen = []
    replace = os.replace

    def spy(source, target):
        seen.extend(TEMPORARY.fullmatch(file.name)[1] for file in path.parent.iterdir())
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write_atomically(path, b"new")
    assert seen == [path.name]


LONG_NAMES = ["x" * 250, "x" * 255, "\N{CJK UNIFIED IDEOGRAPH-6A21}" * 85, "\N{SNOWMAN}x" * 63]


@pytest.mark.skipif(os.name == "nt", reason="names of NTFS are limited in characters")
@pytest.mark.parametrize("name", LONG_NAMES)
def test_name_of_the_maximum_length_is_written(tmp_path, monkeypatch, name):
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: seen.append(Path(a).name) or replace(a, b))
    check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    for content in (b"first", b"second"):
        write_atomically(tmp_path / name, content)
        assert (tmp_path / name).read_bytes() == content
    assert os.listdir(tmp_path) == [name]
    assert all(name.startswith(TEMPORARY.fullmatch(temporary)[1]) for temporary in seen)


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of bytes, and /proc")
def test_name_that_is_not_utf_8_is_written(tmp_path):
    write_atomically(tmp_path / "\udcff\udcfe", b"content")
    assert os.listdir(tmp_path) == ["\udcff\udcfe"]


@pytest.mark.parametrize("check", [check_writable, lambda path: write_atomically(path, b"")])
@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("x" * 256, OSError, "name too long"),
        ("/".join(["y" * 200] * 30), OSError, "name too long"),
        ("nul\0", ValueError, r"other than NUL, got '.*nul\\x00'"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="other limits")
def test_impossible_name_is_rejected(tmp_path, check, name, error, words):
    with pytest.raises(error, match=words):
        check(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_empty_name_is_rejected():
    with pytest.raises(ValueError, match=r"^path: expected a name .*, got ''"):
        check_writable("")


def test_check_writable_rejects_a_read_only_file_system(path, monkeypatch):
    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(atomic, "open", read_only, raising=False)
    with pytest.raises(OSError, match=rf"{path}: the folder {path.parent} .*Read-only file system"):
        check_writable(path)


def test_check_writable_keeps_an_older_file(path):
    path.write_bytes(b"old")
    check_writable(path)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


LIMITED = """
import resource, signal, sys
from minidl.storage.atomic import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(sys.argv[1], bytes(10_000))
except OSError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_full_disk_leaves_the_old_file_and_no_other(path):
    """The quick form of this check replaces functions of `os` by failing ones."""
    write_atomically(path, b"old")
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "refused: [Errno 27]" in result.stderr
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


# ------------------------------------------------------------------------------ reading


def test_regular_file_is_accepted_up_to_its_limit(path):
    path.write_bytes(b"12345")
    check_regular_file(path)
    check_regular_file(path, max_bytes=5)
    with pytest.raises(ValueError, match=f"{path}: expected at most 4 bytes, got 5"):
        check_regular_file(path, max_bytes=4)


def test_folders_pipes_and_missing_files_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: expected a regular file"):
        check_regular_file(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        check_regular_file(tmp_path / "missing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="pipe: expected a regular file"):
            check_regular_file(tmp_path / "pipe")


# ------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("name", ["x.safetensors", "x.weights.h5", "x.onnx", "model.safetensors"])
def test_every_format_rejects_a_missing_folder(tmp_path, name):
    model = models.Sequential([layers.Dense(2, input_shape=(3,))])
    write = {"x.onnx": model.export, "model.safetensors": model.save}.get(name, model.save_weights)
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError, match=f"{name}: the folder {missing} does not exist"):
        write(missing / name)


@pytest.mark.skipif(os.name == "nt", reason="names of NTFS are limited in characters")
@pytest.mark.parametrize("ending", [".safetensors", ".weights.h5", ".onnx", ".pt.safetensors"])
def test_every_format_writes_a_name_of_250_bytes(tmp_path, ending):
    pytest.importorskip({".weights.h5": "h5py", ".onnx": "onnx"}.get(ending, "safetensors"))
    model = models.Sequential([layers.Dense(2, input_shape=(3,))])
    write = {".safetensors": model.save, ".onnx": model.export}.get(ending, model.save_weights)
    path = tmp_path / ("x" * (250 - len(ending)) + ending)
    write(path)
    assert list(tmp_path.iterdir()) == [path]


def test_model_is_not_saved_over_a_folder(tmp_path):
    path = tmp_path / "x.safetensors"
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=f"{path}: expected a file name, got a folder"):
        models.Sequential([layers.Dense(2, input_shape=(3,))]).save(path)
    assert list(tmp_path.iterdir()) == [path]


def test_saved_model_has_its_weights_after_a_failed_save(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    model = models.Sequential([layers.Dense(2, input_shape=(3,))], seed=1)
    model.save(path)
    saved = model.get_weights()
    model.set_weights([weight + 1 for weight in saved])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(path)
    assert all(map(np.array_equal, models.load(path).get_weights(), saved))
