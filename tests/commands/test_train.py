"""The training command: output, log, checkpoints, Ctrl-C, and errors in one line."""

import contextlib
import functools
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_runs import environment, rejection, run_python
from streams import STREAMS, Failing, encoded, written

from minidl import models
from minidl.commands import page, report, train, train_preparation
from minidl.commands.train_arguments import parse_arguments
from minidl.commands.watch import EventLog
from minidl.storage import tensor_file
from minidl.storage.atomic import write_atomically
from minidl.storage.folders import latest, lock_folder
from minidl.trainer import loop

SMALL = ("--data", "mnist-5k", "--hidden", "16", "--epochs", "2")
STEPS = 32  # of an epoch
START_KEYS = {"device", "data", "hidden", "dropout", "batch_size", "epochs", "seed", "parameters"}
EPOCH_KEYS = {"event", "epoch", "seconds", "loss", "accuracy", "val_loss", "val_accuracy"}
END_KEYS = {
    "event",
    "device",
    "data",
    "test_accuracy",
    "test_loss",
    "seconds",
    "images_per_second",
    "first_step_seconds",
    "epochs",
    "seed",
    "interrupted",
}
posix_signals = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


def events(path):
    """Return the events of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(tmp_path, *arguments):
    """Run the command in this process and return its events."""
    log = tmp_path / "log.jsonl"
    assert train.main([*map(str, arguments), "--log-json", str(log)]) == 0
    return events(log)


def same_weights(*paths):
    """Return whether models have the same weights, bit for bit."""
    one, other = (models.load(path).get_weights() for path in paths)
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a process of the command, and its events."""
    log = tmp_path_factory.mktemp("train") / "log.jsonl"
    ended = run_python("-m", "minidl.train", *SMALL, "--seed", "3", "--log-json", log)
    return ended, events(log)


def test_train_prints_a_head_and_a_table(finished):
    result, _ = finished
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["device", "cpu"]
    assert lines[1] == "data     mnist-5k: 4,000 training images, 1,000 test images"
    assert lines[2] == "network  dense 16 > dropout 0.5 > dense 10 (12,730 weights)"
    epochs = [line for line in lines if line.startswith("Epoch")]
    assert [line.split(" - ")[0] for line in epochs] == ["Epoch 1/2", "Epoch 2/2"]
    table = {line[:16].strip() for line in lines[-7:]}
    assert {"device", "data", "test accuracy", "test loss", "throughput", "time"} <= table


def test_log_has_one_event_on_each_line(finished):
    start, *epochs, end = finished[1]
    assert start["event"] == "start"
    assert set(start) > START_KEYS
    assert (start["optimizer"], start["learning_rate"]) == ("adam", 0.001)
    assert (start["hidden"], start["dropout"], start["parameters"]) == ([16], [0.5], 12_730)
    assert [set(epoch) for epoch in epochs] == [EPOCH_KEYS] * 2
    assert [(epoch["event"], epoch["epoch"]) for epoch in epochs] == [("epoch", 1), ("epoch", 2)]
    assert set(end) == END_KEYS
    assert (end["event"], end["epochs"], end["seed"], end["interrupted"]) == ("end", 2, 3, False)
    assert end["test_accuracy"] == epochs[-1]["val_accuracy"]
    assert 0 < end["first_step_seconds"] < end["seconds"]
    trained = 2 * 4000 / sum(epoch["seconds"] for epoch in epochs)
    assert end["images_per_second"] == pytest.approx(trained)


def test_train_prints_logs_of_minidl_only(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # of pytest
    assert train.main([*SMALL, "--epochs", "1"]) == 0
    logging.getLogger("numba.cuda.cudadrv.driver").info("of another library")
    logging.getLogger("minidl_kernels.cpu").info("of our own")
    written = capsys.readouterr().err
    assert "of our own" in written
    assert "of another library" not in written


def test_quiet_prints_the_table_only(tmp_path, capsys):
    run(tmp_path, *SMALL, "--quiet")
    assert [line[:16].strip() for line in capsys.readouterr().out.splitlines()] == [
        "device",
        "data",
        "epochs",
        "test accuracy",
        "test loss",
        "throughput",
        "time",
    ]


@pytest.mark.needs_recordings
@pytest.mark.parametrize(
    ("option", "is_recorded"), [([], True), (["--no-record"], False)], ids=["default", "no-record"]
)
def test_no_record_reaches_fit_and_evaluate(option, is_recorded, monkeypatch):
    recordings = []

    def noted(method):
        def call(model, *arguments, **named):
            result = method(model, *arguments, **named)
            recordings.append((method.__name__, model.recording))
            return result

        return call

    for name in ("fit", "evaluate"):
        monkeypatch.setattr(models.Sequential, name, noted(getattr(models.Sequential, name)))
    assert train.main([*SMALL, "--quiet", *option]) == 0
    assert [name for name, _ in recordings] == ["fit", "evaluate"]
    for _, recording in recordings:
        assert (recording.replays > 0) == is_recorded
        assert recording.reason == ("" if is_recorded else "record=False")


def test_no_record_gives_the_same_weights(tmp_path):
    paths = [tmp_path / "recorded.safetensors", tmp_path / "eager.safetensors"]
    for path, option in zip(paths, ([], ["--no-record"]), strict=True):
        assert train.main([*SMALL, "--quiet", "--save", str(path), *option]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.needs_recordings
def test_train_says_in_one_line_why_steps_are_not_recorded(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # of pytest
    assert train.main([*SMALL, "--epochs", "1", "--max-norm", "3"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "recorded" in line] == [
        "fit: batches are not recorded: dense/weight has a constraint"
    ]


def test_train_learns(tmp_path):
    arguments = ("--data", "mnist-5k", "--hidden", "64", "--dropout", "0.2", "--epochs", "8")
    assert run(tmp_path, *arguments)[-1]["test_accuracy"] > 0.9  # by chance: 0.1


def test_seed_decides_the_run(tmp_path):
    def losses(seed):
        return [event.get("loss") for event in run(tmp_path, *SMALL, "--seed", seed)]

    assert losses("1") == losses("1") != losses("2")


# ------------------------------------------------------------------------------ errors


def test_train_rejects_unknown_device(capsys):
    line = rejection(train, capsys, "--device", "tpu")
    assert 'expected "cpu", "cuda", "cuda:N" or "auto"' in line
    assert "tpu" in line


def test_train_rejects_folders_without_the_data_set(tmp_path, monkeypatch, capsys):
    for folder in ("", tmp_path, "nowhere"):
        for arguments in ((), ("--data", "kmnist")):
            assert "train-images-idx3-ubyte" in rejection(
                train, capsys, *arguments, "--data-dir", folder
            )
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path))
    assert "train-images-idx3-ubyte" in rejection(train, capsys)


def test_train_rejects_damaged_data(tmp_path, capsys):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{file}-ubyte").write_bytes(b"not an IDX file")
    line = rejection(train, capsys, "--data-dir", tmp_path)
    assert f"{folder / 'train-images-idx3-ubyte'}: expected an IDX file" in line


def test_rejected_run_keeps_an_older_log(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    log.write_text("older\n")
    rejection(train, capsys, "--device", "tpu", "--log-json", log)
    assert log.read_text() == "older\n"
    assert run(tmp_path, *SMALL, "--epochs", "1")[0]["event"] == "start"


def test_rejected_run_begins_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "is_possible", lambda: False)
    old, new, log = tmp_path / "old", tmp_path / "new", tmp_path / "log.jsonl"
    small = [*SMALL, "--epochs", "1", "--quiet"]
    assert train.main([*small, "--checkpoint-dir", str(old)]) == 0
    rejected = [*small, "--out", str(new), "--log-json", str(log)]
    line = rejection(train, capsys, *rejected, "--checkpoint-dir", old)
    assert f"{old}: expected no checkpoint later than step 0" in line
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    log.write_text("older\n")
    rejection(train, capsys, *rejected, "--checkpoint-dir", old)
    assert log.read_text() == "older\n"
    assert train.main(rejected) == 0  # the folder is free for another try
    assert events(log)[0]["event"] == "start"
    unbegun = tmp_path / "unbegun"
    line = rejection(train, capsys, *rejected, "--checkpoint-dir", unbegun)
    assert f"{new}: expected a folder without a run" in line
    assert not unbegun.exists()


# ------------------------------------------------------------------------------ output

UNPRINTABLE = "模型.safetensors"


@pytest.fixture
def without_pictures(monkeypatch):
    """Leave the pictures out of a report: they take most of the time of a small run."""
    monkeypatch.setattr(report, "_figures", lambda *_: iter(()))


@pytest.mark.parametrize("name", STREAMS)
def test_no_stream_ends_the_command(name, without_pictures, tmp_path, monkeypatch):
    saved, stream = tmp_path / UNPRINTABLE, STREAMS[name]()
    arguments = [*SMALL, "--save", str(saved), "--out", str(tmp_path / "größe")]
    monkeypatch.setattr(sys, "stdout", stream)
    status = train.main([*arguments, "--epochs", "1"])
    assert status == {"broken pipe": 1, "full disk": 2, "read only": 2}.get(name, 0)
    assert models.load(saved).epoch == 1


@pytest.mark.parametrize("name", STREAMS)
def test_no_stream_of_errors_changes_the_exit_status(name, monkeypatch):
    monkeypatch.setattr(sys, "stderr", STREAMS[name]())
    assert train.main([*SMALL, "--save", "/missing/模型.safetensors"]) == 2
    with pytest.raises(SystemExit) as error:
        train.main(["--epochs", "模"])
    assert error.value.code == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_train_escapes_names_that_the_encoding_lacks(encoding, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", encoded(encoding))
    saved = str(tmp_path / UNPRINTABLE)
    assert train.main([*SMALL, "--epochs", "1", "--quiet", "--save", saved]) == 0
    assert written(sys.stdout).endswith("\\u6a21\\u578b.safetensors\n")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems reject such names")
def test_folder_whose_name_is_not_utf_8_takes_all_files_of_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "_figures", lambda *_: ())  # figures take seconds
    folder = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"d\xff")))
    folder.mkdir()
    outputs = ["--out", str(folder / "out"), "--save", str(folder / "x.safetensors")]
    assert train.main([*SMALL, "--epochs", "1", *outputs]) == 0
    assert train.main([*SMALL, *outputs, "--resume", "latest"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(r"d\udcff/x.safetensors") == 2
    assert r"d\udcff/x.safetensors" in (folder / "out" / "report.html").read_text("utf-8")


def test_test_loss_is_not_shown_as_zero(capsys, monkeypatch):
    monkeypatch.setattr(models.Sequential, "evaluate", lambda *_, **__: [3.1e-06, 1.0])
    assert train.main([*SMALL, "--epochs", "1", "--quiet"]) == 0
    assert "test loss        3.1000e-06\n" in capsys.readouterr().out


@pytest.mark.slow
@posix_signals
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_pipe_returns_1_after_the_run_is_saved(unbuffered, log, tmp_path):
    saved = tmp_path / "x.safetensors"
    logged = ["--quiet", "--log-json", "/dev/stdout"] if log else []
    with subprocess.Popen(
        [sys.executable, "-m", "minidl.train", *SMALL, "--save", str(saved), *logged],
        env=environment(PYTHONUNBUFFERED=unbuffered),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert b"Error" not in process.stderr.read()
    assert process.returncode == 1
    assert models.load(saved).epoch == 2


def test_log_ends_if_its_reader_closes_the_pipe(monkeypatch, tmp_path):
    log = EventLog(str(tmp_path / "log.jsonl"))
    log.write("start")
    log.close()
    monkeypatch.setattr(log, "_file", Failing(BrokenPipeError(32, "Broken pipe")))
    log.write("epoch")
    log.write("end")
    assert [event["event"] for event in events(tmp_path / "log.jsonl")] == ["start"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_is_reported_in_one_line():
    result = run_python("-m", "minidl.train", *SMALL, "--quiet", "--log-json", "/dev/full")
    assert result.returncode == 2
    assert result.stderr == "minidl.train: [Errno 28] No space left on device\n"


def test_network_too_large_for_memory_is_reported_in_one_line(monkeypatch, capsys):
    def too_large(*_):
        raise MemoryError("unable to allocate 1 PiB")

    monkeypatch.setattr(train_preparation, "build_model", too_large)
    assert "unable to allocate 1 PiB" in rejection(train, capsys, *SMALL)


def test_cuda_without_cupy_prints_the_reason():
    blocked = "import sys; sys.modules['cupy'] = None; from minidl.train import main; "
    code = blocked + "sys.exit(main(['--device', 'cuda', '--data', 'mnist-5k']))"
    result = run_python("-c", code)
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(r"minidl.train: cuda: .*pip install 'minidl\[cuda13\]'.*\n", result.stderr)


# ------------------------------------------------------------------------------ data


def no_mirror(_):
    error = OSError("mnist: no mirror delivered train-images-idx3-ubyte.gz:")
    error.add_note("  details")
    raise error


def test_train_without_mnist_announces_its_replacement(monkeypatch, capsys):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setitem(train_preparation.LOADERS, "mnist", no_mirror)
    assert train.main(["--hidden", "8", "--epochs", "1", "--quiet"]) == 0
    first, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("MNIST could not be downloaded. Using the 5,000 digits")
    assert "--data mnist" in first
    (row,) = (line for line in table if line.startswith("data "))
    assert re.fullmatch(r"data +mnist-5k \(MNIST could not be downloaded\)", row)


def test_train_never_replaces_mnist_given_by_name(monkeypatch, capsys):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setitem(train_preparation.LOADERS, "mnist", no_mirror)
    assert train.main(["--data", "mnist"]) == 2
    first, *notes = capsys.readouterr().err.splitlines()
    assert first == "minidl.train: mnist: no mirror delivered train-images-idx3-ubyte.gz:"
    assert notes == ["  details"]


# ------------------------------------------------------------------------------ Ctrl-C


@contextlib.contextmanager
def interrupted_process(*arguments, number=signal.SIGINT):
    """Start the command, send a signal in its third epoch, and yield the process and its output."""
    with subprocess.Popen(
        [sys.executable, "-m", "minidl.train", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert any(line.startswith("Epoch 2/") for line in process.stdout)
            process.send_signal(number)
            yield process, *process.communicate(timeout=60)
        finally:
            process.kill()


@pytest.mark.slow
@posix_signals
def test_ctrl_c_in_a_process_saves_the_step_and_returns_130(tmp_path):
    log, parts, whole = (tmp_path / name for name in ("log", "parts.safetensors", "x.safetensors"))
    places = ("--checkpoint-dir", tmp_path / "run", "--log-json", log)
    with interrupted_process(*SMALL, *places, "--epochs", "100000") as (process, _, err):
        assert process.returncode == 130, err
    assert err.count("\n") == 1
    assert err.startswith("interrupted")
    *_, end = events(log)
    assert (end["event"], end["interrupted"]) == ("end", True)
    done = models.load(latest(tmp_path / "run")).position.epoch
    assert done >= end["epochs"] >= 1
    epochs = ("--epochs", done + 1)
    resumed = run_python(
        "-m", "minidl.train", *SMALL, *places, *epochs, "--resume", "latest", "--save", parts
    )
    assert resumed.returncode == 0, resumed.stderr
    logged = [event["epoch"] for event in events(log) if event["event"] == "epoch"]
    assert logged == list(range(1, done + 2))
    assert train.main([*map(str, (*SMALL, *epochs)), "--save", str(whole)]) == 0
    assert same_weights(parts, whole)


@pytest.mark.slow
@posix_signals
def test_ctrl_c_in_a_process_without_folder_returns_130():
    with interrupted_process("--data", "mnist-5k", "--epochs", "100000") as (process, _, err):
        assert process.returncode == 130
    assert err == "interrupted\n"


@pytest.mark.slow
@posix_signals
def test_sigterm_in_a_process_saves_the_step_and_returns_143(tmp_path):
    places = ("--checkpoint-dir", tmp_path / "run", "--epochs", "100000")
    with interrupted_process(*SMALL, *places, number=signal.SIGTERM) as (process, _, err):
        assert process.returncode == 143, err
    assert err == "interrupted; to resume, add --resume latest\n"
    assert models.load(latest(tmp_path / "run")).step >= STEPS


class Moments:
    """Names of moments of the command, and how to act at them."""

    @staticmethod
    def step(monkeypatch, action):
        class Acting(train.Watch):
            def on_train_batch_end(self, batch, logs):
                super().on_train_batch_end(batch, logs)
                if self.model.step == 40:
                    action()

        monkeypatch.setattr(train, "Watch", Acting)

    @staticmethod
    def validation(monkeypatch, action):
        monkeypatch.setattr(loop.Run, "_validate", lambda *_: action())

    @staticmethod
    def test(monkeypatch, action):
        monkeypatch.setattr(models.Sequential, "evaluate", lambda *_, **__: action())

    @staticmethod
    def data(monkeypatch, action):
        monkeypatch.setattr(train_preparation, "load_data", lambda *_: action())


@posix_signals
@pytest.mark.parametrize(
    ("moment", "saved"), [("step", 40), ("validation", 32), ("test", 64), ("data", None)]
)
def test_sigterm_saves_the_last_step_and_returns_143(tmp_path, moment, saved, monkeypatch, capsys):
    folder, file, log = tmp_path / "run", tmp_path / "model.safetensors", tmp_path / "log.jsonl"
    places = ("--checkpoint-dir", str(folder), "--save", str(file), "--log-json", str(log))
    terminate = functools.partial(signal.raise_signal, signal.SIGTERM)
    getattr(Moments, moment)(monkeypatch, terminate)
    assert train.main([*SMALL, *places, "--quiet"]) == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert capsys.readouterr() == ("", "interrupted; to resume, add --resume latest\n")
    assert not file.exists()
    assert events(log)[-1]["interrupted"] is True
    if saved is None:
        assert not folder.exists()
    else:
        assert latest(folder).name == f"step-{saved:010d}.safetensors"


@posix_signals
def test_second_sigterm_does_not_prevent_the_checkpoint(tmp_path, monkeypatch):
    terminate = functools.partial(signal.raise_signal, signal.SIGTERM)
    Moments.step(monkeypatch, terminate)

    def twice(path, content):
        terminate()
        write_atomically(path, content)

    monkeypatch.setattr(tensor_file, "write_atomically", twice)
    arguments = [*SMALL, "--quiet", "--checkpoint-dir", str(tmp_path), "--checkpoint-every", "99"]
    assert train.main(arguments) == 143
    assert [path.name for path in tmp_path.glob("*step*")] == ["step-0000000040.safetensors"]


@posix_signals
def test_ignored_sigterm_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        Moments.step(monkeypatch, functools.partial(signal.raise_signal, signal.SIGTERM))
        assert train.main([*SMALL, "--quiet"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def interrupted_at_step_40(monkeypatch):
    """Let the system send SIGINT to the command in its 40th step."""

    class Interrupted(train.Watch):
        def on_train_batch_end(self, batch, logs):
            super().on_train_batch_end(batch, logs)
            if self.model.step == 40:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(train, "Watch", Interrupted)
        yield patch


@posix_signals
def test_ctrl_c_saves_the_step_and_resume_ends_with_the_same_weights(
    tmp_path, interrupted_at_step_40, capsys
):
    file, log = tmp_path / "model.safetensors", tmp_path / "log.jsonl"
    places = ("--checkpoint-dir", str(tmp_path / "run"), "--save", str(file))
    assert train.main([*SMALL, *places, "--log-json", str(log)]) == 130
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("interrupted; ")
    assert "--resume latest" in printed.err
    assert "test accuracy" not in printed.out
    assert not file.exists()  # it is for the network that is trained to the end
    assert latest(tmp_path / "run").name == "step-0000000040.safetensors"
    *_, end = events(log)
    assert (end["event"], end["epochs"], end["interrupted"]) == ("end", 1, True)
    assert "test_accuracy" not in end
    assert end["images_per_second"] > 0
    interrupted_at_step_40.undo()
    assert train.main([*SMALL, *places, "--resume", "latest"]) == 0
    assert train.main([*SMALL, "--save", str(tmp_path / "whole.safetensors")]) == 0
    assert same_weights(file, tmp_path / "whole.safetensors")


@posix_signals
def test_ctrl_c_without_folder_returns_130(tmp_path, interrupted_at_step_40, capsys):
    file = tmp_path / "model.safetensors"
    assert train.main([*SMALL, "--quiet", "--save", str(file)]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["load_data", "build_model"])
def test_ctrl_c_before_training_is_logged(part, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_preparation, part, interrupt)
    log = tmp_path / "log.jsonl"
    assert train.main([*SMALL, "--quiet", "--log-json", str(log)]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert [(e["event"], e["interrupted"]) for e in events(log)] == [("end", True)]


def test_ctrl_c_after_training_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    places = ("--checkpoint-dir", str(tmp_path / "run"), "--save", str(tmp_path / "x.safetensors"))
    with monkeypatch.context() as patch:
        patch.setattr(models.Sequential, "evaluate", interrupt)
        assert train.main([*SMALL, *places]) == 130
    assert latest(tmp_path / "run").name == f"step-{2 * STEPS:010d}.safetensors"
    assert train.main([*SMALL, *places, "--resume", "latest"]) == 0
    assert same_weights(latest(tmp_path / "run"), tmp_path / "x.safetensors")


def test_ctrl_c_in_a_callback_keeps_the_results(tmp_path, monkeypatch):
    class Interrupted(train.Watch):
        def on_epoch_end(self, epoch, logs):
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(train, "Watch", Interrupted)
    log = tmp_path / "log.jsonl"
    assert train.main([*SMALL, "--epochs", "5", "--log-json", str(log)]) == 130
    *_, end = events(log)
    assert (end["event"], end["epochs"], end["interrupted"]) == ("end", 2, True)
    assert end["images_per_second"] > 0


def test_fit_restores_the_handler_of_sigint():
    before = signal.getsignal(signal.SIGINT)
    model = train_preparation.build_model(parse_arguments(["--hidden", "4"], None), (28, 28))
    watch = train.Watch(train.EventLog(None), 8, 4)
    x, y = np.zeros((8, 28, 28), "uint8"), np.zeros(8, "uint8")
    assert isinstance(model, models.Sequential)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[watch])
    assert signal.getsignal(signal.SIGINT) is before
    assert watch.images == 8


# ------------------------------------------------------------------------------ checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return the file of a run of one epoch."""
    path = tmp_path_factory.mktemp("train") / "model.safetensors"
    assert train.main([*SMALL, "--epochs", "1", "--quiet", "--save", str(path)]) == 0
    return path


def test_resume_latest_ends_with_the_weights_of_one_run(tmp_path, capsys):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    folder = ("--checkpoint-dir", tmp_path / "run", "--resume", "latest")
    (start, *_) = run(tmp_path, *SMALL, "--epochs", "4", "--save", whole)
    run(tmp_path, *SMALL, *folder)
    assert f"resume   no checkpoint in {tmp_path / 'run'}: a new run" in capsys.readouterr().out
    (tmp_path / "log.jsonl").unlink()
    assert run(tmp_path, *SMALL, *folder, "--epochs", "4", "--save", parts)[0] == start
    printed = capsys.readouterr().out
    assert "step-0000000064.safetensors: 2 epochs and 0 steps are done" in printed
    assert "epochs           4 of 4" in printed
    assert f"saved            {parts}" in printed
    assert same_weights(whole, parts)


def test_resume_of_a_finished_run_evaluates_and_saves(tmp_path, capsys):
    file, again = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    assert train.main([*SMALL, "--save", file, "--quiet"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert train.main([*SMALL, "--resume", file, "--save", again, "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[2:5] == table[2:5]  # epochs, accuracy, loss
    assert models.load(again).step == models.load(file).step == 2 * STEPS


def test_resume_rejects_a_run_of_more_epochs(tmp_path, capsys):
    file = str(tmp_path / "a.safetensors")
    assert train.main([*SMALL, "--save", file, "--quiet"]) == 0
    line = rejection(train, capsys, *SMALL, "--epochs", "1", "--resume", file)
    assert f"{file}: expected a run of at most --epochs 1, " in line
    assert "2 epochs and 0 steps are done" in line


def test_resume_continues_the_log(tmp_path):
    folder = ("--checkpoint-dir", tmp_path / "run", "--resume", "latest")
    run(tmp_path, *SMALL, *folder)
    logged = run(tmp_path, *SMALL, *folder, "--epochs", "3")
    assert [event["epoch"] for event in logged if event["event"] == "epoch"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        (
            ("--hidden", "17"),
            "network dense 17 > dropout 0.5 > dense 10 (13,525 weights)",
            "dense 16 > dropout 0.5 > dense 10 (12,730 weights)",
        ),
        (
            ("--hidden", "16", "16"),
            "network dense 16 > dropout 0.5 > dense 16 > dropout 0.3 > dense 10",
            "dense 16 > dropout 0.5 > dense 10",
        ),
        (
            ("--dropout", "0.1"),
            "network dense 16 > dropout 0.1 > dense 10",
            "dense 16 > dropout 0.5 > dense 10",
        ),
        (("--max-norm", "2"), "kernel_constraint {'class': 'MaxNorm', 'arg", "None"),
        (("--seed", "1"), "seed 1", "0"),
        (("--batch-size", "64"), "--batch-size 64", "128"),
        (("--lr", "0.5"), "--lr 0.5", "0.001"),
        (("--optimizer", "sgd"), "--optimizer SGD", "Adam"),
    ],
)
def test_resume_rejects_the_checkpoint_of_another_run(checkpoint, change, expected, found, capsys):
    line = rejection(train, capsys, *SMALL, "--resume", checkpoint, *change)
    pattern = rf"{checkpoint}: expected a run with .*{re.escape(expected)}.*, got one with "
    assert re.search(pattern + re.escape(found), line), line
    assert len(line) < 600


@pytest.mark.parametrize(
    ("part", "name"), [(0, "--data of data_checksum"), (1, "--data of validation_checksum")]
)
def test_resume_rejects_the_checkpoint_of_other_data(checkpoint, monkeypatch, part, name, capsys):
    data = [(x, y.copy()) for x, y in train_preparation.LOADERS["mnist-5k"](None)]
    data[part][1][0] ^= 1
    monkeypatch.setitem(train_preparation.LOADERS, "mnist-5k", lambda _: data)
    line = rejection(train, capsys, *SMALL, "--resume", checkpoint)
    assert f"{checkpoint}: expected a run with {name} " in line


def test_resume_rejects_missing_and_damaged_files(tmp_path, capsys):
    missing, damaged = tmp_path / "missing.safetensors", tmp_path / "damaged.safetensors"
    assert f"{missing}: No such file" in rejection(train, capsys, *SMALL, "--resume", missing)
    damaged.write_bytes(b"damaged, surely")
    assert f"{damaged}: expected a safetensors file" in rejection(
        train, capsys, *SMALL, "--resume", damaged
    )


def test_numbers_that_are_not_finite_return_3_and_name_the_layer(tmp_path, capsys):
    folder, log = tmp_path / "run", tmp_path / "log.jsonl"
    places = ("--checkpoint-dir", str(folder), "--log-json", str(log))
    with np.errstate(all="ignore"):
        assert train.main([*SMALL, "--lr", "1e30", *places]) == 3
    written = capsys.readouterr().err
    assert written.startswith("minidl.train: ")
    assert "the outputs of dense_1 in step 1" in written
    assert "--lr" in written
    assert written.count("\n") == 1
    (file,) = folder.glob("*.safetensors")  # where it stopped: before the step that fails
    assert models.load(file).step == 1
    assert events(log)[-1]["diverged"] == "the outputs of dense_1 in step 1"


ONE_STEP = ("--data", "mnist-5k", "--batch-size", "4000", "--quiet")
AFTER = "the loss of the test, after the last step"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--optimizer", "sgd", "--epochs", "1"), AFTER),
        (("--optimizer", "adam", "--epochs", "1"), AFTER),
        (("--optimizer", "rmsprop", "--epochs", "1", "--hidden", "16"), AFTER),
        (("--optimizer", "sgd", "--epochs", "3"), "the outputs of dense_1 in step 1"),
        (("--optimizer", "adamw", "--epochs", "2", "--batch-size", "100"), "in step 1"),
    ],
)
def test_diverged_run_returns_3_and_keeps_older_files(arguments, found, tmp_path, capsys):
    out, file, log = tmp_path / "run", tmp_path / "x.safetensors", tmp_path / "log.jsonl"
    file.write_bytes(b"older")
    places = ("--out", str(out), "--save", str(file), "--log-json", str(log))
    with np.errstate(all="ignore"):
        assert train.main([*ONE_STEP, "--lr", "1e30", *arguments, *places]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"minidl.train: .*{found}\. {file} is not saved\. .*--lr\.\n", printed.err)
    assert file.read_bytes() == b"older"

    def reject(name):
        raise AssertionError(f"{name} is not JSON")

    for lines in (log, out / "history.jsonl"):
        for line in lines.read_text().splitlines():
            json.loads(line, parse_constant=reject)
    assert found in events(log)[-1]["diverged"]
    if page.is_possible():
        assert found in (out / "report.html").read_text()


def test_resume_of_a_diverged_run_returns_3_again(tmp_path, capsys):
    diverging = [*ONE_STEP, "--lr", "1e30", "--optimizer", "sgd", "--checkpoint-dir", str(tmp_path)]
    for epochs, found in (("1", AFTER), ("1", AFTER), ("2", "in step 1")):
        with np.errstate(all="ignore"):
            assert train.main([*diverging, "--epochs", epochs, "--resume", "latest"]) == 3
        assert found in capsys.readouterr().err


def test_train_rejects_the_folder_of_a_running_run(tmp_path, capsys):
    with lock_folder(tmp_path):  # as another run holds it
        line = rejection(
            train, capsys, *SMALL, "--checkpoint-dir", tmp_path, "--quiet", "--epochs", "1"
        )
    assert f"minidl.train: {tmp_path}: another run" in line


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_resume_latest_names_a_damaged_checkpoint(tmp_path, damage, capsys):
    resumed = [*SMALL, "--quiet", "--checkpoint-dir", str(tmp_path), "--resume", "latest"]
    assert train.main(resumed) == 0
    newest = tmp_path / "step-0000000064.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content[:-100] if damage == "cut" else content)
    line = rejection(train, capsys, *resumed)
    assert f"minidl.train: {newest}: " in line
    assert "To resume from the previous checkpoint, move this file away" in line
    newest.unlink()
    assert train.main(resumed) == 0
    assert models.load(newest).step == 2 * STEPS


def test_disk_that_fills_up_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    resumed = [*SMALL, "--quiet", "--checkpoint-dir", str(tmp_path / "run"), "--resume", "latest"]

    def full(path, content):
        if latest(tmp_path / "run") is not None:
            raise OSError(28, "No space left on device")
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "write_atomically", full)
        assert (
            rejection(train, capsys, *resumed)
            == "minidl.train: [Errno 28] No space left on device\n"
        )
    assert latest(tmp_path / "run").name == "step-0000000032.safetensors"
    again, whole = tmp_path / "again.safetensors", tmp_path / "whole.safetensors"
    assert train.main([*resumed, "--save", str(again)]) == 0
    assert train.main([*SMALL, "--quiet", "--save", str(whole)]) == 0
    assert same_weights(again, whole)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_limit_of_the_system_keeps_the_last_checkpoint(tmp_path):
    folder = tmp_path / "run"
    first = run_python("-m", "minidl.train", *SMALL, "--epochs", "1", "--checkpoint-dir", folder)
    assert first.returncode == 0
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from minidl.train import main; sys.exit(main(sys.argv[1:]))"
    )
    resumed = ("--checkpoint-dir", folder, "--resume", "latest")
    result = run_python("-c", limited, *SMALL, *resumed, "--quiet")
    assert (result.returncode, result.stderr) == (2, "minidl.train: [Errno 27] File too large\n")
    assert [path.name for path in folder.glob("*step*")] == ["step-0000000032.safetensors"]
    again, whole = tmp_path / "again.safetensors", tmp_path / "whole.safetensors"
    run(tmp_path, *SMALL, *resumed, "--save", again)
    (tmp_path / "log.jsonl").unlink()
    run(tmp_path, *SMALL, "--save", whole)
    assert same_weights(again, whole)
