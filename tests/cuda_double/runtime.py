"""The double of `cupy.cuda`."""

from types import ModuleType

import numpy as np

from cuda_double import graphs, nccl
from cuda_double.capture import POISON, Event, Stream, get_current_stream
from cuda_double.devices import Device, Misuse, Namespace, state
from cuda_double.pools import MemoryPointer, MemoryPool, using_allocator

MEMORY = 2**33  # bytes of a device
CUDA_ERROR_NO_DEVICE = 100  # cudaError of driver_types.h


def cuda_namespace(real: ModuleType) -> Namespace:
    """Return the double of `cupy.cuda`."""
    error = real.runtime.CUDARuntimeError
    Device.error = Stream.error = graphs.Executable.error = error

    def device_count() -> int:
        if state.device_count == 0:
            raise error(CUDA_ERROR_NO_DEVICE)
        return state.device_count

    runtime = Namespace(
        real.runtime,
        getDeviceCount=device_count,
        memGetInfo=lambda: (MEMORY, MEMORY),  # free and in all, bytes
        getDevice=lambda: state.current_device,
        getDeviceProperties=lambda device: {"name": b"the double"},
        deviceGetPCIBusId=lambda device: f"0000:{device + 1:02X}:00.0",
        graphInstantiate=graphs.graph_instantiate,
        graphLaunch=graphs.graph_launch,
        graphDestroy=graphs.graph_destroy,
        graphExecDestroy=graphs.graph_exec_destroy,
        CUDARuntimeError=error,
    )
    namespace = Namespace(
        real,
        Device=Device,
        Stream=Stream,
        Event=Event,
        Graph=graphs.Graph,
        MemoryPointer=MemoryPointer,
        alloc=MemoryPointer,
        alloc_pinned_memory=_page_locked,
        MemoryPool=MemoryPool,
        using_allocator=using_allocator,
        get_current_stream=get_current_stream,
        runtime=runtime,
        is_available=lambda: state.device_count > 0,
    )
    namespace.nccl = nccl  # CuPy has its names only if NCCL is installed
    return namespace


def _page_locked(size: int) -> np.ndarray:
    """Return memory of the host; CuPy's pointer to no bytes is null, which NumPy cannot read."""
    if size == 0:
        raise Misuse("page-locked memory of 0 bytes")
    return np.full(size, POISON, "u1")
