"""The kernels: one row for each, with a call of a backend that launches it.

`test_completeness.py` fails until every kernel of `minidl_kernels` is launched by a row. The tests
and `bench.kernels` compile a CUDA kernel for exactly the arguments with which its row launches it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from backends import launches_go_to
from minidl_kernels.mask_contract import Address

from minidl.backend import Array, Backend

ADDRESS = Address(seed=2**40 + 17, stream=3, step=4)
FLOATS = ("float32", "float64")


class Row(NamedTuple):
    """A kernel: a call that launches it and returns its results, and what its code may contain."""

    call: Callable[[Backend, np.ndarray], tuple[Array, ...]]
    shape: tuple[int, ...] = (256, 256)  # of the array: work for all threads, small to interpret
    dtypes: tuple[str, ...] = FLOATS
    # The GPUs for which `bench.kernels` lists it; the tests read its code for more of them.
    capabilities: tuple[tuple[int, int], ...] = ((8, 9), (9, 0))
    # Why its bits are not promised: it may then fuse and divide, and use exp of libdevice.
    inexact: str = ""
    has_quotients: bool = False  # quotients or square roots, which the assembler makes with FMA
    wide: str = ""  # Why it computes in float64 whatever the arrays' dtype
    # What the assembler may call: paths for rare numbers, and a warp's exchange of numbers.
    helpers: tuple[str, ...] = ()


class Launch(NamedTuple):
    """A launch of a CUDA kernel, with NumPy arrays."""

    kernel: Any
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]


class DeviceFunction(NamedTuple):
    """A function that only kernels call: the types of its arguments and of its result."""

    arguments: tuple[str, ...]  # as Numba writes them
    returned: str


def _labels(backend: Backend, x: np.ndarray) -> Array:
    return backend.asarray(np.arange(len(x)) % x.shape[1])


def dropout(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of dropout."""
    return (backend.dropout(backend.asarray(x), 0.3, ADDRESS),)


def uniform(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of uniform numbers."""
    return (backend.uniform(x.shape, ADDRESS, x.dtype),)


def normal(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of normal numbers."""
    return (backend.normal(x.shape, ADDRESS, x.dtype),)


def noise(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of noise."""
    return (backend.noise(backend.asarray(x), 0.3, ADDRESS),)


def select(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel that selects by decisions, which here four rows share."""
    x = x.reshape(-1, 4, x.shape[1])
    keep = backend.asarray((x[:, :1] > 0).astype(x.dtype))
    out = backend.select(backend.asarray(x), keep, 1.5, 0.1, -0.7)
    return (out.reshape(-1, x.shape[2]),)


def bias_act_dropout(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel at the end of a dense layer, with relu and dropout."""
    weight, bias = backend.asarray(np.eye(len(x.T), dtype=x.dtype)), backend.asarray(x[0])
    options = {"activation": "relu", "rate": 0.3, "address": ADDRESS}
    return (backend.dense(backend.asarray(x), weight, bias, **options),)


def bias_act_dropout_vjp(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of the gradient of that."""
    return backend.bias_act_dropout_vjp(backend.asarray(x[::-1]), backend.asarray(x), 1.5)


def cross_entropy(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of the loss."""
    sums = backend.asarray(np.empty(2, x.dtype))
    z, bias = backend.asarray(x), backend.asarray(x[0])
    backend.cross_entropy(z, bias, _labels(backend, x), sums)
    return (sums,)


def cross_entropy_vjp(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of its gradient."""
    g, z, bias = (backend.asarray(array) for array in (np.ones((), x.dtype), x, x[0]))
    return backend.cross_entropy_vjp(g, z, bias, _labels(backend, x))


def matmul(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the product of two matrices where it is a kernel, on the CPU."""
    a, b = backend.asarray(x), backend.asarray(x[::-1].copy())
    return (backend.matmul(a, b, transpose_a=True),)


def gather(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel that gathers a batch of bytes and its labels."""
    source = backend.asarray(np.arange(x.size).reshape(x.shape).astype("uint8"))
    rows = np.arange(len(x))[::-1].copy()
    options = {"scale": 0.1, "offset": 0.2, "labels": backend.asarray(rows.astype("uint8"))}
    return backend.gather(source, backend.asarray(rows), x.dtype, **options)


def softmax(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of the softmax."""
    return (backend.softmax(backend.asarray(x)),)


def add_moments(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel that adds outputs to their running moments."""
    y = abs(x) / (1 + abs(x))
    moments = [backend.asarray(y.astype("float64")) for _ in range(2)]
    moments.append(backend.asarray(y.astype("float64")[:, 0].copy()))
    backend.add_moments(backend.asarray(y), 3, *moments)
    return tuple(moments)


def _update(backend: Backend, rule: str, x: np.ndarray, states: int, **numbers: Any) -> Any:
    weights, gradients = backend.asarray(x), backend.asarray(x[::-1].copy())
    state = [backend.asarray(abs(x)) for _ in range(states)]
    arguments = [weights, gradients, *(state or [None])]
    getattr(backend, rule)(*arguments, rate=0.1, decay=0.9, **numbers)
    return (weights, *state)


def sgd(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of gradient descent."""
    return _update(backend, "sgd", x, 0, momentum=0.0, nesterov=False)


def momentum(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of gradient descent with momentum."""
    return _update(backend, "sgd", x, 1, momentum=0.9, nesterov=False)


def nesterov(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of Nesterov's step."""
    return _update(backend, "sgd", x, 1, momentum=0.9, nesterov=True)


def rmsprop(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of RMSprop."""
    return _update(backend, "rmsprop", x, 1, rho=0.9, epsilon=1e-7)


def adam(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel of Adam."""
    return _update(backend, "adam", x, 2, beta_1=0.9, beta_2=0.99, epsilon=1e-7)


def begin(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel that begins a step."""
    order = np.arange(len(x))[::-1].copy()
    integers = np.arange(x.size, dtype="uint32").reshape(x.shape)
    table = map(backend.asarray, (order, order // 8 * 4, integers, x))
    rows, cursor = np.zeros(len(x) // 2, order.dtype), np.array([len(x) // 3])
    places = [backend.asarray(place) for place in (rows, integers[0], x[0])]
    cursor = backend.asarray(cursor)
    backend.begin(cursor, *table, *places)
    return (cursor, *places)


def add_sums(backend: Backend, x: np.ndarray) -> tuple[Array, ...]:
    """Launch the kernel that adds the sums of a batch to totals."""
    totals = backend.asarray(np.ones(x.shape))
    backend.add_sums(totals, backend.asarray(x), rows=7)
    return (totals,)


SUMMED = "exp and log differ between devices, and so does the order of the sums"
LONG_SUMS = "float32 loses digits in sums over many batches and draws"
DIVISION = ("__cuda_sm3x_div_rn_noftz_f32_slowpath", "__cuda_sm20_div_rn_f64_full")
ROOT = ("__cuda_sm20_sqrt_rn_f32_slowpath", "__cuda_sm20_dsqrt_rn_f64_mediumpath_v1")
RECIPROCAL = ("__cuda_sm20_rcp_rn_f32_slowpath", "__cuda_sm20_dblrcp_rn_slowpath_v3")
EXCHANGE = ("__cuda_sm70_shflsync_bfly_p", "__cuda_sm70_votesync_all")

CUDA_KERNELS = {
    "dropout._dropout": Row(
        dropout, (256, 1024), capabilities=((7, 5), (8, 0), (8, 9), (9, 0), (12, 0))
    ),
    "noise._uniform": Row(uniform),
    "noise._normal": Row(normal, has_quotients=True, helpers=ROOT),
    "noise._noise": Row(noise, has_quotients=True, helpers=ROOT),
    "dense._bias_act_dropout": Row(bias_act_dropout),
    "dense._bias_act_dropout_vjp": Row(bias_act_dropout_vjp),
    "cross_entropy._cross_entropy": Row(cross_entropy, (256, 64), inexact=SUMMED, helpers=EXCHANGE),
    "cross_entropy._cross_entropy_vjp": Row(
        cross_entropy_vjp, (256, 64), inexact=SUMMED, helpers=EXCHANGE + RECIPROCAL
    ),
    "optimizers._sgd": Row(sgd, (2**14,)),
    "optimizers._momentum": Row(momentum, (2**14,)),
    "optimizers._nesterov": Row(nesterov, (2**14,)),
    "optimizers._rmsprop": Row(rmsprop, (2**14,), has_quotients=True, helpers=DIVISION + ROOT),
    "optimizers._adam": Row(adam, (2**14,), has_quotients=True, helpers=DIVISION + ROOT),
    "softmax._softmax": Row(softmax, (256, 64), inexact=SUMMED, helpers=EXCHANGE + DIVISION),
    "moments._add_moments": Row(
        add_moments, (256, 64), inexact=SUMMED, wide=LONG_SUMS, helpers=EXCHANGE + DIVISION
    ),
    "steps._begin": Row(begin),
    "steps._add_sums": Row(add_sums, (256,), wide=LONG_SUMS),
    "selection._select": Row(select),
    "gather._gather_float32": Row(gather, dtypes=("float32",)),
    "gather._gather_float64": Row(gather, dtypes=("float64",)),
}
KERNELS_AND_DTYPES = [(name, dtype) for name, row in CUDA_KERNELS.items() for dtype in row.dtypes]

_MATRIX, _VECTOR = "float32[:,::1]", "float32[::1]"
_WORD, _LONG = "uint32", "uint64"
DEVICE_FUNCTIONS = {
    "cross_entropy._softmax": DeviceFunction(
        (_MATRIX, _VECTOR, _LONG, _LONG, _WORD), "UniTuple(float32 x 2)"
    ),
    "cross_entropy._wins": DeviceFunction(
        ("float32", _LONG, _MATRIX, _VECTOR, _LONG, _LONG, _WORD), "bool"
    ),
    "dropout.load_lanes": DeviceFunction((_VECTOR, _LONG, _WORD, _WORD), "UniTuple(float32 x 4)"),
    "dropout._philox": DeviceFunction((_WORD,) * 6, "UniTuple(uint32 x 4)"),
    "dropout.drop_tiles": DeviceFunction(
        (_VECTOR, "none", "none", _VECTOR, _LONG, _LONG, "UniTuple(uint32, 6)", "float32"), "none"
    ),
    "noise._draw_tiles": DeviceFunction(
        (
            _VECTOR,
            "float32",
            "boolean",
            "boolean",
            _VECTOR,
            _LONG,
            _LONG,
            "UniTuple(uint32, 6)",
        ),
        "none",
    ),
    "noise._noisy": DeviceFunction(("float32", "float32", "float32", "boolean"), "float32"),
    "noise._pair": DeviceFunction((_WORD, _WORD), "UniTuple(float32 x 2)"),
    "noise._philox": DeviceFunction((_WORD,) * 6, "UniTuple(uint32 x 4)"),
    "noise._uniform_of": DeviceFunction((_WORD,), "float32"),
    "optimizers._place": DeviceFunction((), "UniTuple(uint64 x 2)"),
    "reduction.add_lanes": DeviceFunction(("float32",), "float32"),
    "reduction.add_warps": DeviceFunction((_MATRIX, "float32", _WORD, _WORD), "float32"),
    "reduction.all_lanes": DeviceFunction(("boolean",), "bool"),
    "reduction.largest_of_lanes": DeviceFunction(("float32",), "float32"),
    "reduction.place": DeviceFunction((), "UniTuple(uint32 x 2)"),
    "reduction.rows_of_warp": DeviceFunction((_LONG, _WORD, _LONG), "UniTuple(uint64 x 2)"),
}
# Functions of `formulas`, by their names in the kernels' files: float32 in, float32 out.
FORMULAS = {
    "cross_entropy._gradient": DeviceFunction(("float32",) * 3, "float32"),
    "cross_entropy._larger": DeviceFunction(("float32",) * 2, "float32"),
    "cross_entropy._loss": DeviceFunction(("float32",) * 3, "float32"),
    "cross_entropy._ranks_below": DeviceFunction(("float32", _LONG, "float32", _LONG), "bool"),
    "dropout._at_least": DeviceFunction(("float32",) * 2, "float32"),
    "dropout._drop_element": DeviceFunction(("float32", _WORD, _WORD, "float32"), "float32"),
    "optimizers._adam_rule": DeviceFunction(("float32",) * 9, "UniTuple(float32 x 3)"),
    "optimizers._momentum_rule": DeviceFunction(("float32",) * 6, "UniTuple(float32 x 2)"),
    "optimizers._nesterov_rule": DeviceFunction(("float32",) * 6, "UniTuple(float32 x 2)"),
    "optimizers._rmsprop_rule": DeviceFunction(("float32",) * 8, "UniTuple(float32 x 2)"),
    "optimizers._sgd_rule": DeviceFunction(("float32",) * 4, "float32"),
    "softmax._larger": DeviceFunction(("float32",) * 2, "float32"),
    "reduction._larger": DeviceFunction(("float32",) * 2, "float32"),
}


def launch_of(name: str, dtype: str, shape: tuple[int, ...] | None = None) -> Launch:
    """Return what the row of a CUDA kernel launches for an array of this dtype."""
    row = CUDA_KERNELS[name]
    launches: list[Launch] = []

    def record(kernel: Any, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
        launches.append(Launch(kernel, grid, block, arguments))

    with launches_go_to(record) as backend:
        row.call(backend, np.ones(row.shape if shape is None else shape, dtype))
    (only,) = launches
    return only
