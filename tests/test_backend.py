"""Devices: how they are named, what is said when one is missing, and the contract's own methods."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from minidl import get_backend
from minidl.backend import Backend
from minidl.rng import keep_mask

ADDRESS = {"seed": 3, "stream": 1, "step": 4, "row_offset": 1}


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


def test_a_device_has_one_backend(backend, device):
    assert get_backend(device) is backend
    assert get_backend(backend.name) is backend
    assert repr(backend) == f"<backend {backend.name}>"


@pytest.mark.parametrize(
    "name",
    ["gpu", "cuda:x", "cuda:", "cuda:-1", "cuda:1.0", "CPU", "cpu:0", "", "mps", 3, None, b"cpu"],
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r'^device: expected "cpu", "cuda", "cuda:N" or "auto", r'):
        get_backend(name)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_threads_that_ask_first_together_get_one_backend(name):
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


def test_cuda_without_its_array_library_says_what_to_install():
    said = run_fresh(ASK_FOR_CUDA.format(preparation='sys.modules["cupy"] = None'))
    error, auto = said.splitlines()
    assert error.startswith("cuda: ")
    assert "cupy" in error  # the reason
    assert error.endswith("pip install 'minidl[cuda13]' or 'minidl[cuda12]'")
    assert auto == "<backend cpu>"


def test_cuda_gives_the_cause_and_not_the_banner_around_it(tmp_path):
    (tmp_path / "cupy.py").write_text(
        'raise ImportError("\\n=====\\nFailed.\\n=====") from OSError("no libcudart.so.13")'
    )
    preparation = f"sys.path.insert(0, {str(tmp_path)!r})"
    error, auto = run_fresh(ASK_FOR_CUDA.format(preparation=preparation)).splitlines()
    assert error.startswith("cuda: no libcudart.so.13; for a GPU install")
    assert auto == "<backend cpu>"


def test_cuda_without_a_device_gives_the_reason_of_the_driver():
    pytest.importorskip("cupy", reason="CuPy is not installed (the extras cuda12 and cuda13)")
    said = run_fresh(ASK_FOR_CUDA.format(preparation=""), CUDA_VISIBLE_DEVICES="")
    error, auto = said.splitlines()
    assert error.startswith("cuda: the driver gives no device: cudaError")
    assert error.endswith("; install a CUDA driver, or use the device cpu")
    assert auto == "<backend cpu>"


def test_importing_minidl_loads_no_compiler_no_gpu_library_and_no_downloader():
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


def test_arrays_go_to_the_device_and_back(backend):
    values = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    array = backend.asarray(values)
    assert backend.is_array(array)
    assert not backend.is_array([1.0])
    np.testing.assert_array_equal(backend.to_numpy(array), values, strict=True)
    assert backend.asarray([1, 2], "float64").dtype == np.float64
    backend.synchronize()


def test_to_numpy_gives_a_copy_also_of_a_view(backend):
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


def test_the_contract_leaves_to_a_device_what_only_it_knows():
    bare = Backend()
    bare.xp = np
    ones = np.ones(2, "float32")
    for method in (
        lambda: bare.to_numpy(ones),
        lambda: bare.synchronize(),
        lambda: bare.dropout(ones, 0.5, seed=0, stream=0, step=0),
    ):
        with pytest.raises(NotImplementedError):
            method()


# ------------------------------------------------------------------------------ dropout


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 3, 65), (0, 3), (3, 0)])
@pytest.mark.parametrize("rate", [0, 0.3, 1])
def test_keep_mask_is_the_mask_contract(backend, shape, rate):
    mask = backend.keep_mask(shape, rate, **ADDRESS)
    assert backend.is_array(mask)
    expected = keep_mask(shape, rate, **ADDRESS)
    np.testing.assert_array_equal(backend.to_numpy(mask), expected, strict=True)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dropout_scales_once_in_the_dtype_it_was_given(backend, dtype, rescale):
    x = np.random.default_rng(2).standard_normal((7, 70)).astype(dtype)
    received = backend.dropout(backend.asarray(x), 0.3, **ADDRESS, rescale=rescale)
    wide = x.astype("float64" if dtype == "float64" else "float32")
    scale = wide.dtype.type(1 / (1 - 0.3) if rescale else 1)
    expected = np.where(keep_mask(x.shape, 0.3, **ADDRESS), wide * scale, 0).astype(dtype)
    np.testing.assert_array_equal(backend.to_numpy(received), expected, strict=True)


def test_dropout_returns_a_new_contiguous_array(backend):
    x = backend.asarray(np.arange(24.0, dtype="float32").reshape(4, 6))
    for view in (x, x.T, x[::2, ::-1]):
        before = backend.to_numpy(view)
        for rate in (0, 0.5):
            received = backend.dropout(view, rate, **ADDRESS)
            assert received.flags.c_contiguous
            assert received.shape == view.shape
            received[...] = -1
            np.testing.assert_array_equal(backend.to_numpy(view), before)


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
def test_dropout_wants_floating_numbers(backend, dtype):
    x = backend.asarray(np.ones(3, dtype))
    with pytest.raises(
        TypeError, match=rf"dropout: x must be one of float16, .* received {dtype}; cast"
    ):
        backend.dropout(x, 0.5, **ADDRESS)


@pytest.mark.parametrize(
    ("argument", "value", "kind"),
    [
        ("rate", 1.5, ValueError),
        ("rate", -0.1, ValueError),
        ("rate", float("nan"), ValueError),
        ("seed", -1, ValueError),
        ("seed", 2**64, ValueError),
        ("stream", 2**32, ValueError),
        ("step", 2**32, ValueError),
        ("row_offset", 2**32 - 1, ValueError),
        ("seed", 1.5, TypeError),
    ],
)
def test_dropout_refuses_an_address_that_does_not_exist(backend, argument, value, kind):
    x = backend.asarray(np.ones((2, 3), "float32"))
    arguments = {"rate": 0.5, **ADDRESS, argument: value}
    with pytest.raises(kind, match=argument):
        backend.dropout(x, **arguments)


# ------------------------------------------------------------------------------ index_add


def test_index_add_without_repeats_writes_each_place_once(backend):
    values = backend.asarray(np.array([[5.0, -0.0]], "float32"))
    total = backend.to_numpy(backend.index_add((2, 3), (slice(1, 2), slice(None, None, 2)), values))
    np.testing.assert_array_equal(total, np.array([[0, 0, 0], [5, 0, 0]], "float32"), strict=True)


@pytest.mark.parametrize("index", [np.int64(1), True, np.array(True), np.array(1)])
def test_index_add_takes_the_rare_kinds_of_scalars(backend, index):
    x = np.arange(6.0).reshape(2, 3)
    expected = np.zeros((2, 3))
    np.add.at(expected, index, x[index])
    for add in (Backend.index_add, Backend._add_repeated, type(backend)._add_repeated):
        total = add(backend, (2, 3), index, backend.asarray(x[index]))
        np.testing.assert_array_equal(backend.to_numpy(total), expected, strict=True)
