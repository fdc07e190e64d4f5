"""Callbacks that are made of functions."""

from collections.abc import Callable
from typing import Any

from minidl.callbacks.base import Callback

MOMENTS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class LambdaCallback(Callback):
    """Callback that calls a function at each moment for which it has one.

    Parameters
    ----------
    **functions : callable
        Named as the methods of `Callback`, with their arguments: ``on_epoch_end`` takes epoch and
        logs.

    Raises
    ------
    TypeError
        If a name is not that of a moment, or a value is not callable.

    Examples
    --------
    >>> shown = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    """

    def __init__(self, **functions: Callable[..., Any] | None):
        for name, function in functions.items():
            if name not in MOMENTS or not (function is None or callable(function)):
                raise TypeError(
                    f"LambdaCallback: expected functions named as one of {', '.join(MOMENTS)}, got "
                    f"{name}={function!r:.80}. Use these names."
                )
            if function is not None:
                setattr(self, name, function)
