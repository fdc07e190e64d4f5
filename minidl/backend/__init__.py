"""Devices: `get_backend` returns the backend of a device by its name."""

import copyreg
import functools
import re
import threading
from collections.abc import Callable
from typing import Any

from minidl.backend.arrays import Array, DeviceError
from minidl.backend.base import Backend
from minidl.backend.numpy_backend import NumpyBackend

__all__ = ["Array", "Backend", "DeviceError", "get_backend"]

_one_at_a_time = threading.Lock()  # without the lock, two threads could each create a backend


@functools.cache
def get_backend(device: str) -> Backend:
    """Return the backend of a device; each device has one.

    Parameters
    ----------
    device : str
        ``"cpu"``; ``"cuda"`` for the first GPU; ``"cuda:N"``; ``"auto"`` for the first GPU, or
        the CPU if it is unavailable.

    Raises
    ------
    ValueError
        If `device` is something else; for the CPU, if an environment variable is invalid.
    DeviceError
        If the GPU is unavailable; the message says why and what to do.

    Examples
    --------
    >>> get_backend("cpu")
    <backend cpu>
    """
    if device == "auto":
        try:
            return get_backend("cuda")
        except DeviceError:
            return get_backend("cpu")
    for pattern, make in _BACKENDS.items():
        found = re.fullmatch(pattern, device) if isinstance(device, str) else None
        if found is not None:
            with _one_at_a_time:
                backend = make(*(int(number or 0) for number in found.groups()))
            copyreg.pickle(type(backend), _reduce)
            return backend
    raise ValueError(
        f'device: expected "cpu", "cuda", "cuda:N" or "auto", got {device!r}. Choose one of them.'
    )


def _reduce(backend: Backend) -> tuple[Callable[..., Any], tuple[str]]:
    """Return how pickle and copy get this backend: a copied model shares that of its original."""
    return get_backend, (backend.name,)


@functools.cache
def _numpy_backend() -> Backend:
    return NumpyBackend()


@functools.cache
def _cuda_backend(index: int) -> Backend:
    try:
        from minidl.backend.cupy_backend import CupyBackend
    except ImportError as error:
        # An array library that is installed and fails to load puts a banner around its cause.
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise DeviceError(
            f"cuda: expected the libraries of CUDA, got an error: {reason}. Install minidl with "
            "the extra for your driver: pip install 'minidl[cuda13]' or 'minidl[cuda12]'."
        ) from error
    return CupyBackend(index)


# For each backend, the pattern of its devices' names, and a function of the numbers in a name.
_BACKENDS: dict[str, Callable[..., Backend]] = {
    r"cpu": _numpy_backend,
    r"cuda(?::(\d+))?": _cuda_backend,
}
