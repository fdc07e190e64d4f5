"""Values and gradients of all operations, compared with PyTorch."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
from op_table import CASES as INPUTS
from op_table import LINE, in_float32

from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra `oracle`)")
torch.set_num_threads(1)  # its threads would compete with those of minidl

INF, NAN = float("inf"), float("nan")
RNG = np.random.default_rng(20160818)  # draws the inputs below, in their order

# Operations without a counterpart in PyTorch. Those that are neither here nor in CASES have there
# their own name, in torch or torch.nn.functional, and are called with the inputs of op_table.
EXCLUDED = {
    "affine_dropout": "its mask is minidl's own; tests/oracle/test_training_torch.py compares it",
    "dropout": "its mask is minidl's own; PyTorch draws from another generator",
    "dense": "its mask is minidl's own; tests/trainer/test_fusion.py compares it, too",
    "noise": "its numbers are minidl's own; tests/layers/layer_table.py compares them in layers",
    "transfer": "it moves between minidl's devices",
}


def draw(*shape, low=-2.0, high=2.0):
    return RNG.uniform(low, high, shape).astype("float32")


def positive(*shape):
    return draw(*shape, low=0.5)


def distinct(*shape):
    """Return numbers without ties, far from kinks."""
    size = int(np.prod(shape))
    return (((RNG.permutation(size) - size // 2) * 0.2 + 0.1).reshape(shape)).astype("float32")


def for_torch(index):
    """Return an index for PyTorch."""
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(torch.from_numpy(p) if isinstance(p, np.ndarray) else p for p in parts)


def cross_entropy(x, labels):
    classes_second = x.movedim(-1, 1) if x.ndim > 1 else x
    return torch.nn.functional.cross_entropy(
        classes_second, torch.from_numpy(labels), reduction="none"
    )


def dense_cross_entropy(x, weight, bias, labels, sums):
    return torch.nn.functional.cross_entropy(x @ weight + bias, torch.from_numpy(labels))


def binary_cross_entropy(x, targets):
    targets = torch.from_numpy(targets)
    return torch.nn.functional.binary_cross_entropy_with_logits(x, targets, reduction="none")


def leaky_relu(x, negative_slope, threshold, max_value):
    low = negative_slope * (x - threshold)
    return torch.where(x > threshold, torch.clamp(x, max=max_value), low)


def standardize(x, axis, epsilon):
    variance, mean = torch.var_mean(x, axis, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + epsilon)


def over_axes(reduce):
    def reduction(x, axis, keepdims):
        return reduce(x, tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims)

    return reduction


SHAPES = [
    ((), ()),
    ((3, 4), (3, 4)),
    ((3, 4), (1, 4)),
    ((3, 1), (1, 4)),
    ((), (5,)),
    ((0, 4), (4,)),
]
MATMUL_SHAPES = [
    ((4,), (4,)),
    ((4,), (4, 3)),
    ((3, 4), (4,)),
    ((65, 130), (130, 33)),
    ((4,), (2, 4, 3)),
    ((2, 3, 4), (4,)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((2, 1, 3, 4), (3, 4, 2)),
    ((2, 0), (0, 3)),
]
INDICES = [
    2,
    -1,
    (slice(None), slice(1, 3)),
    (Ellipsis, None, 0),
    np.array([1, 1, 0, -1]),
    np.array([True, False, True]),
    (np.array([0, 0, 2]), np.array([3, 3, 1])),
    (slice(None), np.array([3, 3, 1])),
    (np.array([[0], [2]]), np.array([1, 1])),
]
REDUCED = [((5,), None), ((3, 4), None), ((3, 4), 0), ((3, 4), -1), ((2, 3, 4), (0, -1))]
FAR = np.array([[50.0, -50.0, 0.0], [1e4, 0.0, -1e4], [3.0, 3.0, 3.0]], "float32")
LABELLED = [
    (draw(6), np.array(2)),
    (draw(256, 10), RNG.integers(0, 10, 256)),
    (draw(2, 5, 4), RNG.integers(0, 4, (2, 5))),
    (FAR, np.array([1, 0, 2])),
]

# For each operation: inputs, static arguments, and the function of PyTorch.
CASES: dict[str, list[tuple[tuple, dict, Callable]]] = {
    "power": [
        *(((positive(*a), draw(*b)), {}, torch.pow) for a, b in SHAPES),
        ((np.zeros(3, "float32"), np.array([1, 2, 3], "float32")), {}, torch.pow),
    ],
    "matmul": [((draw(*a), draw(*b)), {}, torch.matmul) for a, b in MATMUL_SHAPES],
    "concatenate": [
        ((draw(2, 3), draw(2, 1)), {"axis": 1}, lambda a, b, axis: torch.cat([a, b], axis)),
    ],
    "getitem": [
        ((draw(3, 4),), {"index": index}, lambda x, index: x[for_torch(index)]) for index in INDICES
    ],
    "reshape": [((draw(2, 6),), {"shape": (3, -1)}, lambda x, shape: x.reshape(shape))],
    "transpose": [
        ((draw(2, 3, 4),), {"axes": axes}, lambda x, axes: x.permute(axes))
        for axes in [(1, 2, 0), (0, 2, 1), (-1, 0, 1)]
    ],
    "cast": [((draw(3),), {"dtype": "float16"}, lambda x, dtype: x.to(getattr(torch, dtype)))],
    "sum": [
        ((draw(*shape),), {"axis": axis, "keepdims": keepdims}, over_axes(torch.sum))
        for shape, axis in REDUCED
        for keepdims in (False, True)
    ],
    "mean": [
        ((draw(*shape),), {"axis": axis, "keepdims": keepdims}, over_axes(torch.mean))
        for shape, axis in REDUCED
        for keepdims in (False, True)
    ],
    "penalty": [
        (
            (distinct(3, 4),),
            {"l1": 0.2, "l2": 0.1},
            lambda x, l1, l2: l1 * x.abs().sum() + l2 * x.square().sum(),
        )
    ],
    "max": [
        ((distinct(*shape),), {"axis": axis, "keepdims": keepdims}, over_axes(torch.amax))
        for shape, axis in REDUCED
        for keepdims in (False, True)
    ]
    # Elements that share a maximum share its gradient equally, as in minidl.
    + [
        (
            (np.array([1, 3, 3], "float32"),),
            {"axis": None, "keepdims": False},
            over_axes(torch.amax),
        )
    ],
    **{
        name: [
            (
                (distinct(*shape),),
                {"axis": axis, "keepdims": keepdims},
                over_axes(functools.partial(getattr(torch, name), **options)),
            )
            for shape, axis in REDUCED
            for keepdims in (False, True)
        ]
        for name, options in {
            "var": {"correction": 0},
            "std": {"correction": 0},
            "logsumexp": {},
        }.items()
    },
    **{
        name: [
            *(((draw(*a), draw(*b)), {}, getattr(torch, name)) for a, b in SHAPES),
            ((np.ones(3, "float32"), np.ones(1, "float32")), {}, getattr(torch, name)),
        ]
        for name in ("minimum", "maximum")
    },
    "where": [
        (
            (draw(3, 4), draw(4)),
            {"condition": RNG.random((3, 1)) < 0.5},
            lambda a, b, condition: torch.where(torch.from_numpy(condition), a, b),
        )
    ],
    "abs": [((x,), {}, torch.abs) for x in (distinct(3, 4), np.zeros(2, "float32"))],
    "relu": [((x,), {}, torch.relu) for x in (distinct(3, 4), np.zeros(2, "float32"))],
    "selu": [((x,), {}, torch.selu) for x in (draw(3, 4), FAR, np.zeros(2, "float32"))],
    "elu": [
        ((x,), {"alpha": alpha}, torch.nn.functional.elu)
        for x in (draw(3, 4), FAR, np.zeros(2, "float32"))
        for alpha in (1.0, 0.5)
    ],
    "gelu": [
        (
            (x,),
            {"approximate": kind == "tanh"},
            lambda x, _, kind=kind: torch.nn.functional.gelu(x, approximate=kind),
        )
        for x in (draw(3, 4), FAR, np.zeros(2, "float32"))
        for kind in ("none", "tanh")
    ],
    "leaky_relu": [
        ((x,), dict(zip(LINE, numbers, strict=True)), leaky_relu)
        for x in (draw(3, 4), FAR, np.zeros(2, "float32"))
        for numbers in [(0.01, 0.0, INF), (0.0, 0.5, INF), (0.2, 0.25, 1.0)]
    ],
    "silu": [((x,), {}, torch.nn.functional.silu) for x in (draw(3, 4), FAR)],
    "softplus": [((x,), {}, torch.nn.functional.softplus) for x in (draw(3, 4), FAR)],
    "standardize": [
        ((draw(*shape) * 3 + 5,), {"axis": axis, "epsilon": 1e-3}, standardize)
        for shape, axis in [((32, 5), (0,)), ((4, 70), (1,)), ((4, 3, 5, 2), (0, 2, 3))]
    ],
    "sigmoid": [((x,), {}, torch.sigmoid) for x in (draw(3, 4), FAR)],
    "softmax": [
        ((x,), {"axis": axis}, torch.softmax)
        for x, axis in [(draw(3, 4), -1), (draw(3, 4), 0), (draw(2, 3, 4), 1), (FAR, -1)]
    ],
    "log_softmax": [
        ((x,), {"axis": axis}, torch.log_softmax)
        for x, axis in [(draw(3, 4), -1), (draw(3, 4), 0), (draw(2, 3, 4), 1), (FAR, -1)]
    ],
    "dense_cross_entropy": [
        (
            (draw(rows, 16), draw(16, classes), draw(classes)),
            {"labels": RNG.integers(0, classes, rows), "sums": np.zeros(2, "float32")},
            dense_cross_entropy,
        )
        for rows, classes in [(1, 2), (128, 10), (33, 70)]
    ],
    "binary_cross_entropy": [
        ((x,), {"targets": RNG.random(x.shape, "float32")}, binary_cross_entropy)
        for x in (draw(3, 4), FAR)
    ],
    "sparse_cross_entropy": [((x,), {"labels": labels}, cross_entropy) for x, labels in LABELLED],
}


for name in [name for name in ops.OPS if name not in CASES | EXCLUDED]:
    namesake = getattr(torch, name, None) or getattr(torch.nn.functional, name)
    CASES[name] = [
        (tuple(x.astype("float32") for x in case.inputs), in_float32(case.static), namesake)
        for case in INPUTS.get(name, ())
    ]


def on_device(backend, value):
    if isinstance(value, tuple):
        return tuple(on_device(backend, part) for part in value)
    return backend.asarray(value) if isinstance(value, np.ndarray) else value


def test_op_is_compared_or_excluded():
    assert set(CASES) | set(EXCLUDED) == set(ops.OPS)
    assert not set(CASES) & set(EXCLUDED)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_agree_with_torch(name, backend, device):
    for number, (inputs, static, function) in enumerate(CASES[name]):
        ours = [Tensor(x, device, requires_grad=True) for x in inputs]
        theirs = [torch.tensor(x, requires_grad=True) for x in inputs]
        moved = {key: on_device(backend, value) for key, value in static.items()}
        value = apply(ops.OPS[name], *ours, **moved)
        expected = function(*theirs, *static.values())
        assert_close(value.numpy(), expected.detach(), f"{name}, case {number}: value")

        cotangent = np.random.default_rng(1).standard_normal(value.shape).astype(value.dtype)
        value.backward(backend.asarray(cotangent))
        expected.backward(torch.from_numpy(np.asarray(cotangent)))
        for place, (x, y) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(x.grad.numpy(), y.grad, f"{name}, case {number}: gradient {place}")


def assert_close(ours, theirs, what):
    theirs = theirs.numpy()
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), what
    # PyTorch adds in another order: the rounding of a sum is relative to its largest terms.
    largest = np.abs(theirs).max(initial=0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * largest, err_msg=what)


# ------------------------------------------------------------------------------ edges

BASES = [-INF, -2.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, INF, NAN]
EXPONENTS = [-INF, -2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, INF, NAN]
# Without -inf and -0 to the power of +-0.5, where each library takes a square root elsewhere.
PAIRS = [
    (base, exponent)
    for base in BASES
    for exponent in EXPONENTS
    if abs(exponent) != 0.5 or str(base) not in ("-inf", "-0.0")
]

POWERS = {
    "tensor ** tensor": (True, True),
    "tensor ** number": (True, False),
    "number ** tensor": (False, True),
}


def with_gradients(make, numbers, are_leaves, function):
    """Return the value of a function of numbers and its gradients for those that are leaves."""
    inputs = [
        make(x, requires_grad=True) if is_leaf else x
        for x, is_leaf in zip(numbers, are_leaves, strict=True)
    ]
    y = function(*inputs)
    y.backward()
    leaves = [x for x, is_leaf in zip(inputs, are_leaves, strict=True) if is_leaf]
    return [y.item(), *(leaf.grad.item() for leaf in leaves)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", POWERS)
@pytest.mark.parametrize(("base", "exponent"), PAIRS)
def test_power_and_its_gradients_agree_with_torch_at_all_edges(base, exponent, kind):
    numbers, are_leaves = (base, exponent), POWERS[kind]
    ours = with_gradients(Tensor, numbers, are_leaves, lambda x, y: x**y)
    theirs = with_gradients(torch.tensor, numbers, are_leaves, lambda x, y: x**y)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def either(ours, theirs):
    """Return a function of a tensor of minidl or of PyTorch."""
    return lambda x: apply(ours, x) if isinstance(x, Tensor) else theirs(x)


functional = torch.nn.functional
EDGES = np.array([-INF, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, INF, NAN])
FUNCTIONS = {
    "exp": lambda x: x.exp(),
    "log": lambda x: x.log(),
    "relu": lambda x: x.relu(),
    "selu": lambda x: x.selu() if isinstance(x, Tensor) else torch.selu(x),
    "sigmoid": lambda x: x.sigmoid(),
    "tanh": lambda x: x.tanh(),
    "elu": either(ops.elu, functional.elu),
    "gelu": lambda x: either(ops.gelu, functional.gelu)(x[1:]),  # at -inf PyTorch returns NaN
    "leaky_relu": either(ops.leaky_relu, lambda x: functional.leaky_relu(x, 0.2)),
    "silu": lambda x: either(ops.silu, functional.silu)(x[1:]),
    "softplus": either(ops.softplus, functional.softplus),
    "clip": lambda x: x.clip(-1, 1),
    "square root": lambda x: x**0.5,
    "square": lambda x: x**2,
    "reciprocal": lambda x: 1 / x,
    "division by 0": lambda x: x / 0,
    "product with 0": lambda x: x * 0,
    "mean": lambda x: x.mean(),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "maximum": lambda x: x[1:-2].max() if isinstance(x, Tensor) else x[1:-2].amax(),
    "tied maximum": lambda x: x[3:5].max() if isinstance(x, Tensor) else x[3:5].amax(),
    "maximum with NaN": lambda x: x.max() if isinstance(x, Tensor) else x.amax(),
}
# Gradients that differ from those of PyTorch on purpose, by the index in EDGES.
DIFFERENT = {
    "relu": {9: 0},  # NaN is not above 0; the fused kernels decide the same
    "selu": {9: NAN},  # NaN stays; PyTorch: the slope of positive numbers
    "elu": {9: NAN},
    "gelu": {8: 1},  # at infinity; PyTorch: NaN
    "leaky_relu": {9: 0},
    "silu": {8: 1},
    "square root": {0: 0, 3: INF},  # x ** -0.5 at -inf and -0, where PyTorch takes a root
    "maximum with NaN": {**dict.fromkeys(range(9), 0), 9: 1},  # NaN is the largest; PyTorch: NaN
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_edges_agree_with_torch_or_differ_on_purpose(name):
    ours, theirs = Tensor(EDGES, requires_grad=True), torch.tensor(EDGES, requires_grad=True)
    value, expected = FUNCTIONS[name](ours), FUNCTIONS[name](theirs)
    value.backward(np.ones(value.shape))
    expected.backward(torch.ones_like(expected))
    gradient = theirs.grad.numpy()
    for place, own in DIFFERENT.get(name, {}).items():
        assert gradient[place] != own, "PyTorch now agrees: remove the entry of DIFFERENT"
        gradient[place] = own
    np.testing.assert_allclose(value.numpy(), expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.grad.numpy(), gradient, rtol=1e-12)
