"""MaxNorm: weights above the limit are scaled down, others keep their bits."""

import numpy as np
import pytest

import minidl
from minidl import constraints
from minidl.constraints import Constraint, MaxNorm, NonNeg, UnitNorm


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_within_the_limit_keep_their_bits(backend, dtype):
    host = np.random.default_rng(0).normal(size=(50, 40)).astype(dtype)
    host[:, 7:9] = 0
    norms = np.sqrt((host * host).sum(axis=0))
    limit = float(np.median(norms))  # half of the units are within it, one of them exactly at it
    weight = backend.asarray(host.copy())
    MaxNorm(limit).apply(weight, backend)
    after = backend.to_numpy(weight)
    inside = norms <= limit
    assert 20 <= inside.sum() < 40
    assert np.array_equal(after[:, inside], host[:, inside])
    np.testing.assert_allclose(np.linalg.norm(after[:, ~inside], axis=0), limit, rtol=1e-6)


def test_axis_selects_the_inputs_of_a_unit(backend):
    weight = backend.asarray(np.array([[3.0, 4.0], [0.3, 0.4]]))
    MaxNorm(1.0, axis=1).apply(weight, backend)
    np.testing.assert_allclose(backend.to_numpy(weight), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-15)


def test_norm_of_float16_does_not_overflow():
    weight = np.full((4, 2), 200, "float16")
    MaxNorm(3.0).apply(weight, minidl.get_backend("cpu"))
    assert weight.tolist() == [[1.5, 1.5]] * 4


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_limit_that_is_not_positive_and_finite_is_rejected(limit):
    with pytest.raises(ValueError, match=f"^MaxNorm: expected max_value .*, got {limit}"):
        MaxNorm(limit)


def test_limit_above_the_range_of_float32_leaves_weights_unchanged(backend):
    weight = backend.asarray(np.array([[3.0, -2.0], [4.0, 0.0]], "float32"))
    MaxNorm(1e39).apply(weight, backend)
    assert backend.to_numpy(weight).tolist() == [[3.0, -2.0], [4.0, 0.0]]


@pytest.mark.parametrize("axis", [2, -3])
def test_check_rejects_weight_without_the_axis(axis):
    MaxNorm(1.0, axis=axis).check((3, 2, 4))
    with pytest.raises(ValueError, match=rf"^MaxNorm.*axis {axis}, got \(3, 2\)"):
        MaxNorm(1.0, axis=axis).check((3, 2))


def test_get_returns_constraint_of_that_name():
    assert constraints.get("max_norm").max_value == 2
    assert type(constraints.get("non_neg")) is NonNeg
    assert type(constraints.get("unit_norm")) is UnitNorm
    assert constraints.get(None) is None
    own = MaxNorm(3)
    assert constraints.get(own) is own
    with pytest.raises(ValueError, match=r"expected a Constraint or one of max_norm, .*, got"):
        constraints.get("min_norm")


def test_non_neg_replaces_negative_weights_by_0_and_keeps_nan(backend):
    weight = backend.asarray(np.array([-1.0, -0.0, 2.0, np.nan, -np.inf]))
    NonNeg().apply(weight, backend)
    np.testing.assert_array_equal(backend.to_numpy(weight), [0, 0, 2, np.nan, 0])


def test_unit_norm_of_float16_does_not_overflow():
    weight = np.full((4, 2), 200, "float16")
    UnitNorm().apply(weight, minidl.get_backend("cpu"))
    assert weight.tolist() == [[0.5, 0.5]] * 4


def test_unit_norm_keeps_units_of_zeros_finite(backend):
    weight = backend.asarray(np.zeros((3, 2), "float32"))
    UnitNorm(axis=1).apply(weight, backend)
    assert backend.to_numpy(weight).tolist() == [[0, 0]] * 3
    with pytest.raises(ValueError, match=r"^UnitNorm\(axis=1\): .* axis 1, got \(3,\)"):
        UnitNorm(axis=1).check((3,))


def test_constraint_of_the_user_defines_apply():
    with pytest.raises(NotImplementedError, match=r"^Constraint: expected a method apply"):
        Constraint().apply(np.ones(3), minidl.get_backend("cpu"))
