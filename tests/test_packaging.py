"""Distributions: their files, their metadata, and the commands that they install."""

import email
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from minidl.__main__ import COMMANDS
from minidl.__main__ import main as list_commands
from minidl.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GENERATED = r"PKG-INFO|setup\.cfg|.*minidl\.egg-info/.*"
SDIST = "from setuptools import build_meta; build_meta.build_sdist('dist')"
OFFLINE = ("--no-index", "--no-deps")


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


def test_citation_agrees_with_metadata():
    text = (ROOT / "CITATION.cff").read_text()
    fields = dict(re.findall(r"^(\w+): (.+)$", text, re.M))
    assert fields["version"] == PROJECT["version"] == __version__
    assert (fields["title"], fields["license"]) == (PROJECT["name"], PROJECT["license"])
    assert f"authors:\n  - name: {PROJECT['authors'][0]['name']}\n" in text
    assert "\n  - ".join(("keywords:", *PROJECT["keywords"])) + "\n" in text
    assert f"abstract: >- {PROJECT['description']}. " in " ".join(text.split())


def test_listed_commands_are_the_modules_that_are_programs():
    programs = {
        path.stem
        for path in (ROOT / "minidl").glob("*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    }
    assert set(COMMANDS) == programs - {"__main__"}


def test_scripts_are_the_listed_commands():
    scripts = {f"minidl-{name}": f"minidl.{name}:main" for name in COMMANDS}
    assert PROJECT["scripts"] == {"minidl": "minidl.__main__:main"} | scripts


def test_list_of_commands_names_scripts_that_exist(capsys):
    assert list_commands([]) == 0
    text = capsys.readouterr().out
    assert set(re.findall(r"minidl-\w+", text)) == set(PROJECT["scripts"]) - {"minidl"}
    assert all(f"  {purpose}\n" in text for purpose in COMMANDS.values())


def test_list_of_commands_rejects_command_and_names_scripts(capsys):
    with pytest.raises(SystemExit) as error:
        list_commands(["train", "--epochs", "1"])
    assert error.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("minidl: expected no arguments, got 'train'. Run one of minidl-train, ")


@pytest.mark.parametrize("script", PROJECT["scripts"])
def test_script_names_itself_in_its_help(script, monkeypatch, capsys):
    module = script.replace("-", ".")
    main = script_function(script)
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
        main(["--unknown"])
    assert error.value.code == 2
    assert capsys.readouterr().err.startswith(f"{module}: ")


@pytest.mark.parametrize("script", PROJECT["scripts"])
def test_script_prints_version(script, capsys):
    with pytest.raises(SystemExit, match="0"):
        script_function(script)(["--version"])
    assert capsys.readouterr().out == f"minidl {__version__}\n"


def script_function(script):
    """Return the function that a script calls."""
    module, _, function = PROJECT["scripts"][script].partition(":")
    return getattr(import_module(module), function)


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
    """Return a folder with a source distribution, and a wheel that pip builds from it."""
    pytest.importorskip("setuptools", "77", reason="needs setuptools, from the extra test")
    pytest.importorskip("pip")
    copy = tmp_path_factory.mktemp("minidl")
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    (copy / "tests" / "__pycache__").mkdir()
    (copy / "tests" / "__pycache__" / "stale.pyc").touch()
    run([sys.executable, "-c", SDIST], copy)
    (sdist,) = (copy / "dist").iterdir()
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", *OFFLINE)
    run([*pip, "--wheel-dir", "dist", sdist], copy)
    return copy / "dist"


def run(command, folder):
    """Run a command in a folder, without PYTHONPATH, and return what it prints."""
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """Return the folder of the scripts in an environment with the wheel.

    It borrows the dependencies of this environment, so that nothing is downloaded. Its own packages
    come first, and the finder of an editable installation is not borrowed.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=os.name != "nt", with_pip=False)
    variables = {"base": folder, "platbase": folder}
    scripts = Path(sysconfig.get_path("scripts", vars=variables))
    packages = Path(sysconfig.get_path("purelib", vars=variables))
    (wheel,) = dist.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "install")
    run([*pip, *OFFLINE, wheel], folder)
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return scripts


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
        # Python 3.11.2 has no filters; Python 3.14 wants one.
        file.extractall(tmp_path, **{"filter": "data"} if hasattr(tarfile, "data_filter") else {})
    (folder,) = tmp_path.iterdir()
    run([sys.executable, "-m", "pytest", "-q", "tests/test_constraints.py"], folder)


@pytest.mark.slow
def test_installed_commands_train_and_predict(installed, tmp_path):
    network, image = tmp_path / "digits.safetensors", tmp_path / "digits.npy"
    np.save(image, np.zeros((1, 28, 28), "uint8"))
    small = ("--hidden", "8", "--epochs", "1", "--data", "mnist-5k")
    trained = run([installed / "minidl-train", *small, "--save", network], tmp_path)
    assert "accuracy" in trained
    assert image.name in run([installed / "minidl-predict", network, image], tmp_path)


@pytest.mark.slow
def test_installed_package_is_that_of_the_wheel(installed, tmp_path):
    program = "import minidl, minidl_kernels; print(minidl.__file__, minidl_kernels.__file__)"
    python = installed / "python"
    for file in run([python, "-c", program], tmp_path).split():
        assert Path(file).is_relative_to(installed.parent)
    assert run([python, "-m", "minidl", "--version"], tmp_path) == f"minidl {__version__}\n"
