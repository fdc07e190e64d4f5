"""Folders: the newest checkpoint, locks, and folders that cannot be made."""

import os
from pathlib import Path

import pytest

from minidl import checkpoint
from minidl.storage.folders import check_folder, lock_folder, step_files


def test_latest_is_the_checkpoint_of_the_most_steps(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    for name in ("step-0000000009", "step-0000000010", "step-11", "best", ".step-0000000012"):
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "step-0000000013.safetensors.tmp").touch()
    assert checkpoint.latest(tmp_path).name == "step-0000000010.safetensors"
    names = [path.name for path in step_files(tmp_path)]
    assert names == ["step-0000000009.safetensors", "step-0000000010.safetensors"]


def test_latest_of_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        checkpoint.latest(tmp_path / "missing")


def test_locked_folder_is_locked_until_the_file_is_closed(tmp_path):
    first = lock_folder(tmp_path)
    with pytest.raises(BlockingIOError, match=f"{tmp_path}: another run or another callback"):
        lock_folder(tmp_path)
    first.close()
    lock_folder(tmp_path).close()


def test_check_folder_accepts_a_folder_to_be_made_and_makes_none(tmp_path):
    check_folder(tmp_path / "new" / "folder")
    check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_check_folder_rejects_a_file_on_the_way(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "folder"):
        with pytest.raises(NotADirectoryError, match=f"{path}: .*{file} is a file"):
            check_folder(path)


@pytest.mark.skipif(not Path("/proc").is_dir() or os.name == "nt", reason="needs /proc")
def test_check_folder_rejects_a_folder_that_cannot_be_written():
    with pytest.raises(PermissionError, match="/proc/minidl: the folder /proc is not writable"):
        check_folder("/proc/minidl")


@pytest.mark.skipif(os.name == "nt", reason="other limits")
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("x" * 256, OSError),
        (f"{'x' * 256}/run", OSError),
        ("/".join(["y" * 200] * 30), OSError),
        ("nul\0", ValueError),
    ],
)
def test_check_folder_rejects_names_that_the_system_rejects(tmp_path, name, error):
    with pytest.raises(error, match=r"File name too long|other than NUL"):
        check_folder(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_check_folder_rejects_an_empty_name():
    with pytest.raises(ValueError, match=r"^path: expected a name .*, got ''"):
        check_folder("")


def test_check_folder_accepts_a_name_of_250_bytes(tmp_path):
    check_folder(tmp_path / ("x" * 250) / "checkpoints")
    assert list(tmp_path.iterdir()) == []
