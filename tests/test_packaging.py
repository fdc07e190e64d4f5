"""Distributions: their files, their metadata, and the commands that they install."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GENERATED = r"PKG-INFO|setup\.cfg|.*minidl\.egg-info/.*"
DISTRIBUTIONS = """
from setuptools import build_meta
build_meta.build_sdist("dist")
build_meta.build_wheel("dist")
"""


def test_description_has_no_links_into_the_repository():
    text = (ROOT / PROJECT["readme"]).read_text()
    assert len(text) > 500
    targets = re.findall(r"\]\(([^)]*)\)", text) + re.findall(r"(?:src|href)=\"([^\"]*)", text)
    assert [target for target in targets if not target.startswith("https://")] == []


def test_description_has_a_program_that_compiles():
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / PROJECT["readme"]).read_text(), re.S)
    compile(program, "DESCRIPTION.md", "exec")


def test_authors_are_those_of_the_licence():
    (author,) = PROJECT["authors"]
    assert f"Copyright (c) 2026 {author['name']}\n" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("script", ["minidl-train", "minidl-predict", "minidl-playground"])
def test_script_names_itself_in_its_help(script, monkeypatch, capsys):
    module, _, function = PROJECT["scripts"][script].partition(":")
    main = getattr(import_module(module), function)
    started = {
        f"/usr/bin/{script}": script,
        f"{script}.exe": script,
        "/x/minidl/train.py": f"python -m {module}",
        "": f"python -m {module}",
    }
    for program, expected in started.items():
        monkeypatch.setattr(sys, "argv", [program])
        with pytest.raises(SystemExit, match="0"):
            main(["--help"])
        assert capsys.readouterr().out.startswith(f"usage: {expected} [")
    with pytest.raises(SystemExit) as error:
        main(["--device"])
    assert error.value.code == 2
    assert capsys.readouterr().err.startswith(f"{module}: ")


@pytest.fixture(scope="module")
def tracked():
    """Return the names of the repository's files."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a checkout, and git")
    command = ["git", "ls-files", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in names.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def dist(tracked, tmp_path_factory):
    """Return a folder with both distributions, built from a copy of the repository."""
    pytest.importorskip("setuptools", "77", reason="needs setuptools, from the extra test")
    copy = tmp_path_factory.mktemp("minidl")
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    (copy / "tests" / "__pycache__").mkdir()
    (copy / "tests" / "__pycache__" / "stale.pyc").touch()
    subprocess.run(
        [sys.executable, "-c", DISTRIBUTIONS],
        cwd=copy,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return copy / "dist"


@pytest.mark.slow
def test_sdist_has_the_files_of_the_repository(dist, tracked):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as file:
        names = {member.name.partition("/")[2] for member in file if member.isfile()}
    assert {name for name in names if not re.fullmatch(GENERATED, name)} == tracked


@pytest.mark.slow
def test_wheel_has_the_packages_and_metadata(dist, tracked):
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = email.message_from_bytes(file.read(f"{info}/METADATA"))
    expected = {name for name in tracked if name.startswith("minidl/")}
    kernels = (name for name in tracked if name.startswith("kernels/minidl_kernels/"))
    expected |= {name.removeprefix("kernels/") for name in kernels}
    expected |= {f"{info}/licenses/{name}" for name in PROJECT["license-files"]}
    generated = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt")
    assert set(names) == expected | {f"{info}/{name}" for name in generated}
    assert metadata["Author"] == "The minidl authors"
    assert metadata.get_payload().strip() == (ROOT / "DESCRIPTION.md").read_text().strip()


@pytest.mark.slow
def test_sdist_runs_its_tests(dist, tmp_path):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as file:
        file.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_constraints.py"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout
