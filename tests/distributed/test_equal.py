"""Runs of `fit` on several workers, compared bit for bit with those of one process."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from equal_cases import CASES
from equal_runs import files_of, train

from minidl.distributed import DataParallel

HERE = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
needs_mpi = pytest.mark.skipif(
    not (MPIEXEC and find_spec("mpi4py")), reason="needs mpiexec and mpi4py"
)

# Cases for more workers: parts without samples, and all that the workers tell each other.
FEW = "dropout shards_17 small_batches one_sample_last freezing without_gradient own_metrics"
FEW += " validation early_stopping divergence not_a_number rates_by_callbacks"


def start(workers, root, *names, threads=1):
    """Start the program on so many workers, and return what it found by case."""
    name = str(workers)
    command = [sys.executable, HERE / "equal_runs.py", root, name, *names]
    if workers > 1:
        command = [MPIEXEC, "-n", str(workers), *command]
    environment = os.environ | {"MINIDL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((root / name / "found.json").read_text())


def differences(found, expected):
    """Return the names of what differs, by case; a resumed run has a part of the files."""
    differing = {}
    for name, parts in found.items():
        wanted = expected[name.split("-resumed-")[0]]
        if "-resumed-" in name:
            wanted = wanted | {
                "files": {file: wanted["files"].get(file) for file in parts["files"]}
            }
        names = [part for part in parts if parts[part] != wanted[part]]
        if names:
            differing[name] = names
    return differing


@needs_mpi
@pytest.mark.parametrize(
    ("workers", "names"),
    [
        ((2,), ""),
        ((3,), FEW),
        pytest.param((8, 4, 3), "", marks=pytest.mark.exhaustive),
    ],
    ids=["2", "3", "all"],
)
def test_runs_on_several_workers_have_the_bits_of_one_process(workers, names, tmp_path):
    found = {size: start(size, tmp_path, *names.split()) for size in (*workers, 1)}
    assert {size: differences(each, found[1]) for size, each in found.items()} == {
        size: {} for size in found
    }
    assert found[1].keys() >= {f"own_metrics-resumed-of-{size}" for size in workers}
    distinct = {parts["weights"] for parts in found[1].values()}
    assert len(distinct) > len(names.split() or CASES) - 9, "nearly all cases differ"


@pytest.mark.needs_threads
@needs_mpi
def test_two_workers_of_two_threads_have_the_bits_of_one_of_two_threads(tmp_path):
    names = "wide", "dropout", "validation"
    found = [start(workers, tmp_path, *names, threads=2) for workers in (2, 1)]
    assert differences(*found) == {}


def test_recorded_run_has_the_bits_of_an_eager_one(tmp_path):
    found = [
        train(CASES[name](), tmp_path / name, DataParallel(8)) for name in ("dropout", "eager")
    ]
    files = [files_of(tmp_path / name) for name in ("dropout", "eager")]
    assert (found[0], files[0]) == (found[1], files[1])


@pytest.mark.parametrize("name", CASES)
def test_one_shard_has_the_bits_of_fit_without_distribution(name, tmp_path):
    found = []
    for workers in (DataParallel(1), None):
        folder = tmp_path / str(workers and workers.shards)
        parts = train(CASES[name](), folder, workers)
        found.append({name: parts | {"files": files_of(folder)}})
    assert differences(*found) == {}
