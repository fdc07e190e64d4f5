"""Functions of several tensors, and methods that move axes or find places."""

import numpy as np
import pytest

import minidl
from minidl import Tensor

VALUES = np.array([[1.0, 4.0, 4.0], [2.0, 0.5, -1.0]], "float32")


def leaf(values, device):
    return Tensor(np.asarray(values, "float32"), device, requires_grad=True)


def gradients(y, *leaves):
    y.backward()
    return [tensor.grad.numpy().tolist() for tensor in leaves]


def test_equal_elements_share_gradient_of_maximum_and_minimum(device):
    for choose, first in ((minidl.maximum, [0.5, 0, 1]), (minidl.minimum, [0.5, 1, 0])):
        a, b = leaf([1, 2, 3], device), leaf([1, 3, 2], device)
        second = [1 - share for share in first]
        assert gradients(choose(a, b).sum(), a, b) == [first, second]


@pytest.mark.parametrize("choose", [minidl.maximum, minidl.minimum])
def test_maximum_and_minimum_with_nan_are_nan(choose, device):
    a = leaf([np.nan, 1], device)
    y = choose(a, leaf([1, np.nan], device))
    assert np.isnan(y.numpy()).all()
    assert gradients(y.sum(), a) == [[1, 1]]


@pytest.mark.parametrize("condition", [[True, False], np.array([2, 0]), "tensor"])
def test_where_chooses_by_condition_and_hides_other_gradient(condition, device):
    x = leaf([0, 0], device)
    if isinstance(condition, np.ndarray) and device != "cpu":
        with pytest.raises(ValueError, match="where: expected operands on one device"):
            minidl.where(condition, x, 1)
        return
    condition = Tensor([True, False], device) if isinstance(condition, str) else condition
    y = minidl.where(condition, x.sqrt(), 1.0)
    assert y.dtype == np.float32
    assert y.numpy().tolist() == [0, 1]
    a = leaf([3, 4], device)
    assert gradients(minidl.where(condition, a * 2, a).sum(), a) == [[2, 1]]


def test_where_of_numbers_alone_is_rejected(device):
    with pytest.raises(TypeError, match="where: expected at least one Tensor, got none"):
        minidl.where(Tensor([True], device), 1, 2)


def test_stack_and_concatenate_join_tensors_with_gradients(device):
    a, b = leaf(VALUES, device), leaf(VALUES, device)
    for axis in (0, 1, -1):
        joined = {"concatenate": minidl.concatenate, "stack": minidl.stack}
        for name, join in joined.items():
            y = join([a, b * 2], axis)
            expected = getattr(np, name)([VALUES, VALUES * 2], axis)
            np.testing.assert_array_equal(y.numpy(), expected)
    assert gradients(y.sum(), a, b) == [np.ones((2, 3)).tolist(), np.full((2, 3), 2).tolist()]


@pytest.mark.parametrize("join", [minidl.concatenate, minidl.stack])
def test_join_rejects_what_is_no_list_of_tensors(join):
    with pytest.raises(TypeError, match=rf"^{join.__name__}: expected tensors, got a float"):
        join([Tensor([1.0]), 2.0])
    with pytest.raises(TypeError, match=rf"^{join.__name__}: expected tensors to be a list"):
        join(Tensor(1.0).numpy)
    with pytest.raises(TypeError, match="expected at least one Tensor"):
        join([])


@pytest.mark.parametrize("axis", [0, 1, 2, -1, (0, 2)])
def test_expand_dims_and_squeeze_are_inverse(axis, device):
    x = leaf(VALUES, device)
    y = x.expand_dims(axis)
    assert y.shape == np.expand_dims(VALUES, axis).shape
    for back in (y.squeeze(axis), y.squeeze()):
        np.testing.assert_array_equal(back.numpy(), VALUES)
    assert gradients((back * 2).sum(), x) == [np.full((2, 3), 2).tolist()]


def test_axis_of_other_length_or_out_of_range_is_rejected():
    for move in (lambda x: x.squeeze(0), lambda x: x.squeeze(5), lambda x: x.expand_dims(5)):
        with pytest.raises(ValueError, match="axis"):
            move(Tensor(VALUES))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_argmax_is_that_of_numpy_without_gradient(axis, keepdims, device):
    y = leaf(VALUES, device).argmax(axis, keepdims=keepdims)
    assert isinstance(y, Tensor)
    assert not y.requires_grad
    np.testing.assert_array_equal(y.numpy(), np.argmax(VALUES, axis, keepdims=keepdims))


def test_std_of_equal_elements_has_no_gradient(device):
    x = leaf([[2, 2], [1, 3]], device)
    y = x.std(axis=1)
    assert y.numpy().tolist() == [0, 1]
    assert gradients(y.sum(), x) == [[[0, 0], [-0.5, 0.5]]]


def test_logsumexp_of_large_and_infinite_numbers(device):
    x = leaf([[1e4, 1e4], [-np.inf, 2]], device)
    y = x.logsumexp(axis=1)
    np.testing.assert_allclose(y.numpy(), [1e4 + np.log(2), 2], rtol=1e-6)
    assert gradients(y.sum(), x) == [[[0.5, 0.5], [0, 1]]]
    with np.errstate(divide="ignore"):
        infinite = leaf([[np.inf, 0], [-np.inf, -np.inf]], device).logsumexp(axis=1)
    assert infinite.numpy().tolist() == [np.inf, -np.inf]


def test_abs_by_python_function(device):
    assert abs(Tensor([-1.0, 2.0], device)).numpy().tolist() == [1, 2]
