"""The double of cuBLASLt: C functions that check what they are given, computed by NumPy.

They take addresses, as the library does, and read attributes, factors and matrices from there. An
argument that does not fit its meaning raises `Misuse`. The numbers are those of ``cublasLt.h``,
written down a second time.
"""

import ctypes
import itertools
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cuda_double.capture import get_current_stream, memory_of, perform
from cuda_double.devices import Misuse, state
from cuda_double.pools import by_address

SUCCESS = 0
STATUS_NAMES = {
    0: b"CUBLAS_STATUS_SUCCESS",
    1: b"CUBLAS_STATUS_NOT_INITIALIZED",
    14: b"CUBLAS_STATUS_INTERNAL_ERROR",
}
# cudaDataType_t, and the cublasComputeType_t and the alignment of its matrices
DTYPES = {0: np.dtype("float32"), 1: np.dtype("float64")}
COMPUTE = {0: 68, 1: 70}
OPERATIONS = {0: False, 1: True}  # cublasOperation_t: whether it transposes
OPERATION_ATTRIBUTES = {3: "transpose_a", 4: "transpose_b"}
PREFERENCE_ATTRIBUTES = {
    1: ("workspace", "Q"),
    3: ("reduction", "I"),
    5: ("alignment_a", "I"),
    6: ("alignment_b", "I"),
    7: ("alignment_c", "I"),
    8: ("alignment_d", "I"),
}
ALGORITHM = struct.Struct("8Q")
RESULT = struct.Struct("8QQif4i")  # algo, workspaceSize, state, wavesCount, reserved
ALIGNMENT = 256  # bytes, of a workspace
LONG_SUM, NEED = 64, 4096  # a product with a longer inner size needs so many bytes, as for split-K

Pointer = ctypes.c_void_p
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (Pointer,),
    "cublasLtMatmulDescCreate": (Pointer, ctypes.c_int, ctypes.c_int),
    "cublasLtMatmulDescSetAttribute": (Pointer, ctypes.c_int, Pointer, ctypes.c_size_t),
    "cublasLtMatrixLayoutCreate": (
        *(Pointer, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64),
    ),
    "cublasLtMatmulPreferenceCreate": (Pointer,),
    "cublasLtMatmulPreferenceSetAttribute": (Pointer, ctypes.c_int, Pointer, ctypes.c_size_t),
    "cublasLtMatmulAlgoGetHeuristic": (*[Pointer] * 7, ctypes.c_int, Pointer, Pointer),
    "cublasLtMatmul": (*[Pointer] * 14, ctypes.c_size_t, Pointer),
}


class Layout(NamedTuple):
    """A matrix that is stored by columns."""

    kind: int
    rows: int
    columns: int
    step: int  # elements from one column to the next

    def at(self, address: int) -> np.ndarray:
        """Return the matrix at an address."""
        dtype = DTYPES[self.kind]
        elements = self.step * (self.columns - 1) + self.rows
        strides = (dtype.itemsize, dtype.itemsize * self.step)
        buffer = _memory(address, elements * dtype.itemsize)
        return np.ndarray((self.rows, self.columns), dtype, buffer, strides=strides)


class Function:
    """A function of the library, as `ctypes` has it: it converts, calls and checks the status.

    What Python raises below the C code does not pass through it, and is raised here.
    """

    restype: Any = ctypes.c_int
    argtypes: Any = None
    errcheck: Any = None

    def __init__(self, name: str, types: tuple[Any, ...], compute: Callable[..., int | None]):
        self.__name__ = name
        self.calls = 0
        self.status = SUCCESS  # that it returns, if another one without doing anything
        self._compute = compute
        self._raised: Exception | None = None
        self._function = ctypes.CFUNCTYPE(ctypes.c_int, *types)(self._call)

    def __call__(self, *arguments: Any) -> Any:
        self._function.argtypes, self._raised = self.argtypes, None
        status = self._function(*arguments)
        if self._raised is not None:
            raise self._raised
        return self.errcheck(status, self, arguments)

    def _call(self, *arguments: Any) -> int:
        self.calls += 1
        try:
            return self.status or self._compute(*arguments) or SUCCESS
        except Exception as error:
            self._raised = error
            return SUCCESS


class CublasLt:
    """The library as `ctypes` loads it: its functions are attributes."""

    def __init__(self) -> None:
        self.choices: list[dict[str, int]] = []  # the preference of each algorithm
        self.has_algorithms = True
        self._objects: dict[int | None, Any] = {}
        self._algorithms: dict[int, tuple[Any, ...]] = {}
        self._addresses = itertools.count(0x10, 0x10)
        for name, types in SIGNATURES.items():
            compute = getattr(self, "_" + name.removeprefix("cublasLt"))
            setattr(self, name, Function(name, types, compute))
        names = {status: ctypes.c_char_p(name) for status, name in STATUS_NAMES.items()}
        self.cublasLtGetStatusName = ctypes.CFUNCTYPE(Pointer, ctypes.c_int)(
            lambda status: ctypes.cast(names[status], Pointer).value
        )

    def _create(self, pointer: int, value: Any) -> None:
        address = next(self._addresses)
        self._objects[address] = value
        Pointer.from_address(pointer).value = address

    def _Create(self, handle: int) -> None:
        _expect(get_current_stream().is_capturing() is False, "no capture")
        self._create(handle, state.current_device)

    def _MatmulDescCreate(self, pointer: int, compute: int, scale: int) -> None:
        _expect(COMPUTE[scale] == compute, f"the arithmetic of {DTYPES[scale]}, got {compute}")
        self._create(pointer, {"kind": scale, "transpose_a": False, "transpose_b": False})

    def _MatmulDescSetAttribute(
        self, operation: int, attribute: int, value: int, size: int
    ) -> None:
        self._objects[operation][OPERATION_ATTRIBUTES[attribute]] = OPERATIONS[
            _read("i", value, size)
        ]

    def _MatrixLayoutCreate(
        self, pointer: int, kind: int, rows: int, columns: int, step: int
    ) -> None:
        _expect(rows > 0 and columns > 0, f"a matrix with elements, got {rows} x {columns}")
        _expect(step >= rows, f"a leading dimension of at least {rows}, got {step}")
        self._create(pointer, Layout(kind, rows, columns, step))

    def _MatmulPreferenceCreate(self, pointer: int) -> None:
        self._create(pointer, {})

    def _MatmulPreferenceSetAttribute(
        self, preference: int, attribute: int, value: int, size: int
    ) -> None:
        name, code = PREFERENCE_ATTRIBUTES[attribute]
        self._objects[preference][name] = _read(code, value, size)

    def _MatmulAlgoGetHeuristic(self, handle: int, *arguments: int) -> None:
        operation, a, b, c, d, preference, requested, results, returned = arguments
        self._check_product(handle, operation, a, b, c, d)
        _expect(get_current_stream().is_capturing() is False, "no capture")
        _expect(requested == 1, f"room for one result, got {requested}")
        preferred = self._objects[preference]
        need = NEED if self._inner(operation, a) > LONG_SUM else 0
        _expect(need <= preferred["workspace"], f"a workspace, got {preferred['workspace']} bytes")
        self.choices.append(dict(preferred))
        self._algorithms[len(self.choices)] = (operation, a, b, c, d, need)
        algorithm = [len(self.choices), *[2**64 - 1] * 7]
        result = (*algorithm, need, SUCCESS, 1.0, *[-1] * 4)
        RESULT.pack_into(_memory(results, RESULT.size), 0, *result)
        ctypes.c_int.from_address(returned).value = int(self.has_algorithms)

    def _inner(self, operation: int, a: int) -> int:
        layout = self._objects[a]
        return layout.rows if self._objects[operation]["transpose_a"] else layout.columns

    def _check_product(self, handle: int, operation: int, *layouts: int) -> None:
        """Raise where the layouts do not fit together, or the device is another one."""
        _expect(self._objects[handle] == state.current_device, "the handle of the current device")
        a, b, c, d = (self._objects[layout] for layout in layouts)
        description = self._objects[operation]
        left, right = a[1:3], b[1:3]
        left = left[::-1] if description["transpose_a"] else left
        right = right[::-1] if description["transpose_b"] else right
        _expect(left[1] == right[0], f"inner sizes that agree, got {left} and {right}")
        for out in (c, d):
            _expect(out[1:3] == (left[0], right[1]), f"a result of {left} and {right}, got {out}")
        kinds = {layout.kind for layout in (a, b, c, d)}
        _expect(kinds == {description["kind"]}, f"one dtype, got {kinds}")

    def _Matmul(self, handle: int, *arguments: int) -> None:
        operation, alpha, a, a_layout, b, b_layout, beta, c, c_layout = arguments[:9]
        d, d_layout, algorithm, workspace, workspace_size, stream = arguments[9:]
        layouts = (a_layout, b_layout, c_layout, d_layout)
        self._check_product(handle, operation, *layouts)
        _expect((stream or 0) == get_current_stream().ptr, "the current stream")
        number, *rest = ALGORITHM.unpack_from(_memory(algorithm, ALGORITHM.size))
        *chosen, need = self._algorithms[number]
        _expect(rest == [2**64 - 1] * 7, "a whole algorithm")
        _expect(chosen == [operation, *layouts], "the algorithm of this product")
        _expect(need <= workspace_size, f"{need} bytes of workspace, got {workspace_size}")
        _expect((workspace or 0) % ALIGNMENT == 0, "an aligned workspace")
        description = self._objects[operation]
        dtype = DTYPES[description["kind"]]
        for factor, value in ((alpha, 1), (beta, 0)):
            _expect(_read(dtype.char, factor, dtype.itemsize) == value, f"the factor {value}")
        _expect(c == d, "one array for the result")
        arrays = [by_address[address] for address in (a, b, d)]
        for array in arrays:
            _expect(array.device.id == self._objects[handle], "arrays of the current device")
        left, right, out = (
            self._objects[layout].at(address)
            for layout, address in ((a_layout, a), (b_layout, b), (d_layout, d))
        )
        for memory, array in zip((left, right, out), arrays, strict=True):
            _expect(memory.nbytes <= array.nbytes, "matrices within their arrays")
            _expect(memory.flags.aligned, "aligned matrices")
        _expect(not any(np.may_share_memory(out, x) for x in (left, right)), "no overlap")
        left = left.T if description["transpose_a"] else left
        right = right.T if description["transpose_b"] else right
        if need:
            arrays.append(by_address[workspace])
        kept = memory_of(arrays)  # as long as the graph of a node

        def multiply(*_: Any) -> None:
            if need:
                _memory(workspace, need)[:] = b"\xff" * need
            with np.errstate(all="ignore"):
                np.matmul(right.T, left.T, out=out.T)
            assert kept

        state.launch()
        if state.capture is None:
            perform(multiply, *arrays, writes=True)
        else:
            state.capture.append(arrays, multiply)


def _expect(is_met: bool, expected: str) -> None:
    if not is_met:
        raise Misuse(f"cuBLASLt: expected {expected}")


def _memory(address: int, size: int) -> Any:
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def _read(code: str, address: int, size: int) -> Any:
    """Return the number of so many bytes at an address."""
    _expect(size == struct.calcsize(code), f"{struct.calcsize(code)} bytes, got {size}")
    return struct.unpack_from(code, _memory(address, size))[0]
