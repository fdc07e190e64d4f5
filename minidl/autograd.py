"""The engine: a `Tensor` remembers the op that made it, and `backward` walks the ops in reverse.

Defined by run: applying an op records a `Node` with the op's vector-Jacobian products and its
inputs. Broadcasting is undone here, once, for every op. The graph is released as it is used.
"""

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from minidl import ops
from minidl.backend import Array, Backend, get_backend

DLPACK_CPU, DLPACK_CUDA = 1, 2  # DLDeviceType of dlpack.h


class Node(NamedTuple):
    """One application of an op: what `backward` needs of it."""

    op: str
    inputs: tuple[Any, ...]
    vjps: tuple[ops.Vjp, ...]
    number: int  # nodes, and changes of weights in place, are counted in one order


RELEASED = Node("released", (), (), -1)

next_number = itertools.count().__next__

_recording: ContextVar[bool] = ContextVar("minidl records the graph", default=True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Record no graph inside: results need no gradient and keep nothing alive.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> with no_grad():
    ...     (x * 2).requires_grad
    False
    """
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


class Tensor:
    """An array on a device that remembers how it was computed.

    Parameters
    ----------
    values : array_like or array of the device
        Numbers. Python floats become float32; arrays keep their dtype.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"auto"``.
    dtype : str or numpy.dtype, optional
        The dtype, where it is not that of `values`.
    requires_grad : bool
        Whether `backward` leaves a gradient in ``grad``; floating dtypes only.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    Tensor([2., 4., 6.], dtype=float32)
    """

    __slots__ = ("__weakref__", "_node", "backend", "data", "grad", "logits", "requires_grad")
    __array_ufunc__ = None  # so that array + tensor asks the tensor
    changed_at = -1  # of a weight: the number of its last change in place

    def __init__(
        self,
        values: Any,
        device: str = "cpu",
        *,
        dtype: Any = None,
        requires_grad: bool = False,
    ):
        if isinstance(values, Tensor):
            raise TypeError("Tensor: expected numbers, received a Tensor; use detach() or to()")
        refuse_masked("Tensor", values)
        backend = get_backend(device)
        if not hasattr(values, "dtype"):
            values = np.asarray(values)
            if dtype is None and values.dtype == np.float64:
                dtype = np.float32
        self._fill(backend.asarray(values, dtype), backend)
        if requires_grad and self.dtype.kind != "f":
            raise TypeError(
                f"Tensor: requires_grad needs a floating dtype, received {self.dtype}; "
                'give dtype="float32"'
            )
        self.requires_grad = requires_grad

    def _fill(self, data: Array, backend: Backend) -> None:
        self.data = data
        self.backend = backend
        self.requires_grad = False
        self.grad: Tensor | None = None
        self.logits: Tensor | None = None  # of a softmax: its input, which stable losses take
        self._node: Node | None = None

    @classmethod
    def of(cls, data: Array, backend: Backend) -> "Tensor":
        """Wrap an array of `backend` without a copy."""
        tensor = Tensor.__new__(Tensor)
        tensor._fill(data, backend)
        return tensor

    # -------------------------------------------------------------------------- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the elements."""
        return self.data.dtype

    @property
    def device(self) -> str:
        """The device's name."""
        return self.backend.name

    @property
    def T(self) -> "Tensor":
        """The tensor with its axes reversed."""
        return self.transpose()

    def __repr__(self) -> str:
        text = np.array2string(self.numpy(), separator=", ", prefix="Tensor(")
        device = "" if self.device == "cpu" else f", device={self.device!r}"
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({text}, dtype={self.dtype}{device}{grad})"

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[place] for place in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    # -------------------------------------------------------------------------- moving it

    def numpy(self) -> np.ndarray:
        """Return a copy on the host, which the caller owns."""
        return self.backend.to_numpy(self.data)

    def item(self) -> float | int | bool:
        """Return the only element as a Python number; waits for the device.

        Raises
        ------
        ValueError
            If there is not exactly one element.
        """
        if self.size != 1:
            raise ValueError(
                f"item: expected a tensor with one element, received shape {self.shape}; "
                "reduce or index it first"
            )
        return self.numpy().item()

    def detach(self) -> "Tensor":
        """Return a tensor that shares the values and knows nothing of the graph."""
        return Tensor.of(self.data, self.backend)

    def to(self, device: str) -> "Tensor":
        """Return the tensor on `device`; itself where it is there already."""
        target = get_backend(device)
        return self if target is self.backend else apply(ops.transfer, self, target=target)

    def astype(self, dtype: Any) -> "Tensor":
        """Return the tensor in another dtype; itself where it has it already."""
        return self if self.dtype == np.dtype(dtype) else apply(ops.cast, self, dtype=dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.backend.xp is not np:
            raise TypeError(
                f"Tensor: on {self.device}, and never copied to the host silently; use numpy()"
            )
        return np.array(self.data, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    # -------------------------------------------------------------------------- operators

    def __add__(self, other: Any) -> "Tensor":
        return apply(ops.add, self, other)

    def __radd__(self, other: Any) -> "Tensor":
        return apply(ops.add, other, self)

    def __sub__(self, other: Any) -> "Tensor":
        return apply(ops.subtract, self, other)

    def __rsub__(self, other: Any) -> "Tensor":
        return apply(ops.subtract, other, self)

    def __mul__(self, other: Any) -> "Tensor":
        return apply(ops.multiply, self, other)

    def __rmul__(self, other: Any) -> "Tensor":
        return apply(ops.multiply, other, self)

    def __truediv__(self, other: Any) -> "Tensor":
        return apply(ops.divide, self, other)

    def __rtruediv__(self, other: Any) -> "Tensor":
        return apply(ops.divide, other, self)

    def __pow__(self, other: Any) -> "Tensor":
        return apply(ops.power, self, other)

    def __rpow__(self, other: Any) -> "Tensor":
        return apply(ops.power, other, self)

    def __matmul__(self, other: Any) -> "Tensor":
        return apply(ops.matmul, self, other)

    def __rmatmul__(self, other: Any) -> "Tensor":
        return apply(ops.matmul, other, self)

    def __neg__(self) -> "Tensor":
        return apply(ops.negative, self)

    def __eq__(self, other: object) -> "Tensor":  # type: ignore[override]
        return self._compare(operator.eq, other)

    def __ne__(self, other: object) -> "Tensor":  # type: ignore[override]
        return self._compare(operator.ne, other)

    def __lt__(self, other: Any) -> "Tensor":
        return self._compare(operator.lt, other)

    def __le__(self, other: Any) -> "Tensor":
        return self._compare(operator.le, other)

    def __gt__(self, other: Any) -> "Tensor":
        return self._compare(operator.gt, other)

    def __ge__(self, other: Any) -> "Tensor":
        return self._compare(operator.ge, other)

    __hash__ = object.__hash__  # == compares elements, so a tensor is a key by identity

    def _compare(self, relation: Callable[[Any, Any], Array], other: Any) -> "Tensor":
        backend, (a, b) = _operands(relation.__name__, (self, other))
        with backend.active:
            return Tensor.of(backend.xp.asarray(relation(a, b)), backend)

    def __getitem__(self, index: Any) -> "Tensor":
        parts = index if isinstance(index, tuple) else (index,)
        _, (_, *plain) = _operands("getitem", (self, *parts))
        return apply(
            ops.getitem, self, index=tuple(plain) if isinstance(index, tuple) else plain[0]
        )

    # -------------------------------------------------------------------------- methods

    def reshape(self, *shape: int | Sequence[int]) -> "Tensor":
        """Return the elements in another shape, in C order; one length may be -1."""
        return apply(ops.reshape, self, shape=_flat(shape))

    def transpose(self, *axes: int | Sequence[int]) -> "Tensor":
        """Return the tensor with its axes in the order given, reversed without one."""
        return apply(ops.transpose, self, axes=_flat(axes) if axes else None)

    def sum(self, axis: ops.Axis = None, keepdims: bool = False) -> "Tensor":
        """Return the sum over `axis`, over all axes where it is None."""
        return apply(ops.sum, self, axis=axis, keepdims=keepdims)

    def mean(self, axis: ops.Axis = None, keepdims: bool = False) -> "Tensor":
        """Return the mean over `axis`, over all axes where it is None."""
        return apply(ops.mean, self, axis=axis, keepdims=keepdims)

    def max(self, axis: ops.Axis = None, keepdims: bool = False) -> "Tensor":
        """Return the maximum over `axis`, over all axes where it is None."""
        return apply(ops.max, self, axis=axis, keepdims=keepdims)

    def exp(self) -> "Tensor":
        """Return e to the power of each element."""
        return apply(ops.exp, self)

    def log(self) -> "Tensor":
        """Return the natural logarithm of each element."""
        return apply(ops.log, self)

    def clip(self, low: float, high: float) -> "Tensor":
        """Return the elements held within [low, high]."""
        return apply(ops.clip, self, low=_number(low), high=_number(high))

    def relu(self) -> "Tensor":
        """Return the positive part of each element."""
        return apply(ops.relu, self)

    def sigmoid(self) -> "Tensor":
        """Return 1 / (1 + exp(-x)) of each element."""
        return apply(ops.sigmoid, self)

    def tanh(self) -> "Tensor":
        """Return the hyperbolic tangent of each element."""
        return apply(ops.tanh, self)

    def softmax(self, axis: int = -1) -> "Tensor":
        """Return exp(x) divided by its sum over `axis`; the result knows its ``logits``."""
        y = apply(ops.softmax, self, axis=axis)
        if axis in (-1, self.ndim - 1):
            # Of softmaxes in a row only the last one's logits are kept alive, where no gradient
            # goes through the others.
            y.logits = self if self.requires_grad or self.logits is None else self.detach()
        return y

    def log_softmax(self, axis: int = -1) -> "Tensor":
        """Return the logarithm of `softmax`, without under- or overflow."""
        return apply(ops.log_softmax, self, axis=axis)

    # -------------------------------------------------------------------------- gradients

    def backward(
        self, gradient: Any = None, *, into: "Mapping[Tensor, Array] | None" = None
    ) -> None:
        """Add the gradient of this tensor to ``grad`` of every leaf it was computed from.

        Parameters
        ----------
        gradient : Tensor or array of the device, optional
            The gradient of the loss with respect to this tensor, of its shape. A tensor with one
            element needs none: it is the loss.
        into : dict of Tensor to array of the device, optional
            For leaves without a gradient the C-contiguous array, of the leaf's shape and dtype,
            that their gradient is written to; what it held is lost.

        Raises
        ------
        ValueError
            If the tensor has several elements and no `gradient` is given, or a wrong shape; or an
            array of `into` does not fit its leaf.
        RuntimeError
            If nothing here requires a gradient, the graph was used before, or a weight in it has
            changed in place since, whether or not its value is needed. No gradient is written then.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward: nothing here requires a gradient; give requires_grad=True to a tensor "
                "that it is computed from, and compute it outside no_grad()"
            )
        if gradient is None and self.size != 1:
            raise ValueError(
                f"backward: expected a tensor with one element (a loss), received shape "
                f"{self.shape}; reduce it, or give its gradient"
            )
        with self.backend.active:
            if gradient is None:
                g = self.backend.ones(self.shape, self.dtype)
            else:
                _, (_, g) = _operands("backward", (self, gradient))
                g = self.backend.xp.asarray(g, dtype=self.dtype)
            if g.shape != self.shape:
                raise ValueError(
                    f"backward: expected a gradient of shape {self.shape}, received {g.shape}"
                )
        for leaf, array in (into or {}).items():
            same_kind = array.shape == leaf.data.shape and array.dtype == leaf.data.dtype
            if not (same_kind and array.flags.c_contiguous):
                raise ValueError(
                    f"backward: into must hold C-contiguous arrays like their leaves, received "
                    f"shape {array.shape} of {array.dtype} for {leaf.shape} of {leaf.dtype}"
                )
        _propagate(self, g, into or {})


def _flat(numbers: tuple[int | Sequence[int], ...]) -> tuple[int, ...]:
    """Take ``f(2, 3)`` and ``f((2, 3))`` alike."""
    if len(numbers) == 1 and isinstance(numbers[0], Sequence):
        return tuple(numbers[0])
    return tuple(numbers)  # type: ignore[arg-type]


def from_dlpack(source: Any) -> Tensor:
    """Return a tensor that shares the memory of `source`, an array of any library with DLPack.

    Examples
    --------
    >>> array = np.zeros(3, "float32")
    >>> tensor = from_dlpack(array)
    >>> array[0] = 5
    >>> tensor
    Tensor([5., 0., 0.], dtype=float32)
    """
    kind, number = source.__dlpack_device__()
    if kind not in (DLPACK_CPU, DLPACK_CUDA):
        raise ValueError(
            f"from_dlpack: expected an array on the CPU or a CUDA device, received DLPack device "
            f"type {int(kind)}; move it there first"
        )
    backend = get_backend("cpu" if kind == DLPACK_CPU else f"cuda:{number}")
    return Tensor.of(backend.from_dlpack(source), backend)


def refuse_masked(who: str, values: Any) -> None:
    """Raise TypeError for a masked array: its mask would be lost."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"{who}: received a masked array, whose mask would be lost; give its filled() values, "
            "or leave out what is masked"
        )


def _number(operand: Any) -> Any:
    """Return a NumPy scalar as Python's number, which does not widen a tensor; others stay."""
    return operand.item() if isinstance(operand, np.generic) else operand


def _operands(name: str, operands: Sequence[Any]) -> tuple[Backend, list[Any]]:
    """Return the one backend of `operands` and their arrays; numbers and indices stay."""
    backend: Backend | None = None
    arrays = []
    for operand in operands:
        if not isinstance(operand, Tensor):
            refuse_masked(name, operand)
            arrays.append(_number(operand))
            continue
        arrays.append(operand.data)
        if operand.backend is not backend:
            if backend is not None:
                raise ValueError(
                    f"{name}: operands are on {backend.name} and {operand.device}; "
                    f'move one with .to("{backend.name}")'
                )
            backend = operand.backend
    if backend is None:
        raise TypeError(f"{name}: expected at least one Tensor; use Tensor(values)")
    if backend.xp is not np and any(isinstance(operand, np.ndarray) for operand in operands):
        raise ValueError(
            f"{name}: operands are on {backend.name} and cpu (a NumPy array); "
            f'move it with Tensor(array, device="{backend.name}")'
        )
    return backend, arrays


def apply(op: ops.Op, *inputs: Any, **static: Any) -> Tensor:
    """Apply `op` to tensors and numbers, and record it where a gradient is wanted.

    Raises
    ------
    ValueError
        If the tensors are on different devices.
    """
    wanted = False
    for operand in inputs:
        if isinstance(operand, Tensor):
            wanted = wanted or operand.requires_grad
        elif isinstance(operand, (list, tuple)):
            raise TypeError(
                f"{op.__name__}: expected tensors or numbers, received a list; use Tensor"
            )
    backend, arrays = _operands(op.__name__, inputs)
    with backend.active:
        value, vjps = op(backend, *arrays, **static)
        # NumPy returns scalars where other libraries return arrays without axes.
        target = static.get("target", backend)
        out = Tensor.of(value if target.is_array(value) else target.asarray(value), target)
    if wanted and _recording.get() and value.dtype.kind == "f":  # integers have no slope
        out.requires_grad = True
        out._node = Node(op.__name__, inputs, vjps, next_number())
    return out


def _propagate(root: Tensor, gradient: Array, into: Mapping[Tensor, Array]) -> None:
    """Walk the graph from `root` against its direction, each tensor once, releasing it."""
    pending = {root: gradient}
    order = _inputs_first(root)
    while order:
        _pull_back(*order.pop(), pending, into)  # and what they hold is freed as soon as it is used
    while pending:
        leaf, g = pending.popitem()
        with leaf.backend.active:
            _accumulate(leaf, g, into)


def _pull_back(
    tensor: Tensor, node: Node, pending: dict[Tensor, Array], into: Mapping[Tensor, Array]
) -> None:
    """Hand the whole gradient of a tensor on to the inputs of its op."""
    g = pending.pop(tensor)
    tensor._node = RELEASED
    with tensor.backend.active:
        # From the last input on: the bias of a dense layer can then be first to ask, and take its
        # gradient in one pass with what the other two go on from.
        for parent, vjp in zip(reversed(node.inputs), reversed(node.vjps), strict=True):
            if not isinstance(parent, Tensor) or not parent.requires_grad:
                continue
            if parent in pending:
                pending[parent] = pending[parent] + _undo_broadcast(vjp(g), parent)
            elif parent in into and parent.grad is None and hasattr(vjp, "takes_out"):
                pending[parent] = vjp(g, out=into[parent])
            else:
                pending[parent] = _undo_broadcast(vjp(g), parent)


def _accumulate(leaf: Tensor, g: Array, into: Mapping[Tensor, Array]) -> None:
    """Add `g` to the gradient of a leaf."""
    xp = leaf.backend.xp
    if leaf.grad is not None:
        total = xp.asarray(leaf.grad.data + g)
    elif leaf in into:
        total = into[leaf]
        if total is not g:
            total[...] = g
    else:
        total = xp.array(g, order="C")  # VJPs may hand on one array to several inputs, or a view
    leaf.grad = Tensor.of(total, leaf.backend)


def _undo_broadcast(g: Array, parent: Tensor) -> Array:
    """Sum `g` over the axes along which `parent` was repeated."""
    if g.shape != parent.shape:
        added = g.ndim - parent.ndim
        ones = (added + place for place, length in enumerate(parent.shape) if length == 1)
        g = g.sum(axis=(*range(added), *ones)).reshape(parent.shape)
    return g if g.dtype == parent.dtype else g.astype(parent.dtype)


def _inputs_first(root: Tensor) -> list[tuple[Tensor, Node]]:
    """Return what ops made of all that `root` depends on, each with its node, inputs first."""
    found: dict[Tensor, Node] = {}
    stack = [root]
    while stack:
        tensor = stack.pop()
        node = tensor._node
        if node is None or tensor in found:
            continue
        if node == RELEASED:  # not `is`: a copy of the tensor has a copy of it
            raise RuntimeError(
                "backward: the graph was released by an earlier backward(); "
                "add the losses and call it once, or compute the result again"
            )
        found[tensor] = node
        for parent in node.inputs:
            if not isinstance(parent, Tensor):
                continue
            if parent.changed_at > node.number:
                raise RuntimeError(
                    f"backward: {parent.name} was changed in place after {node.op} had used it; "  # type: ignore[attr-defined]
                    "call backward() before update() or set_weights(), or compute the result again"
                )
            if parent.requires_grad:
                stack.append(parent)
    # An op has a higher number than those that made its inputs.
    return sorted(found.items(), key=lambda item: item[1].number)
