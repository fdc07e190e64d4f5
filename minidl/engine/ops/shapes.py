"""Operations that move elements: indexing, shapes, dtypes and devices."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.backend import Array, Backend
from minidl.engine.ops.op import Result, Vjp, differentiable

__all__ = ["cast", "concatenate", "getitem", "reshape", "transfer", "transpose"]


@differentiable
def getitem(backend: Backend, x: Array, *, index: Any) -> Result:
    """Return ``x[index]`` for every index that the array library accepts."""
    return x[index], (lambda g: backend.index_add(x.shape, index, g),)


@differentiable
def reshape(backend: Backend, x: Array, *, shape: tuple[int, ...]) -> Result:
    """Return `x` in another shape, in C order."""
    return x.reshape(shape), (lambda g: g.reshape(x.shape),)


@differentiable
def transpose(backend: Backend, x: Array, *, axes: Sequence[int] | None = None) -> Result:
    """Return `x` with its axes in another order; None reverses them."""
    y = x.transpose(axes)
    # The inverse of an order is its argsort, once no axis is counted from the end.
    back = None if axes is None else [int(axis) for axis in np.argsort([a % x.ndim for a in axes])]
    return y, (lambda g: g.transpose(back),)


@differentiable
def concatenate(backend: Backend, *arrays: Array, axis: int = 0) -> Result:
    """Return arrays joined along `axis`, in which alone their shapes may differ."""

    def part_of(before: int, length: int) -> Vjp:
        return lambda g: g.swapaxes(0, axis)[before : before + length].swapaxes(0, axis)

    lengths = [array.shape[axis] for array in arrays]
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    y = backend.xp.concatenate(arrays, axis=axis)
    return y, tuple(map(part_of, starts, lengths))


@differentiable
def cast(backend: Backend, x: Array, *, dtype: Any) -> Result:
    """Return `x` in another dtype."""
    return x.astype(dtype), (lambda g: g.astype(x.dtype),)


@differentiable
def transfer(backend: Backend, x: Array, *, target: Backend) -> Result:
    """Return `x` on another device."""
    y = target.asarray(backend.to_numpy(x))
    return y, (lambda g: backend.asarray(target.to_numpy(g)),)
