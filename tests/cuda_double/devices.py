"""The devices, streams and counts of the double: what stands in for `cupy.cuda`."""

import itertools
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any


@dataclass
class Counts:
    """What a program had the device and its link to the host do."""

    host_to_device: int = 0
    device_to_host: int = 0
    synchronizations: int = 0
    launches: int = 0
    device_switches: int = 0

    def reset(self) -> None:
        """Count from 0 again."""
        for field in fields(self):
            setattr(self, field.name, 0)


class State:
    """The one machine that the double pretends to be."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.device_count = 1
        self.current_device = 0
        self.current_stream: Stream | None = None

    def reset(self, device_count: int) -> None:
        """Start anew with so many devices."""
        self.counts.reset()
        self.device_count = device_count
        self.current_device = 0
        self.current_stream = None

    def switch_to(self, index: int, error: type[Exception]) -> None:
        """Make another device the current one, as ``cudaSetDevice`` does."""
        if not 0 <= index < self.device_count:
            raise error(CUDA_ERROR_INVALID_DEVICE)
        if index != self.current_device:
            self.current_device = index
            self.counts.device_switches += 1

    def download(self) -> None:
        """Count a copy to the host that is waited for."""
        self.counts.device_to_host += 1
        self.counts.synchronizations += 1


state = State()

MEMORY = 2**33

CUDA_ERROR_NO_DEVICE, CUDA_ERROR_INVALID_DEVICE = 100, 101  # cudaError of driver_types.h


class Namespace(ModuleType):
    """A module that has the names of a real one: those that are not computed raise."""

    def __init__(self, real: ModuleType, /, **members: Any):
        super().__init__(real.__name__, f"The double of {real.__name__}.")
        self._real = real
        for name, value in members.items():
            getattr(real, name)  # a member that CuPy lacks has no place here
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(self._real, name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        raise NotImplementedError(f"the double does not compute {self.__name__}.{name}")


class Device:
    """A device, and the context in which it is the current one."""

    error: type[Exception]

    def __init__(self, device: "Device | int | None" = None):
        self.id = state.current_device if device is None else int(device)
        self._before: list[int] = []

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> "Device":
        self._before.append(state.current_device)
        self.use()
        return self

    def __exit__(self, *raised: object) -> None:
        state.switch_to(self._before.pop(), self.error)

    def use(self) -> None:
        """Make this the current device."""
        state.switch_to(self.id, self.error)

    def synchronize(self) -> None:
        """Wait for the device."""
        state.counts.synchronizations += 1


class Stream:
    """A queue of work; the current one takes what is launched."""

    _pointers = itertools.count(0x1000, 0x10)
    null: "Stream"

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: int | None = None,
    ):
        self.ptr = 0 if null else next(self._pointers)
        self._before: list[Stream | None] = []

    def __enter__(self) -> "Stream":
        self._before.append(state.current_stream)
        state.current_stream = self
        return self

    def __exit__(self, *raised: object) -> None:
        state.current_stream = self._before.pop()

    def synchronize(self) -> None:
        """Wait for the stream."""
        state.counts.synchronizations += 1


Stream.null = Stream(null=True)


def get_current_stream(device_id: int | None = None) -> Stream:
    """Return the stream that takes what is launched now."""
    return state.current_stream or Stream.null


def cuda_namespace(real: ModuleType) -> Namespace:
    """Return the double of `cupy.cuda`."""
    error = real.runtime.CUDARuntimeError
    Device.error = error

    def device_count() -> int:
        if state.device_count == 0:
            raise error(CUDA_ERROR_NO_DEVICE)
        return state.device_count

    runtime = Namespace(
        real.runtime,
        getDeviceCount=device_count,
        memGetInfo=lambda: (MEMORY, MEMORY),  # free and in all, bytes
        getDevice=lambda: state.current_device,
        CUDARuntimeError=error,
    )
    return Namespace(
        real,
        Device=Device,
        Stream=Stream,
        get_current_stream=get_current_stream,
        runtime=runtime,
        is_available=lambda: state.device_count > 0,
    )
