"""Reverse-mode differentiation: the recorded graph, and the walk that computes gradients.

Applying an operation records a `Node`: its vector-Jacobian products and its inputs. `backpropagate`
walks the nodes in reverse topological order, undoes broadcasting once for all operations, and
releases the graph as it goes. Tensors come from `minidl.engine.tensor`; here only their attributes
are used.
"""

import itertools
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

from minidl.backend import Array
from minidl.engine import ops
from minidl.engine.scope import Frame, Scope

Tensor = Any  # a `minidl.engine.tensor.Tensor`, which imports this module


class Node(NamedTuple):
    """One application of an operation.

    Attributes
    ----------
    op : str
        The operation's name.
    inputs : tuple of Tensor or None
        Its inputs; None for those that are not tensors.
    vjps
        The operation's vector-Jacobian products.
    number : int
        Sequence number, shared by nodes and in-place weight changes, to detect changes after use.
    """

    op: str
    inputs: tuple[Tensor | None, ...]
    vjps: ops.Vjps
    number: int


RELEASED = Node("released", (), (), -1)

next_number = itertools.count().__next__

_OUTSIDE = Frame(True)
_recording: ContextVar[Frame] = ContextVar("minidl records the graph", default=_OUTSIDE)


def no_grad() -> Scope:
    """Record no graph inside: results need no gradient and keep no inputs alive.

    As ``@no_grad()`` it decorates functions, methods, generator functions and coroutine functions.

    Examples
    --------
    >>> from minidl import Tensor
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> with no_grad():
    ...     (x * 2).requires_grad
    False
    """
    return Scope("no_grad", _recording, lambda: False)


def is_recording() -> bool:
    """Return whether operations record the graph: always, except inside of `no_grad`."""
    return _recording.get().value


def backpropagate(root: Tensor, gradient: Array, into: Mapping[Tensor, Array]) -> None:
    """Add the gradients of all leaves that `root` depends on, and release the graph.

    Parameters
    ----------
    root : Tensor
        Where the walk begins.
    gradient : array
        The gradient of `root`, of its shape and dtype.
    into : mapping of Tensor to array
        Arrays that the gradients of leaves without one are written to.

    Raises
    ------
    ValueError
        If an array of `into` does not fit its leaf.
    RuntimeError
        If the graph was released, or a weight in it has changed in place since.
    """
    for leaf, array in into.items():
        fits = array.shape == leaf.shape and array.dtype == leaf.dtype
        if not (fits and array.flags.c_contiguous):
            raise ValueError(
                f"backward: expected a C-contiguous array of shape {leaf.shape} and dtype "
                f"{leaf.dtype} in `into`, got shape {array.shape} and dtype {array.dtype}."
            )
    targets = {leaf: array for leaf, array in into.items() if leaf.grad is None}
    pending = {root: gradient}
    order = _topological_order(root)
    while order:
        _pull_back(*order.pop(), pending, targets)  # popped, so that its arrays are freed after use
    while pending:
        leaf, g = pending.popitem()
        with leaf.backend.active:
            _accumulate(leaf, g, targets)


def _topological_order(root: Tensor) -> list[tuple[Tensor, Node]]:
    """Return the results that `root` depends on, with their nodes, inputs before outputs."""
    found: dict[Tensor, Node] = {}
    stack = [root]
    while stack:
        tensor = stack.pop()
        node = tensor._node
        if node is None or tensor in found:
            continue
        if node == RELEASED:  # not `is`: a copy of the tensor has a copy of it
            raise RuntimeError(
                "backward: expected a recorded graph, got one that an earlier backward() "
                "released. Add the losses and call backward() once, or compute the result again."
            )
        found[tensor] = node
        for parent in node.inputs:
            if parent is None:
                continue
            if parent.changed_at > node.number:
                raise RuntimeError(
                    f"backward: {parent.name} was changed in place after {node.op} used it. "
                    "Call backward() before update() or set_weights(), or compute the result again."
                )
            if parent._requires_grad:
                stack.append(parent)
    # An operation has a higher number than those that made its inputs.
    return sorted(found.items(), key=lambda item: item[1].number)


def _pull_back(
    tensor: Tensor, node: Node, pending: dict[Tensor, Array], targets: Mapping[Tensor, Array]
) -> None:
    """Replace the pending gradient of a result by those of its operation's inputs."""
    g = pending.pop(tensor)
    tensor._node = RELEASED
    wanted = [parent is not None and parent._requires_grad for parent in node.inputs]
    # A leaf with several gradients gets their sum: none of them is written in place.
    is_repeated = _has_repeats(node.inputs)
    out = [None if is_repeated or p in pending else targets.get(p) for p in node.inputs]
    with tensor.backend.active:
        gradients = ops.pull_back(node.vjps, g, wanted, out)
        for parent, want, gradient in zip(node.inputs, wanted, gradients, strict=True):
            if want:
                part = _undo_broadcast(gradient, parent)
                if parent in pending:
                    tensor.backend.not_recorded("several gradients of a tensor are added")
                    part = pending[parent] + part
                pending[parent] = part


def _has_repeats(inputs: tuple[Tensor | None, ...]) -> bool:
    """Return whether a tensor, or None, occurs twice."""
    return len(set(map(id, inputs))) < len(inputs)


def _accumulate(leaf: Tensor, g: Array, targets: Mapping[Tensor, Array]) -> None:
    """Add `g` to the gradient of a leaf."""
    xp = leaf.backend.xp
    if leaf.grad is not None:
        total = xp.asarray(leaf.grad.data + g)
    elif leaf in targets:
        total = targets[leaf]
        if total is not g:
            leaf.backend.not_recorded("a gradient is copied")
            total[...] = g
    else:
        total = xp.array(g, order="C")  # a VJP may return one array for several inputs, or a view
    leaf.grad = leaf.like(total)


def _undo_broadcast(g: Array, parent: Tensor) -> Array:
    """Return `g` summed over the axes along which `parent` was broadcast."""
    if g.shape != parent.shape:
        added = g.ndim - parent.ndim
        ones = (added + place for place, length in enumerate(parent.shape) if length == 1)
        g = parent.backend.sum(g, axis=(*range(added), *ones)).reshape(parent.shape)
    return g if g.dtype == parent.dtype else g.astype(parent.dtype)
