"""The CUDA kernels of a dense layer against NumPy, executed as they are compiled."""

import importlib.util

import numpy as np
import pytest
from minidl_kernels import mask_contract

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: no CUDA kernel is compiled", allow_module_level=True)

from minidl_kernels.cuda import dense

ADDRESS = {"seed": 2**40 + 17, "stream": 3, "step": 4, "row_offset": 7}
SHAPES = [
    (0, 3),
    (1, 1),
    (3, 10),
    (31, 16),
    (33, 65),
    (128, 33),
    (255, 3),
    (256, 64),
    (257, 10),
    (600, 1),
    (3, 512),
]
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7, -1e-7]


def numbers(shape, dtype, seed):
    """Return normal numbers, and among them special ones."""
    x = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    flat = x.reshape(-1)
    flat[5::11] = np.resize(np.array(SPECIAL, dtype), flat[5::11].size)
    return x


def bits(array):
    """Return the bits of an array, those of all NaNs equal."""
    return np.where(np.isnan(array), array.dtype.type(np.nan), array).view(f"u{array.itemsize}")


def expected(z, bias, activation, rate, rescale, **address):
    """Return dropout of the activation in NumPy, one after the other."""
    with np.errstate(invalid="ignore"):
        y = z + bias
    if activation == "relu":
        y = np.maximum(y, z.dtype.type(0))
    if rate == 1:
        return np.zeros_like(y)
    if rescale:
        y = y * mask_contract.scale(rate, z.dtype)
    return np.where(mask_contract.keep_mask(z.shape, rate, **address), y, z.dtype.type(0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_activate_and_drop_has_the_bits_of_its_parts(shape, dtype, executed):
    bias = numbers(shape[1:], dtype, 1)
    bias_before = bias.tobytes()
    for activation, rate, rescale in [
        ("relu", 0.3, True),
        ("linear", 0.5, True),
        ("relu", 0.3, False),
        ("linear", 0, True),
    ]:
        z = numbers(shape, dtype, 0)
        wanted = expected(z, bias, activation, rate, rescale, **ADDRESS)
        dense.activate_and_drop(
            z, bias, activation=activation, rate=rate, rescale=rescale, **ADDRESS
        )
        assert (bits(z) == bits(wanted)).all()
    assert bias.tobytes() == bias_before
    assert len(executed) == (4 if shape[0] else 0)


def test_relu_of_a_negative_zero_is_zero(executed):
    z, bias = np.full((1, 3), -0.0, "f4"), np.full(3, -0.0, "f4")
    dense.activate_and_drop(z, bias, activation="relu")
    assert not np.signbit(z).any()


def test_at_rate_1_nothing_is_launched(executed):
    z = np.full((2, 3), np.nan, "f4")
    dense.activate_and_drop(z, np.ones(3, "f4"), activation="relu", rate=1)
    assert z.tobytes() == bytes(z.nbytes)
    assert executed == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_activate_vjp(shape, dtype, executed):
    rows, units = shape
    g, y = numbers(shape, dtype, 2), np.maximum(numbers(shape, dtype, 3), 0)
    g[~np.isfinite(g)] = 1  # the sums of the others have nothing to compare
    before = g.tobytes(), y.tobytes()
    factor = 1 / 0.7
    wanted = np.where(y > 0, g * y.dtype.type(factor), y.dtype.type(0))
    g_z = np.full_like(g, 7)
    g_bias = np.full((dense.chunks(rows), units), 7, dtype)
    dense.activate_vjp(g, y, factor, g_z, g_bias)
    assert g_z.tobytes() == wanted.tobytes()
    assert (g.tobytes(), y.tobytes()) == before
    for i, sums in enumerate(g_bias):
        chunk = wanted[256 * i : 256 * (i + 1)].astype("f8")
        scale = np.abs(chunk).sum(axis=0)
        assert (abs(sums - chunk.sum(axis=0)) <= 16 * np.finfo(dtype).eps * scale).all()

    again = np.empty_like(g_bias)
    dense.activate_vjp(g, y, factor, g, again)  # in place
    assert g.tobytes() == wanted.tobytes()
    assert again.tobytes() == g_bias.tobytes()


def test_activate_vjp_selects(executed):
    """A NaN or an infinity that was dropped leaves no trace; one that was kept is in the sum."""
    g = np.array([[np.nan, np.inf, np.nan, 1]], "f4")
    y = np.array([[0, 0, 1, np.nan]], "f4")
    g_bias = np.empty((1, 4), "f4")
    dense.activate_vjp(g, y, 2, g, g_bias)
    np.testing.assert_array_equal(g, [[0, 0, np.nan, 0]])
    np.testing.assert_array_equal(g_bias, [[0, 0, np.nan, 0]])


def test_no_units(executed):
    empty = np.ones((3, 0), "f4")
    dense.activate_vjp(empty, empty, 1, empty, np.ones((1, 0), "f4"))
    assert executed == []


def test_one_launch_each_on_the_stream(executed):
    z = np.ones((300, 70), "f4")
    dense.activate_and_drop(z, np.ones(70, "f4"), activation="relu", rate=0.5, cuda_stream=99)
    dense.activate_vjp(z, z, 2, z, np.ones((2, 70), "f4"), cuda_stream=99)
    assert [(kernel, stream) for kernel, _, _, stream in executed] == [
        (dense.end_layer, 99),
        (dense.gate_and_sum, 99),
    ]
    assert executed[1][1:3] == ((2, 3), (32, 32))


F4, F8 = np.ones((2, 3), "f4"), np.ones((2, 3), "f8")


@pytest.mark.parametrize(
    ("z", "bias", "keywords", "error", "message"),
    [
        (F4, F4[0], {"activation": "tanh"}, ValueError, '"linear" or "relu", received \'tanh\''),
        (F4, F8[0], {}, TypeError, "bias must have dtype float32, received float64"),
        (F4, F4[0, :2], {}, ValueError, r"bias must have shape \(3,\), received \(2,\)"),
        (F4[0], F4[0], {}, ValueError, r"z must have shape \(rows, units\), received \(3,\)"),
        (F4.T, F4[0, :2], {}, ValueError, "z must be C-contiguous"),
        (F4.astype("f2"), F4[0], {}, TypeError, "float32 or float64, received float16"),
        (F4, F4[0], {"rate": 1.5}, ValueError, r"rate must be in \[0, 1\], received 1.5"),
        (F4, F4[0], {"row_offset": 2**32 - 1}, ValueError, "row_offset"),
    ],
)
def test_bad_input_of_activate_and_drop(z, bias, keywords, error, message, executed):
    with pytest.raises(error, match=message):
        dense.activate_and_drop(z, bias, **{"activation": "relu"} | keywords)
    assert executed == []


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"g": F8}, TypeError, "g must have dtype float32, received float64"),
        ({"g": F4[:1]}, ValueError, r"g must have shape \(2, 3\), received \(1, 3\)"),
        ({"y": F4[0]}, ValueError, r"y must have shape \(rows, units\)"),
        ({"g_z": np.ones((3, 2), "f4").T}, ValueError, "g_z must be C-contiguous"),
        ({"g_bias": F4}, ValueError, r"g_bias must have shape \(1, 3\), received \(2, 3\)"),
    ],
)
def test_bad_input_of_activate_vjp(changed, error, message, executed):
    arrays = {"g": F4, "y": F4, "g_z": F4, "g_bias": F4[:1]} | changed
    with pytest.raises(error, match=f"activate_vjp: {message}"):
        dense.activate_vjp(factor=1.0, **arrays)
    assert executed == []
