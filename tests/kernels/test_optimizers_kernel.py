"""Optimizers on each device: one compiled pass computes the rule written in NumPy."""

import numpy as np
import pytest
from backends import Reference, assert_same_bits, host
from minidl_kernels.cpu import pool

REFERENCE = Reference()
DTYPES = ["float32", "float64"]
SIZES = [1, 255, 256, 257, 2000]
ADAM = {"rate": 3e-4, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "decay": 0.99}
RMSPROP = {"rate": 1e-3, "rho": 0.9, "epsilon": 1e-7, "decay": 0.99}
MOMENTUM = {"rate": 0.1, "momentum": 0.9, "nesterov": False, "decay": 0.99}
SGD = MOMENTUM | {"momentum": 0.0}
RULES = {  # method, number of states, numbers
    "adam": ("adam", 2, ADAM),
    "rmsprop": ("rmsprop", 1, RMSPROP),
    "momentum": ("sgd", 1, MOMENTUM),
    "nesterov": ("sgd", 1, MOMENTUM | {"nesterov": True}),
    "sgd": ("sgd", 0, SGD),
}


def arrays_for(rule, size, dtype):
    """Return weights, gradients of all sizes, and a state above 0."""
    rng = np.random.default_rng(size)
    weights, gradients = rng.normal(size=(2, size))
    gradients *= 10.0 ** rng.integers(-6, 3, size)
    gradients[::7] = 0
    states = abs(rng.normal(size=(RULES[rule][1], size)))
    return [array.astype(dtype) for array in (weights, gradients, *states)]


def updated(backend, rule, arrays, **numbers):
    """Return the arrays on the host after an update on the device."""
    method, states, usual = RULES[rule]
    on_device = [backend.asarray(array.copy()) for array in arrays]
    missing = [] if states else [None]
    getattr(backend, method)(*on_device, *missing, **usual | numbers)
    return host(backend, *on_device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_update_has_the_bits_of_the_reference(rule, size, dtype, backend):
    arrays = arrays_for(rule, size, dtype)
    expected = updated(REFERENCE, rule, arrays)
    received = updated(backend, rule, arrays)
    for a, b in zip(received, expected, strict=True):
        assert_same_bits(a, b)
    assert_same_bits(received[1], arrays[1])  # the gradients
    for a, b in zip(updated(backend, rule, arrays), received, strict=True):
        assert_same_bits(a, b)


@pytest.mark.needs_threads
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 64, 257, 2**16 + 3])
@pytest.mark.parametrize("rule", RULES)
def test_update_on_several_threads_has_the_bits_of_the_reference(rule, size, dtype, monkeypatch):
    from minidl import get_backend

    monkeypatch.setattr(pool, "pieces", lambda _: 3)
    arrays = arrays_for(rule, size, dtype)
    received = updated(get_backend("cpu"), rule, arrays)
    for a, b in zip(received, updated(REFERENCE, rule, arrays), strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("rule", RULES)
def test_each_number_of_a_rule_matters(rule, backend):
    arrays = arrays_for(rule, 100, "float32")
    usual = RULES[rule][2] | ({"epsilon": 0.1} if "epsilon" in RULES[rule][2] else {})
    weights = updated(backend, rule, arrays, **usual)[0]
    for name in usual.keys() - {"nesterov"} - ({"momentum"} if rule == "sgd" else set()):
        others = updated(backend, rule, arrays, **usual | {name: usual[name] * 0.9})[0]
        assert (weights != others).any(), name


@pytest.mark.filterwarnings("ignore:invalid value")  # of a backend that is NumPy
@pytest.mark.parametrize("rule", RULES)
def test_gradient_that_is_not_finite_reaches_its_weight_only(rule, backend):
    arrays = arrays_for(rule, 1000, "float32")
    arrays[1][[1, 700]] = np.nan, np.inf
    weights = updated(backend, rule, arrays)[0]
    assert np.flatnonzero(~np.isfinite(weights)).tolist() == [1, 700]


@pytest.mark.parametrize("rule", RULES)
def test_update_of_no_weights_does_nothing(rule, backend):
    updated(backend, rule, arrays_for(rule, 0, "float32"))


def test_threads_loop_over_elements_beyond_the_grid(executed, monkeypatch):
    from minidl_kernels.cuda import launch, optimizers

    backend, launches = executed
    monkeypatch.setattr(launch, "MAX_BLOCKS", 2)
    weights = np.ones(1300, "float32")
    backend.sgd(weights, weights.copy(), None, **SGD | {"rate": 0.25, "decay": 1.0})
    assert launches == [(optimizers._sgd, (2,), (256,))]
    assert (weights == 0.75).all()


@pytest.mark.parametrize(
    ("weights", "others", "error", "message"),
    [
        (np.ones(3, "f2"), np.ones(3, "f2"), TypeError, "expected weights .* got float16"),
        (np.ones(3, "f4"), np.ones(3, "f8"), TypeError, "of dtype float32, got float64"),
        (np.ones(3, "f4"), np.ones(4, "f4"), ValueError, r"of shape \(3,\), got \(4,\)"),
        (np.ones((3, 1), "f4"), np.ones(3, "f4"), ValueError, r"of shape \(3,\), got \(3, 1\)"),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_update_rejects_arrays_that_do_not_fit(rule, weights, others, error, message, backend):
    arrays = [weights, others, *[others] * RULES[rule][1]]
    with pytest.raises(error, match=f"^{RULES[rule][0]}: .*{message}"):
        updated(backend, rule, arrays)


@pytest.mark.parametrize("rule", RULES)
def test_update_rejects_strided_arrays(rule, backend):
    method, states, numbers = RULES[rule]
    strided = backend.asarray(np.ones(6, "float32"))[::2]
    arrays = [strided, *[backend.asarray(np.ones(3, "float32"))] * (1 + states)]
    with pytest.raises(ValueError, match=f"^{method}: expected .* in C order"):
        getattr(backend, method)(*arrays, *([] if states else [None]), **numbers)


def test_momentum_without_a_velocity_is_rejected(backend):
    weights = backend.asarray(np.ones(3, "float32"))
    with pytest.raises(ValueError, match=r"^sgd: expected a velocity for momentum 0\.9, got None"):
        backend.sgd(weights, weights, None, **MOMENTUM)
