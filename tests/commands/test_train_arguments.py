"""Arguments of the training command: defaults, limits, and checks before any work."""

import re
import shlex
import sys

import pytest
from command_runs import rejection
from minidl_kernels import threads

from minidl.backend.numpy_backend import NumpyBackend
from minidl.commands import predict, sweep, train, train_preparation
from minidl.commands.playground import command as playground
from minidl.commands.train_arguments import (
    command_of,
    parse_arguments,
    without_outputs,
    write_nothing,
)
from minidl.commands.train_preparation import check_outputs
from minidl.storage import atomic

SMALL = ("--data", "mnist-5k", "--hidden", "16", "--epochs", "2")


@pytest.fixture
def no_data(monkeypatch):
    """Let a test fail if the command reads data."""

    def fail(*_):
        raise AssertionError("data were read")

    monkeypatch.setattr(train_preparation, "load_data", fail)


def parsed(*arguments):
    return parse_arguments(arguments, "Test.")


def test_defaults_are_the_network_of_the_notes():
    arguments = parsed()
    model = train_preparation.build_model(arguments, (28, 28))
    assert train_preparation.describe(model) == (
        "dense 512 > dropout 0.5 > dense 256 > dropout 0.3 > dense 10 (535,818 weights)"
    )
    assert (arguments.device, arguments.epochs, arguments.batch_size) == ("cpu", 10, 128)
    assert type(model.optimizer).__name__ == "Adam"


@pytest.mark.parametrize(
    ("arguments", "rates"),
    [
        (("--dropout", "0.2"), [0.2, 0.2]),
        (("--hidden", "8", "--dropout", "0.2"), [0.2]),
        (("--hidden", "8", "8", "8", "--dropout", "0.1", "0.2", "0.3"), [0.1, 0.2, 0.3]),
        (("--hidden", "8", "8", "8"), [0.5, 0.5, 0.5]),
        (("--hidden",), []),
    ],
)
def test_dropout_takes_one_rate_for_all_layers_or_one_for_each(arguments, rates):
    assert parsed(*arguments).dropout == rates


@pytest.mark.parametrize(("size", "shards"), [("1", None), ("2", 8), ("9", 8)])
def test_several_processes_have_8_shards_by_default(size, shards, monkeypatch):
    monkeypatch.setenv("PMI_SIZE", size)  # as mpiexec sets it
    assert parsed().shards == shards
    assert parsed("--shards", "3").shards == 3


def test_shards_are_in_the_command_that_repeats_a_run():
    assert command_of(parsed("--shards", "3")).count("--shards 3") == 1
    assert "--shards" not in command_of(parsed())


@pytest.mark.parametrize("name", ["out", "checkpoint_dir", "save", "log_json"])
def test_further_process_writes_nothing(name):
    arguments = parsed("--out", "a", "--save", "b", "--log-json", "c", "--seed", "3")
    results = without_outputs(arguments)
    write_nothing(arguments)
    assert (getattr(arguments, name), arguments.quiet) == (None, True)
    assert without_outputs(arguments) == results


def test_options_reach_the_network():
    options = "--hidden 8 --input-dropout 0.2 --scaling inference --max-norm 2 --seed 5"
    arguments = parsed(*options.split(), "--optimizer", "sgd", "--lr", "0.3")
    model = train_preparation.build_model(arguments, (28, 28))
    assert train_preparation.describe(model).startswith(
        "dropout 0.2 > dense 8 > dropout 0.5 > dense 10"
    )
    scalings = [layer.scaling for layer in model.layers if hasattr(layer, "scaling")]
    assert scalings == ["inference", "inference"]
    assert model.seed == 5
    assert type(model.optimizer).__name__ == "SGD"
    assert model.optimizer.learning_rate == 0.3
    norms = [p.constraint.max_value for p in model.parameters() if p.constraint]
    assert norms == [2.0, 2.0]


def test_command_of_repeats_the_results_and_writes_no_files():
    options = ["--hidden", "8", "9", "--dropout", "0.5", "0.25", "--data", "mnist-5k"]
    outputs = ["--out", "a b", "--save", "c.safetensors", "--log-json", "d", "--quiet"]
    outputs.append("--no-record")
    python, dash_m, module, *again = shlex.split(command_of(parsed(*options, *outputs)))
    assert (python, dash_m, module) == ("python", "-m", "minidl.train")
    assert vars(parsed(*again)) == vars(parsed(*options))


# ------------------------------------------------------------------------------ rejections


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--colour", "red"), "unrecognized arguments: --colour red"),
        (("--dev", "cpu"), "unrecognized arguments: --dev cpu"),
        (("--epochs", "0"), "--epochs: expected an integer of at least 1, got '0'"),
        (("--epochs", "2.5"), "--epochs: expected an integer .*'2.5'"),
        (("--batch-size", "-1"), "--batch-size: expected an integer of at least 1, got '-1'"),
        (("--hidden", "0"), "--hidden: expected an integer from 1 to 1048576, got '0'"),
        (("--hidden", "99999999999"), "--hidden: expected an integer from 1 .*'99999999999'"),
        (("--dropout", "1.5"), "--dropout: expected a number from 0 to 1, got '1.5'"),
        (("--dropout", "nan"), "--dropout: expected a number from 0 to 1, got 'nan'"),
        (("--dropout", "0.1", "0.2", "0.3"), "--dropout: expected 1 rate, or 2 .* got 3"),
        (("--lr", "0"), "--lr: expected a number above 0, got '0'"),
        (("--lr", "inf"), "--lr: expected a number above 0, got 'inf'"),
        (("--max-norm", "-2"), "--max-norm: expected a number above 0, got '-2'"),
        (("--seed", "-1"), "--seed: expected an integer from 0 .*'-1'"),
        (("--seed", str(2**64)), "--seed: expected an integer from 0 .*'18446744073709551616'"),
        (("--hidden", "--dropout", "0.5"), "--dropout: expected hidden layers, got none"),
        (("--data", "mnist-5k", "--data-dir", "x"), "--data-dir: mnist-5k"),
        (("--optimizer", "magic"), "--optimizer: invalid choice: 'magic'"),
        (("--data", "cifar"), "--data: invalid choice: 'cifar'"),
        (("--shards", "0"), "--shards: expected an integer of at least 1, got '0'"),
        (("--resume", "latest"), "--resume: expected a folder.*--checkpoint-dir"),
        (
            ("--checkpoint-every", "5", "--resume", "x"),
            "--checkpoint-every: expected a folder.*--checkpoint-dir",
        ),
        (("--checkpoint-every", "5"), "--checkpoint-every: expected a folder.*--checkpoint-dir"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else " ".join(value),
)
def test_invalid_arguments_exit_with_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        train.main(arguments)
    assert error.value.code == 2
    written = capsys.readouterr().err
    assert re.search(message, written), written
    assert written.count("\n") == 1
    assert written.startswith("minidl.train: ")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--save", "{}/missing/x.safetensors"], FileNotFoundError, "/missing/x.safetensors: "),
        (["--save", "{}"], IsADirectoryError, ": expected a file name, got a folder"),
        (["--save", "{}/x.h5"], ValueError, r"/x\.h5: expected .* ends in \.safetensors.*'x\.h5'"),
        (["--out", "{}/file"], NotADirectoryError, "/file: expected a folder"),
        (["--out", "{}/file/a/b"], NotADirectoryError, "/file/a/b: expected a folder.*/file "),
        (["--checkpoint-dir", "{}/file"], NotADirectoryError, "/file: expected a folder"),
        (
            ["--out", "{}/new", "--checkpoint-dir", "{}/file"],
            NotADirectoryError,
            "/file: expected a folder",
        ),
    ],
)
def test_check_outputs_rejects_what_cannot_be_written(options, error, message, tmp_path):
    (tmp_path / "file").touch()
    arguments = parsed(*(option.format(tmp_path) for option in options))
    with pytest.raises(error, match=f"{tmp_path}{message}"):
        check_outputs(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_check_outputs_accepts_new_folders_and_creates_nothing(tmp_path):
    folders = ["--out", f"{tmp_path}/a/b", "--checkpoint-dir", f"{tmp_path}/c"]
    check_outputs(parsed(*folders, "--save", f"{tmp_path}/x.safetensors"))
    assert not list(tmp_path.iterdir())


def test_check_outputs_rejects_folders_that_are_not_writable(tmp_path, monkeypatch):
    def unwritable(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic, "open", unwritable, raising=False)  # root may write anywhere
    arguments = parsed("--save", str(tmp_path / "x.safetensors"))
    with pytest.raises(PermissionError, match=f"the folder {tmp_path} is not writable"):
        check_outputs(arguments)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that root cannot write to")
@pytest.mark.parametrize("option", ["--out", "--checkpoint-dir"])
def test_check_outputs_rejects_folders_that_cannot_be_created(option):
    with pytest.raises(PermissionError, match="/proc/run: the folder /proc is not writable"):
        check_outputs(parsed(option, "/proc/run"))


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--save", "missing/x.safetensors"),
        ("--save", "x.h5"),
        ("--out", "file/run"),
        ("--checkpoint-dir", "file"),
        ("--log-json", "missing/log"),
        ("--save", "x" * 250 + ".safetensors"),
        ("--log-json", "x" * 256),
        ("--out", "x" * 256),
        ("--checkpoint-dir", "x" * 256 + "/run"),
    ],
)
def test_train_rejects_what_cannot_be_written_before_it_reads_data(
    option, name, tmp_path, no_data, capsys
):
    (tmp_path / "file").touch()
    assert str(tmp_path / name) in rejection(train, capsys, *SMALL, option, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_train_reads_data_after_the_checks(tmp_path, no_data):
    with pytest.raises(AssertionError, match="data were read"):
        train.main([*SMALL, "--out", str(tmp_path / "new" / "run")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--save", "--log-json", "--out", "--checkpoint-dir"])
@pytest.mark.parametrize("name", ["", "nul\0"])
def test_train_rejects_impossible_names(option, name, no_data, capsys):
    assert repr(name) in rejection(train, capsys, *SMALL, option, name)


@pytest.mark.parametrize("option", ["--resume", "--save"])
def test_train_rejects_a_log_that_is_another_file_of_the_run(option, tmp_path, no_data, capsys):
    model = tmp_path / "x.safetensors"
    model.write_bytes(b"weights")
    arguments = (*SMALL, option, model, "--log-json", f"{tmp_path}/./x.safetensors")
    assert "expected a new file" in rejection(train, capsys, *arguments)
    assert model.read_bytes() == b"weights"


def test_train_rejects_a_folder_in_place_of_the_report(tmp_path, no_data, capsys):
    (tmp_path / "report.html").mkdir()
    assert "report.html: expected a file" in rejection(train, capsys, *SMALL, "--out", tmp_path)


@pytest.mark.parametrize("text", ["abc", "0", "-1", "1.5", ""])
def test_train_rejects_a_bad_number_of_threads(text, monkeypatch, no_data, capsys):
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setenv("MINIDL_NUM_THREADS", text)
    # As in a new process.
    monkeypatch.setattr(train_preparation, "get_backend", lambda _: NumpyBackend())
    assert f"MINIDL_NUM_THREADS: expected a whole number, 1 or above, got {text!r}" in rejection(
        train, capsys, *SMALL
    )


@pytest.mark.parametrize(
    ("command", "own"), [(train, ["3"]), (sweep, ["4"]), (predict, []), (playground, [])]
)
def test_help_has_the_exit_statuses(command, own, capsys):
    with pytest.raises(SystemExit) as error:
        command.main(["--help"])
    assert error.value.code == 0
    table = capsys.readouterr().out.partition("\nexit status:\n")[2]
    statuses = [line.split()[0] for line in table.splitlines()]
    assert statuses == ["0", "1", "2", *own, "130", "143"]
