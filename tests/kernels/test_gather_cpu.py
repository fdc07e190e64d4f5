"""Gathering a batch on the CPU: the bits of NumPy's indexing, cast and scaling."""

import numpy as np
import pytest
from minidl_kernels.cpu.gather import gather

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
ROWS = np.array([4, 0, 4, 2, 1], np.int64)


def _source(shape, dtype):
    rng = np.random.default_rng(1)
    if np.dtype(dtype).kind == "f":
        values = rng.standard_normal(shape).astype(dtype)
        values.flat[1::7] = -0.0
        values.flat[2::11] = np.nan
        return values
    bounds = np.iinfo(dtype)
    return rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [*INTEGERS, "float32", "float64"])
def test_equals_numpy(kind, dtype):
    for shape in ((5,), (5, 0), (5, 1), (5, 3), (5, 4, 65), (5, 257)):
        source = _source(shape, kind)
        before = source.copy()
        plain, scaled = (np.full((5, *shape[1:]), 7, dtype) for _ in range(2))
        gather(source, ROWS, plain)
        gather(source, ROWS, scaled, scale=1 / 255, offset=-0.5)
        cast = source[ROWS].astype(dtype)
        number = cast.dtype.type
        assert plain.tobytes() == cast.tobytes()
        assert scaled.tobytes() == (cast * number(1 / 255) + number(-0.5)).tobytes()
        assert source.tobytes() == before.tobytes()


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257])
def test_any_number_of_rows(count):
    source = _source((100, 300), "uint8")
    rows = np.random.default_rng(2).integers(0, 100, count)
    out = np.empty((count, 300), "float32")
    gather(source, rows, out, scale=2.0)
    np.testing.assert_array_equal(out, source[rows].astype("float32") * 2)


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
def test_any_strides_and_byte_order_of_the_source(view):
    source = view(np.random.default_rng(3).standard_normal((5, 30)).astype("float32"))
    out = np.empty((5, source.shape[1]), "float32")
    gather(source, ROWS, out)
    np.testing.assert_array_equal(out, source[ROWS])


@pytest.mark.parametrize(
    ("source", "rows", "out"),
    [
        ("float16", "int64", "float32"),
        ("bool", "int64", "float32"),
        ("uint8", "int32", "float32"),
        ("uint8", "int64", "float16"),
    ],
)
def test_other_dtypes_are_refused(source, rows, out):
    with pytest.raises(TypeError, match=f"gather: .*received {source}, {rows} and {out}"):
        gather(np.ones((5, 2), source), np.zeros(3, rows), np.ones((3, 2), out))


@pytest.mark.parametrize(
    ("source", "rows", "out"),
    [((5, 2), (3,), (3, 3)), ((5, 2), (3,), (2, 2)), ((5, 2), (3, 1), (3, 2)), ((), (3,), (3,))],
)
def test_shapes_that_do_not_fit(source, rows, out):
    with pytest.raises(ValueError, match=r"gather: expected out of shape \(count, \.\.\.\)"):
        gather(np.ones(source), np.zeros(rows, "int64"), np.ones(out))


def test_an_out_that_is_not_contiguous_is_refused():
    with pytest.raises(ValueError, match="gather: expected contiguous out and rows"):
        gather(np.ones((5, 2)), np.zeros(3, "int64"), np.ones((3, 4))[:, ::2])
