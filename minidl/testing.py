"""Checks for those who write an op, a layer or a loss of their own."""

from collections.abc import Callable

import numpy as np

from minidl.autograd import Tensor, no_grad

# A central difference with step h is off by about h**2 (truncation) and eps / h (rounding), which
# are smallest together at h = eps**(1/3). There it is good to about 1e-10 for functions whose
# third derivative is of order one; the tolerance leaves room for those that bend more.
EPSILON = float(np.finfo(np.float64).eps)
STEP = 6e-6
TOLERANCE = 1e-6
DIRECTIONS = 3


def check_gradient(function: Callable[..., Tensor], *inputs: Tensor, seed: int = 0) -> None:
    """Compare `backward` with central differences, along random directions of each input.

    The output is weighed with random numbers and summed, so that no error of one element hides
    behind another. The inputs are not modified and their ``grad`` is left alone. A function must
    be smooth near the inputs and give the same result each time: draw its masks at one address.

    Parameters
    ----------
    function : callable
        Takes as many tensors as there are `inputs` and returns one tensor of any shape.
    *inputs : Tensor
        float64, with ``requires_grad``, on any device.
    seed : int
        Of the generator that draws weights and directions.

    Raises
    ------
    AssertionError
        If they differ by more than one part in a million and the rounding of the differences.
    TypeError
        If an input is not a float64 tensor with ``requires_grad``.

    Examples
    --------
    >>> x = Tensor(np.array([0.5, -1.0]), requires_grad=True)
    >>> check_gradient(lambda x: (x * x).sum(), x)
    >>> check_gradient(lambda x: x * x.detach(), x)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: check_gradient: input 0 of shape (2,): backward() gives ...
    """
    for place, x in enumerate(inputs):
        if not isinstance(x, Tensor) or x.dtype != np.float64 or not x.requires_grad:
            raise TypeError(
                f"check_gradient: input {place} must be a float64 Tensor with requires_grad=True, "
                f"received {x!r}"
            )
    rng = np.random.default_rng(seed)
    leaves = [_leaf(x.numpy(), x) for x in inputs]
    output = function(*leaves)
    weights = rng.standard_normal(output.shape)
    output.backward(output.backend.asarray(weights))
    rounding = 10 * EPSILON * float(np.abs(weights * output.numpy()).sum()) / STEP

    for place, leaf in enumerate(leaves):
        gradient = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        for _ in range(DIRECTIONS):
            direction = rng.standard_normal(leaf.shape)
            by_backward = float((gradient * direction).sum())
            by_differences = 0.0
            for sign in (1, -1):
                moved = _leaf(leaf.numpy() + sign * STEP * direction, leaf)
                arguments = [*leaves[:place], moved, *leaves[place + 1 :]]
                with no_grad():
                    value = function(*arguments).numpy()
                by_differences += sign * float((weights * value).sum()) / (2 * STEP)
            allowed = TOLERANCE * max(abs(by_backward), abs(by_differences)) + rounding
            if not abs(by_backward - by_differences) <= allowed:  # so that NaN fails too
                raise AssertionError(
                    f"check_gradient: input {place} of shape {leaf.shape}: backward() gives "
                    f"{by_backward!r} along a random direction, central differences give "
                    f"{by_differences!r}; they may differ by {allowed:.1e}"
                )


def _leaf(values: np.ndarray, like: Tensor) -> Tensor:
    """Return a new leaf on the device of `like`."""
    leaf = Tensor.of(like.backend.asarray(values), like.backend)
    leaf.requires_grad = True
    return leaf
