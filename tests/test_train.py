"""The command: what it prints, writes and refuses, run as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl import models
from minidl.commands import train

ROOT = Path(__file__).parent.parent
SMALL = ("--data", "mnist-5k", "--hidden", "16", "--epochs", "2")
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


def environment(**changes):
    """Return the environment of a command that imports the checkout and finds no data folder."""
    kept = {name: value for name, value in os.environ.items() if name != "MINIDL_DATA"}
    path = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    return kept | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | changes


def command(*arguments, **changes):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "minidl.train", *arguments],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def events(path):
    """Return what was logged."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(tmp_path, *arguments):
    """Run the command in this process and return its events."""
    log = tmp_path / "log.jsonl"
    assert train.main([*arguments, "--log-json", str(log)]) == 0
    return events(log)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the command once, with everything it writes."""
    log = tmp_path_factory.mktemp("train") / "log.jsonl"
    return command(*SMALL, "--seed", "3", "--log-json", str(log)), events(log)


def test_it_says_what_it_uses_and_ends_with_a_table(finished):
    result, _ = finished
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["device", "cpu"]
    assert lines[1] == "data     mnist-5k: 4,000 images to train on, 1,000 to test on"
    assert lines[2] == "network  dense 16 > dropout 0.5 > dense 10 (12,730 weights)"
    epochs = [line for line in lines if line.startswith("Epoch")]
    assert [line.split(" - ")[0] for line in epochs] == ["Epoch 1/2", "Epoch 2/2"]
    table = {line[:16].strip() for line in lines[-7:]}
    assert {"device", "data", "test accuracy", "test loss", "images a second", "time"} <= table


def test_the_log_holds_one_event_a_line(finished):
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


def test_what_other_libraries_log_of_themselves_is_not_printed():
    program = """
import logging, sys
from minidl.commands import train
train.main(sys.argv[1:])
logging.getLogger("numba.cuda.cudadrv.driver").info("of another library")
logging.getLogger("minidl_kernels.cpu").info("of our own")
"""
    result = subprocess.run(
        [sys.executable, "-c", program, *SMALL], capture_output=True, text=True, check=True
    )
    assert "of our own" in result.stderr
    assert "of another library" not in result.stderr


def test_quiet_prints_the_table_only(tmp_path, capsys):
    run(tmp_path, *SMALL, "--quiet")
    assert [line[:16].strip() for line in capsys.readouterr().out.splitlines()] == [
        "device",
        "data",
        "epochs",
        "test accuracy",
        "test loss",
        "images a second",
        "time",
    ]


def test_it_learns(tmp_path):
    arguments = ("--data", "mnist-5k", "--hidden", "64", "--dropout", "0.2", "--epochs", "8")
    assert run(tmp_path, *arguments)[-1]["test_accuracy"] > 0.9  # by chance: 0.1


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    def losses(seed):
        return [event.get("loss") for event in run(tmp_path, *SMALL, "--seed", seed)]

    assert losses("1") == losses("1") != losses("2")


def parsed(*arguments):
    return train.parse_arguments(arguments)


def test_the_defaults_are_the_notes_network():
    arguments = parsed()
    model = train.build_model(arguments, (28, 28))
    assert train.describe(model) == (
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
def test_dropout_takes_one_rate_for_all_or_one_for_each(arguments, rates):
    assert parsed(*arguments).dropout == rates


def test_the_options_reach_the_network():
    options = "--hidden 8 --input-dropout 0.2 --scaling inference --max-norm 2 --seed 5"
    arguments = parsed(*options.split(), "--optimizer", "sgd", "--lr", "0.3")
    model = train.build_model(arguments, (28, 28))
    assert train.describe(model).startswith("dropout 0.2 > dense 8 > dropout 0.5 > dense 10")
    assert [layer.scaling for layer in model.layers if hasattr(layer, "scaling")] == 2 * [
        "inference"
    ]
    assert model.seed == 5
    assert type(model.optimizer).__name__ == "SGD"
    assert model.optimizer.learning_rate == 0.3
    norms = [p.constraint.max_value for p in model.parameters() if p.constraint]
    assert norms == [2.0, 2.0]


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--colour", "red"), "unrecognized arguments: --colour red"),
        (("--dev", "cpu"), "unrecognized arguments"),
        (("--epochs", "0"), "argument --epochs: expected a whole number at least 1"),
        (("--epochs", "2.5"), "argument --epochs: expected a whole number"),
        (("--batch-size", "-1"), "argument --batch-size: expected a whole number at least 1"),
        (("--hidden", "0"), "argument --hidden: expected a whole number at least 1"),
        (("--dropout", "1.5"), "argument --dropout: expected a number at least 0 and at most 1"),
        (("--dropout", "nan"), "argument --dropout: expected a number at least 0 and at most 1"),
        (("--dropout", "0.1", "0.2", "0.3"), "expected 1 rate or 2, one for each hidden layer"),
        (("--lr", "0"), "argument --lr: expected a number above 0"),
        (("--lr", "inf"), "argument --lr: expected a number above 0"),
        (("--max-norm", "-2"), "argument --max-norm: expected a number above 0"),
        (("--seed", "-1"), "argument --seed: expected a whole number at least 0"),
        (("--seed", str(2**64)), "argument --seed: expected a whole number at least 0"),
        (("--hidden", "--dropout", "0.5"), "there is no hidden layer to drop from"),
        (("--hidden", "1048576", "1048576"), "two neighbouring layers need 1,099,511,627,776"),
        (("--hidden", "99999999999"), "argument --hidden: expected a whole number at least 1"),
        (("--data", "mnist-5k", "--data-dir", "x"), "argument --data-dir: mnist-5k comes with"),
        (("--optimizer", "magic"), "argument --optimizer: invalid choice"),
        (("--data", "cifar"), "argument --data: invalid choice"),
    ],
)
def test_bad_arguments_end_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        train.main(arguments)
    assert error.value.code == 2
    written = capsys.readouterr().err
    assert message in written
    assert written.count("\n") == 1
    assert written.startswith("minidl.train: ")


def refusal(capsys, *arguments):
    """Return the one line with which the command ends."""
    assert train.main(arguments) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.count("\n") == 1
    return written.err


def test_an_unknown_device_ends_in_one_line(capsys):
    assert 'expected "cpu", "cuda", "cuda:N" or "auto"' in refusal(capsys, "--device", "tpu")


def test_a_missing_data_set_ends_in_one_line(capsys, tmp_path, monkeypatch):
    for folder in ("", str(tmp_path), "nowhere"):
        for arguments in ((), ("--data", "kmnist")):
            line = refusal(capsys, *arguments, "--data-dir", folder)
            assert "train-images-idx3-ubyte" in line
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path))
    assert "train-images-idx3-ubyte" in refusal(capsys)


def test_a_damaged_file_ends_in_one_line(capsys, tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{file}-ubyte").write_bytes(b"not an IDX file")
    assert "train-images-idx3-ubyte" in refusal(capsys, "--data-dir", str(tmp_path))


def test_a_run_that_is_refused_leaves_an_older_log_alone(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    log.write_text("older\n")
    refusal(capsys, "--device", "tpu", "--log-json", str(log))
    assert log.read_text() == "older\n"
    assert run(tmp_path, *SMALL)[0]["event"] == "start"


def test_a_run_that_is_refused_begins_nothing(tmp_path, capsys):
    old, new, log = tmp_path / "old", tmp_path / "new", tmp_path / "log.jsonl"
    assert train.main([*SMALL, "--quiet", "--checkpoint-dir", str(old)]) == 0
    capsys.readouterr()
    refused = [*SMALL, "--quiet", "--out", str(new), "--log-json", str(log)]
    assert "has checkpoints of another run" in refusal(
        capsys, *refused, "--checkpoint-dir", str(old)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    log.write_text("older\n")
    refusal(capsys, *refused, "--checkpoint-dir", str(old))
    assert log.read_text() == "older\n"
    assert train.main(refused) == 0  # the folder is free for another try
    assert events(log)[0]["event"] == "start"
    capsys.readouterr()
    unbegun = str(tmp_path / "unbegun")
    assert "has a run already" in refusal(capsys, *refused, "--checkpoint-dir", unbegun)
    assert not Path(unbegun).exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_in_one_line():
    result = command(*SMALL, "--quiet", "--log-json", "/dev/full")
    assert result.returncode == 2
    assert result.stderr == "minidl.train: [Errno 28] No space left on device\n"


def test_a_log_that_cannot_be_written_ends_in_one_line(capsys, tmp_path):
    path = tmp_path / "missing" / "log.jsonl"
    assert str(path) in refusal(capsys, *SMALL, "--log-json", str(path))


def test_a_network_too_large_for_memory_ends_in_one_line(capsys, monkeypatch):
    def too_large(*_):
        raise MemoryError("unable to allocate 1 PiB")

    monkeypatch.setattr(train, "build_model", too_large)
    assert "unable to allocate 1 PiB" in refusal(capsys, *SMALL)


def test_cuda_on_a_machine_without_it_ends_with_the_reason():
    blocked = "import sys; sys.modules['cupy'] = None; from minidl.train import main; "
    code = blocked + "sys.exit(main(['--device', 'cuda', '--data', 'mnist-5k']))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(r"minidl.train: cuda: .*pip install 'minidl\[cuda13\]'.*\n", result.stderr)


# ------------------------------------------------------------------------------ which data


def no_mirror(_):
    raise OSError("mnist: no mirror delivered train-images-idx3-ubyte.gz:\n  details")


def test_without_mnist_the_default_is_announced_and_named_in_the_table(monkeypatch, capsys):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setitem(train.LOADERS, "mnist", no_mirror)
    assert train.main(["--hidden", "8", "--epochs", "1", "--quiet"]) == 0
    first, *table = capsys.readouterr().out.splitlines()
    notice = (
        "MNIST could not be had (mnist: no mirror delivered train-images-idx3-ubyte.gz); "
        "training on the 5,000 digits shipped here"
    )
    assert first == notice
    assert f"{'data':<16} mnist-5k, since MNIST could not be had" in table


def test_mnist_asked_for_by_name_is_never_replaced(monkeypatch, capsys):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setitem(train.LOADERS, "mnist", no_mirror)
    assert "no mirror delivered" in refusal(capsys, "--data", "mnist")


# ------------------------------------------------------------------------------ Ctrl-C


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_ctrl_c_ends_it_after_the_step_with_what_was_reached(tmp_path):
    log = tmp_path / "log.jsonl"
    arguments = ["--data", "mnist-5k", "--epochs", "100000", "--log-json", str(log)]
    process = subprocess.Popen(
        [sys.executable, "-m", "minidl.train", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any(line.startswith("Epoch 2/") for line in process.stdout), process.stderr.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "(interrupted)" in out
    *_, end = events(log)
    assert (end["event"], end["interrupted"]) == ("end", True)
    assert end["epochs"] >= 2
    assert end["test_accuracy"] > 0.5


def test_ctrl_c_before_training_is_logged_too(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load_data", interrupt)
    log = tmp_path / "log.jsonl"
    assert train.main(["--log-json", str(log)]) == 130
    assert [(e["event"], e["interrupted"]) for e in events(log)] == [("end", True)]


def test_a_second_ctrl_c_does_not_lose_what_was_reached(tmp_path, monkeypatch):
    class Twice(train.Watch):
        def on_epoch_end(self, epoch, logs):
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(train, "Watch", Twice)
    log = tmp_path / "log.jsonl"
    assert train.main([*SMALL, "--epochs", "5", "--log-json", str(log)]) == 130
    *_, end = events(log)
    assert (end["event"], end["epochs"], end["interrupted"]) == ("end", 2, True)
    assert end["images_per_second"] > 0


def test_training_gives_ctrl_c_back():
    before = signal.getsignal(signal.SIGINT)
    model = train.build_model(parsed("--hidden", "4"), (28, 28))
    watch = train.Watch(train.EventLog(None), 8, 4)
    x, y = np.zeros((8, 28, 28), "uint8"), np.zeros(8, "uint8")
    assert isinstance(model, models.Sequential)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[watch])
    assert signal.getsignal(signal.SIGINT) is before
    assert watch.images == 8


# ------------------------------------------------------------------------------ checkpoints


def test_a_run_goes_on_from_its_latest_checkpoint(tmp_path, capsys):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    folder = ("--checkpoint-dir", str(tmp_path / "run"), "--resume", "latest")
    assert train.main([*SMALL, "--epochs", "4", "--save", str(whole)]) == 0
    assert train.main([*SMALL, *folder]) == 0
    assert f"resume   nothing in {tmp_path / 'run'}: a new run" in capsys.readouterr().out
    assert run(tmp_path, *SMALL, *folder, "--epochs", "4", "--save", str(parts))[0] == {
        **run(tmp_path, *SMALL, "--epochs", "4")[0]
    }
    printed = capsys.readouterr().out
    assert "step-0000000064.safetensors: 2 epochs and 0 steps are done" in printed
    assert "epochs           4 of 4" in printed
    assert f"saved            {parts}" in printed
    ours, theirs = models.load(whole).get_weights(), models.load(parts).get_weights()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))


def test_a_finished_run_that_is_resumed_evaluates_and_saves(tmp_path, capsys):
    file, again = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    assert train.main([*SMALL, "--save", file, "--quiet"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert train.main([*SMALL, "--resume", file, "--save", again, "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[2:5] == table[2:5]  # epochs, accuracy, loss
    assert models.load(again).step == models.load(file).step == 64


def test_a_run_of_more_epochs_than_asked_for_is_refused(tmp_path, capsys):
    file = str(tmp_path / "a.safetensors")
    assert train.main([*SMALL, "--save", file, "--quiet"]) == 0
    capsys.readouterr()
    message = refusal(capsys, *SMALL, "--epochs", "1", "--resume", file)
    assert "2 epochs and 0 steps are done, and this command asks for --epochs 1; give" in message


def test_the_log_of_a_resumed_run_goes_on(tmp_path):
    folder = ("--checkpoint-dir", str(tmp_path / "run"), "--resume", "latest")
    run(tmp_path, *SMALL, *folder)
    logged = run(tmp_path, *SMALL, *folder, "--epochs", "3")
    assert [event["epoch"] for event in logged if event["event"] == "epoch"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("--hidden", "17"),
            "has network dense 16 > dropout 0.5 > dense 10 (12,730 weights), and this command asks "
            "for dense 17 > dropout 0.5 > dense 10 (13,525 weights); give it the same arguments",
        ),
        (("--hidden", "16", "16"), "asks for dense 16 > dropout 0.5 > dense 16 > dropout 0.3"),
        (
            ("--dropout", "0.1"),
            "(12,730 weights), and this command asks for dense 16 > dropout 0.1 >",
        ),
        (("--max-norm", "2"), " None, and this command asks for {'class': 'MaxNorm', 'arg"),
        (("--seed", "1"), "seed 0, and this command asks for 1"),
        (
            ("--batch-size", "64"),
            "the run in it has --batch-size 128, and this command asks for 64; give",
        ),
        (("--lr", "0.5"), "training optimizer arguments learning_rate 0.001, and this command"),
        (("--optimizer", "sgd"), "training optimizer class Adam, and this command asks for SGD"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, capsys, change, message):
    file = str(tmp_path / "model.safetensors")
    assert train.main([*SMALL, "--epochs", "1", "--save", file]) == 0
    capsys.readouterr()
    line = refusal(capsys, *SMALL, "--resume", file, *change)
    assert message in line
    assert len(line) < 600


@pytest.mark.parametrize(
    ("part", "message"),
    [(0, "has --data of data_checksum"), (1, "has --data of validation_checksum")],
)
def test_a_checkpoint_of_a_run_on_other_data_is_refused(
    tmp_path, capsys, monkeypatch, part, message
):
    file = str(tmp_path / "model.safetensors")
    assert train.main([*SMALL, "--epochs", "1", "--save", file]) == 0
    capsys.readouterr()
    data = [(x, y.copy()) for x, y in train.LOADERS["mnist-5k"](None)]
    data[part][1][0] ^= 1
    monkeypatch.setitem(train.LOADERS, "mnist-5k", lambda _: data)
    assert message in refusal(capsys, *SMALL, "--resume", file)


def test_places_that_cannot_be_used_end_in_one_line(tmp_path, capsys):
    missing = str(tmp_path / "missing" / "model.safetensors")
    assert "there is no folder" in refusal(capsys, *SMALL, "--save", missing)
    assert "expected the name of a file" in refusal(capsys, *SMALL, "--save", str(tmp_path))
    assert f"{missing}: No such file" in refusal(capsys, *SMALL, "--resume", missing)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"damaged, surely")
    assert "expected a safetensors file" in refusal(capsys, *SMALL, "--resume", str(damaged))


@pytest.mark.parametrize("option", [("--resume", "latest"), ("--checkpoint-every", "5")])
def test_options_of_a_folder_need_it(option, capsys):
    with pytest.raises(SystemExit):
        train.main([*SMALL, *option])
    assert f"argument {option[0]}: say in which folder: --checkpoint-dir" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_ctrl_c_saves_where_it_stops(tmp_path, monkeypatch, capsys):
    class Interrupted(train.Watch):
        def on_train_batch_end(self, batch, logs):
            super().on_train_batch_end(batch, logs)
            if self.model.step == 40:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train, "Watch", Interrupted)
    file = tmp_path / "model.safetensors"
    places = ("--checkpoint-dir", str(tmp_path / "run"), "--save", str(file))
    assert train.main([*SMALL, *places]) == 130
    table = capsys.readouterr().out
    assert "\nsaved            not saved: interrupted\n" in table
    assert "\nto go on         the same command with --resume latest\n" in table
    assert not file.exists()  # it is for the network that is trained to the end
    monkeypatch.undo()
    assert train.main([*SMALL, *places, "--resume", "latest"]) == 0
    assert train.main([*SMALL, "--save", str(tmp_path / "whole.safetensors")]) == 0
    ours = models.load(file).get_weights()
    theirs = models.load(tmp_path / "whole.safetensors").get_weights()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))


def test_numbers_that_are_not_finite_end_it_and_name_the_layer(tmp_path, capsys):
    folder, log = tmp_path / "run", tmp_path / "log.jsonl"
    places = ("--checkpoint-dir", str(folder), "--log-json", str(log))
    with np.errstate(all="ignore"):
        assert train.main([*SMALL, "--lr", "1e30", *places]) == 3
    assert capsys.readouterr().err == (
        "minidl.train: not finite: the outputs of dense_1 in step 1; try a smaller --lr\n"
    )
    (file,) = folder.glob("*.safetensors")  # where it stopped: before the step that fails
    assert models.load(file).step == 1
    assert events(log)[-1]["diverged"] == "the outputs of dense_1 in step 1"


def test_two_runs_in_one_folder_end_in_one_line(tmp_path, capsys):
    from minidl.storage.folders import lock_folder

    with lock_folder(tmp_path):  # as another run would hold it
        assert train.main([*SMALL, "--checkpoint-dir", str(tmp_path), "--quiet"]) == 2
    written = capsys.readouterr().err
    assert written == (
        f"minidl.train: {tmp_path}: another run, or another callback, writes here; give each a "
        "folder of its own\n"
    )


def test_a_folder_that_is_not_writable_ends_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    path = tmp_path / "model.safetensors"
    assert f"the folder {tmp_path} is not writable" in refusal(capsys, *SMALL, "--save", str(path))


@pytest.mark.parametrize("option", ["--out", "--checkpoint-dir"])
def test_folders_that_cannot_be_made_end_in_one_line_before_data_are_read(
    tmp_path, capsys, monkeypatch, option
):
    def unread(*_):
        raise AssertionError("data were read")

    monkeypatch.setattr(train, "load_data", unread)
    file = tmp_path / "file.py"
    file.touch()
    for folder in (file, file / "run" / "a"):
        message = f"minidl.train: {folder}: expected a folder, and {file} is a file\n"
        assert refusal(capsys, *SMALL, option, str(folder)) == message
    if sys.platform == "linux":  # where root may write anywhere but there
        message = refusal(capsys, *SMALL, option, "/proc/run")
        assert "minidl.train: /proc/run: the folder /proc is not writable (" in message
    with pytest.raises(AssertionError, match="data were read"):
        train.main([*SMALL, option, str(tmp_path / "new" / "run")])
    assert list(tmp_path.iterdir()) == [file]


def test_a_network_is_saved_under_the_name_of_its_format(tmp_path, capsys):
    message = refusal(capsys, *SMALL, "--save", str(tmp_path / "x.h5"))
    assert "x.h5: a model is saved in NAME.safetensors; give a file of such a name\n" in message


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_latest_checkpoint_is_named_and_the_one_before_it_is_taken(
    tmp_path, capsys, damage
):
    resumed = [*SMALL, "--quiet", "--checkpoint-dir", str(tmp_path), "--resume", "latest"]
    assert train.main(resumed) == 0
    capsys.readouterr()
    latest = tmp_path / "step-0000000064.safetensors"
    content = bytearray(latest.read_bytes())
    content[-1] ^= 1
    latest.write_bytes(content[:-100] if damage == "cut" else content)
    message = refusal(capsys, *resumed)
    assert f"minidl.train: {latest}: " in message
    assert "; move it elsewhere, and --resume latest takes the one before it\n" in message
    latest.unlink()
    assert train.main(resumed) == 0
    assert models.load(latest).step == 64


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_disk_that_fills_up_ends_in_one_line_and_the_last_checkpoint_is_good(tmp_path):
    whole = command(*SMALL, "--save", str(tmp_path / "whole.safetensors"))
    assert whole.returncode == 0
    folder = tmp_path / "run"
    assert command(*SMALL, "--epochs", "1", "--checkpoint-dir", str(folder)).returncode == 0
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from minidl.train import main; sys.exit(main(sys.argv[1:]))"
    )
    resumed = ("--checkpoint-dir", str(folder), "--resume", "latest")
    result = subprocess.run(
        [sys.executable, "-c", limited, *SMALL, *resumed, "--quiet"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stderr) == (2, "minidl.train: [Errno 27] File too large\n")
    assert [path.name for path in folder.glob("*step*")] == ["step-0000000032.safetensors"]
    again = command(*SMALL, *resumed, "--save", str(tmp_path / "again.safetensors"))
    assert again.returncode == 0, again.stderr
    ours = models.load(tmp_path / "again.safetensors").get_weights()
    theirs = models.load(tmp_path / "whole.safetensors").get_weights()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))
