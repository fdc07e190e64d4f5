"""Backends: names of devices, errors if one is missing, and methods without a kernel."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from minidl import get_backend
from minidl.backend import Backend
from minidl.rng import Address


def run_fresh(program, **environment):
    """Run a program in a fresh interpreter in which warnings are errors; return what it prints."""
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------ names


def test_device_has_one_backend(backend, device):
    assert get_backend(device) is backend
    assert get_backend(backend.name) is backend
    assert repr(backend) == f"<backend {backend.name}>"


@pytest.mark.parametrize(
    "name",
    ["gpu", "cuda:x", "cuda:", "cuda:-1", "cuda:1.0", "CPU", "cpu:0", "", "mps", 3, None, b"cpu"],
)
def test_other_names_are_rejected(name):
    with pytest.raises(ValueError, match=r'^device: expected "cpu", "cuda", .* "auto", got '):
        get_backend(name)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_threads_that_ask_at_once_get_one_backend(name):
    program = f"""
        import sys
        import threading
        import time
        import types
        import minidl.backend as devices

        made, found = [], []

        class Slow(devices.NumpyBackend):
            def __init__(self, *index):
                made.append(self)
                time.sleep(0.2)
                super().__init__()

        devices.NumpyBackend = Slow
        sys.modules["minidl.backend.cupy_backend"] = types.SimpleNamespace(CupyBackend=Slow)
        ask = lambda: found.append(devices.get_backend({name!r}))
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(len(made), len(found), len(set(found)))
    """
    assert run_fresh(program) == "1 4 1\n"


# ------------------------------------------------------------------------------ no GPU

ASK_FOR_CUDA = """
import sys
{preparation}
import minidl
try:
    minidl.Tensor([1.0], "cuda")
except minidl.DeviceError as error:
    print(error)
print(minidl.get_backend("auto"))
"""


def test_cuda_without_its_array_library_names_the_extra():
    said = run_fresh(ASK_FOR_CUDA.format(preparation='sys.modules["cupy"] = None'))
    error, auto = said.splitlines()
    assert error.startswith("cuda: ")
    assert "cupy" in error  # the reason
    assert "pip install 'minidl[cuda13]' or 'minidl[cuda12]'" in error
    assert auto == "<backend cpu>"


def test_cuda_error_contains_the_cause_without_its_banner(tmp_path):
    (tmp_path / "cupy.py").write_text(
        'raise ImportError("\\n=====\\nFailed.\\n=====") from OSError("no libcudart.so.13")'
    )
    preparation = f"sys.path.insert(0, {str(tmp_path)!r})"
    error, auto = run_fresh(ASK_FOR_CUDA.format(preparation=preparation)).splitlines()
    assert error.startswith("cuda: ")
    assert "error: no libcudart.so.13. Install" in error
    assert auto == "<backend cpu>"


def test_cuda_without_a_device_contains_the_reason_of_the_driver():
    pytest.importorskip("cupy", reason="CuPy is not installed (the extras cuda12 and cuda13)")
    said = run_fresh(ASK_FOR_CUDA.format(preparation=""), CUDA_VISIBLE_DEVICES="")
    error, auto = said.splitlines()
    assert error.startswith("cuda: ")
    assert "cudaError" in error
    assert "use the device cpu" in error
    assert auto == "<backend cpu>"


def test_import_of_minidl_loads_no_heavy_library():
    said = run_fresh(
        """
        import sys
        import minidl
        heavy = {"cupy", "numba", "numba_cuda", "pooch", "requests", "torch", "psutil"}
        print(sorted(heavy & set(sys.modules)))
        """
    )
    assert said == "[]\n"


# ------------------------------------------------------------------------------ arrays


def test_array_goes_to_the_device_and_back(backend):
    values = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    array = backend.asarray(values)
    assert backend.is_array(array)
    assert not backend.is_array([1.0])
    np.testing.assert_array_equal(backend.to_numpy(array), values, strict=True)
    assert backend.asarray([1, 2], "float64").dtype == np.float64
    backend.synchronize()


def test_to_numpy_copies_also_a_view(backend):
    array = backend.asarray(np.arange(6.0))
    for view in (array, array[::2], array.reshape(2, 3).T):
        before = backend.to_numpy(view)
        copy = backend.to_numpy(view)
        copy[...] = -1
        np.testing.assert_array_equal(backend.to_numpy(view), before)


def test_from_dlpack_shares_memory(backend):
    array = backend.asarray(np.zeros(3, "float32"))
    shared = backend.from_dlpack(array)
    array[1] = 5
    np.testing.assert_array_equal(backend.to_numpy(shared), [0, 5, 0])


class Reference(Backend):
    """The base class on NumPy, without a device."""

    name = "reference"
    xp = np


def test_base_class_is_complete_on_numpy():
    reference, x = Reference(), np.array([[1.0, -2.0], [3.0, 4.0]])
    assert reference.is_array(reference.asarray([1, 2]))
    assert reference.dataset_array(x) is x
    assert reference.to_numpy(x) is not x
    reference.synchronize()
    assert reference.dropout(x, 0.5, Address(0, 0, 0)).shape == x.shape
    assert reference.keep_mask((2, 2), 0, Address(0, 0, 0)).all()
    y = reference.dense(x, np.eye(2), np.ones(2), activation="relu")
    np.testing.assert_array_equal(y, [[2, 0], [4, 5]])
    g_z, g_bias = reference.bias_act_dropout_vjp(x, y, 2.0)
    np.testing.assert_array_equal(g_z, [[2, 0], [6, 8]])
    np.testing.assert_array_equal(g_bias, [8, 8])
    sums = np.empty(2)
    reference.cross_entropy(np.zeros((2, 4)), np.zeros(4), np.array([0, 1]), sums)
    np.testing.assert_allclose(sums, [np.log(4), 1])
    weights = np.ones(2)
    numbers = {"momentum": 0.0, "nesterov": False, "decay": 0.5}
    reference.sgd(weights, np.array([0.5, -2.0]), None, rate=0.5, **numbers)
    np.testing.assert_array_equal(weights, [0.25, 1.5])


# ------------------------------------------------------------------------------ index_add


def test_index_add_without_repeats_writes_each_element_once(backend):
    values = backend.asarray(np.array([[5.0, -0.0]], "float32"))
    total = backend.to_numpy(backend.index_add((2, 3), (slice(1, 2), slice(None, None, 2)), values))
    np.testing.assert_array_equal(total, np.array([[0, 0, 0], [5, 0, 0]], "float32"), strict=True)


@pytest.mark.parametrize(
    "index",
    [
        *[np.int64(1), True, np.array(True), np.array(1)],
        *[np.array([1, 0, 1, 1]), (slice(None), np.array([2, 2])), np.eye(2, 3) > 0],
    ],
    ids=str,
)
def test_index_add_sums_repeats_in_their_order(backend, index):
    x = np.random.default_rng(1).standard_normal((2, 3))
    expected = np.zeros((2, 3))
    np.add.at(expected, index, x[index])
    on_device = backend.asarray(index) if isinstance(index, np.ndarray) else index
    total = backend.index_add((2, 3), on_device, backend.asarray(x[index]))
    np.testing.assert_array_equal(backend.to_numpy(total), expected, strict=True)
    np.testing.assert_array_equal(Reference().index_add((2, 3), index, x[index]), expected)
