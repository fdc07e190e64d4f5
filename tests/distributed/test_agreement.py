"""Agreement of the workers before the first step, with a rank that differs in one fact."""

import json
import os
import subprocess
import sys

import pytest
from mismatch_runs import OF_MODEL, OF_SETTING
from test_equal import HERE, MPIEXEC, needs_mpi

pytestmark = needs_mpi


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return what each of two ranks found, from one start of the program."""
    folder = tmp_path_factory.mktemp("mismatches")
    command = [MPIEXEC, "-n", "2", sys.executable, HERE / "mismatch_runs.py", folder]
    environment = os.environ | {"MINIDL_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "found.json").read_text())


def test_fit_rejects_every_difference_on_all_ranks_and_changes_nothing(found):
    assert found[0]["rejected"].keys() == {*OF_SETTING, *OF_MODEL, "first batch"}
    wrong = {}
    for name in found[0]["rejected"]:
        texts = {each["rejected"][name]["text"] for each in found}
        start, *rest = texts
        names_it = start.startswith("fit: expected ") and name.strip() in start
        changed = [each["rejected"][name]["changed"] for each in found]
        if rest or not names_it or " on rank 0; " not in start or changed != [[], []]:
            wrong[name] = texts, changed
    assert wrong == {}


def test_fit_rejects_weights_that_a_callback_changed_on_one_rank(found):
    for each in found:
        text = each["spoiled"]["text"]
        assert text.startswith("fit: expected the weights (does a callback")
        assert " on rank 0; " in text
        assert each["spoiled"]["epoch"] == 1, "the end of the epoch in which it did"
