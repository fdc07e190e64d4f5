"""Workers on GPUs: what they train, how they exchange it, and what this costs in a step.

The processes are real ones of ``mpiexec``, each over a test double of CuPy. With ``--device cuda``,
they train on the GPU itself: all on one, and each on its own if there are several.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minidl.distributed import DataParallel
from minidl.distributed.communicator import Communicator

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("cuda_program.py")
SECONDS = 300
NCCL, STAGED = "2", "1"  # the GPUs of the machine that the double stands for
DEVICES = {"cuda-double": (NCCL, STAGED), "cuda": ("cuda:0", "cuda")}


class Runs:
    """What one process and two workers left."""

    def __init__(self, folder, devices):
        program = [sys.executable, str(PROGRAM), str(folder)]
        commands = [*program, devices[0]], ["mpiexec", "-n", "2", *program, *devices]
        path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
        options = {"env": os.environ | {"PYTHONPATH": path}, "stderr": subprocess.PIPE}
        started = [subprocess.Popen(command, text=True, **options) for command in commands]
        try:
            self.errors = [process.communicate(timeout=SECONDS)[1] for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0, 0], self.errors
        self.folder = folder

    def of(self, size, device):
        """Return the bytes of weights and checkpoints, by file."""
        files = [*self.folder.glob(f"{size}-{device}/weights*")]
        files += self.folder.glob(f"{size}-{device}/*.safetensors")
        return {path.name: path.read_bytes() for path in files}

    def facts(self, size, device):
        """Return what each worker tells."""
        return [
            json.loads((self.folder / f"{size}-{device}" / f"facts-{rank}").read_text())
            for rank in range(size)
        ]


@pytest.fixture(scope="module")
def devices(request):
    """Return the devices of the program."""
    missing = [name for name in ("mpi4py", "cupy", "numba_cuda") if find_spec(name) is None]
    if shutil.which("mpiexec") is None:
        missing.append("mpiexec")
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed (the extras mpi and cuda-double)")
    chosen = request.config.getoption("--device") or ["cuda-double"]
    found = [device for name in chosen for device in DEVICES.get(name, ())]
    return found or pytest.skip("no CUDA device was chosen")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, devices):
    return Runs(tmp_path_factory.mktemp("runs"), devices)


def test_workers_leave_the_bits_of_one_process(runs, devices):
    one, (alone,) = runs.of(1, devices[0]), runs.facts(1, devices[0])
    assert len(one) == 3
    for device in devices:
        two, workers = runs.of(2, device), runs.facts(2, device)
        assert two.pop("weights-1") == one["weights-0"]
        assert two == one
        assert [worker["history"] for worker in workers] == [alone["history"]] * 2
        assert all(worker["sent"] > 0 for worker in workers)
        assert [worker["recording"]["reason"] for worker in workers] == [""] * 2


def test_rank_chooses_the_gpu(runs, devices):
    if NCCL not in devices:
        pytest.skip("the number of GPUs is not known")
    assert [worker["device"] for worker in runs.facts(2, NCCL)] == ["cuda:0", "cuda:1"]
    assert [worker["device"] for worker in runs.facts(2, STAGED)] == ["cuda:0", "cuda:0"]


def test_exchange_through_the_host_is_logged_once_with_its_reason(runs):
    alone, workers = runs.errors
    assert "exchange gradients" not in alone
    assert workers.count("exchange gradients") == 1
    assert "through the host: rank 0 and rank 1 have one GPU" in workers


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        # Two sums, two tails of shards, and two groups of NCCL.
        (NCCL, {"launches": 6, "graph_launches": 3}),
        # Two transfers: a slice; its sum and the tail of this worker.
        (
            STAGED,
            {
                "launches": 4,
                "graph_launches": 3,
                "device_to_host": 3,
                "host_to_device": 3,
                "synchronizations": 2,
            },
        ),
    ],
)
def test_recorded_step_waits_for_the_device_only_to_stage(gpus, expected, runs, devices):
    if gpus not in devices:
        pytest.skip("the double counts, not the GPU")
    for worker in runs.facts(2, gpus):
        assert worker["steps"][5] == worker["steps"][6] == expected


# ------------------------------------------------------------------------------ one process


@pytest.fixture
def transfer(cuda_double):
    from minidl.distributed import cuda_transfer

    return cuda_transfer


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ([("a", "01", True), ("a", "02", True), ("b", "01", True)], ""),
        ([("a", "01", True), ("b", "02", True), ("a", "01", True)], "rank 0 and rank 2 have one"),
        ([("a", "01", True), ("a", "02", False)], "rank 1 cannot load NCCL"),
    ],
)
def test_nccl_needs_a_gpu_for_each_worker(places, reason, transfer):
    assert transfer.obstacle([transfer.Place(*place) for place in places]).startswith(reason)
    assert bool(transfer.obstacle([transfer.Place(*place) for place in places])) == bool(reason)


class Mirror(Communicator):
    """Worker 0 of two, whose messages come back one higher."""

    size = 2

    def gather(self, value):
        return [value, value._replace(gpu="another")]

    def transfer(self, sends, receives):
        for (_, sent), (_, received) in zip(sends, receives, strict=True):
            assert isinstance(sent, np.ndarray)
            received[...] = sent + 1


def test_without_nccl_arrays_go_through_the_host(transfer, monkeypatch, caplog):
    import cupy

    caplog.set_level("INFO")
    monkeypatch.setattr(cupy.cuda.nccl, "available", False)
    transfers = transfer.transfer_on(Mirror())
    assert "rank 0 cannot load NCCL" in caplog.text
    with cupy.cuda.Stream(non_blocking=True) as stream:
        sent, received = cupy.asarray(np.arange(6.0)), cupy.zeros((2, 3))
        nothing = cupy.zeros(0)
        for _ in range(2):
            messages = [(1, sent.reshape(2, 3)), (1, nothing)], [(1, received), (1, nothing)]
            transfers(*messages)
            sent += received.reshape(-1)
        stream.synchronize()
        assert received.get().ravel().tolist() == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(
    ("name", "local_rank", "expected"),
    [
        ("cuda", 0, "cuda:0"),
        ("cuda", 4, "cuda:1"),
        ("auto", 2, "cuda:2"),
        ("cuda:1", 2, "cuda:1"),
        ("cpu", 2, "cpu"),
    ],
)
def test_device_is_the_gpu_of_the_local_rank(name, local_rank, expected, cuda_double):
    from cuda_double.install import cuda_double as install

    distribution = DataParallel()
    distribution._workers = SimpleNamespace(local_rank=local_rank)
    with install(device_count=3):
        assert distribution.device(name) == expected


def test_device_without_a_gpu_is_the_cpu_for_auto_only(cuda_double):
    from cuda_double.install import cuda_double as install

    from minidl import DeviceError

    with install(device_count=0):
        assert DataParallel().device("auto") == "cpu"
        with pytest.raises(DeviceError, match="cuda"):
            DataParallel().device("cuda")
