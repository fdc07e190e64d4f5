"""Selection on CuPy arrays, by decisions that elements share."""

import itertools
from typing import Any

import numpy as np
from numba import cuda
from numpy import uint64

from minidl_kernels.cuda import launch, scalars
from minidl_kernels.cuda.scalars import number


def select(x: Any, keep: Any, out: Any, scale: float, shift: float, dropped: float) -> None:
    """Write x * scale + shift to `out` where `keep` is not 0, and `dropped` elsewhere.

    The product and the sum are rounded, each once: the bits of `cpu.select`.

    Parameters
    ----------
    x, out : cupy.ndarray
        Of one shape with five axes and one dtype, float32 or float64, C-contiguous and not empty.
    keep : cupy.ndarray
        Likewise; the length of an axis is that of `x`, or 1 if its elements share their decisions.
    scale, shift, dropped : float
        Rounded to that dtype. They may be placed numbers.
    """
    (across, down), (width, height) = launch.grid_and_block(*x.shape[3:])
    deep = min(x.shape[2], launch.MAX_BLOCKS // (across * down))
    # The distance in `keep` between neighbours on an axis; 0 if they share their decisions.
    distances = itertools.accumulate(keep.shape[:0:-1], initial=1, func=int.__mul__)
    steps = [step * (n > 1) for n, step in zip(keep.shape, [*distances][::-1], strict=True)]
    launch.launch(
        _select,
        (across, down, deep),
        (width, height, 1),
        x.reshape(-1),
        keep.reshape(-1),
        out.reshape(-1),
        tuple(map(uint64, x.shape)),
        tuple(map(uint64, steps)),
        *(scalars.argument(value, x.dtype.type) for value in (scale, shift, dropped)),
    )


@cuda.jit
def _select(
    x: Any,
    keep: Any,
    out: Any,
    lengths: Any,
    steps: Any,
    scale: Any,
    shift: Any,
    dropped: Any,
) -> None:
    """Select in flat arrays; the threads share the last three of the five axes."""
    scale, shift, dropped = number(scale), number(shift), number(dropped)
    n0, n1, n2, n3, n4 = lengths
    step0, step1, step2, step3, step4 = steps
    thread_x, thread_y, thread_z = cuda.grid(3)  # type: ignore[call-arg, var-annotated]
    threads_x, threads_y, threads_z = cuda.gridsize(3)
    a = uint64(0)
    while a < n0:
        b = uint64(0)
        while b < n1:
            c = uint64(thread_z)
            while c < n2:
                d = uint64(thread_y)
                while d < n3:
                    row = uint64(((a * n1 + b) * n2 + c) * n3 + d)
                    first = uint64(a * step0 + b * step1 + c * step2 + d * step3)
                    e = uint64(thread_x)
                    while e < n4:
                        i = uint64(row * n4 + e)
                        kept = scalars.add(x[i] * scale, shift)
                        is_kept = keep[uint64(first + e * step4)] != np.float32(0)
                        out[i] = kept if is_kept else dropped
                        e = uint64(e + uint64(threads_x))
                    d = uint64(d + uint64(threads_y))
                c = uint64(c + uint64(threads_z))
            b = uint64(b + uint64(1))
        a = uint64(a + uint64(1))
