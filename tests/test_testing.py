"""The gradient check: wrong gradients are rejected, and the error names the numbers."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest

from minidl import Tensor, testing
from minidl.engine import backward as engine
from minidl.engine import ops
from minidl.engine.tensor import apply
from minidl.testing import check_gradient


def leaf(values, device="cpu"):
    return Tensor(np.array(values), device, requires_grad=True)


# ------------------------------------------------------------------------------ wrong gradients


def wrong_scale(backend, a, b):
    return a * b, (lambda g: g * b * (1 + 1e-5), lambda g: g * a)


def wrong_sign(backend, a, b):
    return a - b, (lambda g: g, lambda g: g)


def wrong_order(backend, a, b):
    return a * b, (lambda g: g * a, lambda g: g * b)


def wrong_transpose(backend, a, b):
    return a @ b, (lambda g: g @ b, lambda g: a.T @ g)


def wrong_axes(backend, x):
    return x.transpose(1, 2, 0), (lambda g: g.transpose(1, 2, 0),)


def wrong_broadcast(backend, x):
    def vjp(g):
        gradient = backend.xp.zeros_like(x)
        gradient[0] = g  # only the first of the rows that were summed
        return gradient

    return x.sum(axis=0), (vjp,)


def wrong_missing_term(backend, x):
    value, _ = ops.softmax(backend, x)
    return value, (lambda g: g * value,)


def wrong_repeats(backend, x):
    index = backend.asarray(np.array([0, 0, 1]))

    def vjp(g):
        gradient = backend.xp.zeros_like(x)
        gradient[index] = g
        return gradient

    return x[index], (vjp,)


def wrong_nan(backend, x):
    return x * 1, (lambda g: g * math.nan,)


def wrong_zero(backend, x):
    return x * x, (lambda g: g * 0,)


@pytest.mark.parametrize(
    ("op", "shapes", "place"),
    [
        (wrong_scale, [(3, 4), (3, 4)], 0),
        (wrong_sign, [(3, 4), (3, 4)], 1),
        (wrong_order, [(3, 4), (3, 4)], 0),
        (wrong_transpose, [(3, 3), (3, 3)], 0),
        (wrong_axes, [(3, 3, 3)], 0),
        (wrong_broadcast, [(3, 4)], 0),
        (wrong_missing_term, [(3, 4)], 0),
        (wrong_repeats, [(3,)], 0),
        (wrong_nan, [(3,)], 0),
        (wrong_zero, [(3,)], 0),
    ],
)
def test_check_gradient_rejects_wrong_vjp(op, shapes, place, device):
    rng = np.random.default_rng(3)
    inputs = [leaf(rng.uniform(1, 2, shape), device) for shape in shapes]
    with pytest.raises(AssertionError, match=f"check_gradient: input {place} of shape"):
        check_gradient(lambda *x: apply(op, *x), *inputs)


def test_check_gradient_rejects_engine_that_does_not_undo_broadcasting(device, monkeypatch):
    a, b = leaf([[1.0], [2.0]], device), leaf([[3.0, 4.0]], device)
    check_gradient(lambda a, b: a * b, a, b)
    monkeypatch.setattr(engine, "_undo_broadcast", lambda g, parent: g[:2, :1] + 0 * parent.data)
    with pytest.raises(AssertionError, match="input 0"):
        check_gradient(lambda a, b: a * b, a, b)


# ------------------------------------------------------------------------------ errors


def test_check_gradient_error_contains_both_derivatives(device):
    with pytest.raises(AssertionError, match="input 0") as caught:
        check_gradient(lambda x: x * x.detach(), leaf(3.0, device))
    words = str(caught.value).replace(",", "").split()
    expected = float(words[words.index("derivative") + 2])
    received = float(words[words.index("got") + 1])
    assert expected == pytest.approx(2 * received, rel=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((lambda x: x * x.detach(), leaf([1.0])), id="wrong gradient"),
        pytest.param((lambda x: x, Tensor([1.0])), id="wrong input"),
    ],
)
def test_check_gradient_traceback_ends_at_its_caller(arguments):
    with pytest.raises((AssertionError, TypeError), match="check_gradient") as caught:
        check_gradient(*arguments)
    assert Path(caught.traceback[-1].path) == Path(inspect.getfile(testing))
    shown = caught.traceback.filter(caught)  # as pytest shows it
    assert [Path(entry.path) for entry in shown] == [Path(__file__)]


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(Tensor([1.0], requires_grad=True), id="float32"),
        pytest.param(Tensor(np.array([1.0])), id="no gradient"),
        pytest.param(np.array([1.0]), id="no tensor"),
    ],
)
def test_check_gradient_rejects_input_that_is_not_a_float64_leaf(x):
    with pytest.raises(TypeError, match=r"check_gradient: .*input 1 .*float64.*requires_grad"):
        check_gradient(lambda a, b: a * b, leaf([1.0]), x)


# ------------------------------------------------------------------------------ inputs


def test_check_gradient_does_not_modify_its_inputs(device):
    x = leaf([1.0, 2.0], device)
    check_gradient(lambda x: x * x, x)
    assert x.grad is None
    np.testing.assert_array_equal(x.numpy(), [1.0, 2.0])


def test_check_gradient_accepts_input_that_the_function_ignores():
    check_gradient(lambda a, b: a * 2, leaf([1.0]), leaf([3.0]))
