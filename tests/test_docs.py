"""The pages in docs/: their programs run, and their links lead somewhere."""

import re
from pathlib import Path

import numpy as np
import pytest

from bench import __main__ as bench_all
from minidl import datasets, models

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_existing_files(page):
    linked = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert linked
    assert [path for path in linked if not (DOCS / path).exists()] == []


def test_page_of_more_than_one_machine_shows_programs_that_run(monkeypatch, tmp_path):
    (x, y), test = datasets.mnist_5k.load_data()
    monkeypatch.setattr(datasets.mnist_5k, "load_data", lambda: ((x[:300], y[:300]), test))
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "more-than-one-machine.md").read_text()
    known = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, known)
    model, fit = (
        known["model"],
        {"batch_size": 128, "epochs": 3, "verbose": 0, "resume": True, "validation_data": test},
    )
    model.fit(
        x[:300], y[:300], **fit, callbacks=[known["Diary"]()], distribution=known["distribution"]
    )
    number, loss = (tmp_path / "diary.txt").read_text().split()
    assert (int(number), float(loss)) == (2, model.history.history["loss"][-1])
    saved = models.load("digits.safetensors")
    assert saved.position.shards == 8
    assert len(list((tmp_path / "checkpoints").iterdir())) > 0
    assert not np.array_equal(saved.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize("name", bench_all.PAGES)
def test_page_has_place_for_measured_figures(name):
    file, _ = bench_all.PAGES[name]
    text = (DOCS.parent / file).read_text()
    assert text.index(f"<!-- begin bench.{name} -->") < text.index(f"<!-- end bench.{name} -->")
