"""The examples run, and the programs in the README say what the code does."""

import doctest
import functools
import json
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl import datasets, layers, models

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted({path.stem for path in EXAMPLES.glob("*.py")} - {"common", "keras_notes"})
MAX_PICTURE_BYTES = 150_000
WAYS = ("without", "with")


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


def test_what_the_readme_says_of_keeping_a_model_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    network = re.search(r"\n(model = models\.Sequential\(.*?)model\.summary", readme, re.S)
    keeping = re.search(r"```python\n(model\.save\(.*?)```", readme, re.S)
    known = {"layers": layers, "models": models, "x_test": np.ones((2, 28, 28))}
    exec(network[1], known)
    before = known["model"].predict(known["x_test"])
    exec(keeping[1], known)
    assert np.array_equal(known["probabilities"], before)
    assert len(list(tmp_path.iterdir())) == 4


def test_the_readme_names_only_files_that_exist():
    linked = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_the_readme_prints_what_the_code_prints():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert (result.failed, result.attempted) == (0, 3)


# ------------------------------------------------------------ the notes and the paper, executed


def run_example(name, picture, *arguments):
    """Run a program's quick form; return the numbers of its last line."""
    environment = {k: v for k, v in os.environ.items() if k != "MINIDL_DATA"}
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", "--picture", picture]
    done = subprocess.run(
        [*command, "--quick", *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Return a function that runs a program once, and gives its numbers and its picture."""
    folder = tmp_path_factory.mktemp("pictures")

    @functools.cache
    def run(name):
        picture = folder / f"{name}.png"
        return run_example(name, picture), picture

    return run


def numbers_in(value):
    """Give all numbers of what was read from JSON."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(item)
    elif isinstance(value, int | float):
        yield value


def check_picture(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    assert 400 <= width <= 1200
    assert 250 <= height <= 800
    assert len(data) < MAX_PICTURE_BYTES


def test_the_programs_of_the_issue_are_there():
    assert PROGRAMS == [
        "data_size",
        "ensemble",
        "features",
        "overfitting",
        "paper_table",
        "rate",
        "ridge",
        "same_everywhere",
        "scaling",
        "sparsity",
    ]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_in_numbers_and_a_picture(name, quick):
    result, picture = quick(name)
    assert (result["program"], result["quick"], result["seed"]) == (name, True, 0)
    numbers = list(numbers_in(result))
    assert len(numbers) > 5
    assert all(math.isfinite(number) for number in numbers)
    check_picture(picture)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_short_and_says_where_its_claim_stands(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < 100
    assert "Srivastava et al., JMLR 15 (2014)" in text.split('"""')[1].replace("\n", " ")


def test_a_picture_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    for path in (tmp_path / "missing" / "a.png", tmp_path / "a.jpg"):
        command = [sys.executable, EXAMPLES / "ridge.py", "--quick", "--picture", path]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert "expected NAME.png in an existing folder" in done.stderr


def test_dropout_keeps_the_training_loss_up(quick):
    result, _ = quick("overfitting")
    for images in (500, 4000):
        losses = [result[f"{images} images, {how} dropout"]["training_loss"] for how in WAYS]
        assert losses[0] < losses[1]


def test_more_thinned_networks_come_closer_to_weight_scaling(quick):
    result, _ = quick("ensemble")
    scaled = result["weight_scaling_error_percent"]
    away = {int(k): error - scaled for k, error in result["monte_carlo_error_percent"].items()}
    assert away[1] > 1
    assert abs(away[60]) < away[1] / 4
    within = result["within_one_deviation_at_k"]
    assert 1 < within["first"] <= within["for_good"] <= 60


def test_features_cancel_less_with_dropout(quick):
    result, _ = quick("features")
    taken_away = [result[f"{how} dropout"]["share_taken_away"] for how in WAYS]
    assert taken_away[0] > 1.2 * taken_away[1]


def test_a_high_rate_hurts_less_where_the_network_grows_with_it(quick):
    result, _ = quick("rate")
    highest = result["rates"].index(max(result["rates"]))
    fixed, growing = (errors[highest] for errors in result["test_error_percent"].values())
    assert growing < fixed


def test_activations_are_sparse_with_dropout(quick):
    result, _ = quick("sparsity")
    means = [result[f"{how} dropout"]["mean_activation"] for how in WAYS]
    zeros = [result[f"{how} dropout"]["share_of_zeros"] for how in WAYS]
    assert means[0] > 1.5 * means[1]
    assert zeros[0] < zeros[1]


def test_both_scalings_and_the_formula_have_one_expectation(quick):
    result, _ = quick("scaling")
    expected = result["expected_distance"]
    for distance in (
        *result["distance_after_all_masks"].values(),
        result["distance_of_the_formula"],
    ):
        # Many pixels have a part in it, so that chance moves it by a few percent alone.
        assert distance == pytest.approx(expected, rel=0.1)


def test_dropout_in_linear_regression_is_ridge_regression(quick):
    result, _ = quick("ridge")
    assert result["largest_relative_difference"] < 0.01
    # Weights without the penalty, the negative control, are far away.
    assert min(result["relative_difference_without_penalty"].values()) > 0.5


def test_masks_are_the_same_everywhere(quick):
    result, _ = quick("same_everywhere")
    assert result["runs"] >= 8
    assert result["runs_with_the_same_masks"] == result["runs"]
    assert result["largest_loss_difference"] < 0.05


def test_the_table_goes_on_where_it_was_stopped(quick, tmp_path):
    first, picture = quick("paper_table")
    first = first["test_error_percent"]
    lines = picture.with_suffix(".jsonl").read_text().splitlines()
    assert len(lines) == 21  # seven rows of two candidates and one seed
    # As if it had been stopped before the last run, and the first row's had ended otherwise.
    invented = json.dumps(json.loads(lines[2]) | {"number": 77.0})
    log = tmp_path / "table.jsonl"
    log.write_text("\n".join([*lines[:2], invented, *lines[3:-1]]) + "\n")
    again = run_example("paper_table", tmp_path / "table.png")["test_error_percent"]
    assert log.read_text().splitlines() == [*lines[:2], invented, *lines[3:]]
    rows = list(first)
    assert again[rows[0]]["errors"] == [77.0]
    assert {row: again[row] for row in rows[1:]} == {row: first[row] for row in rows[1:]}


def test_the_gallery_shows_every_program_with_its_picture():
    gallery = (EXAMPLES / "README.md").read_text()
    shown = re.findall(r"!\[[^]]*\]\((pictures/[^)]+)\)", gallery)
    assert sorted(shown) == sorted(
        path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.glob("pictures/*.png")
    )
    for path in shown:
        check_picture(EXAMPLES / path)
    for name in PROGRAMS:
        assert f"]({name}.py)" in gallery
