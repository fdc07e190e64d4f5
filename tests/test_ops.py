"""Every op: its value, its gradients, its dtypes, and the corners where it could go wrong."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from minidl.backend import Backend
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply
from minidl.rng import Address, keep_mask
from minidl.testing import check_gradient

RNG = np.random.default_rng(20120703)  # the inputs of the table below, drawn in its order
INF = math.inf


def draw(*shape, low=-2.0, high=2.0):
    return RNG.uniform(low, high, shape)


def apart(*shape):
    """Numbers 0.1 from each other and 0.05 from 0: no kink of relu, clip or max is near."""
    size = math.prod(shape)
    return (RNG.permutation(size) - size // 2 + 0.5).reshape(shape) * 0.1


# ------------------------------------------------------------------------------ plain formulas


def np_softmax(x, axis=-1):
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


def np_sparse_cross_entropy(x, labels):
    flat = np.log(np_softmax(x)).reshape(-1, x.shape[-1])
    chosen = [-row[label] for row, label in zip(flat, labels.ravel(), strict=True)]
    return np.array(chosen).reshape(labels.shape)


def np_dropout(x, rate, address, rescale=True):
    mask = keep_mask(x.shape, rate, **address._asdict())
    return np.where(mask, x / (1 - rate) if rescale else x, 0)


def np_dense(x, weight, bias, activation, rate, address, rescale=True):
    z = np_matmul(x, weight) + bias
    y = z * (z > 0) if activation == "relu" else z
    return np_dropout(y, rate, address, rescale)


def np_dense_cross_entropy(x, weight, bias, labels, sums):
    return np_sparse_cross_entropy(np_matmul(x, weight) + bias, labels).mean()


def np_matmul(a, b):
    """Matrix products as sums of elementwise products."""
    rows, columns = np.atleast_2d(a), b[:, None] if b.ndim == 1 else b
    y = (rows[..., :, :, None] * columns[..., None, :, :]).sum(axis=-2)
    y = y[..., 0] if b.ndim == 1 else y
    return y[..., 0, :] if a.ndim == 1 and b.ndim > 1 else y[0] if a.ndim == 1 else y


# ------------------------------------------------------------------------------ the table


class Case(NamedTuple):
    """An op's inputs, its static arguments, and the same in plain NumPy."""

    inputs: tuple[np.ndarray, ...]
    static: dict[str, Any]
    expected: Callable[..., np.ndarray]


# Pairs of shapes that broadcast.
SHAPES = [
    ((), ()),
    ((), (2, 3)),
    ((1,), ()),
    ((5,), (5,)),
    ((1, 4), (3, 4)),
    ((3, 4), (3, 1)),
    ((3, 1), (1, 4)),
    ((4,), (2, 3, 4)),
    ((2, 1, 4), (3, 1)),
    ((0, 4), (1, 4)),
    ((1, 1), (3, 0)),
    ((257,), (1,)),
]

# Every pair that matmul takes: vectors, matrices, stacks, stacks that broadcast, empty ones.
MATMUL_SHAPES = [
    ((4,), (4,)),
    ((1,), (1,)),
    ((4,), (4, 3)),
    ((3, 4), (4,)),
    ((3, 4), (4, 5)),
    ((1, 4), (4, 1)),
    ((3, 1), (1, 3)),
    ((4,), (2, 4, 3)),
    ((2, 3, 4), (4,)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((1, 3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (3, 4, 2)),
    ((0, 4), (4, 3)),
    ((2, 0), (0, 3)),
    ((0,), (0,)),
    ((0, 2, 3), (3, 2)),
]

# (shape of x, index): basic, boolean, integer, and mixtures; places named twice sum up.
INDICES = [
    ((5,), 2),
    ((5,), -1),
    ((5,), slice(1, 4)),
    ((5,), slice(None, None, -2)),
    ((5,), slice(2, 2)),
    ((5,), Ellipsis),
    ((5,), None),
    ((3, 4), 1),
    ((3, 4), (slice(None), 2)),
    ((3, 4), (Ellipsis, -1)),
    ((3, 4), (None, slice(None), None, slice(1, 3))),
    ((2, 3, 4), (0, Ellipsis, slice(None, None, 2))),
    ((5,), np.array([True, False, True, True, False])),
    ((3, 4), np.array([False, True, True])),
    ((2, 3), np.array([[True, False, True], [False, False, True]])),
    ((5,), np.array([False] * 5)),
    ((5,), np.array([3, 3, 3, 0])),
    ((5,), np.array([-1, 4, -5, 0])),
    ((5,), np.array([], dtype=int)),
    ((5,), np.array([[0, 1], [1, 0]])),
    ((3, 4), np.array([2, 2, 0])),
    ((3, 4), (np.array([0, 0, 2]), np.array([1, 1, 3]))),
    ((3, 4), (slice(None), np.array([1, 1]))),
    ((3, 4), (np.array([[0], [2]]), np.array([1, 1]))),
    ((2, 3, 4), (0, slice(None), np.array([3, 3]))),
    ((2, 3, 4), (Ellipsis, np.array([True, False, True, True]))),
    ((2, 3, 4), (np.array([1, 1]), None, slice(1, 2))),
]

ADDRESS = Address(seed=2**40 + 3, stream=5, step=7, row_offset=11)


def one(expected, *inputs, **static):
    return [Case((x,), static, expected) for x in inputs]


def two(expected, shapes=SHAPES, first=draw, second=draw):
    return [Case((first(*a), second(*b)), {}, expected) for a, b in shapes]


def positive(*shape):
    return draw(*shape, low=0.5, high=2.0)


def reduction(expected, op_axes, make):
    return [
        Case(
            (make(*shape),),
            {"axis": axis, "keepdims": keepdims},
            lambda x, axis, keepdims: expected(x, axis=axis, keepdims=keepdims),
        )
        for shape, axis in op_axes
        for keepdims in (False, True)
    ]


AXES = [
    ((), None),
    ((5,), None),
    ((5,), 0),
    ((3, 4), None),
    ((3, 4), 0),
    ((3, 4), -1),
    ((2, 3, 4), (0, -1)),
    ((2, 3, 4), (1,)),
    ((1, 4), 0),
    ((3, 4), np.int64(1)),
]

ELEMENTWISE_INPUTS = [draw(), draw(1), draw(3, 4), draw(0, 3), draw(255), draw(2, 3, 4)]
POSITIVE_INPUTS = [positive(), positive(3, 4), positive(0), positive(256)]
APART_INPUTS = [apart(), apart(1), apart(3, 4), apart(0, 3), apart(256)]
ROWS = [(draw(5), -1), (draw(1), 0), (draw(3, 4), -1), (draw(3, 4), 0), (draw(2, 3, 4), 1)]
ROWS += [(draw(0, 3), -1)]

CASES: dict[str, list[Case]] = {
    "add": two(lambda a, b: a + b),
    "subtract": two(lambda a, b: a - b),
    "multiply": two(lambda a, b: a * b),
    "divide": two(lambda a, b: a / b, second=positive),
    "power": two(lambda a, b: np.exp(b * np.log(a)), first=positive),
    "negative": one(lambda x: 0 - x, *ELEMENTWISE_INPUTS),
    "matmul": two(np_matmul, shapes=MATMUL_SHAPES),
    "getitem": [
        Case((draw(*shape),), {"index": index}, lambda x, index: x[index])
        for shape, index in INDICES
    ],
    "reshape": [
        Case((draw(*old),), {"shape": new}, lambda x, shape: np.reshape(x, shape))
        for old, new in [
            ((6,), (2, 3)),
            ((2, 3, 4), (4, -1)),
            ((), (1, 1)),
            ((1,), ()),
            ((0,), (3, 0)),
        ]
    ],
    "transpose": [
        Case((draw(*shape),), {"axes": axes}, lambda x, axes: np.transpose(x, axes))
        for shape, axes in [
            ((), None),
            ((5,), None),
            ((2, 3), None),
            ((2, 3, 4), None),
            ((2, 3, 4), (1, 2, 0)),
            ((3, 3, 3), (2, 0, 1)),
            ((2, 3, 4), (-1, 0, 1)),
            ((2, 3, 4, 5), (-2, 0, -1, 1)),
            ((0, 3), (1, 0)),
        ]
    ],
    "cast": one(lambda x, dtype: x, *ELEMENTWISE_INPUTS, dtype="float64"),
    "transfer": one(lambda x, target: x, *ELEMENTWISE_INPUTS, target="the same device"),
    "sum": reduction(np.add.reduce, [*AXES, ((0, 3), 0), ((0, 3), 1), ((0,), None)], draw),
    "mean": reduction(np.mean, [*AXES, ((0, 3), 1)], draw),
    "max": reduction(np.maximum.reduce, [*AXES, ((0, 3), 1)], apart),
    "exp": one(lambda x: math.e**x, *ELEMENTWISE_INPUTS),
    "log": one(lambda x: np.log2(x) / math.log2(math.e), *POSITIVE_INPUTS),
    "clip": one(
        lambda x, low, high: np.minimum(np.maximum(x, low), high),
        *APART_INPUTS,
        low=-0.3,
        high=0.4,
    ),
    "relu": one(lambda x: x * (x > 0), *APART_INPUTS),
    "sigmoid": one(lambda x: 1 / (1 + np.exp(-x)), *ELEMENTWISE_INPUTS),
    "tanh": one(lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)), *ELEMENTWISE_INPUTS),
    "softmax": [Case((x,), {"axis": axis}, np_softmax) for x, axis in ROWS],
    "log_softmax": [
        Case((x,), {"axis": axis}, lambda x, axis: np.log(np_softmax(x, axis))) for x, axis in ROWS
    ],
    "dropout": [
        Case(
            (draw(*shape),),
            {"rate": rate, "address": ADDRESS, "rescale": rescale},
            np_dropout,
        )
        for shape in [(), (5,), (3, 4), (2, 3, 50), (0, 3)]
        for rate, rescale in [(0.5, True), (0.25, False), (0.0, True)]
    ],
    "dense": [
        Case(
            (draw(rows, 5), draw(5, units), draw(units)),
            {"activation": activation, "rate": rate, "address": ADDRESS, "rescale": rescale},
            np_dense,
        )
        for rows, units in [(3, 4), (2, 67), (0, 3)]
        for activation in ("relu", "linear")
        for rate, rescale in [(0.5, True), (0.25, False), (0.0, True)]
    ],
    "dense_cross_entropy": [
        Case(
            (draw(rows, 5), draw(5, classes), draw(classes)),
            {"labels": RNG.integers(0, classes, rows).astype(dtype), "sums": np.zeros(2)},
            np_dense_cross_entropy,
        )
        for rows, classes, dtype in [(3, 4, int), (1, 1, "uint8"), (70, 33, "int32")]
    ],
    "sparse_cross_entropy": [
        Case((logits,), {"labels": labels}, np_sparse_cross_entropy)
        for logits, labels in [
            (draw(4), np.array(2)),
            (draw(1, 1), np.array([0])),
            (draw(3, 4), np.array([0, 3, 3])),
            (draw(3, 4), np.array([1, 2, 0], dtype=np.uint8)),
            (draw(2, 3, 4), np.array([[0, 1, 2], [3, 3, 0]])),
            (draw(0, 4), np.array([], dtype=int)),
        ]
    ],
}

EVERY_CASE = [
    pytest.param(name, case, id=f"{name}-{number}")
    for name, cases in CASES.items()
    for number, case in enumerate(cases)
]


def on_device(static, backend):
    """The static arguments with their arrays on the device."""

    def move(value):
        if isinstance(value, tuple) and not isinstance(value, Address):
            return tuple(move(part) for part in value)
        return backend.asarray(value) if isinstance(value, np.ndarray) else value

    moved = {name: move(value) for name, value in static.items()}
    return moved | {"target": backend} if "target" in moved else moved


def in_float32(static):
    narrow = {"dtype": "float32", "sums": np.zeros(2, "float32")}
    return static | {name: narrow[name] for name in narrow.keys() & static.keys()}


def run(name, backend, arrays, static):
    """The op's value, a cotangent that is not contiguous, and the gradients."""
    value, vjps = ops.OPS[name](backend, *arrays, **on_device(static, backend))
    shape = value.shape
    numbers = np.random.default_rng(1).standard_normal((*shape, 2)).astype(value.dtype)
    cotangent = backend.asarray(numbers)[..., 0]
    return value, cotangent, [vjp(cotangent) for vjp in vjps]


def leaves(case, device):
    return [Tensor(x, device, requires_grad=True) for x in case.inputs]


# ------------------------------------------------------------------------------ every op


def test_the_table_names_every_op():
    assert set(CASES) == set(ops.OPS)


@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_value(name, case, backend):
    arrays = [backend.asarray(x) for x in case.inputs]
    value, _ = ops.OPS[name](backend, *arrays, **on_device(case.static, backend))
    expected = np.asarray(case.expected(*case.inputs, **case.static))
    assert value.dtype == np.float64
    assert value.shape == expected.shape
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_gradient_with_respect_to_each_input(name, case, backend, device):
    static = on_device(case.static, backend)
    check_gradient(lambda *x: apply(ops.OPS[name], *x, **static), *leaves(case, device))


@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_float32_in_is_float32_out(name, case, backend):
    arrays = [backend.asarray(x, "float32") for x in case.inputs]
    value, _, gradients = run(name, backend, arrays, in_float32(case.static))
    assert value.dtype == np.float32
    assert [g.dtype for g in gradients] == [np.float32] * len(arrays)
    expected = case.expected(*case.inputs, **case.static)
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_inputs_are_not_modified(name, case, backend):
    arrays = [backend.asarray(x.copy()) for x in case.inputs]
    _, cotangent, _ = run(name, backend, arrays, case.static)
    for array, x in zip(arrays, case.inputs, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(array), x)
    untouched = np.random.default_rng(1).standard_normal((*cotangent.shape, 2))[..., 0]
    np.testing.assert_array_equal(backend.to_numpy(cotangent), untouched)


@pytest.mark.parametrize("layout", ["every second", "reversed", "fortran"])
@pytest.mark.parametrize(("name", "case"), EVERY_CASE)
def test_inputs_need_not_be_contiguous(name, case, layout, backend):
    def strided(x):
        if x.ndim == 0:
            return backend.asarray(np.stack([x, x]))[1]
        if layout == "every second":
            return backend.asarray(np.repeat(x, 2, axis=-1))[..., ::2]
        if layout == "reversed":
            return backend.asarray(np.flip(x).copy())[(slice(None, None, -1),) * x.ndim]
        return backend.asarray(np.ascontiguousarray(x.T)).T

    def outcome(arrays):
        value, _, gradients = run(name, backend, arrays, case.static)
        return [backend.to_numpy(array) for array in (value, *gradients)]

    expected = outcome([backend.asarray(x) for x in case.inputs])
    received = outcome([strided(x) for x in case.inputs])
    for mine, theirs in zip(received, expected, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-13, atol=1e-14)


def test_cast_rounds_the_value_and_returns_the_gradient_in_the_dtype_of_x(backend):
    x = backend.asarray(np.array([0.1, 1e-50, 3.0]))
    value, (vjp,) = ops.cast(backend, x, dtype="float32")
    gradient = vjp(backend.asarray(np.array([0.5, 2.0, 4.0], "float32")))
    expected = np.array([0.1, 1e-50, 3.0]).astype("float32")
    np.testing.assert_array_equal(backend.to_numpy(value), expected, strict=True)
    np.testing.assert_array_equal(backend.to_numpy(gradient), [0.5, 2.0, 4.0], strict=True)


# ------------------------------------------------------------------------------ the check checks


def wrong_scale(backend, a, b):
    return a * b, (lambda g: g * b * (1 + 1e-5), lambda g: g * a)


def wrong_sign(backend, a, b):
    return a - b, (lambda g: g, lambda g: g)


def wrong_swap(backend, a, b):
    return a * b, (lambda g: g * a, lambda g: g * b)


def wrong_transposed(backend, a, b):
    return a @ b, (lambda g: g @ b, lambda g: a.T @ g)


def wrong_axes(backend, x):
    return x.transpose(1, 2, 0), (lambda g: g.transpose(1, 2, 0),)


def wrong_broadcast(backend, x):
    def vjp(g):
        gradient = backend.xp.zeros_like(x)
        gradient[0] = g  # reaches only the first of the rows that were summed
        return gradient

    return x.sum(axis=0), (vjp,)


def wrong_missing_term(backend, x):
    value, _ = ops.softmax(backend, x)
    return value, (lambda g: g * value,)


def wrong_repeats(backend, x):
    index = backend.asarray(np.array([0, 0, 1]))

    def vjp(g):
        gradient = backend.xp.zeros_like(x)
        gradient[index] = g
        return gradient

    return x[index], (vjp,)


def wrong_nan(backend, x):
    return x * 1, (lambda g: g * math.nan,)


def wrong_constant(backend, x):
    return x * x, (lambda g: g * 0,)


@pytest.mark.parametrize(
    ("op", "shapes", "place"),
    [
        (wrong_scale, [(3, 4), (3, 4)], 0),
        (wrong_sign, [(3, 4), (3, 4)], 1),
        (wrong_swap, [(3, 4), (3, 4)], 0),
        (wrong_transposed, [(3, 3), (3, 3)], 0),
        (wrong_axes, [(3, 3, 3)], 0),
        (wrong_broadcast, [(3, 4)], 0),
        (wrong_missing_term, [(3, 4)], 0),
        (wrong_repeats, [(3,)], 0),
        (wrong_nan, [(3,)], 0),
        (wrong_constant, [(3,)], 0),
    ],
)
def test_check_gradient_rejects_a_wrong_vjp(op, shapes, place, device):
    rng = np.random.default_rng(3)
    inputs = [Tensor(rng.uniform(1, 2, shape), device, requires_grad=True) for shape in shapes]
    with pytest.raises(AssertionError, match=f"input {place} of shape"):
        check_gradient(lambda *x: apply(op, *x), *inputs)


def test_check_gradient_rejects_an_engine_that_does_not_sum_what_was_broadcast(device, monkeypatch):
    a = Tensor(np.array([[1.0], [2.0]]), device, requires_grad=True)
    b = Tensor(np.array([[3.0, 4.0]]), device, requires_grad=True)
    check_gradient(lambda a, b: a * b, a, b)
    monkeypatch.setattr(autograd, "_undo_broadcast", lambda g, parent: g[:2, :1] + 0 * parent.data)
    with pytest.raises(AssertionError, match="input 0"):
        check_gradient(lambda a, b: a * b, a, b)


def test_check_gradient_gives_both_numbers(device):
    x = Tensor(np.array(3.0), device, requires_grad=True)
    with pytest.raises(AssertionError, match="input 0") as caught:
        check_gradient(lambda x: x * x.detach(), x)
    words = str(caught.value).split()
    received = float(words[words.index("gives") + 1])
    expected = float(words[words.index("give") + 1].rstrip(";"))
    assert expected == pytest.approx(2 * received, rel=1e-6)


def test_check_gradient_leaves_its_inputs_alone(device):
    x = Tensor(np.array([1.0, 2.0]), device, requires_grad=True)
    check_gradient(lambda x: x * x, x)
    assert x.grad is None
    np.testing.assert_array_equal(x.numpy(), [1.0, 2.0])


@pytest.mark.parametrize(
    "x",
    [
        Tensor([1.0], requires_grad=True),
        Tensor(np.array([1.0])),
        np.array([1.0]),
    ],
    ids=["float32", "no gradient", "no tensor"],
)
def test_check_gradient_wants_float64_tensors(x):
    good = Tensor(np.array([1.0]), requires_grad=True)
    with pytest.raises(TypeError, match="input 1 must be a float64 Tensor with requires_grad"):
        check_gradient(lambda a, b: a * b, good, x)


# ------------------------------------------------------------------------------ far out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid_far_out(backend, dtype):
    x = backend.asarray(np.array([-INF, -1e4, -1.0, 0.0, 1.0, 1e4, INF], dtype))
    value, (vjp,) = ops.sigmoid(backend, x)
    half = 1 / (1 + math.e)
    expected = [0, 0, half, 0.5, 1 - half, 1, 1]
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=1e-6)
    slope = half * (1 - half)
    gradient = backend.to_numpy(vjp(backend.xp.ones_like(x)))
    np.testing.assert_allclose(gradient, [0, 0, slope, 0.25, slope, 0, 0], rtol=1e-6, atol=0)


def test_sigmoid_keeps_its_precision_where_it_is_small(backend):
    x = backend.asarray(np.array([-20.0, -80.0, -700.0]))
    value, _ = ops.sigmoid(backend, x)
    expected = [math.exp(-20) / (1 + math.exp(-20)), math.exp(-80), math.exp(-700)]
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_far_out(backend, dtype):
    x = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [0, -INF, 0], [-INF, 5, -INF]], dtype)
    value, (vjp,) = ops.softmax(backend, backend.asarray(x))
    expected = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0, 0.5], [0, 1, 0]])
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=1e-6)
    g = np.array([1.0, 2.0, 4.0])
    by_hand = expected * (g - (g * expected).sum(axis=-1, keepdims=True))
    received = backend.to_numpy(vjp(backend.asarray(np.tile(g, (4, 1)).astype(dtype))))
    np.testing.assert_allclose(received, by_hand, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_softmax_far_out(backend, dtype):
    x = np.array([[1e4, -1e4, 0], [1e4, 1e4, 1e4], [0, -INF, 0]], dtype)
    value, (vjp,) = ops.log_softmax(backend, backend.asarray(x))
    third, half = math.log(3), math.log(2)
    expected = [[0, -2e4, -1e4], [-third, -third, -third], [-half, -INF, -half]]
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=1e-6)
    g = backend.asarray(np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0]], dtype))
    by_hand = [[0, 0, 0], [-1 / 3, -1 / 3, 2 / 3], [0.5, 0, -0.5]]
    np.testing.assert_allclose(backend.to_numpy(vjp(g)), by_hand, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse_cross_entropy_far_out(backend, dtype):
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [0, -INF, 0], [0, -INF, 0]], dtype)
    labels = backend.asarray(np.array([0, 1, 2, 1]))
    value, (vjp,) = ops.sparse_cross_entropy(backend, backend.asarray(logits), labels=labels)
    np.testing.assert_allclose(backend.to_numpy(value), [0, 2e4, math.log(2), INF], rtol=1e-6)
    by_hand = [[0, 0, 0], [1, -1, 0], [0.5, 0, -0.5], [0.5, -1, 0.5]]
    gradient = vjp(backend.asarray(np.ones(4, dtype)))
    np.testing.assert_allclose(backend.to_numpy(gradient), by_hand, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------ kinks and ties


@pytest.mark.parametrize(
    ("x", "axis", "expected"),
    [
        ([1.0, 3.0, 3.0], None, [0, 0.5, 0.5]),
        ([7.0, 7.0, 7.0, 7.0], 0, [0.25] * 4),
        ([[1.0, 2.0], [2.0, 2.0]], 1, [[0, 1], [0.5, 0.5]]),
        ([[1.0, 2.0], [2.0, 2.0]], 0, [[0, 0.5], [1, 0.5]]),
        ([[1.0, 2.0], [2.0, 2.0]], None, [[0, 1 / 3], [1 / 3, 1 / 3]]),
        ([-INF, -INF], 0, [0.5, 0.5]),
        ([INF, np.nan, np.nan], None, [0, 0.5, 0.5]),
        ([[np.nan, 1.0], [2.0, 2.0]], 1, [[1, 0], [0.5, 0.5]]),
    ],
)
def test_those_that_share_a_maximum_share_its_gradient(x, axis, expected, device):
    x = Tensor(x, device, requires_grad=True)
    x.max(axis).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-7)


def test_relu_and_clip_at_their_kinks(device):
    x = Tensor([-0.0, 0.0], device, requires_grad=True)
    x.relu().sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0])
    x = Tensor([-1.0, 0.0, 1.0, 2.0], device, requires_grad=True)
    x.clip(0, 1).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 1, 1, 0])


@pytest.mark.parametrize(
    ("exponent", "value", "slope"), [(0, 1, 0), (0.0, 1, 0), (1, 0, 1), (2, 0, 0), (3.0, 0, 0)]
)
def test_power_of_zero(exponent, value, slope, device):
    x = Tensor([0.0], device, requires_grad=True)
    y = x**exponent
    assert y.item() == value
    y.backward()
    assert x.grad.item() == slope


def test_power_with_respect_to_an_exponent_over_zero(device):
    exponent = Tensor([1.0, 2.0], device, requires_grad=True)
    (Tensor([0.0, 0.0], device) ** exponent).sum().backward()
    np.testing.assert_array_equal(exponent.grad.numpy(), [0, 0])


def test_power_of_a_negative_base(device):
    x = Tensor([-2.0, -2.0, -2.0], device, requires_grad=True)
    y = x ** Tensor([2.0, 3.0, -1.0], device)
    np.testing.assert_allclose(y.numpy(), [4, -8, -0.5])
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [-4, 12, -0.25])


# ------------------------------------------------------------------------------ indexing


@pytest.mark.parametrize(("shape", "index"), INDICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_index_add_adds_one_after_the_other(shape, index, dtype, backend):
    """By NumPy's own addition at an index; the magnitudes make the order of a sum visible."""
    places = np.zeros(shape)[index].shape
    rng = np.random.default_rng(5)
    values = rng.standard_normal(places) * 10.0 ** rng.integers(-6, 7, places)
    values = np.asarray(values).astype(dtype)
    expected = np.zeros(shape, dtype)
    np.add.at(expected, index, values)
    device_index = on_device({"index": index}, backend)["index"]
    for add in (Backend.index_add, Backend._add_repeated, type(backend)._add_repeated):
        total = add(backend, shape, device_index, backend.asarray(values))
        np.testing.assert_array_equal(backend.to_numpy(total), expected, strict=True)


def test_index_add_of_many_repeats_keeps_the_order(backend):
    rng = np.random.default_rng(7)
    index = rng.integers(-50, 50, 5000)
    values = (rng.standard_normal(5000) * 10.0 ** rng.integers(-6, 7, 5000)).astype("float32")
    expected = np.zeros(50, "float32")
    np.add.at(expected, index, values)
    backwards = np.zeros(50, "float32")
    np.add.at(backwards, index[::-1], values[::-1])
    assert (expected != backwards).any()  # the order shows, so equality means something
    total = Backend._add_repeated(backend, (50,), backend.asarray(index), backend.asarray(values))
    np.testing.assert_array_equal(backend.to_numpy(total), expected, strict=True)


@pytest.mark.parametrize(("shape", "index"), INDICES)
def test_a_tensor_takes_every_index_that_its_array_takes(shape, index, backend, device):
    rng = np.random.default_rng(6)
    numbers = rng.standard_normal(shape)
    x = Tensor(numbers, device, requires_grad=True)
    y = x[on_device({"index": index}, backend)["index"]]
    np.testing.assert_array_equal(y.numpy(), numbers[index], strict=True)
    cotangent = rng.standard_normal(y.shape)
    expected = np.zeros(shape)
    np.add.at(expected, index, cotangent)
    y.backward(backend.asarray(cotangent))
    np.testing.assert_array_equal(x.grad.numpy(), expected, strict=True)


def test_the_gradient_of_a_place_taken_three_times_is_the_sum(device):
    x = Tensor([1.0, 2.0, 3.0], device, requires_grad=True)
    y = x[[1, 1, -2, 0]]
    np.testing.assert_array_equal(y.numpy(), [2, 2, 2, 1])
    y.backward([1.0, 10.0, 100.0, 5.0])
    np.testing.assert_array_equal(x.grad.numpy(), [5, 111, 0])


def test_an_index_may_be_a_tensor_of_the_device(device):
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], device, requires_grad=True)
    rows, columns = Tensor([1, 1], device), Tensor([0, 0], device)
    y = x[rows, columns]
    np.testing.assert_array_equal(y.numpy(), [3, 3])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0], [2, 0]])
    np.testing.assert_array_equal(x[x > 2].numpy(), [3, 4])


# ------------------------------------------------------------------------------ dropout


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 255, 256, 257, 2**20 + 3])
@pytest.mark.parametrize("rows", [1, 2])
def test_dropout_keeps_what_the_mask_says_forward_and_back(size, rows, backend):
    x = np.random.default_rng(9).standard_normal((rows, size)).astype("float32")
    mask = keep_mask(x.shape, 0.3, **ADDRESS._asdict())
    value, (vjp,) = ops.dropout(backend, backend.asarray(x), rate=0.3, address=ADDRESS)
    expected = np.where(mask, x * np.float32(1 / (1 - 0.3)), np.float32(0))
    np.testing.assert_array_equal(backend.to_numpy(value), expected, strict=True)
    g = backend.asarray(x[:, ::-1])
    expected = np.where(mask, x[:, ::-1] * np.float32(1 / (1 - 0.3)), np.float32(0))
    np.testing.assert_array_equal(backend.to_numpy(vjp(g)), expected, strict=True)


def test_dropout_selects_its_zeros(backend):
    x = np.full((4, 100), math.nan, "float32")
    mask = keep_mask(x.shape, 0.5, **ADDRESS._asdict())
    value, (vjp,) = ops.dropout(backend, backend.asarray(x), rate=0.5, address=ADDRESS)
    for received in (value, vjp(backend.asarray(-np.abs(x)))):
        received = backend.to_numpy(received)
        assert np.isnan(received[mask]).all()
        np.testing.assert_array_equal(received[~mask], 0)
        assert not np.signbit(received[~mask]).any()


def test_dropout_at_rate_one_is_zero_with_no_gradient(backend):
    x = backend.asarray(np.array([[INF, math.nan, -1.0]], "float32"))
    value, (vjp,) = ops.dropout(backend, x, rate=1.0, address=ADDRESS)
    for received in (value, vjp(x)):
        received = backend.to_numpy(received)
        np.testing.assert_array_equal(received, np.zeros((1, 3), "float32"), strict=True)
