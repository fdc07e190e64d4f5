"""Decorator for the methods of a backend that run kernels."""

import importlib
from collections.abc import Callable
from typing import Any


class kernel:
    """Decorator for a method written in ``xp``: on a device with kernels, the kernel runs instead.

    The kernel of ``adam`` or ``_adam`` is the function ``adam`` in a file of the package
    `Backend.kernels`. It takes the parameters of the method without ``self``. Its file is imported
    at the first call, since Numba takes half a second to load.

    Parameters
    ----------
    file : str
        Name of the kernel's file.
    check : callable, optional
        Called first, with the method's name and arguments. It raises, or returns whether there is
        anything to compute.
    """

    def __init__(self, file: str, check: Callable[..., bool] | None = None):
        self.file = file
        self.check = check

    def __call__(self, method: Callable[..., Any]) -> Any:
        self.method = method
        self.name = method.__name__
        return self

    def __get__(self, backend: Any, owner: type) -> Any:
        """Return the computation on this backend, and keep it as the backend's attribute."""
        if backend is None:
            return self.method
        compute = self.method.__get__(backend)
        if backend.kernels is not None:
            module = importlib.import_module(f"{backend.kernels}.{self.file}")
            compute = getattr(module, self.name.removeprefix("_"))
        if self.check is not None:
            compute = _checked(self.check, self.name, compute)
        vars(backend)[self.name] = compute
        return compute


def _checked(check: Callable[..., bool], name: str, compute: Callable[..., None]) -> Any:
    def checked(*arrays: Any, **numbers: Any) -> None:
        if check(name, *arrays, **numbers):
            compute(*arrays, **numbers)

    return checked
