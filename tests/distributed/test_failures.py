"""Failures of one worker: none leaves the others waiting, and the last checkpoint resumes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import failing
import killing_workers
import pytest
from minidl_kernels import threads

from minidl import checkpoint, set_num_threads
from minidl.distributed import DataParallel
from minidl.distributed.interrupts import SharedInterrupts
from minidl.distributed.local_processes import LocalProcesses

PROGRAM = Path(failing.__file__)
ROOT = PROGRAM.parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))}
LIMIT = 120  # seconds

MPIEXEC = shutil.which("mpiexec")
needs_mpi = pytest.mark.skipif(
    not (MPIEXEC and find_spec("mpi4py")), reason="needs mpi4py and mpiexec"
)


def start(failure, folder, rank=1, workers=2, **environment):
    """Start the program; all its processes are in one session, so that none can be left."""
    command = [MPIEXEC, "-n", str(workers), sys.executable, str(PROGRAM)]
    return subprocess.Popen(
        [*command, failure, str(folder), str(rank)],
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process):
    """Return the exit status and the lines of minidl on stderr, if a process ends in time."""
    try:
        _, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # mpiexec ends its processes
        pytest.fail(f"hung: {process.communicate(timeout=30)[1]}")
    return process.returncode, [line for line in err.splitlines() if line.startswith("minidl: ")]


def run(*arguments, **options):
    """Run the program; return its exit status, and the lines of minidl on stderr."""
    return outcome(start(*arguments, **options))


def result(folder):
    """Return the last checkpoint of a folder."""
    return checkpoint.latest(folder).name, checkpoint.latest(folder).read_bytes()


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Compute as the program does."""
    before = threads.num_threads()
    set_num_threads(1)
    yield
    set_num_threads(before)


def last(folder):
    """Return the name of the last checkpoint of a folder, or nothing, and its bytes."""
    newest = checkpoint.latest(folder)
    return (newest.stem, newest.read_bytes()) if newest else ("nothing", b"")


def finish(folder):
    """Begin or resume a run in this process alone; return the last checkpoint."""
    for _ in range(100):
        try:
            failing.train(folder, distribution=DataParallel(failing.SHARDS))
            return last(folder)
        except BlockingIOError:  # mpiexec can return just before the last worker is gone
            time.sleep(0.05)
    pytest.fail("a worker is left, which holds the folder")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the last checkpoint of an uninterrupted run."""
    return finish(tmp_path_factory.mktemp("whole"))


# ------------------------------------------------------------------------------ errors of one

# The failure, its worker, the number of workers, whether mpiexec notices, and the only line.
BROKEN = "minidl: rank {}: ValueError: broken"
ENDED = "minidl: rank 0: WorkerError: rank {} has ended, {}"
FAILURES = [
    ("raise-step", 1, 2, True, BROKEN),
    ("exit0-validation", 1, 2, True, "minidl: rank {}: SystemExit: 0"),
    ("exit0-before", 1, 2, True, ENDED.format(1, "before training")),
    ("fill-step", 0, 2, True, "minidl: rank {}: OSError: [Errno 27] File too large"),
    ("kill-step", 1, 2, True, None),
    ("raise-after", 1, 2, True, BROKEN),
    *(
        pytest.param(*row, marks=pytest.mark.slow)
        for row in [
            ("raise-before", 0, 3, True, BROKEN),
            ("raise-end", 0, 2, True, BROKEN),
            ("raise-thread", 0, 2, True, BROKEN),
            ("raise-guarded", 1, 2, True, BROKEN),
            ("exit0-end", 2, 3, True, "minidl: rank {}: SystemExit: 0"),
            ("_exit0-step", 1, 2, False, None),  # mpiexec of MPICH finds nothing wrong
            ("twice-step", 1, 2, True, "minidl: rank {}: KeyboardInterrupt"),
            ("int-before", 1, 2, True, "minidl: rank {}: KeyboardInterrupt"),
        ]
    ),
    *(  # each has its action and its moment in others
        pytest.param(*row, marks=pytest.mark.exhaustive)
        for row in [
            ("raise-validation", 2, 3, True, BROKEN),
            ("raise-close", 1, 2, True, BROKEN),
            ("exit2-step", 0, 3, True, "minidl: rank {}: SystemExit: 2"),
            ("exit2-after", 1, 2, True, None),
            ("_exit7-step", 0, 2, True, None),
            ("kill-validation", 0, 3, True, None),
            ("int-after", 1, 2, True, "minidl: rank {}: KeyboardInterrupt"),
        ]
    ),
]


@needs_mpi
@pytest.mark.parametrize(("failure", "rank", "workers", "is_noticed", "line"), FAILURES)
def test_failure_of_one_worker_ends_all_and_can_be_resumed(
    failure, rank, workers, is_noticed, line, finished, tmp_path
):
    status, lines = run(failure, tmp_path, rank, workers)
    assert status != 0 or not is_noticed  # mpiexec may say 9 for those that it had to end
    assert lines == ([] if line is None else [line.format(rank)])
    assert finish(tmp_path) == finished


@needs_mpi
@pytest.mark.slow
def test_survivors_notice_a_worker_that_vanished_by_themselves(finished, tmp_path):
    said = tmp_path / "stderr"
    said.touch()
    folder = tmp_path / "run"
    folder.mkdir()
    status, _ = run("vanish-step", folder, 1, 3, STDERR=str(said))
    assert status != 0
    # The launcher is stopped, and so the other survivor may speak later, too.
    assert said.read_text().splitlines()[0] == ENDED.format(1, "after step 7")
    assert finish(folder) == finished


@needs_mpi
@pytest.mark.parametrize(
    ("failure", "doing"),
    [
        ("sleep-step", "after step 7"),
        pytest.param("loop-validation", "after step 5", marks=pytest.mark.exhaustive),
    ],
)
def test_worker_that_hangs_ends_all_at_the_timeout(failure, doing, finished, tmp_path):
    status, lines = run(failure, tmp_path)
    assert status != 0
    assert lines == [
        f"minidl: rank 0 waits for rank 1, {doing}",
        f"minidl: rank 0: WorkerError: waited 2 s for rank 1, {doing}",
    ]
    assert finish(tmp_path) == finished


@needs_mpi
def test_gather_that_one_worker_calls_ends_all(finished, tmp_path):
    status, lines = run("lonely", tmp_path)
    assert status != 0
    assert "expected all workers at the same point" in lines[0]
    assert "rank 1 in 'gather', after step 7" in lines[0]
    assert finish(tmp_path) == finished


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("failure", ["early-raise", "early-exit0", "early-mpi_exit0"])
def test_worker_that_ends_before_it_knows_the_others_ends_all_at_the_timeout(failure, tmp_path):
    status, lines = run(failure, tmp_path, TIMEOUT="2")
    assert status != 0
    if failure == "early-mpi_exit0":  # otherwise MPI waits in C
        text = "waited 2 s for rank 1, before training"
        assert lines[-1] == f"minidl: rank 0: WorkerError: {text}"
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------ errors of all

# What both workers raise, or what the first one does and the second one does, and the last step.
INTERRUPTED = "KeyboardInterrupt: ", "KeyboardInterrupt: "
AGREED = {
    "arguments": ("WorkerError: rank 1: ValueError: fit: epochs", "ValueError: fit: epochs", 0),
    "facts": (*["WorkerError: fit: expected batch_size to be equal"] * 2, 0),
    "raise-begin": ("WorkerError: rank 1: ValueError: broken", "ValueError: broken", 0),
    "raise-layer": ("WorkerError: rank 1: ValueError: broken", "ValueError: broken", 0),
    "exit0-begin": ("WorkerError: rank 1: SystemExit: 0", "SystemExit: 0", 0),
    "locked": ("BlockingIOError: ", "WorkerError: rank 0: BlockingIOError: ", 0),
    "int-begin": (*INTERRUPTED, 0),
    "int-layer": (*INTERRUPTED, 0),  # while kernels compile
    "int-step": (*INTERRUPTED, 7),
    "int-guarded": (*INTERRUPTED, 7),
    "term-batch": (*INTERRUPTED, 8),
    "int-validation": (*INTERRUPTED, 5),
    "int-epoch": (*INTERRUPTED, 1),
    "int-end": (*INTERRUPTED, 15),
    "int-close": (*INTERRUPTED, 15),
    "stop": ("none", "none", 7),
}


@needs_mpi
def test_error_of_all_leaves_workers_that_can_train_again(finished, tmp_path):
    status, lines = run(",".join(AGREED), tmp_path)
    assert (status, lines) == (0, [])
    for name, (*errors, step) in AGREED.items():
        folder = tmp_path / name
        for rank, error in enumerate(errors):
            assert (folder / f"rank-{rank}").read_text().startswith(error), name
        saved, _ = last(folder / "epochs")
        assert saved == (f"step-{step:010}" if step else "nothing"), name
        assert finish(folder / "epochs") == finished, name


@needs_mpi
@pytest.mark.parametrize(
    ("failure", "rank", "workers", "line"),
    [
        ("arguments", 1, 2, "minidl: rank 1: ValueError: fit: epochs"),
        pytest.param(
            "locked", 0, 3, "minidl: rank 0: BlockingIOError: ", marks=pytest.mark.exhaustive
        ),
        pytest.param("raise-layer", -1, 3, "minidl: rank 0: ValueError: ", marks=pytest.mark.slow),
    ],
)
def test_error_of_all_is_printed_once(failure, rank, workers, line, tmp_path):
    status, lines = run(failure, tmp_path, rank, workers)
    assert status == 1
    assert [text[: len(line)] for text in lines] == [line]


@needs_mpi
@pytest.mark.slow
def test_run_of_workers_of_which_one_is_killed_twice_resumes_to_equal_files(tmp_path):
    expected = killing_workers.finish(tmp_path / "whole")
    folder = tmp_path / "killed"
    for moment in [(0, 2, 50, 0.004, 3), (2, 3, 120, 0.0, 1)]:
        kill = killing_workers.Kill(*moment)
        killing_workers.kill(folder, kill)
        assert killing_workers.files(folder) != expected
    assert killing_workers.finish(folder, kill.others) == expected


# ------------------------------------------------------------------------------ signals


@needs_mpi
@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGINT, 2), pytest.param(signal.SIGTERM, 3, marks=pytest.mark.slow)],
)
def test_signal_to_mpiexec_stops_all_after_one_step(number, workers, finished, tmp_path):
    folder = tmp_path / "epochs"
    folder.mkdir()
    process = start("linger-step", folder, workers=workers)
    while process.poll() is None and not (tmp_path / "lingers").exists():
        time.sleep(0.01)
    process.send_signal(number)
    status, lines = outcome(process)
    assert status != 0
    assert lines == ["minidl: rank 0: KeyboardInterrupt"]
    assert last(folder)[0] == "step-0000000007"
    assert finish(folder) == finished


def test_signal_whose_handler_returns_lets_training_go_on():
    numbers = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    try:
        interrupts = SharedInterrupts()
        interrupts.install()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            assert interrupts.pending == signal.SIGTERM
            interrupts.settle(signal.SIGTERM)
        interrupts.restore()
        assert numbers == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signal_after_the_agreement_is_ignored():
    interrupts = SharedInterrupts()
    interrupts.install()
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupts.settle(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    finally:
        interrupts.restore()


def test_signal_in_a_guarded_part_of_a_guarded_program_is_handled_once():
    outer, inner = SharedInterrupts(), SharedInterrupts()
    outer.install()
    signal.raise_signal(signal.SIGINT)  # before the part begins
    inner.install()
    assert inner.pending == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        inner.settle(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    inner.restore()
    signal.raise_signal(signal.SIGINT)
    outer.restore()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signal_that_still_waits_at_the_end_is_handled():
    interrupts = SharedInterrupts()
    interrupts.install()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.restore()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_process_that_is_killed_has_ended():
    with subprocess.Popen(["sleep", "60"]) as first, subprocess.Popen(["sleep", "60"]) as second:
        processes = LocalProcesses({3: first.pid, 5: second.pid})
        try:
            assert processes.ended() == []
            second.kill()
            while not processes.ended():
                time.sleep(0.01)
            assert processes.ended() == [5]
        finally:
            first.kill()
            second.kill()
