"""Adam on the CPU: one compiled pass has the bits of the rule written in NumPy."""

import numpy as np
import pytest
from minidl_kernels.cpu import adam

SIZES = [0, 1, 3, 4, 5, 255, 256, 257, 2**20 + 3]
NUMBERS = {"rate": 3e-4, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}


def state(size, dtype):
    """Return weights, gradients, mean and square in the middle of a training."""
    rng = np.random.default_rng(size)
    weights, gradients, mean = (rng.standard_normal(size).astype(dtype) for _ in range(3))
    return weights, gradients, mean, (mean * mean).astype(dtype)


def by_the_rule(weights, gradients, mean, square, *, rate, beta_1, beta_2, epsilon):
    """Kingma & Ba, ICLR 2015, algorithm 1, in NumPy; each operation rounds to the dtype."""
    mean = mean + (1 - beta_1) * (gradients - mean)
    square = square + (1 - beta_2) * (gradients * gradients - square)
    return weights - rate * mean / (np.sqrt(square) + epsilon), mean, square


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_rule_bit_for_bit(size, dtype):
    weights, gradients, mean, square = state(size, dtype)
    expected = by_the_rule(weights, gradients, mean, square, **NUMBERS)
    untouched = gradients.copy()
    adam.update(weights, gradients, mean, square, **NUMBERS)
    for updated, wanted in zip((weights, mean, square), expected, strict=True):
        assert updated.dtype == wanted.dtype == dtype
        assert updated.tobytes() == wanted.tobytes()
    assert gradients.tobytes() == untouched.tobytes()


@pytest.mark.parametrize("wrong", ["beta_1", "beta_2", "rate", "epsilon"])
def test_each_number_matters(wrong):
    arrays, others = state(100, "float32"), state(100, "float32")
    numbers = NUMBERS | {"epsilon": 0.1}  # so large that float32 sees it
    adam.update(*arrays, **numbers)
    adam.update(*others, **numbers | {wrong: numbers[wrong] * 0.9})
    assert (arrays[0] != others[0]).any()


def test_a_gradient_that_is_not_finite_reaches_its_weight_alone():
    weights, gradients, mean, square = state(5, "float32")
    gradients[1], gradients[3] = np.nan, np.inf
    adam.update(weights, gradients, mean, square, **NUMBERS)
    assert np.isnan(weights).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("dtypes", [("float16",) * 4, ("float32", "float64") * 2, ("int32",) * 4])
def test_other_dtypes_are_refused(dtypes):
    arrays = [np.zeros(3, dtype) for dtype in dtypes]
    with pytest.raises(TypeError, match=f"adam: expected arrays of one dtype.*{dtypes[0]}"):
        adam.update(*arrays, **NUMBERS)


@pytest.mark.parametrize("odd", [np.zeros(4, "f4"), np.zeros((3, 1), "f4"), np.zeros(6, "f4")[::2]])
def test_arrays_that_are_not_flat_and_of_one_size_are_refused(odd):
    weights = np.zeros(3, "f4")
    with pytest.raises(ValueError, match="adam: expected flat, contiguous arrays of one size"):
        adam.update(weights, odd, np.zeros(3, "f4"), np.zeros(3, "f4"), **NUMBERS)
