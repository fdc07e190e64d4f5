"""Optimizers on the CPU: one compiled pass has the bits of the rule written in NumPy."""

import numpy as np
import pytest
from minidl_kernels.cpu import optimizers

SIZES = [0, 1, 3, 4, 5, 255, 256, 257, 2**20 + 3]
ADAM = {"rate": 3e-4, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "decay": 0.99}
RMSPROP = {"rate": 1e-3, "rho": 0.9, "epsilon": 1e-7, "decay": 0.99}
SGD = {"rate": 0.1, "momentum": 0.9, "nesterov": False, "decay": 0.99}


def _arrays(count, size, dtype):
    """Return weights, gradients and state in the middle of a training; the last is positive."""
    rng = np.random.default_rng(size)
    arrays = [rng.standard_normal(size).astype(dtype) for _ in range(count)]
    arrays[-1] *= arrays[-1]
    return arrays


def adam(weights, gradients, mean, square, *, rate, beta_1, beta_2, epsilon, decay):
    """Kingma & Ba, ICLR 2015, algorithm 1, in NumPy; each operation rounds to the dtype."""
    mean = mean + (1 - beta_1) * (gradients - mean)
    square = square + (1 - beta_2) * (gradients * gradients - square)
    return weights * decay - rate * mean / (np.sqrt(square) + epsilon), mean, square


def rmsprop(weights, gradients, square, *, rate, rho, epsilon, decay):
    """Hinton, lecture 6e, 2012."""
    square = square * rho + (1 - rho) * gradients * gradients
    return weights * decay - rate * gradients / np.sqrt(square + epsilon), square


def sgd(weights, gradients, velocity, *, rate, momentum, nesterov, decay):
    """Sutskever et al., ICML 2013."""
    step = rate * gradients
    velocity = momentum * velocity - step
    if nesterov:
        return weights * decay + momentum * velocity - step, velocity
    return weights * decay + velocity, velocity


RULES = [
    pytest.param(optimizers.adam, adam, 4, ADAM, id="adam"),
    pytest.param(optimizers.adam, adam, 4, ADAM | {"decay": 1.0}, id="adam without decay"),
    pytest.param(optimizers.rmsprop, rmsprop, 3, RMSPROP, id="rmsprop"),
    pytest.param(optimizers.sgd, sgd, 3, SGD, id="sgd with momentum"),
    pytest.param(optimizers.sgd, sgd, 3, SGD | {"nesterov": True}, id="sgd with nesterov"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "rule", "count", "numbers"), RULES)
def test_equals_the_rule_bit_for_bit(
    kernel, rule, count, numbers, size, pieces, dtype, monkeypatch
):
    monkeypatch.setattr(optimizers.pool, "pieces", lambda _: pieces)
    arrays = _arrays(count, size, dtype)
    gradients = arrays[1].copy()
    expected = rule(*(array.copy() for array in arrays), **numbers)
    kernel(*arrays, **numbers)
    for updated, wanted in zip([arrays[0], *arrays[2:]], expected, strict=True):
        assert updated.dtype == wanted.dtype == dtype
        assert updated.tobytes() == wanted.tobytes()
    assert arrays[1].tobytes() == gradients.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_sgd_without_momentum(size, pieces, dtype, monkeypatch):
    monkeypatch.setattr(optimizers.pool, "pieces", lambda _: pieces)
    weights, gradients = _arrays(2, size, dtype)
    expected = weights * 0.5 - 0.1 * gradients
    optimizers.sgd(weights, gradients, None, rate=0.1, momentum=0, nesterov=False, decay=0.5)
    assert weights.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("kernel", "rule", "count", "numbers"), RULES)
def test_each_number_matters(kernel, rule, count, numbers):
    numbers = numbers | (
        {"epsilon": 0.1} if "epsilon" in numbers else {}
    )  # so that float32 sees it
    for name in numbers.keys() - {"nesterov"}:
        arrays, others = _arrays(count, 100, "float32"), _arrays(count, 100, "float32")
        kernel(*arrays, **numbers)
        kernel(*others, **numbers | {name: numbers[name] * 0.9})
        assert (arrays[0] != others[0]).any(), name


@pytest.mark.parametrize(("kernel", "rule", "count", "numbers"), RULES)
def test_a_gradient_that_is_not_finite_reaches_its_weight_alone(kernel, rule, count, numbers):
    arrays = _arrays(count, 40_000, "float32")
    arrays[1][[1, 20_000]] = np.nan, np.inf
    kernel(*arrays, **numbers)
    assert np.flatnonzero(~np.isfinite(arrays[0])).tolist() == [1, 20_000]


@pytest.mark.parametrize("dtypes", [("float16",) * 4, ("float32", "float64") * 2, ("int32",) * 4])
@pytest.mark.parametrize(("kernel", "rule", "count", "numbers"), RULES)
def test_other_dtypes_are_refused(kernel, rule, count, numbers, dtypes):
    arrays = [np.zeros(3, dtype) for dtype in dtypes[:count]]
    message = f"{kernel.__name__}: expected arrays of one dtype.*{dtypes[0]}"
    with pytest.raises(TypeError, match=message):
        kernel(*arrays, **numbers)


@pytest.mark.parametrize("odd", [np.zeros(4, "f4"), np.zeros((3, 1), "f4"), np.zeros(6, "f4")[::2]])
@pytest.mark.parametrize(("kernel", "rule", "count", "numbers"), RULES)
def test_arrays_that_are_not_flat_and_of_one_size_are_refused(kernel, rule, count, numbers, odd):
    arrays = [np.zeros(3, "f4") for _ in range(count)]
    arrays[1] = odd
    message = f"{kernel.__name__}: expected flat, contiguous arrays of one size"
    with pytest.raises(ValueError, match=message):
        kernel(*arrays, **numbers)


def test_momentum_needs_a_velocity():
    weights = np.ones(3)
    with pytest.raises(ValueError, match=r"sgd: expected a velocity for momentum 0\.9"):
        optimizers.sgd(weights, weights, None, rate=0.1, momentum=0.9, nesterov=False)
