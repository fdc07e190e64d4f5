"""Tensors that share memory with other libraries' arrays."""

import types

import numpy as np
import pytest

from minidl import Tensor, from_dlpack


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool"])
def test_dlpack_to_and_from_numpy_shares_memory(dtype):
    array = np.array([[1, 0, 1], [0, 1, 1]], dtype)[:, ::2]
    tensor = from_dlpack(array)
    assert tensor.dtype == dtype
    assert np.shares_memory(tensor.data, array)
    assert tensor.data.strides == array.strides
    back = np.from_dlpack(tensor)
    assert np.shares_memory(back, array)
    array[0, 0] = 0
    assert tensor.numpy()[0, 0] == 0


def test_dlpack_to_and_from_torch_shares_memory():
    torch = pytest.importorskip("torch", reason="torch is not installed (the extra `oracle`)")
    theirs = torch.arange(6, dtype=torch.float32).reshape(2, 3).T
    ours = from_dlpack(theirs)
    np.testing.assert_array_equal(ours.numpy(), [[0, 3], [1, 4], [2, 5]])
    theirs[0, 0] = 7
    assert ours.numpy()[0, 0] == 7
    back = torch.from_dlpack(Tensor.of(ours.data, ours.backend))
    assert back.data_ptr() == theirs.data_ptr()
    assert back.stride() == theirs.stride()


def test_from_dlpack_rejects_torch_tensor_with_gradient():
    torch = pytest.importorskip("torch", reason="torch is not installed (the extra `oracle`)")
    with pytest.raises((RuntimeError, BufferError), match="require"):
        from_dlpack(torch.ones(2, requires_grad=True))  # its graph would be lost


def test_dlpack_device_equals_that_of_numpy():
    assert Tensor([1.0]).__dlpack_device__() == np.ones(1).__dlpack_device__()


def test_from_dlpack_reads_read_only_array():
    array = np.array([1.0, 2.0], "float32")
    array.flags.writeable = False
    np.testing.assert_array_equal((from_dlpack(array) * 2).numpy(), [2, 4])
    np.testing.assert_array_equal(array, [1, 2])


@pytest.mark.parametrize("kind", [4, 7, 8, 10])
def test_from_dlpack_rejects_other_devices(kind):
    source = types.SimpleNamespace(__dlpack_device__=lambda: (kind, 0))
    with pytest.raises(ValueError, match=rf"from_dlpack: .*type {kind}\b"):
        from_dlpack(source)
