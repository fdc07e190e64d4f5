"""Signatures of the functions and methods of the installed CuPy, read from CuPy itself."""

import inspect
import re
from collections.abc import Callable
from typing import Any


def signature_of(real: Any) -> inspect.Signature | None:
    """Return the signature of a function, ufunc or method of CuPy; None where it states none.

    What is compiled states it in the first line of its docstring.
    """
    if hasattr(real, "nin"):  # a ufunc
        return _from_docstring(real)
    try:
        if type(real).__name__ == "_GUFunc":
            real = real.__call__
        return inspect.signature(real)
    except (TypeError, ValueError):
        return _from_docstring(real)


def bind(name: str, signature: inspect.Signature, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Return the arguments by name, or raise TypeError as a call would."""
    try:
        return dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise TypeError(f"{name}() {error}") from None


def _from_docstring(real: Any) -> inspect.Signature | None:
    first_line = (real.__doc__ or "").split("\n")[0].replace("\\", "")
    found = re.match(r"(?:\w+\.)?\w+\((.*)\)", first_line)
    if found is None:
        return None
    # "int axis=-1" is a parameter of Cython with its type; brackets hold what may be left out.
    parameters = re.sub(r"(^|, )\w+ (?=\w)", r"\1", found[1])
    parameters = parameters.replace("[, out1, out2], / [", ", out1=None, out2=None, /")
    names: dict[str, Callable] = {}
    exec(f"def stated({parameters.replace(']', '')}): ...", names)
    return inspect.signature(names["stated"])
