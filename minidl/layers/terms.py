"""Terms that layers add to the loss, collected in each forward pass.

They are not attributes of layers, so that neither a copy nor a file of a model holds them.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

from minidl.backend import Backend
from minidl.engine.parameter import Parameter
from minidl.engine.scope import set_inside
from minidl.engine.tensor import Tensor

Terms = list[tuple[Any, Tensor]]  # each with the layer that added it

_of_pass: ContextVar[Terms | None] = ContextVar("minidl terms of the loss", default=None)


def current() -> Terms | None:
    """Return the terms of the forward pass in progress, or None outside of one."""
    return _of_pass.get()


def collected() -> AbstractContextManager[Terms]:
    """Collect the terms of a new forward pass, which the code inside is."""
    return set_inside(_of_pass, [])


def checked(who: str, term: Any, backend: Backend | None) -> Tensor:
    """Return a term if it is a scalar tensor of the device, else raise TypeError or ValueError."""
    if not isinstance(term, Tensor):
        raise TypeError(
            f"{who}: expected a Tensor, got a {type(term).__name__}. Compute the term "
            "with operations of tensors."
        )
    if term.shape != ():
        raise ValueError(
            f"{who}: expected a scalar, got shape {term.shape}. Take its mean() or sum()."
        )
    if backend is not None and term.backend is not backend:
        raise ValueError(
            f"{who}: expected a term on {backend.name}, got one on {term.device}. Move "
            f'it with .to("{backend.name}").'
        )
    return term


def penalties(parameters: Iterable[Parameter]) -> list[Tensor]:
    """Return the penalties on the weights that are trained and have a regularizer."""
    return [
        checked(f"the regularizer of {p.name}", p.regularizer(p), p.backend)
        for p in parameters
        if p.regularizer is not None and p.requires_grad
    ]
