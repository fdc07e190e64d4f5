"""Arrays that remember how they were computed."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidl.arguments import number_array, refuse_masked
from minidl.backend import Array, Backend, get_backend
from minidl.engine import ops
from minidl.engine.backward import Node, backpropagate, is_recording, next_number
from minidl.engine.methods import TensorMethods
from minidl.engine.operands import as_arrays, function_of, kept, number


class _ArrayUfunc:
    """Attribute ``__array_ufunc__``: a function for NumPy, which reads it from the class.

    CuPy's arrays and masked arrays read it from the tensor. There it is None, so that array +
    tensor calls `Tensor.__radd__`.
    """

    def __get__(self, tensor: "Tensor | None", kind: type) -> Any:
        return Tensor._apply_ufunc if tensor is None else None


BinaryMethod = Callable[["Tensor", Any], "Tensor"]


def _operators(op: ops.Op) -> tuple[BinaryMethod, BinaryMethod]:
    """Return the methods of an operator: for the tensor on its left, and on its right."""
    return lambda self, other: apply(op, self, other), lambda self, other: apply(op, other, self)


def _relation(relation: Callable[[Any, Any], Array]) -> BinaryMethod:
    """Return the method of a relation, which has no gradient."""

    def compare(self: "Tensor", other: Any) -> "Tensor":
        backend, (a, b) = as_operands(relation.__name__, (self, other))
        with backend.active:
            return Tensor.of(backend.xp.asarray(relation(a, b)), backend)

    return compare


class Tensor(TensorMethods["Tensor"]):
    """An array on a device that remembers how it was computed.

    Parameters
    ----------
    values : array_like or array of the device
        Numbers, which are copied. Python floats become float32; arrays keep their dtype.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"auto"``.
    dtype : str or numpy.dtype, optional
        The dtype; if None, that of `values`.
    requires_grad : bool
        Whether `backward` computes ``grad``; for floating dtypes only. It can be set later.

    Raises
    ------
    TypeError
        If `values` is a Tensor, is masked or does not hold numbers, or if a tensor of integers
        shall have a gradient.
    DeviceError
        If the device is not available.

    Notes
    -----
    As in PyTorch, ``data``, `detach`, `reshape`, ``x[0]``, DLPack and ``np.asarray(x)`` share
    memory. Do not change it before `backward`, which notices only changes of weights.

    NumPy's arithmetic, ``np.exp(x)`` and other ufuncs for which there is an operation return a
    tensor with its gradient. Other ufuncs raise TypeError: use ``np.sin(x.numpy())``. On the CPU,
    functions such as ``np.mean(x)`` return arrays without gradients.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    Tensor([2., 4., 6.], dtype=float32)
    """

    __slots__ = (
        *("__weakref__", "_node", "_requires_grad", "backend"),
        *("data", "grad", "log_odds", "logits"),
    )
    __array_ufunc__ = _ArrayUfunc()
    changed_at = -1  # for a weight: the number of its last change in place

    def __init__(
        self, values: Any, device: str = "cpu", *, dtype: Any = None, requires_grad: bool = False
    ):
        if isinstance(values, Tensor):
            raise TypeError("Tensor: expected numbers, got a Tensor. Use its detach() or to().")
        backend = get_backend(device)
        array = number_array("Tensor", "values", values, backend.xp)
        if dtype is None and array.dtype == np.float64 and not hasattr(values, "dtype"):
            dtype = np.float32
        self._fill(backend.copied(array, dtype), backend)
        self.requires_grad = requires_grad

    def _fill(self, data: Array, backend: Backend) -> None:
        self.data, self.backend = data, backend
        self._requires_grad = False  # the engine reads it without the cost of a property
        self.grad: Tensor | None = None
        self.logits: Tensor | None = None  # input of the softmax that made this; losses use it
        self.log_odds: Tensor | None = None  # input of the sigmoid that made this; the same
        self._node: Node | None = None

    @classmethod
    def of(cls, data: Array, backend: Backend) -> "Tensor":
        """Wrap an array of `backend` without a copy."""
        tensor = Tensor.__new__(Tensor)
        tensor._fill(data, backend)
        return tensor

    def like(self, data: Array) -> "Tensor":
        """Return a plain tensor of this tensor's device with the array `data`."""
        return Tensor.of(data, self.backend)

    # -------------------------------------------------------------------------- properties

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
    def requires_grad(self) -> bool:
        """Whether `backward` computes the gradient; TypeError if set for other than floats."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if wanted and self.dtype.kind != "f":
            raise TypeError(
                f"Tensor: expected a floating dtype for requires_grad=True, got {self.dtype}. "
                'Pass dtype="float32".'
            )
        self._requires_grad = wanted

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
        return (self[index] for index in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    # -------------------------------------------------------------------------- conversion

    def numpy(self) -> np.ndarray:
        """Return a copy on the host."""
        return self.backend.to_numpy(self.data)

    def item(self) -> float | int | bool:
        """Return the only element as a Python number; ValueError if there are several or none.

        This waits for the device.
        """
        return self.numpy().item()

    def detach(self) -> "Tensor":
        """Return a tensor that shares the values and is not part of the graph."""
        return self.like(self.data)

    def to(self, device: str) -> "Tensor":
        """Return the tensor on `device`; itself if it is already there."""
        target = get_backend(device)
        return self if target is self.backend else apply(ops.transfer, self, target=target)

    def astype(self, dtype: Any) -> "Tensor":
        """Return the tensor in another dtype; itself if it already has it."""
        return self if self.dtype == np.dtype(dtype) else apply(ops.cast, self, dtype=dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.backend.xp is not np:
            raise TypeError(
                f"Tensor: expected a tensor on the cpu, got one on {self.device}. Copy it to the "
                "host with numpy()."
            )
        return np.array(self.data, dtype=dtype, copy=copy)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return function(*as_arrays(args, Tensor), **as_arrays(kwargs, Tensor))

    def _apply_ufunc(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Return the result of a ufunc of NumPy as a tensor."""
        name, is_relation = function_of(ufunc, method, options)
        if not is_relation:
            return apply(ops.OPS[name], *inputs)
        backend, arrays = as_operands(name, inputs)
        return Tensor.of(backend.xp.asarray(getattr(backend.xp, name)(*arrays)), backend)

    def _apply(self, op: ops.Op, **static: Any) -> "Tensor":
        return apply(op, self, **static)

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    # -------------------------------------------------------------------------- operators

    __add__, __radd__ = _operators(ops.add)
    __sub__, __rsub__ = _operators(ops.subtract)
    __mul__, __rmul__ = _operators(ops.multiply)
    __truediv__, __rtruediv__ = _operators(ops.divide)
    __pow__, __rpow__ = _operators(ops.power)
    __matmul__, __rmatmul__ = _operators(ops.matmul)

    def __neg__(self) -> "Tensor":
        return apply(ops.negative, self)

    __eq__ = _relation(operator.eq)  # type: ignore[assignment]
    __ne__ = _relation(operator.ne)  # type: ignore[assignment]
    __lt__, __le__ = _relation(operator.lt), _relation(operator.le)
    __gt__, __ge__ = _relation(operator.gt), _relation(operator.ge)
    __hash__ = object.__hash__  # == compares elements, so a tensor is a key by identity

    def __getitem__(self, index: Any) -> "Tensor":
        parts = index if isinstance(index, tuple) else (index,)
        _, (_, *plain) = as_operands("getitem", (self, *parts))
        return apply(ops.getitem, self, index=tuple(plain))

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> "Tensor":
        """Return the index of the first maximum over `axis`; None means of all elements."""
        self.backend.not_recorded("argmax has no kernel")
        with self.backend.active:
            return self.like(self.backend.xp.asarray(self.data.argmax(axis, keepdims=keepdims)))

    def sigmoid(self) -> "Tensor":
        """Return 1 / (1 + exp(-x)) of each element; the result keeps x as its ``log_odds``."""
        y = apply(ops.sigmoid, self)
        y.log_odds = self if self._requires_grad or self.log_odds is None else self.detach()
        return y

    def softmax(self, axis: int = -1) -> "Tensor":
        """Return exp(x) divided by its sum over `axis`; the result keeps its ``logits``."""
        y = apply(ops.softmax, self, axis=axis)
        if axis in (-1, self.ndim - 1):
            # Without a gradient, a softmax of a softmax keeps only the last logits alive.
            y.logits = self if self._requires_grad or self.logits is None else self.detach()
        return y

    def backward(self, gradient: Any = None, *, into: Mapping[Any, Array] | None = None) -> None:
        """Add the gradient of this tensor to ``grad`` of every leaf it was computed from.

        Parameters
        ----------
        gradient : Tensor or array of the device, optional
            The gradient of the loss with respect to this tensor, of its shape. A loss, a tensor
            with one element, needs none.
        into : dict of Tensor to array of the device, optional
            Arrays that gradients are written to, for leaves without a gradient. Each is
            C-contiguous and has the shape and dtype of its leaf; its values are overwritten.

        Raises
        ------
        ValueError
            If the tensor has several elements and no `gradient`, if a shape is wrong, or if an
            array of `into` does not fit its leaf.
        RuntimeError
            If no leaf requires a gradient, if the graph was used before, or if one of its weights
            has changed in place since. No gradient is written then.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward: expected a tensor that requires a gradient, got one that does not. Set "
                "requires_grad=True on one of its inputs, and compute it outside of no_grad()."
            )
        if gradient is None and self.size != 1:
            raise ValueError(
                f"backward: expected a tensor with one element, the loss, got shape {self.shape}. "
                "Reduce it, or pass its gradient."
            )
        with self.backend.active:
            if gradient is None:
                g = self.backend.ones(self.shape, self.dtype)
            else:
                _, (_, g) = as_operands("backward", (self, gradient))
                g = number_array("backward", "gradient", g, self.backend.xp)
                g = self.backend.xp.asarray(g, dtype=self.dtype)
        if g.shape != self.shape:
            raise ValueError(f"backward: expected a gradient of shape {self.shape}, got {g.shape}.")
        backpropagate(self, g, into or {})


def as_tensor(who: str, name: str, values: Any, backend: Backend) -> Tensor:
    """Return an argument as a tensor: a copy if a graph is recorded, which reads it later."""
    array = number_array(who, name, values, backend.xp)
    convert = backend.copied if is_recording() else backend.asarray
    return Tensor.of(convert(array), backend)


def as_operands(name: str, operands: Sequence[Any]) -> tuple[Backend, list[Any]]:
    """Return the backend of the tensors among `operands`, and all operands as arrays."""
    backend: Backend | None = None
    arrays = []
    for operand in operands:
        if not isinstance(operand, Tensor):
            refuse_masked(name, operand)
            arrays.append(kept(number(operand)))
            continue
        arrays.append(operand.data)
        if operand.backend is not backend:
            if backend is not None:
                raise ValueError(
                    f"{name}: expected operands on one device, got {backend.name} and "
                    f'{operand.device}. Move one with .to("{backend.name}").'
                )
            backend = operand.backend
    if backend is None:
        raise TypeError(f"{name}: expected at least one Tensor, got none. Use Tensor(values).")
    if backend.xp is not np and any(isinstance(operand, np.ndarray) for operand in operands):
        raise ValueError(
            f"{name}: expected operands on one device, got {backend.name} and cpu (a NumPy array). "
            f'Move it with Tensor(array, device="{backend.name}").'
        )
    return backend, arrays


def apply(op: ops.Op, *inputs: Any, **static: Any) -> Tensor:
    """Return `op` of tensors and numbers, recorded if an input requires a gradient.

    Parameters
    ----------
    op : callable
        An operation of `minidl.engine.ops`.
    *inputs, **static
        Its differentiable inputs, tensors and numbers, and its other arguments.

    Raises
    ------
    TypeError, ValueError
        If an input is a list, no input is a tensor, or the tensors are on different devices.
    """
    wanted = False
    for operand in inputs:
        if isinstance(operand, Tensor):
            wanted = wanted or operand._requires_grad
        elif isinstance(operand, (list, tuple, complex, str, bytes)):
            raise TypeError(
                f"{op.__name__}: expected tensors or real numbers, got a {type(operand).__name__}. "
                "Use Tensor."
            )
        elif isinstance(operand, np.ndarray | np.generic):
            number_array(op.__name__, "an operand", operand)
    backend, arrays = as_operands(op.__name__, inputs)
    if op not in ops.MADE_OF_KERNELS:
        backend.not_recorded(f"the operation {op.__name__} has no kernel")
    with backend.active:
        value, vjps = op(backend, *arrays, **static)
        # NumPy returns scalars where other libraries return 0-d arrays.
        target = static.get("target", backend)
        out = Tensor.of(value if target.is_array(value) else target.asarray(value), target)
    if wanted and is_recording() and value.dtype.kind == "f":  # integers have no gradient
        tensors = tuple(operand if isinstance(operand, Tensor) else None for operand in inputs)
        out._requires_grad = True
        out._node = Node(op.__name__, tensors, vjps, next_number())
    return out
