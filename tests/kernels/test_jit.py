"""Compiling a CPU kernel: announced once, kept in a cache that no edit leaves stale."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import minidl_kernels
import numba
import pytest
from minidl_kernels.cpu import jit

# Prints what is compiled, and whether the kernel draws the mask of the Philox beside it.
PROGRAM = """
import logging
import numpy as np
logging.basicConfig(level="INFO", format="%(message)s")
from minidl_kernels import mask_contract
from minidl_kernels.cpu.dropout import dropout
address = dict(seed=1, stream=2, step=3)
mask = dropout(np.ones((3, 70), "float32"), 0.5, **address) != 0
print("the right mask" if (mask == mask_contract.keep_mask((3, 70), 0.5, **address)).all() else "?")
print("".join(map(str, mask[0].astype(int))))
"""


def _run(folder, **environment):
    """Run the program on the copy of the package in a folder; return what it logged and printed."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))
    }
    variables = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=inherited | variables | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    verdict, mask = done.stdout.splitlines()
    assert verdict == "the right mask"
    return done.stderr.splitlines(), mask


@pytest.fixture
def copy(tmp_path):
    """A copy of the kernels, to edit and compile in."""
    source = Path(minidl_kernels.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "cuda")
    return Path(shutil.copytree(source, tmp_path / "minidl_kernels", ignore=ignored))


def test_an_edit_of_philox_makes_its_callers_compile_anew(copy):
    announcement = "compiling dropout for the CPU (once; kept in the compiler's cache)"
    first, mask = _run(copy.parent)
    assert first == [announcement]
    assert _run(copy.parent) == ([], mask)  # now from the cache
    philox = copy / "philox.py"
    text = philox.read_text()
    assert "0xD2511F53" in text
    philox.write_text(text.replace("0xD2511F53", "0xD2511F51"))
    second, other_mask = _run(copy.parent)
    assert second == [announcement]
    assert other_mask != mask
    philox.write_text(text)
    assert _run(copy.parent) == ([], mask)  # the first code again, which is still there


def test_the_cache_is_not_kept_in_the_installation(copy):
    _run(copy.parent)
    assert list(copy.rglob("*.nbi")) == []
    assert list(copy.parent.rglob("*.nbi")) != []


def test_without_a_folder_for_the_cache(copy):
    # Files where folders would have to be: not even the superuser can write there.
    (copy / "cpu" / "__pycache__").touch()
    home = copy.parent / "home"
    home.touch()
    logged, _ = _run(copy.parent, HOME=str(home))
    assert logged == [
        "compiling dropout for the CPU "
        "(once in each process; no folder for the compiler's cache is writable)"
    ]


def test_compilation_is_announced_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def double(x):
        return x + x

    with caplog.at_level(logging.INFO, "minidl_kernels"):
        ours = jit.kernel(announce="a sum for the CPU")(double)
        assert caplog.messages == []
        assert ours(1) == ours(2) / 2 == 2
        announcement = "compiling a sum for the CPU (once; kept in the compiler's cache)"
        assert caplog.messages == [announcement]
        jit.kernel(announce="a sum for the CPU")(double)(1)  # comes from the cache
        numba.njit(lambda x: x + 1)(1)  # the user's own
        assert caplog.messages == [announcement]


def test_other_errors_of_the_cache_pass(monkeypatch):
    def broken(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(jit, "_Cache", broken)
    with pytest.raises(RuntimeError, match="something else"):
        jit.kernel(announce="nothing")(lambda x: x)
