"""Cross-entropy on the CPU, against its formula in NumPy."""

import numpy as np
import pytest
from minidl_kernels.cpu.cross_entropy import cross_entropy, cross_entropy_vjp

DTYPES = ["float32", "float64"]
SHAPES = [(1, 1), (1, 10), (3, 2), (4, 5), (255, 10), (256, 3), (257, 33)]


def _batch(shape, dtype, seed=1):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, shape).astype(dtype)
    bias = rng.standard_normal(shape[1]).astype(dtype)
    return z, bias, rng.integers(0, shape[1], shape[0])


def _log_softmax(z, bias):
    logits = (z + bias).astype("longdouble")
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_hits(shape, dtype):
    z, bias, labels = _batch(shape, dtype)
    before = z.copy()
    sums = np.empty(2, dtype)
    cross_entropy(z, bias, labels, sums)
    picked = _log_softmax(z, bias)[np.arange(shape[0]), labels]
    np.testing.assert_allclose(sums[0], -picked.mean(), rtol=4e-6 if dtype == "float32" else 1e-14)
    assert sums[1] == ((z + bias).argmax(axis=1) == labels).sum()
    assert z.tobytes() == before.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_vjp(shape, in_place, dtype):
    z, bias, labels = _batch(shape, dtype)
    original = z.copy()
    g = np.array(-2.5, dtype)
    expected = np.exp(_log_softmax(z, bias))
    expected[np.arange(shape[0]), labels] -= 1
    expected *= -2.5 / shape[0]
    g_z, g_bias = z if in_place else np.full_like(z, np.nan), np.full_like(bias, np.nan)
    cross_entropy_vjp(g, z, bias, labels, g_z, g_bias)
    tolerance = (4e-7 if dtype == "float32" else 1e-15) * 2.5 / shape[0]
    np.testing.assert_allclose(g_z, expected, rtol=0, atol=tolerance * 2)
    sums = np.zeros_like(bias)
    for row in g_z:
        sums = sums + row
    assert g_bias.tobytes() == sums.tobytes()
    assert in_place or z.tobytes() == original.tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_any_integer_dtype(dtype):
    z, bias, labels = _batch((20, 10), "float32")
    answers = []
    for numbers in (labels, labels.astype(dtype), np.repeat(labels.astype(dtype), 2)[::2]):
        sums, g_z, g_bias = np.empty(2, "f4"), np.empty_like(z), np.empty_like(bias)
        cross_entropy(z, bias, numbers, sums)
        cross_entropy_vjp(np.ones((), "f4"), z, bias, numbers, g_z, g_bias)
        answers.append((sums.tobytes(), g_z.tobytes(), g_bias.tobytes()))
    assert len(set(answers)) == 1


def _hits(row, label):
    sums = np.empty(2)
    cross_entropy(np.array([row]), np.zeros(len(row)), np.array([label]), sums)
    return sums[1]


def test_the_first_of_equal_logits_wins():
    assert [_hits([1.0, 3.0, 3.0], label) for label in range(3)] == [0, 1, 0]
    assert [_hits([-np.inf, -np.inf, 0.0], label) for label in range(3)] == [0, 0, 1]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_with_a_nan_is_never_right_and_makes_the_loss_nan(place):
    row = [1.0, 2.0, 3.0]
    row[place] = np.nan
    assert [_hits(row, label) for label in range(3)] == [0, 0, 0]
    sums = np.empty(2)
    cross_entropy(np.array([[0.0, 1, 0], row]), np.zeros(3), np.array([1, 0]), sums)
    assert np.isnan(sums[0])
    assert sums[1] == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_logits_overflow_nothing(dtype):
    z = np.array([[1e4, -1e4], [0.0, -np.inf]], dtype)
    sums, g_z, g_bias = np.empty(2, dtype), np.empty_like(z), np.empty(2, dtype)
    cross_entropy(z, np.zeros(2, dtype), np.array([1, 0]), sums)
    assert sums.tolist() == [1e4, 1]
    cross_entropy_vjp(np.ones(1, dtype), z, np.zeros(2, dtype), np.array([1, 0]), g_z, g_bias)
    assert g_z.tolist() == [[0.5, -0.5], [0, 0]]


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [2**63, 0]])
def test_a_label_that_is_no_class_is_an_error(labels):
    z, bias, sums = np.ones((2, 3)), np.ones(3), np.full(2, 7.0)
    labels = np.array(labels, "uint64" if max(labels) > 2**62 else "int64")
    message = rf"cross_entropy: labels must be in \[0, 3\), received {labels.min()} to"
    with pytest.raises(ValueError, match=message):
        cross_entropy(z, bias, labels, sums)
    assert sums.tolist() == [7, 7]
    with pytest.raises(ValueError, match="cross_entropy_vjp: labels must be in"):
        cross_entropy_vjp(np.ones(()), z, bias, labels, z.copy(), bias.copy())


@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_other_dtypes_are_refused(dtype):
    z, bias = np.ones((2, 3), dtype), np.ones(3, dtype)
    with pytest.raises(TypeError, match=f"cross_entropy: expected arrays of one dtype.*{dtype}"):
        cross_entropy(z, bias, np.zeros(2, int), np.empty(2, dtype))
    with pytest.raises(TypeError, match="cross_entropy: expected arrays of one dtype"):
        cross_entropy(np.ones((2, 3)), np.ones(3, "f4"), np.zeros(2, int), np.empty(2))
    with pytest.raises(TypeError, match="labels must be integers, received float64"):
        cross_entropy(np.ones((2, 3)), np.ones(3), np.zeros(2), np.empty(2))


@pytest.mark.parametrize(
    ("z", "bias", "labels"),
    [((2, 3), (2,), (2,)), ((2, 3), (3,), (3,)), ((2, 3), (3,), (2, 1)), ((0, 3), (3,), (0,))],
)
def test_shapes_that_do_not_fit(z, bias, labels):
    with pytest.raises(ValueError, match="cross_entropy: expected z of shape"):
        cross_entropy(np.ones(z), np.ones(bias), np.zeros(labels, int), np.empty(2))


def test_outputs_that_do_not_fit():
    z, bias, labels = np.ones((2, 3)), np.ones(3), np.zeros(2, int)
    with pytest.raises(ValueError, match=r"expected sums of shape \(2,\), received \(3,\)"):
        cross_entropy(z, bias, labels, np.empty(3))
    with pytest.raises(ValueError, match="cross_entropy_vjp: expected g with one element"):
        cross_entropy_vjp(np.ones(2), z, bias, labels, z, bias)
    with pytest.raises(ValueError, match="cross_entropy: expected C-contiguous arrays"):
        cross_entropy(np.ones((3, 2)).T, bias, labels, np.empty(2))
