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


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()  # an argument that was left out


def binder(name: str, signature: inspect.Signature) -> Callable[[tuple, dict], dict[str, Any]]:
    """Return a function that returns arguments by name, or raises TypeError as a call would.

    A function of the same parameters binds them ten times faster than `signature`.
    """
    parameters = [
        parameter.replace(annotation=parameter.empty, default=parameter.empty)
        if parameter.default is parameter.empty
        else parameter.replace(annotation=parameter.empty, default=ABSENT)
        for parameter in signature.parameters.values()
    ]
    names: dict[str, Any] = {"ABSENT": ABSENT}
    exec(f"def bound{inspect.Signature(parameters)}: return locals()", names)
    bound = names["bound"]

    def bind(args: tuple, kwargs: dict) -> dict[str, Any]:
        try:
            found = bound(*args, **kwargs)
        except TypeError:
            try:  # again, since the signature has the better message
                return dict(signature.bind(*args, **kwargs).arguments)
            except TypeError as error:
                raise TypeError(f"{name}() {error}") from None
        return {name: value for name, value in found.items() if value is not ABSENT}

    return bind


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
