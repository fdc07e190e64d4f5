"""The kernels: which test covers each, and how the tests and `bench.kernels` compile a CUDA one.

`test_completeness.py` fails until every compiled function of `minidl_kernels` stands here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

KERNELS = {
    "cpu.cross_entropy._are_classes": (
        "test_cross_entropy_cpu.py::test_a_label_that_is_no_class_is_an_error"
    ),
    "cpu.cross_entropy._cross_entropy": "test_cross_entropy_cpu.py::test_loss_and_hits",
    "cpu.cross_entropy._cross_entropy_vjp": "test_cross_entropy_cpu.py::test_vjp",
    "cpu.cross_entropy._largest": "test_cross_entropy_cpu.py::test_the_first_of_equal_logits_wins",
    "cpu.dense._activate_and_drop": (
        "test_dense_cpu.py::test_has_the_bits_of_one_operation_after_the_other"
    ),
    "cpu.dense._dense_parallel": "test_dense_cpu.py::test_dense_is_the_product_finished",
    "cpu.dense._activate_vjp": "test_dense_cpu.py::test_vjp",
    "cpu.dropout._philox": "test_philox.py::test_known_answers_compiled_for_the_cpu",
    "cpu.dropout.drop_row": "test_dropout_cpu.py::test_equals_the_contract",
    "cpu.dropout._drop": "test_dropout_cpu.py::test_equals_the_contract",
    "cpu.dropout._drop_parallel": "test_dropout_cpu.py::test_parallel_equals_serial",
    "cpu.gather._gather": "test_gather_cpu.py::test_equals_numpy",
    "cpu.optimizers._adam": "test_optimizers_cpu.py::test_equals_the_rule_bit_for_bit",
    "cpu.optimizers._adam_parallel": "test_optimizers_cpu.py::test_equals_the_rule_bit_for_bit",
    "cpu.optimizers._rmsprop": "test_optimizers_cpu.py::test_equals_the_rule_bit_for_bit",
    "cpu.optimizers._rmsprop_parallel": "test_optimizers_cpu.py::test_equals_the_rule_bit_for_bit",
    "cpu.optimizers._sgd": "test_optimizers_cpu.py::test_equals_the_rule_bit_for_bit",
    "cpu.optimizers._sgd_parallel": "test_optimizers_cpu.py::test_equals_the_rule_bit_for_bit",
    "cpu.pool.share": "test_threads.py::test_shares_are_all_of_it_once",
    "cpu.products.block": "test_products_cpu.py::test_equals_numpy",
    "cpu.products.multiply": "test_products_cpu.py::test_equals_numpy",
    "cpu.products._multiply_parallel": "test_products_cpu.py::test_equals_numpy",
    "cuda.cross_entropy.sum_losses": "test_cross_entropy_cuda.py::test_against_numpy",
    "cuda.cross_entropy.softmax_minus_one_hot": "test_cross_entropy_cuda.py::test_against_numpy",
    "cuda.cross_entropy._softmax": "test_compiled.py::test_types_of_device_functions",
    "cuda.cross_entropy._is_first_largest": "test_compiled.py::test_types_of_device_functions",
    "cuda.dense.end_layer": (
        "test_dense_cuda.py::test_activate_and_drop_has_the_bits_of_its_parts"
    ),
    "cuda.dense.gate_and_sum": "test_dense_cuda.py::test_activate_vjp",
    "cuda.dropout._at_least": "test_compiled.py::test_types_of_device_functions",
    "cuda.dropout._load_lanes": "test_compiled.py::test_types_of_device_functions",
    "cuda.dropout._philox": "test_compiled.py::test_types_of_device_functions",
    "cuda.dropout.drop_tiles": "test_compiled.py::test_types_of_device_functions",
    "cuda.gather.take_float32": "test_gather_cuda.py::test_every_dtype_has_the_bits_of_numpy",
    "cuda.gather.take_float64": "test_gather_cuda.py::test_every_dtype_has_the_bits_of_numpy",
    "cuda.optimizers._place": "test_compiled.py::test_types_of_device_functions",
    "cuda.optimizers.adam_update": "test_optimizers_cuda.py::test_against_the_rule",
    "cuda.optimizers.descend": "test_optimizers_cuda.py::test_against_the_rule",
    "cuda.optimizers.descend_momentum": "test_optimizers_cuda.py::test_against_the_rule",
    "cuda.optimizers.descend_nesterov": "test_optimizers_cuda.py::test_against_the_rule",
    "cuda.optimizers.rmsprop_update": "test_optimizers_cuda.py::test_against_the_rule",
    "cuda.reduction.add_lanes": "test_compiled.py::test_types_of_device_functions",
    "cuda.reduction.add_warps": "test_compiled.py::test_types_of_device_functions",
    "cuda.reduction.all_lanes": "test_compiled.py::test_types_of_device_functions",
    "cuda.reduction.largest_of_lanes": "test_compiled.py::test_types_of_device_functions",
    "cuda.reduction.place": "test_compiled.py::test_types_of_device_functions",
    "cuda.reduction.rows_of_warp": "test_compiled.py::test_types_of_device_functions",
    "cuda.dropout.drop": "test_compiled.py::test_dropout_has_the_bits_of_the_contract",
}


class CudaKernel(NamedTuple):
    """A row: the dtypes that a kernel takes, and a call of its host function that launches it."""

    dtypes: tuple[str, ...]
    call: Callable[[np.ndarray], None]
    shape: tuple[int, ...] = (256, 1024)  # enough for all threads to work, small to interpret
    # For which GPUs `bench.kernels` lists it; the tests read its code for more of them.
    capabilities: tuple[tuple[int, int], ...] = ((8, 9), (9, 0))
    # Why its bits are not promised: it may then fuse and divide, and take exp from libdevice.
    inexact: str = ""
    # What the assembler may call: the paths for rare numbers, and a warp's exchange of numbers.
    helpers: tuple[str, ...] = ()


class DeviceFunction(NamedTuple):
    """A row: the types of a function that only kernels call."""

    arguments: tuple[str, ...]  # as Numba writes them
    returned: str


class Launch(NamedTuple):
    """What a host function passed to `launch.launch`."""

    kernel: Any
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]


def _drop(x: np.ndarray) -> None:
    from minidl_kernels.cuda import dropout

    dropout.dropout(x, np.empty_like(x), 0.3, seed=2**40 + 17, stream=3, step=4)


def _activate_and_drop(z: np.ndarray) -> None:
    from minidl_kernels.cuda import dense

    bias = np.ones(z.shape[1], z.dtype)
    dense.activate_and_drop(z, bias, activation="relu", rate=0.3, seed=5, stream=3, step=4)


def _activate_vjp(y: np.ndarray) -> None:
    from minidl_kernels.cuda import dense

    dense.activate_vjp(y.copy(), y, 1.5, y.copy(), np.empty((1, y.shape[1]), y.dtype))


def _cross_entropy(z: np.ndarray) -> None:
    from minidl_kernels.cuda import cross_entropy

    labels = np.arange(len(z)) % z.shape[1]
    cross_entropy.cross_entropy(z, z[0].copy(), labels, np.empty((1, 2), z.dtype))


def _cross_entropy_vjp(z: np.ndarray) -> None:
    from minidl_kernels.cuda import cross_entropy

    labels = np.arange(len(z)) % z.shape[1]
    g, g_bias = np.ones((), z.dtype), np.empty((1, z.shape[1]), z.dtype)
    cross_entropy.cross_entropy_vjp(g, z, z[0].copy(), labels, z.copy(), g_bias)


def _gather(out: np.ndarray) -> None:
    from minidl_kernels.cuda import gather

    rows = np.arange(len(out))[::-1].copy()
    source = np.ones(out.shape, np.uint8)
    gather.gather(source, rows, out, rows.astype("u1"), rows.astype("u1"), scale=0.1, offset=0.2)


def _adam(w: np.ndarray) -> None:
    from minidl_kernels.cuda import optimizers

    state = w.copy(), w.copy(), w.copy()
    optimizers.adam(w, *state, rate=0.1, beta_1=0.9, beta_2=0.99, epsilon=1e-7)


def _sgd(w: np.ndarray) -> None:
    from minidl_kernels.cuda import optimizers

    optimizers.sgd(w, w.copy(), None, rate=0.1, momentum=0.0, nesterov=False)


def _momentum(w: np.ndarray, *, nesterov: bool = False) -> None:
    from minidl_kernels.cuda import optimizers

    optimizers.sgd(w, w.copy(), w.copy(), rate=0.1, momentum=0.9, nesterov=nesterov)


def _nesterov(w: np.ndarray) -> None:
    _momentum(w, nesterov=True)


def _rmsprop(w: np.ndarray) -> None:
    from minidl_kernels.cuda import optimizers

    optimizers.rmsprop(w, w.copy(), w.copy(), rate=0.1, rho=0.9, epsilon=1e-7)


FLOATS = ("float32", "float64")
SUMMED = "exp and log are not the same on two devices, nor is the order of the sums"
UPDATED = "an update is compared with its rule to rounding; fused it is rounded less often"
DIVISION = ("__cuda_sm3x_div_rn_noftz_f32_slowpath", "__cuda_sm20_div_rn_f64_full")
ROOT = ("__cuda_sm20_sqrt_rn_f32_slowpath", "__cuda_sm20_dsqrt_rn_f64_mediumpath_v1")
RECIPROCAL = ("__cuda_sm20_rcp_rn_f32_slowpath", "__cuda_sm20_dblrcp_rn_slowpath_v3")
EXCHANGE = ("__cuda_sm70_shflsync_bfly_p", "__cuda_sm70_votesync_all")

CUDA_KERNELS = {
    "cuda.dropout.drop": CudaKernel(
        ("float16", *FLOATS), _drop, capabilities=((7, 5), (8, 0), (8, 9), (9, 0), (12, 0))
    ),
    "cuda.dense.end_layer": CudaKernel(FLOATS, _activate_and_drop, (256, 256)),
    "cuda.dense.gate_and_sum": CudaKernel(FLOATS, _activate_vjp, (256, 256)),
    "cuda.cross_entropy.sum_losses": CudaKernel(
        FLOATS, _cross_entropy, (256, 64), inexact=SUMMED, helpers=EXCHANGE
    ),
    "cuda.cross_entropy.softmax_minus_one_hot": CudaKernel(
        FLOATS, _cross_entropy_vjp, (256, 64), inexact=SUMMED, helpers=EXCHANGE + RECIPROCAL
    ),
    "cuda.optimizers.adam_update": CudaKernel(
        FLOATS, _adam, (2**14,), inexact=UPDATED, helpers=DIVISION + ROOT
    ),
    "cuda.optimizers.descend": CudaKernel(FLOATS, _sgd, (2**14,), inexact=UPDATED),
    "cuda.optimizers.descend_momentum": CudaKernel(FLOATS, _momentum, (2**14,), inexact=UPDATED),
    "cuda.optimizers.descend_nesterov": CudaKernel(FLOATS, _nesterov, (2**14,), inexact=UPDATED),
    "cuda.optimizers.rmsprop_update": CudaKernel(
        FLOATS, _rmsprop, (2**14,), inexact=UPDATED, helpers=DIVISION + ROOT
    ),
    "cuda.gather.take_float32": CudaKernel(("float32",), _gather, (256, 256)),
    "cuda.gather.take_float64": CudaKernel(("float64",), _gather, (256, 256)),
}
KERNELS_AND_DTYPES = [(name, dtype) for name, row in CUDA_KERNELS.items() for dtype in row.dtypes]

_MATRIX, _VECTOR = "float32[:,::1]", "float32[::1]"
_WORD, _LONG = "uint32", "uint64"
DEVICE_FUNCTIONS = {
    "cuda.cross_entropy._softmax": DeviceFunction(
        (_MATRIX, _VECTOR, _LONG, _LONG, _WORD), "UniTuple(float32 x 2)"
    ),
    "cuda.cross_entropy._is_first_largest": DeviceFunction(
        ("float32", _LONG, _MATRIX, _VECTOR, _LONG, _LONG, _WORD), "bool"
    ),
    "cuda.dropout._at_least": DeviceFunction(("float32", "float32"), "float32"),
    "cuda.dropout._load_lanes": DeviceFunction(
        (_VECTOR, _LONG, _WORD, _WORD), "UniTuple(float32 x 4)"
    ),
    "cuda.dropout._philox": DeviceFunction((_WORD,) * 6, "UniTuple(uint32 x 4)"),
    "cuda.dropout.drop_tiles": DeviceFunction(
        (_VECTOR, "none", "none", _VECTOR, _LONG, _LONG, *(_WORD,) * 6, "float32"), "none"
    ),
    "cuda.optimizers._place": DeviceFunction((), "UniTuple(uint64 x 2)"),
    "cuda.reduction.add_lanes": DeviceFunction(("float32",), "float32"),
    "cuda.reduction.add_warps": DeviceFunction((_MATRIX, "float32", _WORD, _WORD), "float32"),
    "cuda.reduction.all_lanes": DeviceFunction(("boolean",), "bool"),
    "cuda.reduction.largest_of_lanes": DeviceFunction(("float32",), "float32"),
    "cuda.reduction.place": DeviceFunction((), "UniTuple(uint32 x 2)"),
    "cuda.reduction.rows_of_warp": DeviceFunction((_LONG, _WORD, _LONG), "UniTuple(uint64 x 2)"),
}


def launch_of(name: str, dtype: str) -> Launch:
    """Return what the host function of a CUDA kernel launches for an array of this dtype.

    So a kernel is compiled for exactly the types that it is launched with.
    """
    from minidl_kernels.cuda import launch

    row = CUDA_KERNELS[name]
    launches = []

    def record(kernel, grid, block, stream, *arguments):
        launches.append(Launch(kernel, grid, block, arguments))

    with mock.patch.object(launch, "launch", record):
        row.call(np.ones(row.shape, dtype))
    (only,) = launches
    return only
