"""Laws that every operation obeys on all inputs of the table."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from op_table import CASES, in_float32, on_device

from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply
from minidl.testing import check_gradient


def for_every_case(check):
    """Make a test of each operation from a check of one case; a failure names the case."""

    @pytest.mark.parametrize("name", CASES)
    def test(name, backend, device):
        for number, case in enumerate(CASES[name]):
            try:
                check(name, case, backend, device)
            except Exception as error:
                raise AssertionError(f"{name}, case {number}: {error}") from error

    return test


def cotangent_of(value, backend, seed=1):
    """Return a random gradient of `value` that is not contiguous."""
    numbers = np.random.default_rng(seed).standard_normal((*value.shape, 2)).astype(value.dtype)
    return backend.asarray(numbers)[..., 0]


def pull_back(vjps, g, inputs):
    """Return the gradients of all inputs."""
    return ops.pull_back(vjps, g, [True] * len(inputs), [None] * len(inputs))


def run(name, backend, arrays, static):
    """Return the value of an operation, a random gradient of it, and those of the inputs."""
    value, vjps = ops.OPS[name](backend, *arrays, **on_device(static, backend))
    g = cotangent_of(value, backend)
    return value, g, pull_back(vjps, g, arrays)


def test_every_function_is_differentiable_exported_and_in_the_table():
    names = set()
    for info in pkgutil.iter_modules(ops.__path__):
        module = importlib.import_module(f"{ops.__name__}.{info.name}")
        functions = inspect.getmembers(module, inspect.isfunction)
        names |= {name for name, f in functions if f.__module__ == module.__name__}
    names = {name for name in names if not name.startswith("_")} - {
        "differentiable",
        "made_of_kernels",
        "pull_back",
    }
    assert names == set(ops.OPS) == set(CASES)
    assert [name for name in names if not hasattr(ops, name)] == []


# ------------------------------------------------------------------------------ values and dtypes


@for_every_case
def test_value_equals_formula(name, case, backend, device):
    arrays = [backend.asarray(x) for x in case.inputs]
    value, _ = ops.OPS[name](backend, *arrays, **on_device(case.static, backend))
    assert value.dtype == np.float64
    assert value.shape == case.expected.shape
    np.testing.assert_allclose(backend.to_numpy(value), case.expected, rtol=1e-13, atol=1e-14)


@for_every_case
def test_gradient_equals_central_differences(name, case, backend, device):
    static = on_device(case.static, backend)
    leaves = [Tensor(x, device, requires_grad=True) for x in case.inputs]
    check_gradient(lambda *x: apply(ops.OPS[name], *x, **static), *leaves)


@for_every_case
def test_float32_inputs_have_float32_value_and_gradients(name, case, backend, device):
    arrays = [backend.asarray(x, "float32") for x in case.inputs]
    value, _, gradients = run(name, backend, arrays, in_float32(case.static))
    assert value.dtype == np.float32
    assert [g.dtype for g in gradients] == [np.float32] * len(arrays)
    np.testing.assert_allclose(backend.to_numpy(value), case.expected, rtol=2e-5, atol=2e-6)


# ------------------------------------------------------------------------------ arrays


@for_every_case
def test_inputs_are_not_modified(name, case, backend, device):
    arrays = [backend.asarray(x.copy()) for x in case.inputs]
    value, g, _ = run(name, backend, arrays, case.static)
    for array, x in zip(arrays, case.inputs, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(array), x)
    untouched = backend.to_numpy(cotangent_of(value, backend))
    np.testing.assert_array_equal(backend.to_numpy(g), untouched)


def every_second(x, backend):
    return backend.asarray(np.repeat(x, 2, axis=-1))[..., ::2]


def reversed_axes(x, backend):
    return backend.asarray(np.flip(x).copy())[(slice(None, None, -1),) * x.ndim]


def fortran_order(x, backend):
    return backend.asarray(np.ascontiguousarray(x.T)).T


@for_every_case
def test_strided_inputs_have_same_value_and_gradients(name, case, backend, device):
    def outcome(arrays):
        value, _, gradients = run(name, backend, arrays, case.static)
        return [backend.to_numpy(array) for array in (value, *gradients)]

    expected = outcome([backend.asarray(x) for x in case.inputs])
    for layout in (every_second, reversed_axes, fortran_order):
        strided = [layout(x, backend) if x.ndim else backend.asarray(x) for x in case.inputs]
        for received, wanted in zip(outcome(strided), expected, strict=True):
            assert received.shape == wanted.shape, layout.__name__
            np.testing.assert_allclose(
                received, wanted, rtol=1e-13, atol=1e-14, err_msg=layout.__name__
            )


# ------------------------------------------------------------------------------ repeated VJPs


def check_vjps_are_not_stale(op, backend, arrays, static):
    """Raise AssertionError unless each gradient depends on its own cotangent alone.

    The same VJPs are called with two cotangents, and with the first one again. The reference are
    the VJPs of an operation that is applied anew for each call.
    """
    value, vjps = op(backend, *arrays, **static())
    cotangents = [cotangent_of(value, backend, seed) for seed in (1, 2, 1)]
    received = [pull_back(vjps, g, arrays) for g in cotangents]
    for call, (g, gradients) in enumerate(zip(cotangents, received, strict=True)):
        _, fresh = op(backend, *arrays, **static())
        expected = pull_back(fresh, g, arrays)
        for place, (mine, theirs) in enumerate(zip(gradients, expected, strict=True)):
            if not np.array_equal(backend.to_numpy(mine), backend.to_numpy(theirs)):
                raise AssertionError(f"stale gradient of input {place} in call {call}")


@for_every_case
def test_vjps_are_not_stale(name, case, backend, device):
    arrays = [backend.asarray(x) for x in case.inputs]
    check_vjps_are_not_stale(
        ops.OPS[name], backend, arrays, lambda: on_device(case.static, backend)
    )


def caches_gradient(backend, x):
    found = []

    def vjp(g):
        found.append(g * 2)
        return found[0]

    return x * 2, (vjp,)


def reuses_buffer(backend, x):
    buffer = backend.xp.empty_like(x)

    def vjp(g):
        buffer[...] = g * 2
        return buffer

    return x * 2, (vjp,)


def changes_saved_value(backend, x):
    y = backend.xp.exp(x)

    def vjp(g, wanted, out):
        y[...] = g * y
        return (backend.xp.array(y),)

    return backend.xp.exp(x), vjp


@pytest.mark.parametrize("op", [caches_gradient, reuses_buffer, changes_saved_value])
def test_check_of_stale_vjps_rejects_kept_gradients(op, backend):
    x = backend.asarray(np.array([1.0, 2.0, 3.0]))
    with pytest.raises(AssertionError, match=r"stale gradient of input 0 in call [01]"):
        check_vjps_are_not_stale(op, backend, [x], dict)


# ------------------------------------------------------------------------------ pull_back


@for_every_case
def test_gradients_alone_and_in_given_arrays_equal_those_of_all(name, case, backend, device):
    arrays = [backend.asarray(x) for x in case.inputs]
    value, vjps = ops.OPS[name](backend, *arrays, **on_device(case.static, backend))
    g = cotangent_of(value, backend)
    expected = [backend.to_numpy(gradient) for gradient in pull_back(vjps, g, arrays)]
    for place in range(len(arrays)):
        wanted = [other == place for other in range(len(arrays))]
        gradients = ops.pull_back(vjps, g, wanted, [None] * len(arrays))
        np.testing.assert_array_equal(backend.to_numpy(gradients[place]), expected[place])
        assert [gradient is not None for gradient in gradients] == wanted
    out = [backend.asarray(np.full(x.shape, np.nan)) for x in arrays]
    gradients = ops.pull_back(vjps, g, [True] * len(arrays), out)
    for gradient, right in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(gradient), right)


def test_pull_back_calls_no_vjp_of_an_unwanted_input(backend):
    def fail(g):
        raise AssertionError("this gradient is not wanted")

    gradients = ops.pull_back((fail, lambda g: 3 * g), 2.0, [False, True], [None, None])
    assert gradients == [None, 6.0]


def test_pull_back_passes_wanted_and_out_to_a_joint_vjp():
    seen = []
    out = [object(), None]

    def joint(g, wanted, out):
        seen.append((g, wanted, out))
        return "gradients"

    assert ops.pull_back(joint, 2.0, [True, False], out) == "gradients"
    assert seen == [(2.0, [True, False], out)]


@pytest.mark.parametrize("name", ["matmul", "dense", "dense_cross_entropy"])
def test_products_write_gradients_to_given_arrays(name, backend):
    case = CASES["matmul"][4] if name == "matmul" else CASES[name][0]
    arrays = [backend.asarray(x) for x in case.inputs]
    value, vjps = ops.OPS[name](backend, *arrays, **on_device(case.static, backend))
    out = [backend.asarray(np.zeros(x.shape)) for x in case.inputs]
    gradients = ops.pull_back(vjps, cotangent_of(value, backend), [True] * len(out), out)
    assert all(gradient is array for gradient, array in zip(gradients, out, strict=True))
