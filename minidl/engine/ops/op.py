"""The form of an operation, and the table of all operations."""

from collections.abc import Callable, Sequence

from minidl.backend import Array

Vjp = Callable[[Array], Array]
"""VJP of one input: takes the gradient of the value, returns the gradient of the input."""

Arrays = Sequence[Array | None]

JointVjp = Callable[[Array, Sequence[bool], Arrays], Arrays]
"""VJP of all inputs together, for operations whose gradients share work.

``vjp(g, wanted, out)`` returns one gradient for each wanted input, and None for each other one. If
``out`` holds an array for a wanted input, the gradient may be written to it.
"""

Vjps = tuple[Vjp, ...] | JointVjp

Result = tuple[Array, Vjps]
"""Result of an operation: its value, and its VJPs."""

Op = Callable[..., Result]

OPS: dict[str, Op] = {}


def differentiable(op: Op) -> Op:
    """Add `op` to the table of operations, so that a test can require its gradient check."""
    OPS[op.__name__] = op
    return op


MADE_OF_KERNELS: set[Op] = set()
"""The operations that the CPU can record, since they and their VJPs only launch kernels."""


def made_of_kernels(op: Op) -> Op:
    """Add `op` to the operations that the CPU can record.

    If it computes in ``xp`` for some arguments, it calls ``backend.not_recorded(reason)`` there.
    """
    MADE_OF_KERNELS.add(op)
    return op


def pull_back(vjps: Vjps, g: Array, wanted: Sequence[bool], out: Arrays) -> Arrays:
    """Return the gradients of the wanted inputs of an operation, and None for the others.

    Parameters
    ----------
    vjps
        The operation's VJPs.
    g : array
        The gradient of the value.
    wanted : sequence of bool
        Whether each input needs a gradient.
    out : sequence of array or None
        Where the gradient of each input may be written, C-contiguous.
    """
    if isinstance(vjps, tuple):
        return [vjp(g) if want else None for vjp, want in zip(vjps, wanted, strict=True)]
    return vjps(g, wanted, out)
