"""Gradient checks for operations, layers and losses of your own."""

from collections.abc import Callable

import numpy as np

from minidl.engine.backward import no_grad
from minidl.engine.tensor import Tensor

__all__ = ["check_gradient"]

# The error of a central difference with step h is about h**2 (truncation) plus eps / h (rounding).
# The sum is smallest at h = eps**(1/3): about 1e-10 if the third derivative is of order one. The
# tolerance leaves room for larger ones.
EPSILON = float(np.finfo(np.float64).eps)
STEP = 6e-6
TOLERANCE = 1e-6
DIRECTIONS = 3


def check_gradient(function: Callable[..., Tensor], *inputs: Tensor, seed: int = 0) -> None:
    """Check `backward` against central differences, along random directions of each input.

    The outputs are summed with random weights, so that errors of two elements cannot cancel. The
    inputs and their ``grad`` are not modified. The function must be smooth near the inputs and
    return the same result each time: draw its masks at one address.

    Parameters
    ----------
    function : callable
        Takes one tensor for each of `inputs`, and returns one tensor of any shape.
    *inputs : Tensor
        float64 tensors with ``requires_grad``, on any device.
    seed : int
        The seed of the generator that draws weights and directions.

    Raises
    ------
    AssertionError
        If they differ by more than 1e-6 (relative) plus the rounding error of the differences.
    TypeError
        If an input is not a float64 tensor with ``requires_grad``.

    Examples
    --------
    >>> x = Tensor(np.array([0.5, -1.0]), requires_grad=True)
    >>> check_gradient(lambda x: (x * x).sum(), x)
    >>> check_gradient(lambda x: x * x.detach(), x)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: check_gradient: input 0 of shape (2,): expected a directional derivative ...
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    for index, x in enumerate(inputs):
        if not isinstance(x, Tensor) or x.dtype != np.float64 or not x.requires_grad:
            raise TypeError(
                f"check_gradient: expected input {index} to be a float64 Tensor with "
                f"requires_grad=True, got {x!r}."
            )
    rng = np.random.default_rng(seed)
    leaves = [_leaf(x.numpy(), x) for x in inputs]
    output = function(*leaves)
    weights = rng.standard_normal(output.shape)
    output.backward(output.backend.asarray(weights))
    rounding = 10 * EPSILON * float(np.abs(weights * output.numpy()).sum()) / STEP

    for index, leaf in enumerate(leaves):
        gradient = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        for _ in range(DIRECTIONS):
            direction = rng.standard_normal(leaf.shape)
            by_backward = float((gradient * direction).sum())
            by_differences = 0.0
            for sign in (1, -1):
                moved = _leaf(leaf.numpy() + sign * STEP * direction, leaf)
                arguments = [*leaves[:index], moved, *leaves[index + 1 :]]
                with no_grad():
                    value = function(*arguments).numpy()
                by_differences += sign * float((weights * value).sum()) / (2 * STEP)
            allowed = TOLERANCE * max(abs(by_backward), abs(by_differences)) + rounding
            if not abs(by_backward - by_differences) <= allowed:  # so that NaN fails too
                raise AssertionError(
                    f"check_gradient: input {index} of shape {leaf.shape}: expected a directional "
                    f"derivative of {by_differences!r}, by central differences, got "
                    f"{by_backward!r} from backward(). The tolerance is {allowed:.1e}."
                )


def _leaf(values: np.ndarray, like: Tensor) -> Tensor:
    """Return a new leaf on the device of `like`."""
    leaf = like.like(like.backend.asarray(values))
    leaf.requires_grad = True
    return leaf
