"""The examples, and the programs in the README and in docs/."""

import contextlib
import importlib
import json
import math
import os
import re
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minidl import datasets, layers, models, rng

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
DOCS = ROOT / "docs"
PROGRAMS = sorted({path.stem for path in EXAMPLES.glob("*.py")} - {"common", "keras_notes"})
MAX_PICTURE_BYTES = 150_000
WAYS = ("without", "with")


def run_notes(monkeypatch, training, test):
    """Run the notes' program on some of the digits that minidl ships, and return its names."""
    (x, y), (x_test, y_test) = datasets.mnist_5k.load_data()
    data = (x[:training], y[:training]), (x_test[:test], y_test[:test])
    monkeypatch.setattr(datasets.mnist, "load_data", lambda: data)
    return runpy.run_path(str(EXAMPLES / "keras_notes.py"))


def test_notes_program_trains_on_few_digits(monkeypatch, capsys):
    program = run_notes(monkeypatch, 1_000, 200)
    out = capsys.readouterr().out
    assert "Total params: 535,818 (2.04 MB)" in out
    assert out.count("Epoch ") == 5
    assert program["test_accuracy"] > 0.7
    assert program["model"].step == 5 * 32


@pytest.mark.slow
def test_notes_program_trains(monkeypatch):
    program = run_notes(monkeypatch, 4_000, 1_000)
    assert program["test_accuracy"] > 0.9
    assert program["model"].step == 5 * 125


def test_readme_shows_the_example():
    example = (ROOT / "examples" / "keras_notes.py").read_text()
    program = example[example.index("from minidl") :]
    assert f"```python\n{program}```" in (ROOT / "README.md").read_text()


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_layer_of_docs_is_recorded_as_described(device):
    page = (DOCS / "own-layers.md").read_text()
    known = {"layers": layers}
    exec(re.search(r"```python\n(class Doubling.*?)```", page, re.S)[1], known)
    stack = [known["Doubling"](input_shape=(3,)), layers.Dense(2, activation="softmax")]
    model = models.Sequential(stack, device=device)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(np.ones((20, 3)), np.zeros(20, "int64"), batch_size=4, verbose=0)
    recording = model.recording
    if device == "cpu":
        assert recording.replays == 0
        assert f"`model.recording.reason` is\n`{recording.reason}`" in page
    else:
        assert (recording.recordings, recording.replays, recording.reason) == (1, 2, "")
        assert recording.launches > 0


# ------------------------------------------------------------------------------ programs


def run_process(name, picture):
    """Run a program's quick form in a process, and return the numbers of its last line."""
    environment = {k: v for k, v in os.environ.items() if k != "MINIDL_DATA"}
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", "--picture", picture]
    done = subprocess.run([*command, "--quick"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return last_lines(done.stdout)


# Of the programs whose claim is not of the paper.
SOURCES = {
    "concrete": 'Gal, Hron & Kendall, "Concrete dropout", NeurIPS 2017',
    "early_late": 'Liu et al., "Dropout reduces underfitting", ICML 2023',
    "uncertainty": 'Gal & Ghahramani, "Dropout as a Bayesian approximation", ICML 2016',
}

# What makes a program's quick form tiny, besides few digits.
TINY = {
    "concrete": {"QUICK": ((100, 200), 4, (8, 8))},
    "early_late": {"SEEDS": 1},
    "family": {"RATES": (0.1,), "UNITS": (16, 8)},
    "data_size": {"QUICK": {100: (2, 2), 200: (1, 1)}},
    "overfitting": {"QUICK": {100: (32, 2), 200: (128, 1)}},
    "paper_table": {"QUICK_EPOCHS": 1},
    "ridge": {"ROWS": 400},
    "scaling": {"IMAGES": 2},
    "same_everywhere": {
        "BATCH": 16,
        "SPLITS": {"whole": [16], "uneven": [5, 11]},
        "ProcessPoolExecutor": lambda workers, mp_context: ThreadPoolExecutor(workers),
    },
}


@contextlib.contextmanager
def programs_on_the_path(monkeypatch):
    """Let the programs be imported, each anew, and restore what they change."""
    matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plot")
    known = set(sys.modules)
    monkeypatch.syspath_prepend(EXAMPLES)
    with matplotlib.rc_context():  # the programs change the settings
        yield matplotlib
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(EXAMPLES)):
            del sys.modules[name]


@pytest.fixture
def import_program(monkeypatch):
    """Return a function that imports a program, which then trains on few digits."""
    monkeypatch.setenv("MINIDL_NUM_THREADS", "2")  # restored after a program sets it

    def few_digits(quick):
        (x, y), (x_test, y_test) = all_digits(quick=True)
        return (x[:240], y[:240]), (x_test[:100], y_test[:100])

    def import_tiny(name):
        program = importlib.import_module(name)
        matplotlib.rcParams["figure.constrained_layout.use"] = False  # it takes half of the time
        if hasattr(program, "digits"):
            monkeypatch.setattr(program, "digits", few_digits)
        for constant, value in TINY.get(name, {}).items():
            monkeypatch.setattr(program, constant, value)
        return program

    with programs_on_the_path(monkeypatch) as matplotlib:
        all_digits = importlib.import_module("common").digits
        yield import_tiny


@pytest.fixture
def run_tiny(import_program, monkeypatch, capsys):
    """Return a function that runs a program on tiny data in this process."""

    def run(name, picture):
        program = import_program(name)
        arguments = [f"{name}.py", "--quick", "--picture", str(picture)]
        monkeypatch.setattr(sys, "argv", arguments)
        program.main()
        program.plt.close("all")
        return last_lines(capsys.readouterr().out)

    return run


def numbers_in(value):
    """Yield all numbers of JSON values."""
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
    assert 200 <= height <= 800
    assert len(data) < MAX_PICTURE_BYTES


def last_lines(out):
    """Return the numbers of a program's last line, after checking the sentence before it."""
    *_, sentence, numbers = out.splitlines()
    assert re.fullmatch(r"(The paper|minidl promises).*; here\b.*\d.*\.", sentence), sentence
    return json.loads(numbers)


def check_numbers(result, name):
    """Check the last line of a program."""
    assert (result["program"], result["quick"], result["seed"]) == (name, True, 0)
    numbers = list(numbers_in(result))
    assert len(numbers) > 5
    assert all(math.isfinite(number) for number in numbers)


def test_programs_are_complete():
    assert PROGRAMS == [
        "concrete",
        "data_size",
        "early_late",
        "ensemble",
        "family",
        "features",
        "one_mask",
        "overfitting",
        "paper_table",
        "rate",
        "ridge",
        "same_everywhere",
        "scaling",
        "sparsity",
        "uncertainty",
    ]


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {"paper_table"}))
def test_program_on_tiny_data_prints_numbers_and_draws(name, run_tiny, tmp_path):
    check_numbers(run_tiny(name, tmp_path / "x.png"), name)
    check_picture(tmp_path / "x.png")


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_is_short_and_cites_its_claim(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 120
    source = SOURCES.get(name, "Srivastava et al., JMLR 15 (2014)")
    assert source in text.split('"""')[1].replace("\n", " ")


@pytest.mark.parametrize("name", ["missing/a.png", "a.jpg"])
def test_program_rejects_picture_that_cannot_be_written(name, run_tiny, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        run_tiny("ridge", tmp_path / name)
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert "--picture: expected NAME.png in an existing folder" in message
    assert str(tmp_path / name) in message


# ------------------------------------------------------------------------------ claims


def overfitting_has_a_higher_training_loss_with_dropout(result):
    for images in (500, 4000):
        losses = [result[f"{images} images, {how} dropout"]["training_loss"] for how in WAYS]
        assert losses[0] < losses[1]


def ensemble_of_more_networks_is_closer_to_weight_scaling(result):
    scaled = result["weight_scaling_error_percent"]
    plain = {int(k): means["plain mean"] for k, means in result["error_percent"].items()}
    assert plain[1] - scaled > 1
    assert abs(plain[60] - scaled) < (plain[1] - scaled) / 4
    within = result["within_one_deviation_at_k"]
    assert 1 < within["first"] <= within["for_good"] <= 60
    for gaps in (result["mean_gap_points"], result["median_absolute_gap_points"]):
        assert abs(gaps["geometric mean"]) < abs(gaps["plain mean"]) / 4


def features_cancel_less_with_dropout(result):
    taken_away = [result[f"{how} dropout"]["share_taken_away"] for how in WAYS]
    assert taken_away[0] > 1.2 * taken_away[1]


def high_rate_hurts_less_if_the_network_grows_with_it(result):
    highest = result["rates"].index(max(result["rates"]))
    fixed, growing = (errors[highest] for errors in result["test_error_percent"].values())
    assert growing < fixed


def activations_are_sparser_with_dropout(result):
    means = [result[f"{how} dropout"]["mean_activation"] for how in WAYS]
    zeros = [result[f"{how} dropout"]["share_of_zeros"] for how in WAYS]
    assert means[0] > 1.5 * means[1]
    assert zeros[0] < zeros[1]


def scalings_and_formula_have_one_expectation(result):
    expected = result["expected_distance"]
    for distance in (
        *result["distance_after_all_masks"].values(),
        result["distance_of_the_formula"],
    ):
        # It is a mean over many pixels, so chance changes it by a few percent only.
        assert distance == pytest.approx(expected, rel=0.1)


def dropout_equals_ridge_regression(result):
    assert result["largest_relative_difference"] < 0.01
    # The negative control: weights without the penalty differ.
    assert min(result["relative_difference_without_penalty"].values()) > 0.5


def masks_are_equal_everywhere(result):
    assert result["runs"] >= 8
    assert result["runs_with_the_same_masks"] == result["runs"]
    assert result["largest_loss_difference"] < 0.05


def masks_are_as_specified(result):
    assert result["masks"] >= 3
    assert result["masks_as_specified"] == result["masks"]
    assert 0 < result["kept"] < result["elements"]


def learned_rates_fall_as_the_data_grow(result):
    rates = [np.array(size["rates"])[:, 0].mean() for size in result["sizes"].values()]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1.5 * rates[-1]


def early_dropout_costs_less_training_loss_than_dropout_in_all_steps(result):
    losses = {
        name.split(", ")[-1]: way["training_loss"] for name, way in result.items() if ", " in name
    }
    assert losses["no dropout"] < losses["early"] < losses["all steps"]


def every_member_learns(result):
    assert len(result["members"]) == 8
    for numbers in result["members"].values():
        assert max(numbers["test_error_percent"]) < 15
        assert max(numbers["calibration_percent"]) < 15


def turned_digits_are_uncertain(result):
    information = result["mutual_information_of_ones"]
    assert information[0] == min(information)
    assert max(information) > 5 * information[0]
    assert min(result["area_under_curve"].values()) > 0.6


# Besides data_size and paper_table, whose quick forms are too small for their claims.
CLAIMS = {
    "concrete": learned_rates_fall_as_the_data_grow,
    "early_late": early_dropout_costs_less_training_loss_than_dropout_in_all_steps,
    "ensemble": ensemble_of_more_networks_is_closer_to_weight_scaling,
    "family": every_member_learns,
    "features": features_cancel_less_with_dropout,
    "one_mask": masks_are_as_specified,
    "overfitting": overfitting_has_a_higher_training_loss_with_dropout,
    "rate": high_rate_hurts_less_if_the_network_grows_with_it,
    "ridge": dropout_equals_ridge_regression,
    "same_everywhere": masks_are_equal_everywhere,
    "scaling": scalings_and_formula_have_one_expectation,
    "sparsity": activations_are_sparser_with_dropout,
    "uncertainty": turned_digits_are_uncertain,
}


@pytest.fixture
def run_quick(monkeypatch, capfd):
    """Return a function that runs a program's quick form here, which starts no other Python."""

    def run(name, picture):
        arguments = [f"{name}.py", "--quick", "--picture", str(picture)]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        printed = capfd.readouterr()
        assert printed.err == ""
        return last_lines(printed.out)

    monkeypatch.delenv("MINIDL_DATA", raising=False)
    with programs_on_the_path(monkeypatch) as matplotlib:
        yield run
        matplotlib.pyplot.close("all")


# It trains in processes that import it, so it must be the program of one.
IN_A_PROCESS = {"same_everywhere"}
TAKES_LONG = {"concrete", "data_size", "family", "overfitting"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=getattr(pytest.mark, "exhaustive" if name in TAKES_LONG else "slow")
        )
        for name in sorted(set(PROGRAMS) - {"paper_table"})
    ],
)
def test_program_prints_numbers_draws_and_shows_its_claim(name, run_quick, tmp_path):
    run = run_process if name in IN_A_PROCESS else run_quick
    result = run(name, tmp_path / "x.png")
    check_numbers(result, name)
    check_picture(tmp_path / "x.png")
    if name in CLAIMS:
        CLAIMS[name](result)


def check_table_resumes(run, first, picture, folder):
    """Check that a table which was interrupted before its last run trains only that one."""
    first = first["test_error_percent"]
    lines = picture.with_suffix(".jsonl").read_text().splitlines()
    assert len(lines) == 21  # seven rows of two candidates and one seed
    # In the log of the interrupted table the first row has another result.
    invented = json.dumps(json.loads(lines[2]) | {"number": 77.0})
    log = folder / "table.jsonl"
    log.write_text("\n".join([*lines[:2], invented, *lines[3:-1]]) + "\n")
    again = run("paper_table", folder / "table.png")["test_error_percent"]
    assert log.read_text().splitlines() == [*lines[:2], invented, *lines[3:]]
    rows = list(first)
    assert again[rows[0]]["errors"] == [77.0]
    assert {row: again[row] for row in rows[1:]} == {row: first[row] for row in rows[1:]}


def check_paper_table(run, folder):
    """Check a table, and that it resumes."""
    picture = folder / "first.png"
    result = run("paper_table", picture)
    check_numbers(result, "paper_table")
    check_picture(picture)
    check_table_resumes(run, result, picture, folder)


def test_paper_table_on_tiny_data_prints_numbers_draws_and_resumes(run_tiny, tmp_path):
    check_paper_table(run_tiny, tmp_path)


@pytest.mark.exhaustive
def test_paper_table_prints_numbers_draws_and_resumes(tmp_path):
    check_paper_table(run_process, tmp_path)


def test_same_everywhere_on_tiny_data_finds_equal_masks(import_program):
    program = import_program("same_everywhere")
    curves, digests = zip(
        *(program.train("cpu", sizes, 3, seed=0) for sizes in ([128], [1, 100, 27])), strict=True
    )
    assert digests[0] == digests[1]
    np.testing.assert_allclose(*curves, rtol=1e-5)
    assert program.train("cpu", [128], 3, seed=1)[1] != digests[0]


def test_one_mask_finds_specified_masks_on_each_device(import_program, device):
    program = import_program("one_mask")
    masks = [program.mask_by_parts(sizes, device, seed=3) for sizes in program.SPLITS.values()]
    specified = rng.keep_mask(masks[0].shape, program.RATE, seed=3, stream=0, step=program.STEP)
    assert all(np.array_equal(mask, specified) for mask in masks)
    assert not np.array_equal(program.mask_by_parts([16], device, seed=4), specified)


def test_ridge_on_tiny_data_is_near_the_closed_form(import_program):
    program = import_program("ridge")
    x, y = program.small_digits(quick=True)
    chosen = SimpleNamespace(device="cpu", seed=0)
    found, expected = program.trained(x, y, 0.5, 1_000, chosen), program.closed_form(x, y, 0.5)
    distance = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    without_penalty = program.closed_form(x, y, 0.0)
    assert distance < 0.05
    assert np.linalg.norm(without_penalty - expected) > 10 * distance * np.linalg.norm(expected)


# ------------------------------------------------------------------------------ gallery


def test_gallery_shows_all_programs_with_their_pictures():
    gallery = (EXAMPLES / "README.md").read_text()
    shown = re.findall(r"!\[[^]]*\]\((pictures/[^)]+)\)", gallery)
    assert sorted(shown) == sorted(
        path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.glob("pictures/*.png")
    )
    for path in shown:
        check_picture(EXAMPLES / path)
    for name in PROGRAMS:
        assert f"]({name}.py)" in gallery
