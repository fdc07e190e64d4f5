"""The double answers as CuPy does: each program of `cases`, held to what CuPy gave on a GPU."""

import json
import re
import sys
from pathlib import Path

import pytest

from cuda_double.cases import ANSWERS, CASES, REFUSED, outcome

RECORD = json.loads(ANSWERS.read_text())["answers"]
MINIDL = Path(__file__).parent.parent.parent / "minidl"

# CuPy takes these, and minidl may not rely on it: what the double refuses NumPy refuses too, or it
# takes an array of the host where one of the device belongs.
STRICTER = """
xp.exp(f, casting="nothing")
f.argmax(axis=(0, 1))
f.argmax(axis=-1, dtype="int32")
xp.zeros_like(n)
bool(xp.zeros(0))
f == None
f != None
i ** -1
f[1.0]
f[i[0]:]
f[0] = None
f.take([0, 1], axis=0)
f.take(np.array([0, 1]), axis=0)
xp.sum(n)
xp.take_along_axis(f, n.argsort(), axis=-1)
xp.allclose(f, n)
np.allclose(f, n)
xp.reshape(n, (4, 3))
xp.ones((2, 3), order="K")
""".strip().splitlines()

# Both refuse these, with an exception that depends on the library, NumPy's version or its warnings.
OTHER_KIND = """
np.array(f)
f["a"]
f[0] = "a"
xp.sum([1, 2])
xp.sum(3)
xp.where(True, f, 0)
np.from_dlpack(f)
""".strip().splitlines()


@pytest.fixture
def xp(request):
    """Return the double, or CuPy itself where a real device was chosen."""
    chosen = request.config.getoption("--device") or ()
    if any(re.fullmatch(r"cuda(:\d+)?", name) for name in chosen):
        import cupy

        return cupy
    request.getfixturevalue("cuda_double")
    return sys.modules["cupy"]


def kind(answer):
    """Return a refusal's exception without its message, which names other things."""
    return answer.split(":")[0] if answer.startswith(REFUSED) else answer


def test_each_program_has_a_recorded_answer():
    assert list(RECORD) == CASES
    assert sum(answer.startswith(REFUSED) for answer in RECORD.values()) > 150


@pytest.mark.parametrize("program", [p for p in CASES if p not in STRICTER + OTHER_KIND])
def test_answer_is_that_of_cupy(program, xp):
    assert kind(outcome(program, xp)) == kind(RECORD[program])


@pytest.mark.parametrize("program", STRICTER)
def test_double_rejects_what_cupy_accepts(program, cuda_double):
    assert not RECORD[program].startswith(REFUSED)
    assert outcome(program, sys.modules["cupy"]).startswith(REFUSED)


@pytest.mark.parametrize("program", OTHER_KIND)
def test_double_rejects_what_cupy_rejects(program, xp):
    assert RECORD[program].startswith(REFUSED)
    assert outcome(program, xp).startswith(REFUSED)


def test_double_has_no_name_that_cupy_lacks(cuda_double):
    double = sys.modules["cupy"]
    real = double._real
    for mine, theirs in (
        (double, real),
        (double.ndarray, real.ndarray),
        (double.cuda, real.cuda),
        (double.cuda.runtime, real.cuda.runtime),
        (double.cuda.Device, real.cuda.Device),
        (double.cuda.Stream, real.cuda.Stream),
        (double.cuda.Graph, real.cuda.Graph),
        (double.cuda.MemoryPool, real.cuda.MemoryPool),
    ):
        public = {name for name in vars(mine) if not name.startswith("_")}
        # CuPy has the module `nccl` when it has been imported.
        assert public <= {*dir(theirs), "error", "device", "nccl"}, mine


def test_functions_that_minidl_uses_are_in_cupy(cuda_double):
    real = sys.modules["cupy"]._real
    used = set()
    for path in MINIDL.rglob("*.py"):
        used |= set(re.findall(r"\bxp\.(\w+)", path.read_text()))
    assert {"exp", "where", "matmul", "asarray"} & used
    assert [name for name in sorted(used) if not hasattr(real, name)] == []


def test_double_raises_for_what_it_cannot_compute(cuda_double):
    double = sys.modules["cupy"]
    array = double.ones(3)
    for use in (
        lambda: double.random,
        lambda: double.ElementwiseKernel,
        lambda: double.cuda.ExternalStream,
        lambda: double.add.reduce,
        lambda: array.scatter_add,
    ):
        with pytest.raises(NotImplementedError, match="the double does not compute"):
            use()
