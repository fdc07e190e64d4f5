"""The devices and counts of the double, and its one state."""

import threading
import weakref
from collections.abc import Callable
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
    graph_launches: int = 0
    nodes: int = 0  # appended to graphs

    def reset(self) -> None:
        """Count from 0 again."""
        for field in fields(self):
            setattr(self, field.name, 0)


class Misuse(AssertionError):
    """What CUDA and CuPy let pass, and what goes wrong later."""


class State:
    """The one machine that the double pretends to be."""

    null_stream: Any

    def __init__(self) -> None:
        self.counts = Counts()
        self.streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self.thread = threading.local()
        self.reset(1)

    def reset(self, device_count: int) -> None:
        """Start anew with so many devices."""
        self.counts.reset()
        self.device_count = device_count
        self.current_device = 0
        self.current_stream = None
        self.capturing: list[Any] = []  # streams
        self.allocator: Callable | None = None
        self.loaded: set[Any] = set()  # kernels, which a first launch loads on a device
        for stream in self.streams:
            stream._unfinished.clear()

    @property
    def current_stream(self) -> Any:
        """The stream that this thread has made the current one, or None for the null stream."""
        return getattr(self.thread, "stream", None)

    @current_stream.setter
    def current_stream(self, stream: Any) -> None:
        self.thread.stream = stream

    @property
    def capture(self) -> Any:
        """What the current stream captures, or None."""
        return self.stream._capture

    @property
    def stream(self) -> Any:
        """The stream that takes what is launched now."""
        return self.current_stream or self.null_stream

    def switch_to(self, index: int, error: type[Exception]) -> None:
        """Make another device the current one, as ``cudaSetDevice`` does."""
        if not 0 <= index < self.device_count:
            raise error(CUDA_ERROR_INVALID_DEVICE)
        if index != self.current_device:
            self.current_device = index
            self.counts.device_switches += 1

    def launch(self, is_launched: bool = True) -> None:
        """Count a kernel that runs now, and not as the node of a graph."""
        self.counts.launches += is_launched and self.capture is None

    def upload(self) -> None:
        """Count a copy from the host."""
        if self.capture is not None:
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        self.counts.host_to_device += 1

    def download(self, blocking: bool = True) -> None:
        """Count a copy to the host, by default one that is waited for."""
        if self.capture is not None:
            raise RuntimeError("the current stream is capturing, so D2H transfers are disallowed")
        self.counts.device_to_host += 1
        if blocking:
            self.wait(self.stream)

    def wait(self, stream: Any) -> None:
        """Count a wait for the work of a stream."""
        self.counts.synchronizations += 1
        self.finish(stream)

    def finish(self, stream: Any) -> None:
        """Do what a wait for a stream makes visible."""
        stream._order.is_waited_for()
        stream._finish()


state = State()

CUDA_ERROR_INVALID_DEVICE = 101  # cudaError of driver_types.h


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
        for stream in state.capturing:
            stream.synchronize()
        for stream in list(state.streams):
            state.finish(stream)
        state.counts.synchronizations += 1
