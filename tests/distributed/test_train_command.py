"""The training command, shared among the processes of mpiexec."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from minidl_kernels import threads

from minidl.commands import report, train
from minidl.distributed import data_parallel
from minidl.storage.folders import latest, lock_folder

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("command_cases.py")
MPIEXEC = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")
TIME_LIMIT = 240  # seconds, on a busy machine
SMALL = ("--data", "mnist-5k", "--hidden", "16", "--shards", "8")
FILES = ("--out", "out", "--save", "net.safetensors", "--log-json", "log.jsonl")
TIMES = re.compile(r"[\d.,]+ s\b|[\d,]+ images/s")

needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or find_spec("mpi4py") is None,
    reason="needs mpi4py and mpiexec (the extra mpi, and the wheel mpich)",
)


def environment(**changes):
    """Return the environment of processes that import the checkout and choose no threads."""
    kept = {name: value for name, value in os.environ.items() if name != threads.VARIABLE}
    return kept | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"} | changes


def started(size, folder, *arguments):
    """Start Python in so many processes."""
    command = [MPIEXEC, "-n", str(size), sys.executable, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=pipe, stderr=pipe, text=True
    )


def ended(process):
    """Return exit status, output and errors of started processes."""
    try:
        out, err = process.communicate(timeout=TIME_LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.fixture
def alone(monkeypatch):
    """Return a function that runs the command in this process, in a folder.

    The page of the run has no figures, which take seconds.
    """

    def run(folder, *arguments):
        folder.mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(report, "_figures", lambda *_: ())
            patch.chdir(folder)
            patch.setattr(threads, "_chosen", None)
            patch.delenv(threads.VARIABLE, raising=False)
            assert train.main([*SMALL, *FILES, *arguments]) == 0

    return run


def files_of(folder):
    """Return the content of each file below a folder, without times."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "report.html":
                content = TIMES.sub("", content.decode())
            if path.name == "log.jsonl":
                events = map(json.loads, content.splitlines())
                content = [{k: v for k, v in e.items() if "second" not in k} for e in events]
            found[str(path.relative_to(folder))] = content
    return found


# ------------------------------------------------------------------------------ one process


def test_shards_of_one_process_are_in_all_records(tmp_path, alone, capsys):
    alone(tmp_path, "--epochs", "1")
    assert "workers  1 with 1 thread each, 8 shards\n" in capsys.readouterr().out
    configuration = json.loads((tmp_path / "out" / "config.json").read_text())
    assert configuration["shards"] == 8
    assert configuration["environment"]["threads"] == 1
    assert " --shards 8" in configuration["command"]
    start = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert start["shards"] == 8
    for option in (("--shards", "4"), ()):
        plain = [*SMALL[:-2], *option, "--epochs", "1", "--resume", "out/net.safetensors"]
        plain[-1] = str(tmp_path / "net.safetensors")
        assert train.main(plain) == 2
        expected = f"a run with --shards {option[-1] if option else 1}, got one with 8."
        assert expected in capsys.readouterr().err


def test_processes_without_mpi4py_are_rejected(monkeypatch, capsys):
    monkeypatch.setattr(data_parallel, "_communicator", None)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert train.main([*SMALL]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"minidl.train: .*expected mpi4py .*'minidl\[mpi\]'.*\n", printed.err)


@needs_mpi
def test_process_that_its_mpi_counts_alone_is_rejected(tmp_path):
    arguments = [sys.executable, "-m", "minidl.train", *SMALL]
    result = subprocess.run(
        arguments,
        cwd=tmp_path,
        env=environment(OMPI_COMM_WORLD_SIZE="2"),  # of an mpiexec that mpi4py does not know
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"minidl.train: .*expected 2 processes .*got 1 from .*\n", result.stderr)


# ------------------------------------------------------------------------------ several processes


WITHOUT_FIGURES = """
import sys
from minidl.commands import report, train
report._figures = lambda *_: ()
sys.exit(train.main(sys.argv[1:]))
"""


@needs_mpi
def test_files_and_output_of_three_processes_equal_those_of_one(tmp_path, alone, capsys):
    arguments = ("--epochs", "2", "--checkpoint-every", "20")
    alone(tmp_path / "1", *arguments)
    output = capsys.readouterr().out
    folder = tmp_path / "3"
    folder.mkdir()
    status, out, err = ended(started(3, folder, "-c", WITHOUT_FIGURES, *SMALL, *FILES, *arguments))
    assert (status, err) == (0, "")
    expected = output.replace("workers  1 ", "workers  3 ")
    assert TIMES.sub("", out) == TIMES.sub("", expected)
    assert files_of(folder) == files_of(tmp_path / "1")


@needs_mpi
@pytest.mark.parametrize(
    ("size", "number", "expected"),
    [
        (2, signal.SIGINT, 130),
        pytest.param(3, signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_signal_to_mpiexec_ends_all_and_the_run_is_resumed_alone(
    size, number, expected, tmp_path, alone
):
    many, endless = tmp_path / "many", ("--epochs", "100000")
    many.mkdir()
    process = started(size, many, "-m", "minidl.train", *SMALL, *FILES, *endless)
    while not process.stdout.readline().startswith("Epoch 2/"):
        assert process.poll() is None, process.stderr.read()
    workers = [p.pid for p in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(number)
    status, out, err = ended(process)
    lines = [line for line in err.splitlines() if not line.startswith("[mpiexec")]
    assert lines == ["interrupted; to resume, add --resume latest"]
    assert status == expected
    assert "test accuracy" not in out
    assert not any(psutil.pid_exists(pid) for pid in workers)
    done = len((many / "out" / "history.jsonl").read_text().splitlines())
    alone(many, "--epochs", f"{done + 1}", "--resume", "latest")
    alone(tmp_path / "whole", "--epochs", f"{done + 1}")
    many, whole = files_of(many), files_of(tmp_path / "whole")
    for name in ("net.safetensors", "out/history.jsonl", "out/config.json"):
        assert many[name] == whole[name]


def results_of(folder, cases):
    """Return for each case the results of two processes, of one start: it takes seconds."""
    status, out, err = ended(started(2, folder, CASES, json.dumps(cases)))
    assert (status, out, err) == (0, "", "")
    files = [folder / f"rank-{rank}.json" for rank in range(2)]
    results = [json.loads(file.read_text()) for file in files]
    for file in files:
        file.unlink()
    return list(zip(*results, strict=True))


QUIET = [*SMALL, "--epochs", "2", "--quiet"]


@needs_mpi
def test_rejected_starts_print_one_line_and_write_nothing(tmp_path, alone):
    alone(tmp_path, *QUIET)
    damaged, locked = tmp_path / "damaged", tmp_path / "locked"
    shutil.copytree(tmp_path / "out" / "checkpoints", damaged)
    latest(damaged).write_bytes(b"no checkpoint")
    locked.mkdir()
    before = files_of(tmp_path)
    new = [*QUIET, "--out", "new", "--save", "new.safetensors", "--log-json", "new.jsonl"]
    resumed = [*QUIET, "--save", "new.safetensors", "--resume", "latest", "--checkpoint-dir"]
    wrong, missing = ["--epochs", "x"], ["--data", "kmnist", "--data-dir", "missing"]
    rejected = {
        "argument --epochs: expected an integer of at least 1, got 'x'.": [wrong],
        "rank 1: UsageError: argument --epochs: expected an integer .*": [new, wrong],
        ".*: expected at least 2 shards for 2 processes, got 1.*": [[*new, "--shards", "1"]],
        ".*: expected .*seed .*, got 0 on rank 0; 1 on rank 1.*": [new, [*new, "--seed", "1"]],
        "rank 1: FileNotFoundError: .*train-images-idx3-ubyte.*": [new, missing],
        "out: expected a folder without a run.*": [[*QUIET, "--out", "out"]],
        "locked: another run.*": [[*new, "--checkpoint-dir", "locked"]],
        "damaged/.*: expected a safetensors file.*": [[*resumed, "damaged"]],
        ".*: expected a run with --shards 4, got one with 8.*": [
            [*resumed, "out/checkpoints", "--shards", "4"]
        ],
    }
    cases = [{"arguments": arguments} for arguments in [*rejected.values(), [["--help"]]]]
    with lock_folder(locked):
        *results, helped = results_of(tmp_path, cases)
    (locked / ".lock").unlink()
    for expected, (first, second) in zip(rejected, results, strict=True):
        assert (first[:2], second) == ([2, ""], [2, "", ""]), expected
        assert re.fullmatch(f"minidl.train: {expected}\n", first[2]), first[2]
    (status, text, err), second = helped
    assert (status, text.partition(":")[0], err) == (0, "usage", "")
    assert second == [0, "", ""]
    assert files_of(tmp_path) == before


@needs_mpi
def test_runs_that_diverge_or_are_interrupted_end_in_all_processes(tmp_path, alone):
    alone(tmp_path, *QUIET)
    many = [*QUIET, "--out", "many", "--save", "many.safetensors", "--resume", "latest"]
    cases = [
        {"arguments": [[*QUIET, "--lr", "1e30"]]},
        {"arguments": [many], "interrupted": 1, "signal": "SIGTERM"},
        {"arguments": [many]},
        {"arguments": [QUIET], "interrupted": 0, "signal": "SIGINT"},
    ]
    diverged, terminated, complete, interrupted = results_of(tmp_path, cases)
    assert (diverged[0][:2], diverged[1]) == ([3, ""], [3, "", ""])
    assert "the outputs of dense_1 in step 1. Use a smaller --lr.\n" in diverged[0][2]
    line = "interrupted; to resume, add --resume latest\n"
    assert terminated == ([143, "", line], [143, "", ""])
    assert (complete[0][0], complete[1]) == (0, [0, "", ""])
    assert interrupted == ([130, "", "interrupted\n"], [130, "", ""])
    files = files_of(tmp_path)
    assert files["many.safetensors"] == files["net.safetensors"]
    for name in ("config.json", "history.jsonl", "checkpoints/step-0000000064.safetensors"):
        assert files[f"many/{name}"] == files[f"out/{name}"]
