"""Counts of the test double: transfers, synchronisations, launches, changes of the device."""

import sys
from dataclasses import asdict

import numpy as np
import pytest

DOWNLOAD = {"device_to_host": 1, "synchronizations": 1}


@pytest.fixture
def xp(cuda_double):
    return sys.modules["cupy"]


@pytest.fixture
def names(xp):
    f = xp.asarray(np.arange(12, dtype="float32").reshape(3, 4))
    return {"xp": xp, "np": np, "f": f, "s": f.sum(), "m": f > 3, "n": np.ones((3, 4)), "i": [0, 2]}


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("xp.asarray(n)", {"host_to_device": 1}),
        ("xp.array([1, 2])", {"host_to_device": 1}),
        ("xp.asarray(3.5)", {"host_to_device": 1}),
        ("xp.asarray(f)", {}),
        ("f[xp.asarray(i)]", {"host_to_device": 1, "launches": 1}),
        ("f[i]", {"host_to_device": 1, "launches": 1}),
        ("f.get()", DOWNLOAD),
        ("f.get(blocking=False)", {"device_to_host": 1}),
        ("xp.asnumpy(f)", DOWNLOAD),
        ("xp.asnumpy(n)", {}),
        ("float(s)", DOWNLOAD),
        ("int(s)", DOWNLOAD),
        ("bool(s)", DOWNLOAD),
        ("s.item()", DOWNLOAD),
        ("f.tolist()", DOWNLOAD),
        ("repr(f)", DOWNLOAD),
        ("f'{s:.2f}'", DOWNLOAD),
        ("f[m]", {**DOWNLOAD, "launches": 1}),
        ("f.__setitem__(m, 0)", {"launches": 1}),
        ("f.__setitem__(m, f[:1, 0])", {**DOWNLOAD, "launches": 1}),
        ("xp.nonzero(m)", {**DOWNLOAD, "launches": 1}),
        ("xp.where(m, f, 0)", {"launches": 1}),
        ("xp.exp(f)", {"launches": 1}),
        ("f + f", {"launches": 1}),
        ("f.__iadd__(1)", {"launches": 1}),
        ("f @ f.T", {"launches": 1}),
        ("f.sum(axis=0)", {"launches": 1}),
        ("xp.sum(f)", {"launches": 1}),
        ("xp.concatenate([f, f])", {"launches": 1}),
        ("xp.zeros(3)", {"launches": 1}),
        ("xp.zeros((0, 3))", {}),
        ("xp.exp(f[:0])", {}),
        ("xp.empty(3)", {}),
        ("xp.empty_like(f)", {}),
        ("f.reshape(-1)", {}),
        ("f.T.reshape(-1)", {"launches": 1}),
        ("f.ravel()", {}),
        ("f[1:, None, ::2]", {}),
        ("f[0, 0]", {}),
        ("f.T", {}),
        ("xp.broadcast_to(f, (2, 3, 4))", {}),
        ("f.copy()", {}),
        ("f.T.copy()", {"launches": 1}),
        ("f.astype('float32')", {}),
        ("f.astype('float64')", {"launches": 1}),
        ("f.__setitem__(slice(None), f)", {}),
        ("f.__setitem__(slice(None), 1)", {"launches": 1}),
        ("f.__setitem__(slice(None), f[:, ::-1])", {"launches": 1}),
        ("xp.ascontiguousarray(f)", {}),
        ("xp.ascontiguousarray(f.T)", {"launches": 1}),
        ("xp.from_dlpack(f)", {}),
        ("xp.cuda.get_current_stream().synchronize()", {"synchronizations": 1}),
        ("xp.cuda.Device(0).synchronize()", {"synchronizations": 1}),
        ("xp.cuda.Device(0).__enter__().__exit__()", {}),
        ("f.shape, f.dtype, f.flags.c_contiguous, len(f), f.size", {}),
    ],
)
def test_program_is_counted(program, expected, names, cuda_double):
    cuda_double.reset()
    eval(program, names)
    counted = {name: number for name, number in asdict(cuda_double).items() if number}
    assert counted == expected


def test_kernel_is_one_launch_and_nothing_else(cuda_double):
    from minidl import get_backend
    from minidl.rng import Address

    backend = get_backend("cuda")
    x = backend.asarray(np.ones((3, 65), "float32"))
    cuda_double.reset()
    backend.dropout(x, 0.5, Address(0, 0, 0))
    assert {name: number for name, number in asdict(cuda_double).items() if number} == {
        "launches": 1
    }


def test_arithmetic_does_not_warn(xp):
    x = xp.asarray(np.array([-1.0, 0.0, 1e308]))
    with np.errstate(all="raise"):
        for values in (xp.log(x), 1 / x, x * x, x.astype("int8"), (x * x).sum()):
            assert isinstance(values, xp.ndarray)
