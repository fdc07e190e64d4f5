"""Backends of the tests: the reference in NumPy, and the CUDA kernels over NumPy arrays."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from minidl.backend import Backend


class Reference(Backend):
    """The backend without any kernel."""

    name = "reference"
    xp = np


class CudaKernels(Backend):
    """The kernels of CUDA over NumPy arrays, for use in `launches_go_to`."""

    name = "kernels of cuda"
    xp = np
    kernels = "minidl_kernels.cuda"


@contextlib.contextmanager
def launches_go_to(run: Callable[..., None]) -> Iterator[CudaKernels]:
    """Yield a backend whose kernels are not launched: ``run(kernel, grid, block, *arguments)``."""
    from minidl_kernels.cuda import launch, reduction

    with mock.patch.object(launch, "launch", run), mock.patch.object(reduction, "cupy", np):
        yield CudaKernels()


def host(backend: Backend, *arrays: Any) -> tuple[np.ndarray, ...]:
    """Return copies of a device's arrays."""
    return tuple(backend.to_numpy(array) for array in arrays)


def bits(array: np.ndarray) -> np.ndarray:
    """Return the bits of an array, those of all NaNs equal."""
    canonical = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return np.asarray(canonical, array.dtype).view(f"u{array.itemsize}")


def assert_same_bits(received: np.ndarray, expected: np.ndarray) -> None:
    """Fail unless shapes, dtypes and bits agree; one NaN is as good as another."""
    assert (received.shape, received.dtype) == (expected.shape, expected.dtype)
    wrong = bits(received) != bits(expected)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} differ"


def special_numbers(shape: tuple[int, ...], dtype: str, seed: int = 1) -> np.ndarray:
    """Return normal numbers, among them zeros of both signs, infinities, NaN and a subnormal."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).smallest_subnormal]
    flat = x.reshape(-1)
    flat[5::11] = np.resize(np.array(special, dtype), flat[5::11].size)
    return x
