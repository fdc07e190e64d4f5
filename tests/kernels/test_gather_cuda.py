"""The CUDA kernel that takes the rows of a batch, executed as it is compiled."""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: no CUDA kernel is compiled", allow_module_level=True)

from minidl_kernels.cuda import gather as module
from minidl_kernels.cuda import launch


def source_of(dtype, shape):
    """Return numbers over the whole range of a dtype; a float one holds special ones too."""
    size = int(np.prod(shape))
    if np.dtype(dtype).kind == "f":
        special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-30, 3.3, -7.7], dtype)
        return np.resize(special, size).reshape(shape)
    info = np.iinfo(dtype)
    rng = np.random.default_rng(3)
    numbers = rng.integers(info.min, info.max, size, dtype=dtype, endpoint=True)
    numbers[:1], numbers[1:2] = info.min, info.max
    return numbers.reshape(shape)


def expected(source, rows, dtype, scale, offset):
    """Return it in NumPy, where the product is rounded before the sum."""
    out = source[rows].astype(dtype)
    if scale == 1 and offset == 0:
        return out
    return out * out.dtype.type(scale) + out.dtype.type(offset)


def bits(array):
    """Return the bits of an array, those of all NaNs equal."""
    return np.where(np.isnan(array), array.dtype.type(np.nan), array).view(f"u{array.itemsize}")


INTEGERS = [f"{kind}{8 * size}" for kind in ("int", "uint") for size in (1, 2, 4, 8)]


@pytest.mark.parametrize(
    ("source_dtype", "dtype"),
    [(source, "float32") for source in (*INTEGERS, "float32", "float64")]
    + [(source, "float64") for source in ("uint8", "int64", "uint64", "float32")],
)
def test_every_dtype_has_the_bits_of_numpy(source_dtype, dtype, executed):
    source = source_of(source_dtype, (9, 5))
    rows = np.array([8, 0, 3, 3])
    before = source.tobytes(), rows.tobytes()
    for scale, offset in [(1 / 255, -0.3), (1.0, 0.0), (3.0, 0.0)]:
        out = np.full((4, 5), 7, dtype)
        module.gather(source, rows, out, None, None, scale=scale, offset=offset)
        assert (bits(out) == bits(expected(source, rows, dtype, scale, offset))).all()
    assert (source.tobytes(), rows.tobytes()) == before


@pytest.mark.parametrize("shape", [(3,), (5, 1), (4, 255), (4, 256), (3, 257), (7, 28, 28), (2, 0)])
@pytest.mark.parametrize("count", [1, 3, 33])
def test_every_shape(shape, count, executed):
    source = source_of("uint8", shape)
    labels = source_of("int64", shape[:1])
    rows = np.random.default_rng(count).integers(0, shape[0], count)
    out = np.full((count, *shape[1:]), 7, "f4")
    labels_out = np.full(count, 7)
    module.gather(source, rows, out, labels, labels_out, scale=0.1, offset=-1, cuda_stream=99)
    assert (bits(out) == bits(expected(source, rows, "f4", 0.1, -1))).all()
    assert (labels_out == labels[rows]).all()
    ((kernel, _, _, stream),) = executed
    assert (kernel, stream) == (module.take_float32, 99)


def test_threads_loop_over_what_the_grid_does_not_cover(executed, monkeypatch):
    monkeypatch.setattr(launch, "MAX_BLOCKS", 2)
    source, rows = source_of("uint8", (6, 600)), np.arange(6)[::-1].copy()
    out, labels_out = np.empty((6, 600)), np.empty(6, "u1")
    module.gather(source, rows, out, source[:, 0].copy(), labels_out)
    assert executed[0][:3] == (module.take_float64, (2, 1), (256, 1))
    assert (out == source[rows]).all()
    assert (labels_out == source[rows, 0]).all()


def test_nothing_is_launched_for_no_rows(executed):
    module.gather(np.ones((3, 2)), np.ones(0, "i8"), np.ones((0, 2)), None, None)
    assert executed == []


SOURCE, ROWS, OUT = np.ones((3, 2), "u1"), np.zeros(4, "i8"), np.ones((4, 2), "f4")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"source": SOURCE > 0}, TypeError, "source must be integers, .* received bool"),
        ({"source": SOURCE.astype("f2")}, TypeError, "source must be .* received float16"),
        ({"source": np.ones((2, 3), "u1").T}, ValueError, "source must be C-contiguous"),
        ({"rows": ROWS.astype("i4")}, TypeError, "rows must have dtype .*int64.*, received int32"),
        ({"rows": ROWS.reshape(2, 2)}, ValueError, r"rows must have shape \(4,\)"),
        ({"out": OUT.astype("i4")}, TypeError, "out must be float32 or float64, received int32"),
        ({"out": OUT[:3]}, ValueError, r"out must have shape \(4, 2\), received \(3, 2\)"),
        ({"labels": ROWS}, ValueError, r"labels must have shape \(3,\), received \(4,\)"),
        ({"labels": OUT[:3, 0]}, TypeError, "labels must be integers, received float32"),
        ({"labels_out": ROWS}, TypeError, "labels_out must have dtype uint8, received int64"),
    ],
)
def test_bad_input(changed, error, message, executed):
    arrays = {
        "source": SOURCE,
        "rows": ROWS,
        "out": OUT,
        "labels": np.ones(3, "u1"),
        "labels_out": np.ones(4, "u1"),
    }
    with pytest.raises(error, match=f"gather: {message}"):
        module.gather(**arrays | changed)
    assert executed == []
