"""Base class of the layers that draw random decisions or numbers."""

import inspect
from typing import Any

from minidl.layers.base import Layer
from minidl.rng import RandomStream


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
