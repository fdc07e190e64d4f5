"""Base class of the layers that draw random decisions or numbers."""

import inspect
from collections.abc import Sequence
from typing import Any

from minidl.arguments import count
from minidl.layers.base import Layer
from minidl.rng import Address, RandomStream

NoiseShape = Sequence[int | None]
"""For each axis of an input: None or its length, or 1 if its elements share their decisions."""


class RandomLayer(Layer):
    """A layer with one random stream; a subclass draws from it in `call`, in training mode.

    Parameters
    ----------
    seed : int, optional
        In [0, 2**64). If None, the seed of the model is used.
    stream : int, optional
        The number of the random stream, in [0, 2**20). If None, the model assigns one.

    Attributes
    ----------
    random_stream : RandomStream
        Where the addresses come from.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    def __init__(
        self, *, seed: int | None = None, stream: int | None = None, **layer_arguments: Any
    ):
        super().__init__(**layer_arguments)
        self.random_stream = RandomStream(seed, stream)

    @property
    def seed(self) -> int | None:
        """The seed of the next draw: its own, or the model's until the first draw."""
        return self.random_stream.seed

    @property
    def stream(self) -> int | None:
        """The number of the random stream; None until a model assigns one."""
        return self.random_stream.number

    @property
    def step(self) -> int:
        """The step of the next draw if ``training`` gives none."""
        return self.random_stream.step

    def next_decisions(
        self, shape: tuple[int, ...], noise_shape: NoiseShape | None
    ) -> tuple[tuple[int, ...], Address]:
        """Return the shape of the decisions for an input of `shape`, and their address.

        If `noise_shape` has two or more axes and begins with 1, the whole step shares the
        decisions: the row offset is 0.

        Raises
        ------
        ValueError
            If `noise_shape` does not have an entry for each axis, or an entry is neither None nor 1
            nor the length of its axis. Also the errors of ``random_stream.next_address``.
        """
        if noise_shape is None:
            return shape, self.random_stream.next_address(shape)
        who = f"{self.label}: expected noise_shape with"
        if len(noise_shape) != len(shape):
            raise ValueError(
                f"{who} an entry for each of the {len(shape)} axes of shape {shape}, got "
                f"{noise_shape}. Use None for axis 0, the batch, and 1 for an axis that shares its "
                "decisions."
            )
        pairs = list(zip(noise_shape, shape, strict=True))
        if any(entry not in (None, 1, length) for entry, length in pairs):
            raise ValueError(
                f"{who} None, 1 or the length of the axis for shape {shape}, got {noise_shape}. "
                "Use None for an axis that has decisions of its own."
            )
        per_step = len(shape) > 1 and noise_shape[0] == 1
        decisions = tuple(length if entry is None else entry for entry, length in pairs)
        return decisions, self.random_stream.next_address(decisions, per_step=per_step)

    def __repr__(self) -> str:
        """Return the constructor's arguments that are not at their defaults, and the address."""
        shown = {
            p.name: getattr(self, p.name)
            for p in inspect.signature(type(self)).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD and getattr(self, p.name) != p.default
        }
        for name in ("seed", "stream", "step"):
            shown[name] = shown.pop(name, getattr(self, name))
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def checked_noise_shape(who: str, noise_shape: Any) -> tuple[int | None, ...] | None:
    """Return a noise shape as a tuple, or None.

    Raises
    ------
    TypeError, ValueError
        If it is not a tuple or list, or an entry is neither None nor a length.

    Examples
    --------
    >>> checked_noise_shape("Dropout", [None, 1])
    (None, 1)
    """
    if noise_shape is None:
        return None
    if not isinstance(noise_shape, tuple | list):
        raise TypeError(
            f"{who}: expected noise_shape to be a tuple, got {noise_shape!r}. Use one with an "
            "entry for each axis, as (None, 1)."
        )
    name = f"{who}: noise_shape"
    return tuple(None if entry is None else count(name, entry) for entry in noise_shape)
