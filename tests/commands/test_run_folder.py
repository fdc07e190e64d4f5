"""The folder of a run: configuration, history, and one run at a time."""

import json
import re
import shlex
import sys
from importlib.metadata import version

import numpy as np
import pytest
from command_runs import rejection
from minidl_kernels.threads import num_threads

import minidl
from minidl import callbacks, layers, models
from minidl.commands import machine, page, report, train, train_preparation
from minidl.commands.run_folder import LOCK, RunFolder
from minidl.commands.train_arguments import OUTPUT
from minidl.storage.folders import lock_folder

SMALL = ("--data", "mnist-5k", "--hidden", "16", "--epochs", "2", "--quiet")


@pytest.fixture(autouse=True)
def _page_of_texts(monkeypatch):
    """Let the page of a run be its texts in JSON: figures take a second."""

    def write(path, model, x, y, **texts):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(texts, file)

    monkeypatch.setattr(report, "write", write)
    monkeypatch.setattr(page, "is_possible", lambda: True)


def history_of(folder):
    """Return the lines of the history."""
    return (folder / "history.jsonl").read_text().splitlines()


def configuration_of(folder):
    return json.loads((folder / "config.json").read_text())


def page_of(folder):
    """Return the texts of the page."""
    return json.loads((folder / "report.html").read_text())


def test_folder_has_all_files_of_a_run(tmp_path):
    folder = tmp_path / "run"
    assert train.main([*SMALL, "--out", str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    pages = {"report.html", "playground.html"}
    assert names == {".run", "config.json", "history.jsonl", "checkpoints", *pages}
    configuration = configuration_of(folder)
    assert configuration["hidden"] == [16]
    assert configuration["seed"] == 0
    assert (configuration["data"], configuration["lr"]) == ("mnist-5k", 0.001)
    assert configuration["environment"] == {
        "minidl": minidl.__version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "numba": version("numba"),
        "threads": num_threads(),
    }
    lines = [json.loads(line) for line in history_of(folder)]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert set(lines[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"}
    checkpoints = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert checkpoints == ["step-0000000032.safetensors", "step-0000000064.safetensors"]


def test_folder_with_a_run_is_resumed_and_takes_no_other_run(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train.main([*SMALL, "--out", str(folder)]) == 0
    before = history_of(folder)
    missing = ["--data", "kmnist", "--data-dir", tmp_path / "missing"]  # not read before
    line = rejection(train, capsys, *SMALL, *missing, "--out", folder)
    assert f"{folder}: expected a folder without a run" in line
    assert "--resume latest" in line
    assert history_of(folder) == before
    # An epoch that was logged after the last checkpoint is trained again and logged once.
    (folder / "history.jsonl").write_text("\n".join([*before, '{"epoch": 3}']) + "\n")
    assert train.main([*SMALL, "--out", str(folder), "--resume", "latest", "--epochs", "4"]) == 0
    lines = history_of(folder)
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]
    assert lines[:2] == before
    # Configuration and page describe the whole run.
    configuration, page = configuration_of(folder), page_of(folder)
    assert configuration["epochs"] == 4
    assert not configuration.keys() & OUTPUT
    assert configuration["command"] == page["command"]
    assert " --epochs 4 " in page["command"]
    assert page["facts"]["epochs"] == "4 of 4"
    assert "--resume" not in json.dumps(page)


def test_page_of_a_finished_run_has_no_times(tmp_path, monkeypatch):
    pages = []
    for threads in (1, 2):
        monkeypatch.setattr(machine, "num_threads", lambda threads=threads: threads)
        again = ("--out", str(tmp_path), "--resume", "latest")
        assert train.main([*SMALL, *again]) == 0
        pages.append(page_of(tmp_path)["facts"])
    times = {"throughput", "time"}
    assert times <= pages[0].keys()
    assert not times & pages[1].keys()
    assert pages[1]["epochs"] == "2 of 2"
    # The results are those of the first command, and so is the environment.
    assert configuration_of(tmp_path)["environment"]["threads"] == 1


def test_table_of_a_finished_run_has_no_times(tmp_path, capsys):
    again = ("--out", str(tmp_path), "--resume", "latest")
    for has_times in (True, False):
        assert train.main([*SMALL, *again]) == 0
        table = capsys.readouterr().out
        assert ("throughput" in table) is has_times
        assert ("from start to test" in table) is has_times
        assert "2 of 2" in table


@pytest.mark.parametrize(
    "options",
    [
        ("--hidden", "16", "--dropout", "0.5", "--max-norm", "3", "--input-dropout", "0.1"),
        ("--hidden", "--optimizer", "sgd", "--scaling", "inference", "--quiet"),
    ],
)
def test_command_of_the_folder_repeats_the_results(options, tmp_path, capsys):
    run = ("--data", "mnist-5k", "--epochs", "1", *options, "--checkpoint-every", "20")
    assert train.main([*run, "--out", str(tmp_path / "a b")]) == 0
    first = capsys.readouterr().out
    command = configuration_of(tmp_path / "a b")["command"]
    python, dash_m, module, *again = shlex.split(command)
    assert (python, dash_m, module) == ("python", "-m", "minidl.train")
    assert train.main(again) == 0
    second = capsys.readouterr().out
    losses = [re.search(r"test loss +(\S+)", printed)[1] for printed in (first, second)]
    assert losses[0] == losses[1]


def test_command_of_the_folder_names_the_data_in_use(tmp_path, monkeypatch):
    def no_mirror(_):
        raise OSError("no mirror")

    monkeypatch.setitem(train_preparation.LOADERS, "mnist", no_mirror)
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    assert train.main(["--hidden", "4", "--epochs", "1", "--out", str(tmp_path), "--quiet"]) == 0
    configuration = configuration_of(tmp_path)
    assert configuration["data"] == "mnist-5k"
    assert configuration["command"].endswith(" --data mnist-5k")


class Sometimes(callbacks.Callback):
    """Callback that logs a value in every other epoch."""

    def on_epoch_end(self, epoch, logs):
        if epoch % 2 == 1:
            logs["odd"] = float(epoch)


def test_history_has_logs_of_some_epochs(tmp_path):
    model = models.Sequential([layers.Dense(1, input_shape=(1,))])
    model.compile("sgd", "mse")
    run = {"x": np.ones((4, 1)), "y": np.ones((4, 1)), "verbose": 0}
    for epochs, is_resumed in ((2, False), (4, True)):
        folder = RunFolder(tmp_path / "run", {}, is_resumed=is_resumed)
        model.fit(**run, epochs=epochs, callbacks=[folder, Sometimes()], resume=is_resumed)
    assert [json.loads(line).get("odd") for line in history_of(tmp_path / "run")] == [
        None,
        1,
        None,
        3,
    ]
    model.save(tmp_path / "model.safetensors")
    history = models.load(tmp_path / "model.safetensors").history
    assert history.history["odd"] == model.history.history["odd"] == [1, 3]


def test_run_folder_rejects_another_run_when_training_begins(tmp_path):
    (tmp_path / "history.jsonl").write_text("older\n")
    model = models.Sequential([layers.Dense(1, input_shape=(1,))])
    model.compile("sgd", "mse")
    folder = RunFolder(tmp_path, {}, is_resumed=False)
    with pytest.raises(FileExistsError, match="expected a folder without a run"):
        model.fit(np.ones((4, 1)), np.ones((4, 1)), callbacks=[folder], verbose=0)
    assert model.step == 0
    assert (tmp_path / "history.jsonl").read_text() == "older\n"


def test_history_has_null_for_numbers_that_json_lacks(tmp_path):
    class Spoils(callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            logs |= {"loss": float("nan"), "low": -float("inf")}

    def reject(constant):
        raise ValueError(f"{constant} is not JSON")

    model = models.Sequential([layers.Dense(1, input_shape=(1,))])
    model.compile("sgd", "mse")
    folder = RunFolder(tmp_path / "run", {}, is_resumed=False)
    model.fit(np.ones((4, 1)), np.ones((4, 1)), callbacks=[folder, Spoils()], verbose=0)
    (line,) = history_of(tmp_path / "run")
    found = json.loads(line, parse_constant=reject)
    assert found == {"epoch": 1, "loss": None, "low": None}


def test_rejected_run_does_not_change_the_folder_of_another(tmp_path, capsys):
    folder = tmp_path / "run"
    small = (*SMALL, "--epochs", "1")
    assert train.main([*small, "--out", str(folder)]) == 0
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    resumed = [*SMALL, "--out", str(folder), "--resume", "latest"]
    with lock_folder(folder / LOCK):  # as another run holds it
        assert f"{folder / LOCK}: another run" in rejection(train, capsys, *resumed)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert train.main(resumed) == 0  # free again


def test_checkpoints_may_be_in_the_folder_of_the_run(tmp_path):
    out = str(tmp_path)
    assert train.main([*SMALL, "--out", out, "--checkpoint-dir", out]) == 0
    assert (tmp_path / "step-0000000064.safetensors").exists()
    assert (tmp_path / "history.jsonl").exists()


def test_run_without_matplotlib_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, "is_possible", lambda: False)
    assert train.main([*SMALL, "--out", str(tmp_path / "run")]) == 0
    assert re.search(r"report +.*pip install 'minidl\[plot\]'", capsys.readouterr().out)
    assert not (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "history.jsonl").exists()
