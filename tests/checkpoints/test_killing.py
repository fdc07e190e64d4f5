"""A run that is killed or terminated at any instant goes on to the same weights."""

import os
import signal

import killing
import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Run once without a break, and return how it ends."""
    return killing.finish(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(("step", "delay"), [(0, 0.0), (100, 0.004), (313, 0.011)])
def test_a_killed_run_ends_with_the_same_bits(whole, step, delay, tmp_path):
    killing.kill_at(step, delay, tmp_path)
    assert killing.finish(tmp_path) == whole


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(whole, tmp_path):
    for step in (50, 150, 300):
        killing.kill_at(step, 0.002, tmp_path)
    assert killing.finish(tmp_path) == whole


def test_sigterm_while_it_saves_leaves_the_last_good_checkpoint(whole, tmp_path):
    process = killing.start(tmp_path)
    try:
        assert killing.await_step(process, tmp_path, 30)
        # It saves every three steps: soon a temporary file can be seen.
        while not list(tmp_path.glob(".*.tmp")) and process.poll() is None:
            pass
        process.send_signal(signal.SIGTERM)
    finally:
        process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert killing.finish(tmp_path) == whole


def test_a_resumed_run_with_other_arguments_is_compared_unequal(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(killing, "RUN", (*killing.RUN, "--seed", "1"))
    assert killing.finish(tmp_path) != whole
