"""Table of all operations: inputs, static arguments, and the expected value in plain NumPy."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl.rng import Address, keep_mask, normal

RNG = np.random.default_rng(20120703)  # draws the inputs below, in their order


def draw(*shape, low=-2.0, high=2.0):
    return RNG.uniform(low, high, shape)


def positive(*shape):
    return draw(*shape, low=0.5, high=2.0)


def spaced(*shape):
    """Return numbers 0.1 from each other and 0.05 from 0: far from kinks of relu, clip and max."""
    size = math.prod(shape)
    return (RNG.permutation(size) - size // 2 + 0.5).reshape(shape) * 0.1


# ------------------------------------------------------------------------------ formulas


def np_softmax(x, axis=-1):
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


def np_sparse_cross_entropy(x, labels):
    flat = np.log(np_softmax(x)).reshape(-1, x.shape[-1])
    chosen = [-row[label] for row, label in zip(flat, labels.ravel(), strict=True)]
    return np.array(chosen).reshape(labels.shape)


def np_binary_cross_entropy(x, targets):
    p = 1 / (1 + np.exp(-x))
    return -targets * np.log(p) - (1 - targets) * np.log(1 - p)


def np_dropout(x, rate, address, rescale=True):
    mask = keep_mask(x.shape, rate, **address._asdict())
    return np.where(mask, x / (1 - rate) if rescale else x, 0)


def np_noise(x, sigma, address, is_factor):
    n = normal(x.shape, **address._asdict()).astype("float64")
    return x * (1 + sigma * n) if is_factor else x + sigma * n


def np_affine_dropout(x, rate, address, noise_shape, scale, shift=0.0, dropped=0.0):
    mask = keep_mask(noise_shape, rate, **address._asdict())
    return np.where(mask, x * scale + shift, dropped)


def np_gelu(x, approximate):
    if approximate:
        return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return x * np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2)) / 2


def np_leaky_relu(x, negative_slope, threshold, max_value):
    return np.where(x > threshold, np.minimum(x, max_value), negative_slope * (x - threshold))


def np_standardize(x, axis, epsilon, moments=None):
    mean = np.mean(x, axis, keepdims=True)
    return (x - mean) / np.sqrt(np.mean(x * x, axis, keepdims=True) - mean**2 + epsilon)


def np_dense(x, weight, bias, activation, rate=0.0, address=None, rescale=True):
    z = np_matmul(x, weight) + bias
    y = z * (z > 0) if activation == "relu" else z
    return y if address is None else np_dropout(y, rate, address, rescale)


def np_dense_cross_entropy(x, weight, bias, labels, sums):
    return np_sparse_cross_entropy(np_matmul(x, weight) + bias, labels).mean()


def np_var(x, axis, keepdims):
    square_of_mean = x.mean(axis=axis, keepdims=keepdims) ** 2
    return (x * x).mean(axis=axis, keepdims=keepdims) - square_of_mean


def np_matmul(a, b):
    """Return the matrix product as a sum of elementwise products."""
    rows, columns = np.atleast_2d(a), b[:, None] if b.ndim == 1 else b
    y = (rows[..., :, :, None] * columns[..., None, :, :]).sum(axis=-2)
    y = y[..., 0] if b.ndim == 1 else y
    return y[..., 0, :] if a.ndim == 1 and b.ndim > 1 else y[0] if a.ndim == 1 else y


# ------------------------------------------------------------------------------ inputs


class Case(NamedTuple):
    """Inputs of an operation, its static arguments, and its formula in plain NumPy."""

    inputs: tuple[np.ndarray, ...]
    static: dict[str, Any]
    formula: Callable[..., np.ndarray]

    @property
    def expected(self):
        """The value by the formula, in float64."""
        return np.asarray(self.formula(*self.inputs, **self.static))


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

# All kinds of operands of matmul: vectors, matrices, stacks, stacks that broadcast, empty ones.
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

# Shapes of x with an index: basic, boolean, integer, mixed; several repeat elements.
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

# Without the axes over which there is one element, whose deviation is 0: its root has no gradient.
SPREAD_AXES = [((5,), None), ((3, 4), 0), ((3, 4), -1), ((2, 3, 4), (0, -1)), ((3, 4), (1,))]

LINE = ("negative_slope", "threshold", "max_value")  # of leaky_relu
ADDRESS = Address(seed=2**40 + 3, stream=5, step=7, row_offset=11)

ELEMENTWISE_INPUTS = [draw(), draw(1), draw(3, 4), draw(0, 3), draw(255), draw(2, 3, 4)]
POSITIVE_INPUTS = [positive(), positive(3, 4), positive(0), positive(256)]
SPACED_INPUTS = [spaced(), spaced(1), spaced(3, 4), spaced(0, 3), spaced(256)]
ROWS = [(draw(5), -1), (draw(1), 0), (draw(3, 4), -1), (draw(3, 4), 0), (draw(2, 3, 4), 1)]
ROWS += [(draw(0, 3), -1)]


def unary(formula, *inputs, **static):
    return [Case((x,), static, formula) for x in inputs]


def binary(formula, shapes=SHAPES, first=draw, second=draw):
    return [Case((first(*a), second(*b)), {}, formula) for a, b in shapes]


def reduction(formula, shapes_and_axes, make):
    return [
        Case(
            (make(*shape),),
            {"axis": axis, "keepdims": keepdims},
            lambda x, axis, keepdims: formula(x, axis=axis, keepdims=keepdims),
        )
        for shape, axis in shapes_and_axes
        for keepdims in (False, True)
    ]


# ------------------------------------------------------------------------------ the table

CASES: dict[str, list[Case]] = {
    "add": binary(lambda a, b: a + b),
    "subtract": binary(lambda a, b: a - b),
    "multiply": binary(lambda a, b: a * b),
    "divide": binary(lambda a, b: a / b, second=positive),
    "power": binary(lambda a, b: np.exp(b * np.log(a)), first=positive),
    "negative": unary(lambda x: 0 - x, *ELEMENTWISE_INPUTS),
    "matmul": binary(np_matmul, shapes=MATMUL_SHAPES),
    "concatenate": [
        Case(
            tuple(draw(*shape) for shape in shapes),
            {"axis": axis},
            lambda *arrays, axis: np.concatenate(arrays, axis),
        )
        for shapes, axis in [([(2, 3), (2, 1), (2, 2)], 1), ([(2, 3), (1, 3)], 0), ([(2, 3)], -1)]
    ],
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
    "cast": unary(lambda x, dtype: x, *ELEMENTWISE_INPUTS, dtype="float64"),
    "transfer": unary(lambda x, target: x, *ELEMENTWISE_INPUTS, target="the same device"),
    "sum": reduction(np.add.reduce, [*AXES, ((0, 3), 0), ((0, 3), 1), ((0,), None)], draw),
    "mean": reduction(np.mean, [*AXES, ((0, 3), 1)], draw),
    "max": reduction(np.maximum.reduce, [*AXES, ((0, 3), 1)], spaced),
    "var": reduction(lambda x, axis, keepdims: np_var(x, axis, keepdims), AXES, draw),
    "std": reduction(
        lambda x, axis, keepdims: np_var(x, axis, keepdims) ** 0.5, SPREAD_AXES, spaced
    ),
    "logsumexp": reduction(
        lambda x, axis, keepdims: np.log(np.exp(x).sum(axis=axis, keepdims=keepdims)), AXES, draw
    ),
    "minimum": binary(lambda a, b: np.where(a < b, a, b)),
    "maximum": binary(lambda a, b: np.where(a < b, b, a)),
    "where": [
        Case(
            (draw(*a), draw(*b)),
            {"condition": np.asarray(RNG.random(c) < 0.5)},
            lambda a, b, condition: condition * a + ~condition * b,
        )
        for a, b, c in [
            ((), (), ()),
            ((3,), (), (3,)),
            ((3, 4), (1, 4), (3, 1)),
            ((), (4,), (3, 4)),
            ((0, 3), (3,), (1,)),
        ]
    ],
    "abs": unary(lambda x: np.maximum(x, 0 - x), *SPACED_INPUTS),
    "sqrt": unary(lambda x: x**0.5, *POSITIVE_INPUTS),
    "penalty": [
        Case((x,), {"l1": l1, "l2": l2}, lambda x, l1, l2: (l1 * np.abs(x) + l2 * x * x).sum())
        for x in (spaced(3, 4), spaced(5), np.zeros((0, 3)))
        for l1, l2 in ((0.3, 0.0), (0.0, 0.7), (0.2, 0.1))
    ],
    "exp": unary(lambda x: math.e**x, *ELEMENTWISE_INPUTS),
    "log": unary(lambda x: np.log2(x) / math.log2(math.e), *POSITIVE_INPUTS),
    "clip": unary(
        lambda x, low, high: np.minimum(np.maximum(x, low), high),
        *SPACED_INPUTS,
        low=-0.3,
        high=0.4,
    ),
    "relu": unary(lambda x: x * (x > 0), *SPACED_INPUTS),
    "selu": unary(
        lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)),
        *SPACED_INPUTS,
    ),
    "sigmoid": unary(lambda x: 1 / (1 + np.exp(-x)), *ELEMENTWISE_INPUTS),
    "tanh": unary(
        lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)), *ELEMENTWISE_INPUTS
    ),
    "softmax": [Case((x,), {"axis": axis}, np_softmax) for x, axis in ROWS],
    "log_softmax": [
        Case((x,), {"axis": axis}, lambda x, axis: np.log(np_softmax(x, axis))) for x, axis in ROWS
    ],
    "affine_dropout": [
        Case(
            (draw(*shape),),
            {"rate": rate, "address": ADDRESS, "noise_shape": noise_shape, "scale": 1.5, **numbers},
            np_affine_dropout,
        )
        for shape, noise_shape, rate, numbers in [
            ((), (), 0.5, {}),
            ((5,), (1,), 0.5, {"shift": 0.5}),
            ((4, 70), (4, 1), 0.5, {"shift": 0.5, "dropped": -1.5}),
            ((4, 70), (1, 70), 0.3, {}),
            ((3, 4, 5), (3, 1, 5), 0.4, {"dropped": 2.0}),
            ((4, 5), (3, 4, 5), 0.4, {"shift": 0.5}),
            ((3, 5), (3, 1), 0, {"shift": 0.5}),
            ((3, 5), (3, 1), 1, {"dropped": 2.0}),
            ((0, 5), (0, 1), 0.5, {}),
        ]
    ],
    "dropout": [
        Case((draw(*shape),), {"rate": rate, "address": ADDRESS, "rescale": rescale}, np_dropout)
        for shape, rate, rescale in [
            ((), 0.5, True),
            ((5,), 0.5, True),
            ((3, 4), 0.5, True),
            ((3, 4), 0.25, False),
            ((3, 4), 0.0, True),
            ((2, 3, 50), 0.5, True),
            ((2, 3, 50), 0.25, False),
            ((0, 3), 0.5, True),
        ]
    ],
    "dense": [
        *(
            Case((draw(3, 5), draw(5, 4), draw(4)), {"activation": activation}, np_dense)
            for activation in ("relu", "linear")
        ),
        *(
            Case(
                (draw(rows, 5), draw(5, units), draw(units)),
                {"activation": activation, "rate": rate, "address": ADDRESS, "rescale": rescale},
                np_dense,
            )
            for rows, units, activation, rate, rescale in [
                (3, 4, "relu", 0.5, True),
                (3, 4, "relu", 0.25, False),
                (3, 4, "relu", 0.0, True),
                (3, 4, "linear", 0.5, True),
                (3, 4, "linear", 0.25, False),
                (3, 4, "linear", 0.0, True),
                (2, 67, "relu", 0.5, True),
                (2, 67, "linear", 0.25, False),
                (0, 3, "relu", 0.5, True),
                (0, 3, "linear", 0.5, True),
            ]
        ),
    ],
    "dense_cross_entropy": [
        Case(
            (draw(rows, 5), draw(5, classes), draw(classes)),
            {"labels": RNG.integers(0, classes, rows).astype(dtype), "sums": np.zeros(2)},
            np_dense_cross_entropy,
        )
        for rows, classes, dtype in [(3, 4, int), (1, 1, "uint8"), (33, 17, int)]
    ],
    "binary_cross_entropy": [
        Case((draw(*shape),), {"targets": RNG.random(shape)}, np_binary_cross_entropy)
        for shape in [(), (3,), (3, 4), (0, 2)]
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
    "noise": [
        Case(
            (draw(*shape),),
            {"sigma": sigma, "address": ADDRESS, "is_factor": is_factor},
            np_noise,
        )
        for shape, sigma in [
            ((), 0.5),
            ((5,), 2.0),
            ((3, 4), 0.0),
            ((2, 3, 50), 0.5),
            ((0, 3), 1.0),
        ]
        for is_factor in (False, True)
    ],
    "elu": unary(
        lambda x, alpha: np.where(x > 0, x, alpha * (np.exp(x) - 1)), *SPACED_INPUTS, alpha=1.5
    ),
    "gelu": unary(np_gelu, *ELEMENTWISE_INPUTS, spaced(400), approximate=False)
    + unary(np_gelu, *ELEMENTWISE_INPUTS, approximate=True),
    "leaky_relu": [
        Case((x,), dict(zip(LINE, numbers, strict=True)), np_leaky_relu)
        for x in SPACED_INPUTS
        for numbers in [
            (0.2, 0.0, math.inf),
            (0.0, 0.4, math.inf),
            (0.5, 0.4, 0.8),
            (0.0, 0.0, 6.0),
        ]
    ],
    "silu": unary(lambda x: x / (1 + np.exp(-x)), *ELEMENTWISE_INPUTS),
    "softplus": unary(lambda x: np.log(1 + np.exp(x)), *ELEMENTWISE_INPUTS),
    "standardize": [
        Case((draw(*shape),), {"axis": axis, "epsilon": epsilon, **moments}, np_standardize)
        for shape, axis, epsilon, moments in [
            ((5, 3), (0,), 1e-3, {}),
            ((5, 3), (0,), 0.5, {"moments": np.zeros((2, 3))}),
            ((5, 3), (1,), 0.5, {}),
            ((257, 2), (0,), 0.0, {}),
            ((4, 3, 2), (0, 2), 0.1, {"moments": np.zeros((2, 3))}),
            ((4, 3, 2), (-2, -1), 0.1, {}),
            ((1, 3), (0,), 0.5, {}),
            ((0, 3), (1,), 0.5, {}),
        ]
    ],
}


def on_device(static, backend):
    """Return static arguments with their arrays on the device."""

    def move(value):
        if isinstance(value, tuple) and not isinstance(value, Address):
            return tuple(move(part) for part in value)
        return backend.asarray(value) if isinstance(value, np.ndarray) else value

    moved = {name: move(value) for name, value in static.items()}
    return moved | {"target": backend} if "target" in moved else moved


def in_float32(static):
    """Return the static arguments of a case for float32 inputs."""
    narrow = {"dtype": "float32", "sums": np.zeros(2, "float32")}
    return static | {name: narrow[name] for name in narrow.keys() & static.keys()}
