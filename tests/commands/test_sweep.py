"""The sweep: its runs, what it continues with, its table and its page."""

import contextlib
import csv
import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_runs import environment, rejection, run_python
from test_report import Page

from minidl import models, set_num_threads
from minidl.commands import page, report, sweep, sweep_page, sweep_runs, train, train_preparation
from minidl.storage.folders import latest

SMALL = ("--data", "mnist-5k", "--hidden", "8")
posix_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


class Process:
    """Stands for the process of a run, which runs here when it is started."""

    def __init__(self, command, stdout, **_):
        assert command[:3] == [sys.executable, "-m", "minidl.train"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            self.returncode = train.main(command[3:])
        stdout.write(printed.getvalue().encode())

    def poll(self):
        return self.returncode


@pytest.fixture
def started(monkeypatch):
    """Start runs in this process, without their pages; return the names of their folders."""
    found = []

    def start(command, **options):
        found.append(Path(command[command.index("--out") + 1]).name)
        return Process(command, **options)

    names = {"Popen": start, "DEVNULL": subprocess.DEVNULL, "STDOUT": subprocess.STDOUT}
    monkeypatch.setattr(sweep_runs, "subprocess", SimpleNamespace(**names))
    monkeypatch.setattr(report, "write", lambda path, *_, **__: open(path, "w").close())
    monkeypatch.setattr(sweep_runs, "POLL_SECONDS", 0)
    return found


@pytest.fixture
def no_figures(monkeypatch):
    """Leave the figures out of the pages, which take a second."""
    monkeypatch.setattr(page, "figure_section", lambda *_: "")
    monkeypatch.setattr(page, "is_possible", lambda: True)


def rows_of(folder):
    with open(folder / sweep_page.TABLE, newline="") as file:
        return list(csv.DictReader(file))


def same_weights(one, other):
    """Return whether the last checkpoints of runs have the same weights, bit for bit."""
    pair = (models.load(latest(folder / "checkpoints")).get_weights() for folder in (one, other))
    return all(a.tobytes() == b.tobytes() for a, b in zip(*pair, strict=True))


def test_sweep_trains_each_combination_and_writes_table_and_page(tmp_path, started, capsys):
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    options = (*SMALL, "--epochs", "1", "--dropout", "0", "0.5", "--seeds", "3", "7")
    assert sweep.main([*options, "--out", str(tmp_path)]) == 0
    names = [f"dropout-{rate}_seed-{seed}" for rate in ("0", "0.5") for seed in (3, 7)]
    assert started == names
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("4 of 4 runs to train")
    assert printed[4].startswith("4 of 4  dropout-0.5_seed-7: test accuracy ")
    assert printed[5] == "Mean ± standard deviation over the seeds."
    assert printed[6].startswith("dropout 0: test error (%) ")
    rows = rows_of(tmp_path)
    assert [(row["dropout"], row["seed"]) for row in rows] == [
        *(("0", "3"), ("0", "7"), ("0.5", "3"), ("0.5", "7"))
    ]
    for row, name in zip(rows, names, strict=True):
        (line,) = (tmp_path / name / "history.jsonl").read_text().splitlines()
        assert float(row["test_accuracy"]) == json.loads(line)["val_accuracy"]
        assert (row["state"], row["trained_epochs"], row["hidden"]) == ("complete", "1", "8")
    shown = Page(tmp_path / sweep_page.PAGE)
    assert list(shown.pictures) == [
        "Test results: test error (%)",
        "Test results: test cross-entropy (nats)",
        "Learning curves: dropout 0",
        "Learning curves: dropout 0.5",
    ]
    links = [address for address in shown.addresses if not address.startswith("data:")]
    assert links == [f"{name}/report.html" for name in names]
    text = "".join(shown.texts)
    assert "4 of 4 complete, 0 failed" in text


def test_sweep_continues_with_what_is_missing_or_half_done(tmp_path, started, no_figures, capsys):
    options = (*SMALL, "--seeds", "0", "1", "2", "--out", str(tmp_path))
    assert sweep.main([*options, "--epochs", "2"]) == 0
    before = (tmp_path / "seed-1" / "history.jsonl").read_text()
    shutil.rmtree(tmp_path / "seed-0")
    events = tmp_path / "seed-1" / sweep_runs.EVENTS
    events.write_text(events.read_text()[:-20])  # killed while it wrote the last line
    del started[:]
    assert sweep.main([*options, "--epochs", "2"]) == 0
    assert started == ["seed-0", "seed-1"]
    assert (tmp_path / "seed-1" / "history.jsonl").read_text() == before
    # More epochs are trained from where the runs are.
    assert sweep.main([*options, "--epochs", "3"]) == 0
    assert started[2:] == ["seed-0", "seed-1", "seed-2"]
    lines = (tmp_path / "seed-1" / "history.jsonl").read_text()
    assert lines.startswith(before)
    assert lines.count("\n") == 3
    assert {row["trained_epochs"] for row in rows_of(tmp_path)} == {"3"}
    # Any other change, and a damaged file, are rejected.
    for change in (("--epochs", "2"), ("--epochs", "3", "--lr", "0.1")):
        line = rejection(sweep, capsys, *options, *change)
        assert f"expected a run with {change[-2]} {change[-1]}, got one with " in line
    for damaged in ("[1", "[1]"):
        (tmp_path / "seed-2" / "config.json").write_text(damaged)
        assert "expected JSON" in rejection(sweep, capsys, *options, "--epochs", "3")


def test_failed_run_is_reported_and_the_others_go_on(tmp_path, started, no_figures, capsys):
    checkpoints = tmp_path / "seed-1" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step-0000000001.safetensors").write_bytes(b"damaged")
    options = (*SMALL, "--epochs", "1", "--seeds", "0", "1", "2", "--out", str(tmp_path))
    assert sweep.main(options) == sweep.EXIT_FAILED
    assert [row["state"] for row in rows_of(tmp_path)] == ["complete", "failed", "complete"]
    assert "seed-1: failed (minidl.train: " in capsys.readouterr().out
    assert "step-0000000001" in (tmp_path / sweep_page.PAGE).read_text()


def test_diverged_run_is_a_result_and_is_not_repeated(tmp_path, started, no_figures):
    options = (*SMALL, "--epochs", "1", "--seeds", "0", "--out", str(tmp_path))
    options += ("--optimizer", "sgd", "--lr", "0.01", "1e30")
    for _ in range(2):
        with np.errstate(all="ignore"):
            assert sweep.main(options) == 0
        assert [row["state"] for row in rows_of(tmp_path)] == ["complete", "diverged"]
    assert started == ["lr-0.01_seed-0", "lr-1e+30_seed-0"]


def test_sweep_varies_options_of_one_value(tmp_path):
    words = ["--data", "mnist-5k", "--hidden", "4", "2", "--no-record", "--checkpoint-every", "5"]
    options, axes = sweep.parse_arguments([*words, "--optimizer", "sgd", "adam", "--seeds", "1"])
    options.out = str(tmp_path / "new")
    runs, _ = sweep.prepare(options, axes)
    assert [run.folder.name for run in runs] == ["optimizer-sgd_seed-1", "optimizer-adam_seed-1"]
    assert [run.arguments.lr for run in runs] == [0.01, 0.001]  # of the optimizers
    assert all(run.arguments.hidden == [4, 2] for run in runs)
    assert not any(run.arguments.record for run in runs)
    assert {run.arguments.checkpoint_every for run in runs} == {5}
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--dropout", "0.5", "1.5"), "argument --dropout: expected a number from 0 to 1"),
        (("--seed", "1"), "unrecognized arguments: --seed 1"),
        (("--hidden", "--dropout", "0.5"), "argument --dropout: expected hidden layers"),
        (("--optimizer", "sgd", "x"), "argument --optimizer: invalid choice"),
        (("--save", "x"), "unrecognized arguments: --save x"),
        (("--data-dir", "x"), "minidl.sweep: argument --data-dir: mnist-5k"),
    ],
)
def test_sweep_rejects_invalid_options_before_any_run(options, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        sweep.main(["--data", "mnist-5k", "--out", str(tmp_path / "new"), *options])
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("options", [("--dropout", "0.5", ".5"), ("--seeds", "1", "1")])
def test_sweep_rejects_repeated_values_before_any_run(options, tmp_path, capsys):
    printed = rejection(sweep, capsys, *SMALL, "--out", tmp_path / "new", *options)
    assert "expected different values" in printed
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "options", [("--device", "nothing"), ("--data", "mnist", "--data-dir", "missing")]
)
def test_sweep_rejects_missing_device_and_data_before_any_run(options, tmp_path, capsys):
    (tmp_path / "missing").mkdir()
    options = [str(tmp_path / word) if word == "missing" else word for word in options]
    rejection(sweep, capsys, "--out", tmp_path / "new", *options)
    assert not (tmp_path / "new").exists()


def test_sweep_in_use_is_rejected(tmp_path, started, capsys):
    with sweep.lock_folder(tmp_path):
        assert "another run" in rejection(sweep, capsys, *SMALL, "--out", tmp_path)
    assert started == []


def test_interrupt_stops_all_processes_and_says_how_to_continue(tmp_path, monkeypatch, capsys):
    calls = []

    class Endless(Process):
        def __init__(self, command, **_):
            self.name = command[command.index("--out") + 1][-1]

        def poll(self):
            raise KeyboardInterrupt

        def terminate(self):
            calls.append(f"terminate {self.name}")

        def wait(self):
            calls.append(f"wait {self.name}")

    names = {"Popen": Endless, "DEVNULL": 0, "STDOUT": 0}
    monkeypatch.setattr(sweep_runs, "subprocess", SimpleNamespace(**names))
    options = (*SMALL, "--seeds", "1", "2", "3", "--jobs", "2", "--out", str(tmp_path))
    assert sweep.main(options) == 130
    assert calls == ["terminate 1", "terminate 2", "wait 1", "wait 2"]
    assert capsys.readouterr().err == "interrupted; to continue, repeat the command\n"


@pytest.mark.parametrize(
    ("chosen", "jobs", "runs", "where", "expected"),
    [
        (None, None, 12, "cpu", (8, 1)),
        (None, None, 3, "cpu", (3, 2)),
        (None, 2, 12, "cpu", (2, 4)),
        (None, 20, 20, "cpu", (20, 1)),
        (3, None, 12, "cpu", (2, 3)),
        (16, None, 12, "cpu", (1, 16)),
        (None, None, 12, "cuda:0", (1, 8)),
    ],
)
def test_cores_are_divided_over_the_runs(chosen, jobs, runs, where, expected, monkeypatch):
    monkeypatch.setattr(sweep, "cores", lambda: 8)
    monkeypatch.setattr(sweep, "is_chosen", lambda: chosen is not None)
    monkeypatch.setattr(sweep, "num_threads", lambda: chosen or 8)
    assert sweep.divide_cores(jobs, runs, where) == expected


class Known(sweep_runs.Run):
    """A complete run without files."""

    def __init__(self, settings, accuracy):
        super().__init__(None, settings, [], None)
        vars(self)["accuracy"] = accuracy

    def end(self):
        return {"test_accuracy": self.accuracy, "test_loss": 1 - self.accuracy}

    def history(self):
        rows = ((1.0, 2 - self.accuracy), (0.5, 1 - self.accuracy))
        return [{"loss": loss, "val_loss": val_loss} for loss, val_loss in rows]


def groups_of(accuracies):
    """Return groups of runs with the accuracies of several seeds, by dropout rate."""
    settings = {rate: {"dropout": rate} for rate in accuracies}
    runs = (Known(settings[rate], value) for rate in accuracies for value in accuracies[rate])
    return sweep_page.groups_of(list(runs))


def test_spread_is_mean_and_standard_deviation():
    groups = groups_of({"0": [0.9, 0.8], "0.5": [0.95]})
    assert sweep_page.spread(groups["dropout 0"], sweep_runs.ERROR) == "15.000 ± 7.071"
    assert sweep_page.spread(groups["dropout 0.5"], sweep_runs.ERROR) == "5.000"
    assert sweep_page.spread([], sweep_runs.ERROR) == "-"


def test_error_bars_are_mean_and_standard_deviation_of_the_seeds():
    groups = groups_of({"0": [0.9, 0.8], "0.5": [0.95]})
    axes = sweep_page.error_bars(groups, sweep_runs.ERROR).axes[0]
    assert [bar.lines[0].get_ydata()[0] for bar in axes.containers] == pytest.approx([15, 5])
    segments = [bar.lines[2][0].get_segments()[0] for bar in axes.containers]
    ends = [np.diff(segment[:, 1])[0] / 2 for segment in segments]
    assert ends == pytest.approx([np.std([10, 20], ddof=1), 0])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.5"]
    assert axes.get_xlabel() == "dropout"


def test_curves_are_means_over_the_seeds_in_one_range():
    groups = groups_of({"0": [0.9, 0.7], "0.5": [0.95]})
    first, second = (figure.axes[0] for figure in sweep_page.curves(groups).values())
    assert first.lines[1].get_ydata() == pytest.approx([1.2, 0.2])
    assert first.lines[0].get_ydata() == pytest.approx([1, 0.5])
    assert first.get_ylim() == second.get_ylim()


def test_sweep_without_matplotlib_names_the_extra(tmp_path, started, capsys, monkeypatch):
    monkeypatch.setattr(page, "is_possible", lambda: False)
    options = (*SMALL, "--epochs", "1", "--seeds", "0", "--out", str(tmp_path))
    assert sweep.main(options) == 0
    assert page.MISSING in capsys.readouterr().out
    assert len(rows_of(tmp_path)) == 1
    assert not (tmp_path / sweep_page.PAGE).exists()


def test_sweep_without_mnist_announces_its_replacement(tmp_path, started, monkeypatch, capsys):
    def no_mirror(_):
        raise OSError("no mirror")

    monkeypatch.setitem(train_preparation.LOADERS, "mnist", no_mirror)
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setattr(page, "is_possible", lambda: False)
    options = ("--hidden", "4", "--epochs", "1", "--seeds", "0", "--out", str(tmp_path))
    assert sweep.main(options) == 0
    assert capsys.readouterr().out.startswith("MNIST could not be downloaded.")
    assert [row["data"] for row in rows_of(tmp_path)] == ["mnist-5k"]


@pytest.mark.slow
def test_run_of_a_sweep_has_the_bits_of_the_run_alone(tmp_path, monkeypatch):
    options = (*SMALL, "--epochs", "1", "--dropout", "0.5", "--out", tmp_path / "sweep")
    swept = run_python("-m", "minidl.sweep", *options, "--seeds", "0", "1", "--jobs", "2")
    assert swept.returncode == 0, swept.stderr
    one, other = tmp_path / "sweep" / "seed-1", tmp_path / "alone"
    configuration = json.loads((one / "config.json").read_text())
    assert configuration["command"].startswith("python -m minidl.train ")
    monkeypatch.setattr(report, "_figures", lambda *_: ())  # figures take seconds
    monkeypatch.chdir(tmp_path)
    set_num_threads(configuration["environment"]["threads"])
    arguments = configuration["command"].split()[3:]
    assert train.main([*arguments, "--checkpoint-dir", str(other / "checkpoints")]) == 0
    assert same_weights(one, other)


@pytest.mark.slow
@posix_signals
def test_sigterm_stops_the_processes_and_the_sweep_continues_to_the_same_weights(tmp_path, request):
    folder, whole = tmp_path / "sweep", tmp_path / "whole"
    options = [*SMALL, "--seeds", "0", "--epochs", "40"]
    with subprocess.Popen(
        [sys.executable, "-m", "minidl.sweep", *options, "--out", str(folder)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            events = folder / "seed-0" / sweep_runs.EVENTS
            while not (events.exists() and '"epoch": 2' in events.read_text()):
                assert process.poll() is None, process.stderr.read()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (143, "interrupted; to continue, repeat the command\n")
    last = json.loads(events.read_text().splitlines()[-1])
    assert (last["event"], last["interrupted"]) == ("end", True)  # the run wrote its checkpoint
    request.getfixturevalue("started")  # from now on without more processes
    request.getfixturevalue("no_figures")
    for place in (folder, whole):
        assert sweep.main([*options, "--out", str(place)]) == 0
    assert same_weights(folder / "seed-0", whole / "seed-0")
