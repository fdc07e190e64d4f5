"""Devices: `get_backend` turns a device's name into the object that computes there."""

import functools
import re
import threading

from minidl.backend.base import Array, Backend, DeviceError
from minidl.backend.numpy_backend import NumpyBackend

__all__ = ["Array", "Backend", "DeviceError", "get_backend"]

_one_at_a_time = threading.Lock()  # a cache alone lets threads that are first together make two


@functools.cache
def get_backend(device: str) -> Backend:
    """Return the backend of a device; each device has one.

    Parameters
    ----------
    device : str
        ``"cpu"``; ``"cuda"`` for the first GPU; ``"cuda:N"``; ``"auto"`` for the first GPU if it
        can be used and the CPU if not.

    Raises
    ------
    ValueError
        If `device` is none of these.
    DeviceError
        If the GPU that was asked for cannot be used: with the driver's reason and a remedy.

    Examples
    --------
    >>> get_backend("cpu")
    <backend cpu>
    """
    if device == "cpu":
        with _one_at_a_time:
            return _numpy_backend()
    if device == "auto":
        try:
            return get_backend("cuda")
        except DeviceError:
            return get_backend("cpu")
    number = re.fullmatch(r"cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if number is None:
        raise ValueError(f'device: expected "cpu", "cuda", "cuda:N" or "auto", received {device!r}')
    with _one_at_a_time:
        return _cuda_backend(int(number[1] or 0))


@functools.cache
def _numpy_backend() -> Backend:
    return NumpyBackend()


@functools.cache
def _cuda_backend(index: int) -> Backend:
    try:
        from minidl.backend.cupy_backend import CupyBackend
    except ImportError as error:
        # An array library that is there and fails to load puts a banner around its cause.
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise DeviceError(
            f"cuda: {reason}; for a GPU install minidl with the extra that matches your driver: "
            "pip install 'minidl[cuda13]' or 'minidl[cuda12]'"
        ) from error
    return CupyBackend(index)
