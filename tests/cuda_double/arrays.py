"""Arrays of the double: NumPy memory that is reached only as CuPy lets a device be reached."""

import ctypes
import operator
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from cuda_double.capture import arrays_in, memory_of, perform, poisoned
from cuda_double.devices import Device, Misuse, state
from cuda_double.pools import Block, OnDevice

SCALARS = (bool, int, float, complex, np.number, np.bool)
DLPACK_CPU, DLPACK_CUDA = 1, 2  # DLDeviceType of dlpack.h

BINARY_OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "divmod": "divmod",
    "pow": "power",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "matmul": "matmul",
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
UNARY_OPERATORS = {
    "neg": "negative",
    "pos": "positive",
    "abs": "absolute",
    "invert": "invert",
}
supported_dtypes: set[str] = set()  # characters, filled from the real CuPy's ufuncs


def cupy_double() -> Any:
    """Return the module that stands for CuPy now."""
    return sys.modules["cupy"]


class ndarray(OnDevice):
    """An array on a device.

    It is no `numpy.ndarray`, and NumPy cannot read it; `_memory` is for the double alone.
    """

    __slots__ = ("__weakref__", "base", "device")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, memory: np.ndarray, base: "ndarray | None" = None, is_borrowed: bool = False
    ):
        if memory.dtype.char not in supported_dtypes:
            raise ValueError(f"Unsupported dtype {memory.dtype}")
        self._memory = memory
        self.base = base
        self.device = Device() if base is None else base.device
        self._block = Block(self, is_borrowed) if base is None else base._block

    def __getattr__(self, name: str) -> Any:
        if name in self._real_names:
            raise NotImplementedError(f"the double does not compute cupy.ndarray.{name}")
        raise AttributeError(f"'ndarray' object has no attribute {name!r}")

    # -------------------------------------------------------------------------- what it is

    shape = property(lambda self: self._memory.shape)
    strides = property(lambda self: self._memory.strides)
    dtype = property(lambda self: self._memory.dtype)
    ndim = property(lambda self: self._memory.ndim)
    size = property(lambda self: self._memory.size)
    itemsize = property(lambda self: self._memory.itemsize)
    nbytes = property(lambda self: self._memory.nbytes)
    T = property(lambda self: wrap(self._memory.T, self))
    mT = property(lambda self: wrap(self._memory.mT, self))
    real = property(lambda self: wrap(self._memory.real, self))
    imag = property(lambda self: wrap(self._memory.imag, self))

    @property
    def flags(self) -> Any:
        """The memory layout, as CuPy's own class says it."""
        flags = self._memory.flags
        return self._flags_class(flags.c_contiguous, flags.f_contiguous, self.base is None)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of unsized object")
        return len(self._memory)

    def __iter__(self) -> "Iterator[ndarray]":
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[place] for place in range(len(self)))

    # -------------------------------------------------------------------------- to the host

    def get(
        self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> np.ndarray:
        """Return a copy on the host."""
        if out is not None and (out.dtype, out.shape) != (self.dtype, self.shape):
            raise ValueError(f"Shape or dtype mismatch: {out.shape}, {out.dtype}")
        if state.capture is None:
            self._block.check_readable()
            self._block.use()
        copy = np.array(self._memory, order=order)
        if out is None:
            out = copy
        elif blocking:
            out[...] = copy
        else:
            state.stream._finish(out)  # the device writes there after its earlier copies
            out[...] = poisoned(copy)
            state.stream._unfinished.append((out, lambda: operator.setitem(out, ..., copy)))
        state.download(blocking)
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        """Copy from an array of the host, which must not change before the stream is there."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if (arr.dtype, arr.shape) != (self.dtype, self.shape):
            raise ValueError(f"Shape or dtype mismatch: {arr.shape}, {arr.dtype}")
        if stream is not None or not self.flags.c_contiguous:
            raise NotImplementedError("the double sets contiguous arrays on the current stream")
        state.upload()
        check_device(self)
        copy = arr.copy()
        perform(operator.setitem, self, ..., copy, writes=True)

        def check() -> None:
            if arr.tobytes() != copy.tobytes():
                raise Misuse("an array of the host changed before its copy to the device was done")

        state.stream._unfinished.append((arr, check))

    def item(self) -> Any:
        """Return the only element as a Python number."""
        return self.get().item()

    def tolist(self) -> Any:
        """Return the elements as nested lists of Python numbers."""
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        """Return the elements' bytes."""
        return self.get().tobytes(order)

    def __format__(self, specification: str) -> str:
        return format(self.get(), specification)

    def __reduce__(self) -> Any:
        return _restore, (self.get(),)

    def __array__(self, dtype: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    # -------------------------------------------------------------------------- in other libraries

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        function = getattr(cupy_double(), ufunc.__name__, None)
        if method != "__call__" or function is None:
            return NotImplemented
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        return function(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        function = getattr(cupy_double(), func.__name__, None)
        if function is None or func.__module__ != "numpy":
            return NotImplemented
        return function(*args, **kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CUDA, self.device.id

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: bool | None = None,
    ) -> Any:
        if dl_device not in (None, self.__dlpack_device__()):
            raise NotImplementedError("the double exports to its own device only")
        capsule = self._memory.__dlpack__(max_version=max_version, copy=copy)
        set_dlpack_device(capsule, *self.__dlpack_device__())
        return capsule

    # -------------------------------------------------------------------------- indexing

    def __getitem__(self, index: Any) -> "ndarray":
        return launched(perform(operator.getitem, self, _index(index)), self)

    def __setitem__(self, index: Any, value: Any) -> None:
        check_device(self)
        place = _index(index, masks_are_read=isinstance(value, ndarray))
        moved = False
        if isinstance(value, ndarray):
            check_device(value)
            if not list(arrays_in(place)):
                target = self._memory[memory_of(place)]
                moved = np.may_share_memory(target, self._memory)
                moved = moved and _same_layout(target, value._memory)
        elif isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 0):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        elif not isinstance(value, (*SCALARS, np.ndarray)):
            raise TypeError(f"Unsupported type {type(value)}")
        perform(operator.setitem, self, place, value, writes=True)
        state.launch(not moved and self.size > 0)

    def fill(self, value: Any) -> None:
        """Set all elements."""
        self[...] = value

    # -------------------------------------------------------------------------- copies

    def astype(
        self,
        dtype: Any,
        order: str = "K",
        casting: Any = None,
        subok: Any = None,
        copy: bool = True,
    ) -> "ndarray":
        """Return the elements in another dtype."""
        for name, value in (("casting", casting), ("subok", subok)):
            if value is not None:
                raise TypeError(f"{name} is not supported yet")
        return self._copied(perform(np.ndarray.astype, self, dtype, order, copy=copy))

    def copy(self, order: str = "C") -> "ndarray":
        """Return a copy on the device."""
        return self._copied(perform(np.ndarray.copy, self, order))

    def _copied(self, memory: np.ndarray) -> "ndarray":
        copy = wrap(memory, self)
        if copy is not self:
            check_device(self)
            state.launch(not _same_layout(memory, self._memory) and self.size > 0)
        return copy

    def __copy__(self) -> "ndarray":
        return self.copy()

    def __deepcopy__(self, memo: Any) -> "ndarray":
        with self.device:
            return self.copy()


def _restore(host: np.ndarray) -> ndarray:
    return cupy_double().array(host)


# ------------------------------------------------------------------------------ in and out


def wrap(value: Any, *sources: ndarray) -> Any:
    """Return NumPy's `value` as CuPy would give it: an array, also where it is one number.

    A view of one of the `sources` knows its base; the memory of one of them is that array itself.
    """
    if isinstance(value, tuple | list):
        return type(value)(wrap(part, *sources) for part in value)
    memory = value if isinstance(value, np.ndarray) else np.asarray(value)
    for source in sources:
        if memory is source._memory:
            return source
        if memory.base is not None and np.may_share_memory(memory, source._memory):
            return ndarray(memory, source if source.base is None else source.base)
    return ndarray(memory)


def launched(value: Any, *sources: ndarray) -> Any:
    """Wrap `value`, and count a launch unless it is a view or empty."""
    result = wrap(value, *sources)
    if not isinstance(result, ndarray):
        check_device(*sources)
        state.launch()
    elif result.base is None and not any(result is source for source in sources):
        check_device(*sources)
        state.launch(result.size > 0)
    return result


def _same_layout(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether one is copied to the other as one piece of memory, without a kernel."""
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.strides == b.strides
        and (a.flags.c_contiguous or a.flags.f_contiguous)
    )


def check_device(*arrays: ndarray) -> None:
    """Raise where a kernel reads an array of another device, as where devices cannot reach it."""
    for array in arrays:
        if array.device.id != state.current_device:
            raise ValueError(
                "Array device must be same as the current device: "
                f"array device = {array.device.id} while current = {state.current_device}"
            )


def _index(index: Any, masks_are_read: bool = True) -> tuple:
    """Return an index with which NumPy returns an array also for one element.

    A mask is counted on the device and the host waits for the number; not so where a scalar is
    assigned.
    """
    parts = index if isinstance(index, tuple) else (index,)
    plain = []
    for part in parts:
        if isinstance(part, ndarray):
            check_device(part)
            if part.dtype == bool and masks_are_read:
                state.download()
        elif isinstance(part, list | np.ndarray):
            state.upload()
            part = np.asarray(part, int) if np.size(part) == 0 else np.asarray(part)
        plain.append(part)
    return tuple(plain) if any(part is Ellipsis for part in plain) else (*plain, ...)


def set_dlpack_device(capsule: Any, kind: int, number: int) -> None:
    """Write the device into a DLPack capsule, which NumPy made for memory of the host.

    The two integers follow the data pointer of the DLTensor, which comes first in a
    DLManagedTensor, and after 32 bytes in a DLManagedTensorVersioned (dlpack.h).
    """
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    name = api.PyCapsule_GetName(capsule)
    pointer = api.PyCapsule_GetPointer(capsule, name)
    tensor = pointer + (32 if name == b"dltensor_versioned" else 0)
    device = (ctypes.c_int32 * 2).from_address(tensor + 8)
    device[0], device[1] = kind, number
