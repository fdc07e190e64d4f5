"""Gather of a batch on each device: the bits of NumPy's indexing, cast and scaling."""

import numpy as np
import pytest
from backends import assert_same_bits, host

from minidl import get_backend

INTEGERS = [f"{kind}{8 * size}" for kind in ("int", "uint") for size in (1, 2, 4, 8)]
ROWS = np.array([4, 0, 4, 2, 1])


def numbers(shape, dtype):
    """Return numbers over the whole range of a dtype, special ones among them."""
    if np.dtype(dtype).kind == "f":
        special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-30, 3.3, -7.7])
        return np.resize(special.astype(dtype), shape)
    if dtype == "bool":
        return np.resize([True, False, True], shape)
    info = np.iinfo(dtype)
    x = np.random.default_rng(3).integers(info.min, info.max, shape, dtype, endpoint=True)
    x.flat[:1], x.flat[1:2] = info.min, info.max
    return x


def expected(source, rows, dtype, scale, offset):
    """Return the batch in NumPy, where the product is rounded before the sum."""
    out = source[rows].astype(dtype)
    if scale == 1 and offset == 0:
        return out
    return out * out.dtype.type(scale) + out.dtype.type(offset)


def gathered(backend, source, rows, dtype, labels=None, **options):
    """Return batch and labels on the host, and check that the data set is unchanged."""
    given = backend.dataset_array(source)
    labels = None if labels is None else backend.dataset_array(labels)
    x, y = backend.gather(given, backend.asarray(rows), dtype, labels=labels, **options)
    assert_same_bits(*(a.astype("float64") for a in (backend.to_numpy(given), source)))
    return host(backend, *(part for part in (x, y) if part is not None))


SOURCES = [*INTEGERS, "float32", "float64", "float16", "bool"]


@pytest.mark.parametrize(
    ("source", "dtype"),
    [
        *((source, "float32") for source in SOURCES),
        *((source, "float16") for source in ("uint8", "float16", "float64")),
        *((source, "float64") for source in ("uint8", "int64", "float32")),
        *(pytest.param(source, "float64", marks=pytest.mark.slow) for source in SOURCES),
    ],
)
def test_gather_of_any_dtype_has_the_bits_of_numpy(source, dtype, backend):
    x = numbers((9, 5), source)
    for scale, offset in [(1 / 255, -0.3), (1.0, 0.0), (3.0, 0.0)]:
        with np.errstate(over="ignore"):  # in float16
            (batch,) = gathered(backend, x, ROWS, dtype, scale=scale, offset=offset)
            assert_same_bits(batch, expected(x, ROWS, dtype, scale, offset))


@pytest.mark.parametrize("shape", [(3,), (5, 1), (4, 255), (3, 257), (7, 28, 28), (2, 0)], ids=str)
@pytest.mark.parametrize("count", [0, 1, 33])
def test_gather_of_any_shape_has_the_bits_of_numpy(shape, count, backend):
    x, labels = numbers(shape, "uint8"), numbers(shape[:1], "int64")
    rows = np.random.default_rng(count).integers(0, shape[0], count)
    batch, picked = gathered(backend, x, rows, "float32", labels, scale=0.1, offset=-1)
    assert_same_bits(batch, expected(x, rows, "float32", 0.1, -1))
    np.testing.assert_array_equal(picked, labels[rows], strict=True)


@pytest.mark.parametrize(
    "dtype",
    [
        *["uint8", "int64"],
        *(pytest.param(d, marks=pytest.mark.slow) for d in ("int8", "uint16", "int32", "uint64")),
    ],
)
def test_gather_of_labels_keeps_their_dtype(dtype, backend):
    labels = numbers((5,), dtype)
    _, picked = gathered(backend, numbers((5, 2), "uint8"), ROWS, "float32", labels)
    np.testing.assert_array_equal(picked, labels[ROWS], strict=True)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::-1],
        lambda x: x[:, ::2],
        lambda x: np.asfortranarray(x),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
        lambda x: x.astype(">f4"),
    ],
)
def test_gather_on_the_cpu_takes_any_strides_and_byte_order(view):
    source = view(np.random.default_rng(3).standard_normal((5, 30)).astype("float32"))
    out, _ = get_backend("cpu").gather(source, ROWS, "float32")
    assert_same_bits(out, source[ROWS].astype("float32"))


def test_threads_loop_over_elements_beyond_the_grid(executed, monkeypatch):
    from minidl_kernels.cuda import gather, launch

    backend, launches = executed
    monkeypatch.setattr(launch, "MAX_BLOCKS", 2)
    source, rows = numbers((6, 600), "uint8"), np.arange(6)[::-1].copy()
    out, picked = backend.gather(source, rows, "float64", labels=source[:, 0])
    assert launches == [(gather._gather_float64, (2, 1), (256, 1))]
    assert (out == source[rows]).all()
    assert (picked == source[rows, 0]).all()


SOURCE, LABELS = np.ones((3, 2), "uint8"), np.ones(3, "uint8")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"rows": ROWS.astype("i4")}, TypeError, "expected rows of dtype int64, got int32"),
        ({"rows": ROWS[:4].reshape(2, 2)}, ValueError, r"expected rows of shape \(4,\)"),
        ({"labels": ROWS}, ValueError, r"expected labels of shape \(3,\), got \(5,\)"),
        ({"labels": LABELS / 2}, TypeError, "expected integers as labels, got float64"),
    ],
)
def test_gather_rejects_arrays_that_do_not_fit(changed, error, message, backend):
    arrays = {"source": SOURCE, "rows": ROWS[:2] * 0, "labels": LABELS} | changed
    arrays = {name: backend.asarray(array) for name, array in arrays.items()}
    with pytest.raises(error, match=f"^gather: {message}"):
        backend.gather(**arrays, dtype="float32")
