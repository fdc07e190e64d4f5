"""A run that is killed or terminated at any moment resumes to equal weights."""

import os
import signal

import killing
import pytest
from small_models import bits

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


def test_run_killed_while_it_saves_resumes_to_equal_bits(tmp_path):
    """The quick form of the slow tests below: one process, one moment."""
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    folder.mkdir()
    whole.mkdir()
    expected = killing.train(whole)
    assert killing.start_dying(8, folder) == -signal.SIGKILL
    assert [path.stem for path in sorted(folder.glob("step-*"))][-1] == "step-0000000006"
    assert len(list(folder.glob(".*.tmp"))) == 1
    resumed = killing.train(folder)
    assert bits(resumed) == bits(expected)
    assert resumed.history.history == expected.history.history
    names = [sorted(path.name for path in place.iterdir()) for place in (folder, whole)]
    assert names[0] == names[1]


# ------------------------------------------------------------------------------ minidl.train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the outcome of an uninterrupted run."""
    return killing.finish(tmp_path_factory.mktemp("whole"))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("step", "delay"), [(0, 0.0), (100, 0.004), (203, 0.011)])
def test_killed_run_resumes_to_equal_bits(finished, step, delay, tmp_path):
    killing.kill_at(step, delay, tmp_path)
    assert killing.finish(tmp_path) == finished


@pytest.mark.slow
def test_run_killed_four_times_resumes_to_equal_bits(finished, tmp_path):
    for step, delay in [(0, 0.0), (50, 0.002), (120, 0.004), (203, 0.011)]:
        killing.kill_at(step, delay, tmp_path)
    assert killing.finish(tmp_path) == finished


@pytest.mark.slow
def test_run_terminated_while_it_saves_resumes_to_equal_bits(finished, tmp_path):
    process = killing.start(tmp_path)
    try:
        assert killing.await_step(process, tmp_path, 30)
        # It saves every three steps: a temporary file will soon be there.
        while not list(tmp_path.glob(".*.tmp")) and process.poll() is None:
            pass
        process.send_signal(signal.SIGTERM)
    finally:
        process.communicate()
    assert process.returncode == 143
    assert killing.finish(tmp_path) == finished


@pytest.mark.slow
def test_run_with_another_seed_ends_with_other_bits(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(killing, "RUN", (*killing.RUN, "--seed", "1"))
    assert killing.finish(tmp_path) != finished
