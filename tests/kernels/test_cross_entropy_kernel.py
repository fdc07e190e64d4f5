"""Cross-entropy on each device, against its formula in long doubles."""

import numpy as np
import pytest
from backends import assert_same_bits, host

from minidl import get_backend

DTYPES = ["float32", "float64"]
SHAPES = [(1, 1), (3, 2), (33, 31), (256, 33), (600, 10), (3, 100)]
NAN, INF = np.nan, np.inf


def batch(shape, dtype):
    """Return logits up to 1000 and more, of which exp would overflow, a bias and labels."""
    rng = np.random.default_rng(5)
    z = (4 * rng.normal(size=shape)).astype(dtype)
    z[::3] += 1000
    return z, rng.normal(size=shape[1]).astype(dtype), rng.integers(0, shape[1], shape[0])


def log_softmax(z, bias):
    """Return it in long doubles, of logits rounded to the dtype."""
    logits = (z + bias).astype("longdouble")
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def loss_and_hits(backend, z, bias, labels):
    """Return the sums of a batch on the host."""
    sums = backend.asarray(np.full(2, 7, z.dtype))
    backend.cross_entropy(*map(backend.asarray, (z, bias, labels)), sums)
    (received,) = host(backend, sums)
    return received


def gradients(backend, g, z, bias, labels):
    """Return the gradients of logits and bias on the host."""
    return host(backend, *backend.cross_entropy_vjp(*map(backend.asarray, (g, z, bias, labels))))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_hits_and_gradients_are_those_of_the_formula(shape, dtype, backend):
    z, bias, labels = batch(shape, dtype)
    labels = labels.astype("uint8")
    before = [array.copy() for array in (z, bias, labels)]
    log_p, eps = log_softmax(z, bias), np.finfo(dtype).eps

    mean, hits = sums = loss_and_hits(backend, z, bias, labels)
    assert sums.dtype == dtype
    assert abs(mean + log_p[range(shape[0]), labels].mean()) <= 8 * eps * (abs(log_p).max() + 1)
    assert hits == ((z + bias).argmax(axis=1) == labels).sum()

    g = np.array(-2.5, dtype)
    expected = (np.exp(log_p) - np.eye(shape[1])[labels]) * -2.5 / shape[0]
    g_z, g_bias = gradients(backend, g, z, bias, labels)
    assert g_z.dtype == g_bias.dtype == dtype
    assert (abs(g_z - expected) <= 8 * eps * 2.5 / shape[0]).all()
    assert (abs(g_bias - expected.sum(axis=0)) <= 40 * eps * 2.5).all()

    for array, same in zip((z, bias, labels), before, strict=True):
        assert array.tobytes() == same.tobytes()
    assert_same_bits(loss_and_hits(backend, z, bias, labels), sums)
    for array, same in zip(gradients(backend, g, z, bias, labels), (g_z, g_bias), strict=True):
        assert_same_bits(array, same)


@pytest.mark.parametrize(
    "dtype",
    [
        *["int8", "uint64"],
        *(pytest.param(d, marks=pytest.mark.slow) for d in ("uint16", "int32", "uint32")),
    ],
)
def test_labels_of_any_integer_dtype_give_the_same_bits(dtype, backend):
    z, bias, labels = batch((20, 10), "float32")
    expected = loss_and_hits(backend, z, bias, labels)
    strided = backend.asarray(np.repeat(labels.astype(dtype), 2))[::2]
    sums = backend.asarray(np.empty(2, "float32"))
    backend.cross_entropy(backend.asarray(z), backend.asarray(bias), strided, sums)
    assert_same_bits(backend.to_numpy(sums), expected)


@pytest.mark.parametrize("classes", [3, 40])
def test_first_of_equal_logits_is_the_prediction(classes, backend):
    z = np.zeros((1, classes), "float32")
    z[:, [1, 2, -1]] = 5
    hits = [
        loss_and_hits(backend, z, z[0] * 0, np.array([label]))[1].item() for label in range(classes)
    ]
    assert hits == [0, 1] + [0] * (classes - 2)


@pytest.mark.filterwarnings("ignore:invalid value")  # of a backend that is NumPy
@pytest.mark.parametrize(
    ("row", "label", "loss", "hits"),
    [
        ([0, NAN, 1], 2, NAN, 0),
        ([0, NAN, 1], 1, NAN, 0),
        ([NAN, 0, 1], 2, NAN, 0),
        ([INF, 0, 0], 0, NAN, 1),
        ([INF, 0, 0], 1, NAN, 0),
        ([-INF, 0, 0], 0, INF, 0),
        ([-INF, 0, 0], 1, np.log(2), 1),
        ([-INF, -INF, -INF], 0, NAN, 1),
        ([1e4, -1e4, 0], 1, 2e4, 0),
    ],
)
def test_special_logits_follow_numpy(row, label, loss, hits, backend):
    z, bias = np.array([row], "float32"), np.zeros(3, "float32")
    sums = loss_and_hits(backend, z, bias, np.array([label]))
    np.testing.assert_allclose(sums, [loss, hits], rtol=1e-6)


def test_row_with_nan_spoils_the_mean_and_no_other_gradient(backend):
    z, bias = np.zeros((4, 3), "float32"), np.zeros(3, "float32")
    z[1, 2] = NAN
    labels = np.zeros(4, "uint8")
    mean, hits = loss_and_hits(backend, z, bias, labels)
    assert np.isnan(mean)
    assert hits == 3
    g_z, g_bias = gradients(backend, np.ones((), "float32"), z, bias, labels)
    assert np.isnan(g_z).all(axis=1).tolist() == [False, True, False, False]
    assert not np.isnan(g_z[[0, 2, 3]]).any()
    assert np.isnan(g_bias).all()


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [2**63, 0]])
def test_label_outside_the_classes_makes_the_loss_nan_or_raises(labels, backend):
    z, bias = np.ones((2, 3)), np.ones(3)
    labels = np.array(labels, "uint64" if max(labels) > 2**62 else "int64")
    if backend.name == "cpu":
        message = rf"^cross_entropy: expected labels in \[0, 3\), got {labels.min()} to"
        with pytest.raises(ValueError, match=message):
            loss_and_hits(backend, z, bias, labels)
    else:
        mean, hits = loss_and_hits(backend, z, bias, labels)
        assert np.isnan(mean)
        assert hits == (labels == 0).sum()


def test_nan_of_other_origin_does_not_raise():
    cpu, z = get_backend("cpu"), np.full((1, 2), NAN)
    sums = np.empty(2)
    cpu.cross_entropy(z, np.zeros(2), np.array([1]), sums)
    assert np.isnan(sums[0])


def test_vjp_on_the_cpu_sums_row_by_row():
    z, bias, labels = batch((300, 5), "float32")
    g_z, g_bias = gradients(get_backend("cpu"), np.ones((), "float32"), z, bias, labels)
    total = np.zeros(5, "float32")
    for row in g_z:
        total = total + row
    assert_same_bits(g_bias, total)


F4, F8 = np.ones((2, 3), "float32"), np.ones((2, 3))
ARRAYS = {"z": F4, "bias": F4[0], "labels": np.ones(2, "int64")}


@pytest.mark.parametrize("who", ["cross_entropy", "cross_entropy_vjp"])
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"z": F4[0]}, ValueError, r"expected z of shape \(rows, classes\), got \(3,\)"),
        ({"z": F4.astype("i4")}, TypeError, "expected z .* got int32"),
        ({"z": F4[:0], "labels": ARRAYS["labels"][:0]}, ValueError, "expected z with elements"),
        ({"bias": F8[0]}, TypeError, "expected bias of dtype float32, got float64"),
        ({"bias": F4}, ValueError, r"expected bias of shape \(3,\), got \(2, 3\)"),
        ({"labels": F4[:, 0]}, TypeError, "expected integers as labels, got float32"),
        ({"labels": np.ones(1, int)}, ValueError, r"expected labels of shape \(2,\), got \(1,\)"),
    ],
)
def test_cross_entropy_rejects_arrays_that_do_not_fit(who, changed, error, message, backend):
    arrays = {name: backend.asarray(array) for name, array in (ARRAYS | changed).items()}
    others = {"sums": backend.asarray(F4[0, :2].copy())}
    if who == "cross_entropy_vjp":
        others = {"g": backend.asarray(np.ones((), "float32"))}
    with pytest.raises(error, match=f"^{who}: {message}"):
        getattr(backend, who)(**arrays, **others)


def test_cross_entropy_rejects_outputs_that_do_not_fit(backend):
    arrays = {name: backend.asarray(array) for name, array in ARRAYS.items()}
    f4, f8 = backend.asarray(F4), backend.asarray(F8)
    with pytest.raises(ValueError, match=r"cross_entropy: expected sums of shape \(2,\)"):
        backend.cross_entropy(**arrays, sums=f4[0])
    with pytest.raises(TypeError, match="cross_entropy: expected sums of dtype float32"):
        backend.cross_entropy(**arrays, sums=f8[0, :2])
    with pytest.raises(ValueError, match="cross_entropy: expected sums in C order"):
        backend.cross_entropy(**arrays, sums=f4[0, ::2])
    with pytest.raises(ValueError, match=r"cross_entropy_vjp: expected g of shape \(1,\)"):
        backend.cross_entropy_vjp(f4[0], **arrays)
    with pytest.raises(ValueError, match=r"cross_entropy_vjp: expected g_bias of shape \(3,\)"):
        backend.cross_entropy_vjp(f4[0, :1], **arrays, g_bias=f4)
