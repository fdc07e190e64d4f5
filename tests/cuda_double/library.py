"""The module that stands for CuPy: the names and signatures of the real one, computed by NumPy."""

import inspect
import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from cuda_double import arrays
from cuda_double.arrays import (
    BINARY_OPERATORS,
    DLPACK_CPU,
    SCALARS,
    UNARY_OPERATORS,
    check_device,
    launched,
    ndarray,
    set_dlpack_device,
    wrap,
)
from cuda_double.capture import arrays_in, memory_of, perform, poisoned
from cuda_double.devices import Namespace, state
from cuda_double.runtime import cuda_namespace
from cuda_double.signatures import binder, signature_of

# Parameters that take an array and nothing else, and those that take a sequence of arrays.
ARRAY_PARAMETERS = {"a", "a1", "arr", "array", "ary", "condition", "indices", "m", "prototype", "x"}
SEQUENCE_PARAMETERS = {"arrays", "tup"}
# Functions whose second parameter `b` takes no scalar either.
PRODUCTS = {"dot", "inner", "kron", "outer", "tensordot", "vdot"}
# Functions whose first parameter is named so and takes scalars too.
TAKE_SCALARS = {"ndim", "shape", "size", "isscalar", "iscomplexobj", "isrealobj", "result_type"}
# Answered on the host without the device.
ON_THE_HOST = {*TAKE_SCALARS, "can_cast", "may_share_memory", "shares_memory", "common_type"}
# They read how many elements their result has.
SYNCHRONISING = {"nonzero", "flatnonzero", "argwhere", "unique", "bincount", "extract", "compress"}
# They leave their result uninitialised, so that nothing runs.
WITHOUT_KERNEL = {"empty", "empty_like"}
# With more arrays than so many they read the addresses from an array of the device.
JOINING = {"stack", "concatenate", "vstack", "hstack", "dstack", "column_stack"}
MOST_JOINED = 8
LONG_INTEGERS = range(-(2**63), 2**64)


def double_of(real: ModuleType) -> Namespace:
    """Return the double of the installed CuPy, which needs no driver.

    Every function has CuPy's name and takes what CuPy's signature takes. What NumPy has no
    counterpart for, and what is not a function, raises NotImplementedError when it is used.
    """
    for value in vars(real).values():
        if isinstance(value, real.ufunc):
            arrays.supported_dtypes |= set("".join(value.types)) - set("->")
    members: dict[str, Any] = {}
    for name, value in vars(real).items():
        counterpart = getattr(np, name, None)
        if name.startswith("_"):
            continue
        if isinstance(value, real.ufunc):
            members[name] = Ufunc(name, value)
        elif isinstance(value, int | float) or value is counterpart or _is_dtype(value):
            members[name] = value
        elif callable(counterpart) and not isinstance(value, type) and signature_of(value):
            members[name] = _function(name, value, counterpart)
    for name, compute in HANDWRITTEN.items():
        members[name] = _function(name, getattr(real, name), compute)
    _complete(real, members)
    members["__version__"] = real.__version__
    return Namespace(real, ndarray=ndarray, cuda=cuda_namespace(real.cuda), **members)


def _is_dtype(value: Any) -> bool:
    return value is None or (isinstance(value, type) and issubclass(value, np.generic))


# ------------------------------------------------------------------------------ arguments


def _check_no_host_arrays(values: Any) -> None:
    """Raise TypeError if there is an array of the host in arguments."""
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, np.ndarray):
            raise TypeError(f"Unsupported type {type(value)}")
        if isinstance(value, list | tuple | dict):
            _check_no_host_arrays(value)


def _check_arrays(name: str, arguments: dict[str, Any]) -> None:
    """Raise TypeError if CuPy expects an array of the device and gets something else."""
    for parameter, value in arguments.items():
        wanted: tuple[Any, ...] = ()
        if (parameter in ARRAY_PARAMETERS and name not in TAKE_SCALARS) or (
            parameter == "b" and name in PRODUCTS
        ):
            wanted = (value,)
        elif parameter in SEQUENCE_PARAMETERS and isinstance(value, list | tuple):
            wanted = tuple(value)
        elif name == "matmul" and parameter == "args":
            wanted = value[:2]
        for array in wanted:
            if not isinstance(array, ndarray):
                raise TypeError(f"Unsupported type {type(array)}")


# ------------------------------------------------------------------------------ functions


def _function(name: str, real: Any, compute: Callable) -> Callable:
    """Return CuPy's function `name`: with the signature of `real`, computed by `compute`."""
    signature = signature_of(real)
    bind = binder(name, signature)

    def function(*args: Any, **kwargs: Any) -> Any:
        arguments = bind(args, kwargs)
        if name in HANDWRITTEN:
            return compute(**arguments)
        _check_arrays(name, arguments)
        return _computed(name, compute, arguments, args, kwargs)

    function.__name__ = function.__qualname__ = name
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


def _computed(name: str, compute: Callable, arguments: dict, args: tuple, kwargs: dict) -> Any:
    """Call NumPy, and count what CuPy would have the device do."""
    _check_options(name, arguments)
    _check_no_host_arrays((args, kwargs))
    if name in ON_THE_HOST:
        return compute(*memory_of(args), **memory_of(kwargs))
    if name in WITHOUT_KERNEL:
        memory = compute(*memory_of(args), **memory_of(kwargs))
        return wrap(memory if state.capture is None else poisoned(memory))
    sources = [*arrays_in(args), *arrays_in(kwargs.values())]
    _check_capture(name, sources)
    if name in SYNCHRONISING:
        state.download()
    writes = arguments.get("out") is not None
    value = perform(compute, *args, writes=writes, **kwargs)
    if value is None or writes:
        check_device(*sources)
        state.launch()
        return value if value is None else wrap(value, *sources)
    return launched(value, *sources)


def _check_capture(name: str, sources: list[ndarray]) -> None:
    """Raise if the current stream captures and CuPy cannot do this then."""
    if state.capture is None:
        return
    if name in PRODUCTS | {"matmul", "einsum", "vecdot"}:
        raise NotImplementedError(
            "calling cuBLAS API during stream capture is currently unsupported"
        )
    if name in JOINING and len(sources) > MOST_JOINED:
        state.upload()  # their addresses


def _check_options(name: str, arguments: dict) -> None:
    """Refuse what CuPy's signatures take and its functions do not support."""
    if arguments.get("subok"):
        raise TypeError("subok is not supported yet")
    if name in ("sort", "argsort") and arguments.get("kind") not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")


class Ufunc:
    """A function of CuPy that works element by element."""

    def __init__(self, name: str, real: Any):
        self.__name__ = name
        self.nin, self.nout, self.nargs, self.types = real.nin, real.nout, real.nargs, real.types
        self._real = real
        self._bind = binder(name, signature_of(real))
        self._compute = getattr(np, name)

    def __repr__(self) -> str:
        return f"<ufunc {self._real.name!r}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(self._real, name):
            raise AttributeError(f"'ufunc' object has no attribute {name!r}")
        raise NotImplementedError(f"the double does not compute cupy.{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._bind(args, kwargs)
        for place, value in enumerate((*args, kwargs.get("out"))):
            allowed = (ndarray, *SCALARS) if place < self.nin else (ndarray, type(None))
            if not isinstance(value, allowed):
                raise TypeError(f"Unsupported type {type(value)}")
            if isinstance(value, int) and value not in LONG_INTEGERS:
                raise OverflowError("Python int too large to convert to C long")
        sources = [*arrays_in(args), *arrays_in(kwargs.values())]
        check_device(*sources)
        _check_no_host_arrays(kwargs)
        _check_capture(self.__name__, sources)
        writes = len(args) > self.nin or kwargs.get("out") is not None
        value = perform(self._compute, *args, writes=writes, **kwargs)
        result = wrap(value, *sources)
        outputs = result if isinstance(result, tuple) else (result,)
        state.launch(any(output.size > 0 for output in outputs))
        return result


# ------------------------------------------------------------------------------ written by hand


def array(
    obj: Any,
    dtype: Any = None,
    copy: bool = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    blocking: bool = False,
) -> ndarray:
    """Return an array of the device from one of the host, numbers, or arrays of the device."""
    if subok:
        raise NotImplementedError
    if isinstance(obj, ndarray):
        memory = perform(np.array, obj, dtype, copy=copy or None, order=order, ndmin=ndmin)
        return launched(memory, obj) if memory.dtype != obj.dtype else wrap(memory, obj)
    if isinstance(obj, list | tuple) and any(True for _ in arrays_in(obj)):
        parts = list(arrays_in(obj))
        check_device(*parts)
        _check_only_arrays(obj)
        return launched(perform(np.array, obj, dtype, ndmin=ndmin), *parts)
    state.upload()
    memory = np.array(obj, dtype, order=order, ndmin=ndmin)
    native = memory.dtype.newbyteorder("=")  # CuPy swaps the bytes of what comes from the host
    return ndarray(memory.astype(native, order="K", copy=False))


def _check_only_arrays(values: Any) -> None:
    """Raise TypeError if there is a number among nested arrays, as NumPy converts no array."""
    for value in values:
        if isinstance(value, list | tuple):
            _check_only_arrays(value)
        elif not isinstance(value, ndarray):
            ndarray.__array__(value)


def asarray(
    a: Any, dtype: Any = None, order: Any = None, copy: bool | None = None, blocking: bool = False
) -> ndarray:
    """Return `a` as an array of the device; itself where it is one."""
    return array(a, dtype, bool(copy), order or "K")


def asnumpy(
    a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True
) -> np.ndarray:
    """Return a copy on the host."""
    if isinstance(a, ndarray):
        return a.get(stream, order, out, blocking)
    return np.asarray(a, order=order)


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """Return `x` where the condition is true and `y` where not; without them, the places."""
    if not isinstance(condition, ndarray):
        raise TypeError(f"Unsupported type {type(condition)}")
    if (x is None) != (y is None):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    check_device(*arrays_in((condition, x, y)))
    if x is None:
        state.download()
        return launched(perform(np.nonzero, condition))
    for value in (x, y):
        if not isinstance(value, (ndarray, *SCALARS)):
            raise TypeError(f"Unsupported type {type(value)}")
    return launched(perform(np.where, condition, x, y))


def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> ndarray:
    """Return where the elements of `v` have their place in the sorted `a`."""
    if not isinstance(a, ndarray):
        raise NotImplementedError("Only int or ndarray are supported for a")
    if not isinstance(v, (ndarray, int, float, complex)):
        raise NotImplementedError("Only python scalars or ndarrays are supported for v")
    check_device(*arrays_in((a, v, sorter)))
    return launched(perform(np.searchsorted, a, v, side, sorter))


def from_dlpack(array: Any, *, device: Any = None, copy: bool | None = None) -> ndarray:
    """Return an array that shares the memory of another array of the device."""
    kind, number = array.__dlpack_device__()
    if kind == DLPACK_CPU:
        raise TypeError(
            "CPU arrays cannot be directly imported to CuPy. "
            "Use `cupy.array(numpy.from_dlpack(input))` instead."
        )
    capsule = array.__dlpack__()
    set_dlpack_device(capsule, DLPACK_CPU, 0)
    with arrays.Device(number):
        return ndarray(np.from_dlpack(_HostCapsule(capsule)), is_borrowed=True)


class _HostCapsule:
    """What NumPy takes: a capsule that says it is on the CPU."""

    def __init__(self, capsule: Any):
        self._capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CPU, 0


HANDWRITTEN: dict[str, Callable] = {
    "array": array,
    "asarray": asarray,
    "asanyarray": asarray,
    "asnumpy": asnumpy,
    "from_dlpack": from_dlpack,
    "searchsorted": searchsorted,
    "where": where,
}


# ------------------------------------------------------------------------------ methods


def _complete(real: ModuleType, functions: dict[str, Any]) -> None:
    """Complete the array class by the operators and methods of the real one."""
    known = set(dir(real.ndarray))
    ndarray._real_names = known  # type: ignore[attr-defined]
    ndarray._flags_class = staticmethod(real._core.flags.Flags)  # type: ignore[attr-defined]
    for operation, name in BINARY_OPERATORS.items():
        function = functions[name]
        for method, swapped, in_place in (
            (f"__{operation}__", False, False),
            (f"__r{operation}__", True, False),
            (f"__i{operation}__", False, True),
        ):
            if method in known:
                setattr(ndarray, method, _operator(function, swapped, in_place))
    for operation, name in UNARY_OPERATORS.items():
        setattr(ndarray, f"__{operation}__", _unary(functions[name]))
    for name in ("__float__", "__int__", "__complex__", "__bool__", "__repr__", "__str__"):
        setattr(ndarray, name, _read_by(getattr(np.ndarray, name)))
    for name in known - set(vars(ndarray)):
        if not name.startswith("_") and callable(getattr(np.ndarray, name, None)):
            signature = signature_of(getattr(real.ndarray, name))
            if signature is not None:
                setattr(ndarray, name, _method(name, signature))


def _operator(function: Callable, swapped: bool, in_place: bool) -> Callable:
    def operate(self: ndarray, other: Any) -> Any:
        if getattr(other, "__array_ufunc__", ...) is None:  # `other` asks to be asked (NEP 13)
            return NotImplemented
        if in_place:
            return function(self, other, self)
        return function(other, self) if swapped else function(self, other)

    return operate


def _unary(function: Callable) -> Callable:
    return lambda self: function(self)


def _read_by(convert: Callable) -> Callable:
    return lambda self: convert(self.get())


def _method(name: str, signature: inspect.Signature) -> Callable:
    """Return CuPy's method `name`, computed by NumPy's."""
    compute = operator.methodcaller
    bind = binder(name, signature)

    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        arguments = bind((self, *args), kwargs)
        _check_arrays(name, arguments)
        del arguments["self"]

        def call(memory: np.ndarray, *args: Any, **kwargs: Any) -> Any:
            return compute(name, *args, **kwargs)(memory)

        return _computed(name, call, arguments, (self, *args), kwargs)

    method.__name__ = name
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method
