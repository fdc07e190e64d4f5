"""The CUDA kernels of softmax and cross-entropy against NumPy, executed as they are compiled."""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: no CUDA kernel is compiled", allow_module_level=True)

from minidl_kernels.cuda import cross_entropy as module
from minidl_kernels.cuda.reduction import chunks

SHAPES = [
    (1, 1),
    (1, 10),
    (3, 2),
    (31, 10),
    (33, 31),
    (128, 10),
    (255, 32),
    (256, 33),
    (257, 2),
    (600, 10),
    (3, 100),
]


def cross_entropy(z, bias, labels):
    """Return what the host function gives: the mean loss and the hits, summed over chunks."""
    sums = np.full((chunks(len(z)), 2), 7, z.dtype)
    module.cross_entropy(z, bias, labels, sums)
    return sums.sum(axis=0)


def vjp(g, z, bias, labels, g_z):
    """Return the gradient of the bias, chunk by chunk, and let `g_z` be filled."""
    g_bias = np.full((chunks(len(z)), z.shape[1]), 7, z.dtype)
    module.cross_entropy_vjp(g, z, bias, labels, g_z, g_bias)
    return g_bias


def log_softmax(z, bias):
    """Return it in float64, of the logits that an array of this dtype holds."""
    logits = (z + bias).astype("f8")
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("dtype", "integer"), [("float32", "int64"), ("float64", "uint8")])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_numpy(shape, dtype, integer, executed):
    rows, classes = shape
    rng = np.random.default_rng(5)
    z = (4 * rng.normal(size=shape)).astype(dtype)
    z[::3] += 1000  # exp would overflow
    bias = rng.normal(size=classes).astype(dtype)
    labels = rng.integers(0, classes, rows).astype(integer)
    g = np.array(1.75, dtype)
    inputs = (g, z, bias, labels)
    before = [array.tobytes() for array in inputs]
    log_p = log_softmax(z, bias)
    eps = np.finfo(dtype).eps

    mean, hits = sums = cross_entropy(z, bias, labels)
    assert sums.dtype == dtype
    assert abs(mean + log_p[range(rows), labels].mean()) <= 8 * eps * (abs(log_p).max() + 1)
    assert hits == ((z + bias).argmax(axis=1) == labels).sum()

    g_z = np.full_like(z, 7)
    g_bias = vjp(g, z, bias, labels, g_z)
    wanted = (np.exp(log_p) - np.eye(classes)[labels]) * 1.75 / rows
    assert (abs(g_z - wanted) <= 8 * eps * 1.75 / rows).all()
    for i, column_sums in enumerate(g_bias):
        chunk = wanted[256 * i : 256 * (i + 1)]
        assert (abs(column_sums - chunk.sum(axis=0)) <= 16 * eps * 1.75).all()
    assert [array.tobytes() for array in inputs] == before

    assert cross_entropy(z, bias, labels).tobytes() == sums.tobytes()
    again = vjp(g, z, bias, labels, z)  # in place
    assert z.tobytes() == g_z.tobytes()
    assert again.tobytes() == g_bias.tobytes()
    assert len(executed) == 4


@pytest.mark.parametrize("classes", [3, 40])
def test_the_first_of_equal_logits_is_the_answer(classes, executed):
    z = np.zeros((classes, classes), "f4")
    z[:, 1] = z[:, 2] = 5
    z[:, -1] = 5
    labels = np.arange(classes, dtype="i4")
    hit = [
        cross_entropy(z[i : i + 1], np.zeros(classes, "f4"), labels[i : i + 1])[1] for i in labels
    ]
    assert hit == [0, 1] + [0] * (classes - 2)


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("row", "label", "loss", "hits"),
    [
        ([0, NAN, 1], 2, NAN, 0),
        ([0, NAN, 1], 1, NAN, 0),
        ([INF, 0, 0], 0, NAN, 1),
        ([INF, 0, 0], 1, NAN, 0),
        ([-INF, 0, 0], 0, INF, 0),
        ([-INF, 0, 0], 1, np.log(2), 1),
        ([-INF, -INF, -INF], 0, NAN, 1),
        ([3, 0, 0], 3, NAN, 0),  # no class
        ([3, 0, 0], -1, NAN, 0),
    ],
)
def test_special_logits_and_labels(row, label, loss, hits, executed):
    """As in NumPy: `z - z.max()` is NaN at infinity, and argmax finds what is largest."""
    z, bias, labels = np.array([row], "f4"), np.zeros(3, "f4"), np.array([label])
    np.testing.assert_allclose(cross_entropy(z, bias, labels), [loss, hits], rtol=1e-6)


def test_one_row_with_a_nan_spoils_the_mean_but_no_other_gradient(executed):
    z = np.zeros((4, 3), "f4")
    z[1, 2] = NAN
    labels = np.zeros(4, "u1")
    mean, hits = cross_entropy(z, np.zeros(3, "f4"), labels)
    assert np.isnan(mean)
    assert hits == 3
    g_z = np.empty_like(z)
    g_bias = vjp(np.array(1, "f4"), z, np.zeros(3, "f4"), labels, g_z)
    assert np.isnan(g_z).all(axis=1).tolist() == [False, True, False, False]
    assert not np.isnan(g_z[[0, 2, 3]]).any()
    assert np.isnan(g_bias).all()


def test_the_mean_over_no_rows_is_nan(executed):
    z, labels = np.ones((0, 3), "f4"), np.ones(0, "i8")
    mean, hits = cross_entropy(z, np.ones(3, "f4"), labels)
    assert np.isnan(mean)
    assert hits == 0
    assert vjp(np.array(1, "f4"), z, np.ones(3, "f4"), labels, z).tolist() == [[0, 0, 0]]


def test_one_launch_each_on_the_stream(executed):
    z, bias, labels = np.ones((257, 3), "f4"), np.ones(3, "f4"), np.ones(257, "u1")
    module.cross_entropy(z, bias, labels, np.ones((2, 2), "f4"), cuda_stream=99)
    g = np.array(1, "f4")
    module.cross_entropy_vjp(g, z, bias, labels, z, np.ones((2, 3), "f4"), cuda_stream=99)
    assert executed == [
        (module.sum_losses, (2,), (32, 32), 99),
        (module.softmax_minus_one_hot, (2,), (32, 32), 99),
    ]


F4, F8 = np.ones((2, 3), "f4"), np.ones((2, 3), "f8")
LABELS = np.ones(2, "i8")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"z": F4[0]}, ValueError, r"z must have shape \(rows, classes\), received \(3,\)"),
        ({"z": F4.astype("i4")}, TypeError, "z must be float32 or float64, received int32"),
        ({"z": np.ones((3, 2), "f4").T}, ValueError, "z must be C-contiguous"),
        ({"bias": F8[0]}, TypeError, "bias must have dtype float32, received float64"),
        ({"bias": F4}, ValueError, r"bias must have shape \(3,\), received \(2, 3\)"),
        ({"labels": F4[:, 0]}, TypeError, "labels must be integers, received float32"),
        ({"labels": LABELS[:1]}, ValueError, r"labels must have shape \(2,\), received \(1,\)"),
    ],
)
def test_bad_input_of_both(changed, error, message, executed):
    arrays = {"z": F4, "bias": F4[0], "labels": LABELS} | changed
    with pytest.raises(error, match=f"cross_entropy: {message}"):
        module.cross_entropy(**arrays, sums=np.ones((1, 2), "f4"))
    with pytest.raises(error, match=f"cross_entropy_vjp: {message}"):
        module.cross_entropy_vjp(np.array(1, "f4"), **arrays, g_z=F4, g_bias=F4[:1])
    assert executed == []


def test_bad_input_of_each(executed):
    with pytest.raises(ValueError, match=r"sums must have shape \(1, 2\), received \(2,\)"):
        module.cross_entropy(F4, F4[0], LABELS, np.ones(2, "f4"))
    with pytest.raises(ValueError, match=r"g must have shape \(\), received \(3,\)"):
        module.cross_entropy_vjp(F4[0], F4, F4[0], LABELS, F4, F4[:1])
    with pytest.raises(TypeError, match="g_z must have dtype float32"):
        module.cross_entropy_vjp(np.array(1, "f4"), F4, F4[0], LABELS, F8, F4[:1])
    with pytest.raises(ValueError, match=r"g_bias must have shape \(1, 3\)"):
        module.cross_entropy_vjp(np.array(1, "f4"), F4, F4[0], LABELS, F4, F4)
    assert executed == []
