"""The examples run, and the programs in the README say what the code does."""

import doctest
import re
import runpy
from pathlib import Path

from minidl import datasets

ROOT = Path(__file__).parent.parent


def test_the_notes_program_trains(monkeypatch, capsys):
    # The digits that minidl ships stand in for MNIST, which a machine may not have.
    monkeypatch.setattr(datasets.mnist, "load_data", datasets.mnist_5k.load_data)
    program = runpy.run_path(str(ROOT / "examples" / "keras_notes.py"))
    out = capsys.readouterr().out
    assert "Total params: 535,818 (2.04 MB)" in out
    assert out.count("Epoch ") == 5
    assert program["test_accuracy"] > 0.9
    assert program["model"].step == 5 * 125


def test_the_readme_shows_the_example_as_it_is():
    example = (ROOT / "examples" / "keras_notes.py").read_text()
    program = example[example.index("from minidl") :]
    assert f"```python\n{program}```" in (ROOT / "README.md").read_text()


def test_the_readme_names_only_files_that_exist():
    linked = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_the_readme_prints_what_the_code_prints():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert (result.failed, result.attempted) == (0, 3)
