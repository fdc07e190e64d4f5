"""The kernels: which test covers each, and how the tests and `bench.kernels` compile a CUDA one.

`test_completeness.py` fails until every compiled function of `minidl_kernels` stands here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

KERNELS = {
    "cpu.adam._update": "test_adam_cpu.py::test_equals_the_rule_bit_for_bit",
    "cpu.dropout._philox": "test_philox.py::test_known_answers_compiled_for_the_cpu",
    "cpu.dropout._drop": "test_dropout_cpu.py::test_equals_the_contract",
    "cpu.dropout._drop_parallel": "test_dropout_cpu.py::test_parallel_equals_serial",
    "cuda.dropout._philox": "test_compiled.py::test_types_of_device_functions",
    "cuda.dropout.drop": "test_compiled.py::test_dropout_has_the_bits_of_the_contract",
}


class CudaKernel(NamedTuple):
    """A row: the dtypes that a kernel takes, and a call of its host function that launches it."""

    dtypes: tuple[str, ...]
    call: Callable[[np.ndarray], None]
    shape: tuple[int, int] = (256, 1024)  # enough for all threads to work, small to interpret


class DeviceFunction(NamedTuple):
    """A row: the types of a function that only kernels call."""

    arguments: tuple[str, ...]
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


CUDA_KERNELS = {
    "cuda.dropout.drop": CudaKernel(("float16", "float32", "float64"), _drop),
}

DEVICE_FUNCTIONS = {
    "cuda.dropout._philox": DeviceFunction(("uint32",) * 6, "UniTuple(uint32 x 4)"),
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
