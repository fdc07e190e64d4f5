"""Compilation of a CPU kernel: announced once, and cached so that no edit leaves it stale."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import minidl_kernels
import numba
import pytest
from minidl_kernels.cpu import jit

CACHED = "compiling kernels for your CPU (first run only)"

# A kernel that calls Philox, for a copy of the package.
KERNEL = """
import numpy as np
from minidl_kernels import philox
from minidl_kernels.cpu import jit

_philox = jit.inline(philox.philox4x32_10)

@jit.kernel
def draw(words, zero):
    words[0], words[1], words[2], words[3] = _philox(zero, zero, zero, zero, zero, zero)
"""
# Prints what is compiled, and the words.
PROGRAM = """
import logging
import numpy as np
logging.basicConfig(level="INFO", format="%(message)s")
from minidl_kernels.cpu import draw
words = np.empty(4, "uint32")
draw.draw(words, np.uint32(0))
print(words)
"""


def _run(folder, **environment):
    """Run the program on the copy of the package in a folder; return what it logs and prints."""
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
    return done.stderr.splitlines(), done.stdout


class _Signalling(numba.core.event.Listener):
    """Listener that sends signals to its process when a compilation begins."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def on_start(self, event):
        for number in self.numbers:
            signal.raise_signal(number)

    def on_end(self, event):
        pass


@pytest.fixture
def handled():
    """Handle SIGTERM by an exception, as commands do."""

    def terminate(*_):
        raise SystemExit("terminated")

    before = signal.signal(signal.SIGTERM, terminate)
    yield terminate
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_signal_during_a_compilation_waits_for_its_end(handled, number, error):
    doubled = numba.njit(lambda x: 2 * x)
    before = signal.getsignal(signal.SIGINT)
    listener = numba.core.event.install_listener("numba:compile", _Signalling(number))
    with listener, pytest.raises(error):
        doubled(1)
    assert len(doubled.overloads) == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGTERM) is handled


def test_ctrl_c_during_a_compilation_that_fails_waits_for_its_end():
    broken = numba.njit(lambda x: x.missing)
    before = signal.getsignal(signal.SIGINT)
    listener = numba.core.event.install_listener("numba:compile", _Signalling(signal.SIGINT))
    with listener, pytest.raises(KeyboardInterrupt) as raised:
        broken(1)
    assert isinstance(raised.value.__context__, numba.core.errors.TypingError)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_just_before_a_compilation_leaves_the_next_one_deferred(monkeypatch):
    registered = numba.core.event._registered
    early = [_Signalling(signal.SIGINT), *registered["numba:compile"]]  # before ours
    with monkeypatch.context() as patch:
        patch.setitem(registered, "numba:compile", early)
        with pytest.raises(KeyboardInterrupt):
            numba.njit(lambda x: 3 * x)(1)
    tripled = numba.njit(lambda x: 3 * x)
    listener = numba.core.event.install_listener("numba:compile", _Signalling(signal.SIGINT))
    with listener, pytest.raises(KeyboardInterrupt):
        tripled(1)
    assert len(tripled.overloads) == 1


def test_ignored_signal_stays_ignored_during_a_compilation():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        listener = numba.core.event.install_listener("numba:compile", _Signalling(signal.SIGINT))
        with listener:
            assert numba.njit(lambda x: 4 * x)(1) == 4
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def copy(tmp_path):
    """A copy of the kernels, to edit and compile."""
    source = Path(minidl_kernels.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "cuda")
    copied = Path(shutil.copytree(source, tmp_path / "minidl_kernels", ignore=ignored))
    (copied / "cpu" / "draw.py").write_text(KERNEL)
    return copied


def test_edit_of_philox_makes_its_callers_compile_anew(copy):
    first, words = _run(copy.parent)
    assert first == [CACHED]
    assert "1713891541" in words  # 6627e8d5
    assert list(copy.rglob("*.nbi")) == []  # not in the installation
    assert list(copy.parent.rglob("*.nbi")) != []
    philox = copy / "philox.py"
    text = philox.read_text()
    assert "0xD2511F53" in text
    philox.write_text(text.replace("0xD2511F53", "0xD2511F51"))
    second, other_words = _run(copy.parent)
    assert second == [CACHED]
    assert other_words != words
    philox.write_text(text)
    assert _run(copy.parent) == ([], words)  # the first code again, from the cache


def test_kernel_without_a_folder_for_the_cache_is_compiled_in_each_process(copy):
    # Files instead of folders: not even the superuser can write there.
    (copy / "cpu" / "__pycache__").touch()
    home = copy.parent / "home"
    home.touch()
    (line,), _ = _run(copy.parent, HOME=str(home))
    assert "in each process: no folder for the compiler's cache is writable" in line


@pytest.fixture
def announced(monkeypatch):
    """Let the announcement be made again."""
    listeners = numba.core.event._registered["numba:compile"]
    (ours,) = [listener for listener in listeners if isinstance(listener, jit._Announcer)]
    monkeypatch.setattr(ours, "announced", set())


def test_compilation_is_announced_once(tmp_path, monkeypatch, caplog, announced):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def double(x):
        return x + x

    with caplog.at_level(logging.INFO, "minidl_kernels"):
        numba.njit(lambda x: x + 1)(1)  # the user's own
        ours = jit.kernel(double)
        assert caplog.messages == []
        assert ours(1) == ours(2) / 2 == 2
        assert caplog.messages == [CACHED]
        jit.kernel(lambda x: x)(1)
        assert caplog.messages == [CACHED]


def test_kernel_from_the_cache_is_not_announced(tmp_path, monkeypatch, caplog, announced):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def triple(x):
        return 3 * x

    jit.kernel(triple)(1)
    caplog.clear()
    with caplog.at_level(logging.INFO, "minidl_kernels"):
        jit.kernel(triple)(1)
    assert caplog.messages == []


def test_other_errors_of_the_cache_are_raised(monkeypatch):
    def broken(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(jit, "_Cache", broken)
    with pytest.raises(RuntimeError, match="something else"):
        jit.kernel(lambda x: x)
