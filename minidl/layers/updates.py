"""Moving averages of layers: weights that change once in each step, without gradients.

In `fit` they change together with the trained weights. So a step that is interrupted or undone
leaves neither changed, and a forward pass that belongs to no step changes nothing.
"""

from contextlib import AbstractContextManager
from contextvars import ContextVar

from minidl.backend import Array
from minidl.engine.parameter import Parameter
from minidl.engine.scope import set_inside

Updates = dict[Parameter, Array]  # the new values of each weight

_of_step: ContextVar[Updates | None] = ContextVar("minidl updates of a step", default=None)


def collected() -> AbstractContextManager[Updates]:
    """Collect what layers assign inside, instead of changing the weights."""
    return set_inside(_of_step, {})


def move(average: Parameter, values: Array, momentum: float) -> None:
    """Move an average towards new values: the old ones count `momentum`, the new ones the rest."""
    found = _of_step.get()
    before: Array = average.data if found is None else found.get(average, average.data)
    after = before * momentum + values.astype(average.dtype, copy=False) * (1 - momentum)
    if found is None:
        average.assign(after)
    else:
        found[average] = after
