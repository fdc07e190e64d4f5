"""Fixtures for the commands."""

import pytest

from minidl.commands import train


@pytest.fixture
def reject(capsys):
    """Return a function that returns the one line with which the training command rejects input."""

    def line_of(*arguments):
        capsys.readouterr()
        assert train.main(list(map(str, arguments))) == 2
        written = capsys.readouterr()
        assert written.out == ""
        assert written.err.startswith("minidl.train: ")
        assert written.err.count("\n") == 1
        return written.err

    return line_of


@pytest.fixture
def no_data(monkeypatch):
    """Let a test fail if the training command reads data."""

    def fail(*_):
        raise AssertionError("data were read")

    monkeypatch.setattr(train, "load_data", fail)
