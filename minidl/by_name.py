"""Things that a user may give by name."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from minidl.keras_gaps import NEAREST

Kind = TypeVar("Kind")


def choose(
    what: str, given: Any, kind: type[Kind], table: Mapping[str, Callable[[], Kind]]
) -> Kind:
    """Return `given` where it is of `kind`, or what the table makes for its name in any case.

    Raises
    ------
    ValueError
        If it is neither; the message lists the names.

    Examples
    --------
    >>> choose("number", "one", float, {"one": lambda: 1.0})
    1.0
    """
    if isinstance(given, kind):
        return given
    if isinstance(given, str) and given.lower() in table:
        return table[given.lower()]()
    remedy = ""
    if isinstance(given, str) and given.lower() in NEAREST.get(what, {}):
        remedy = f"; {NEAREST[what][given.lower()]}"
    elif isinstance(given, type) and issubclass(given, kind):
        remedy = f"; use {given.__name__}()"
    elif callable(given):
        remedy = f"; subclass {kind.__name__}"
    raise ValueError(
        f"{what}: expected {_article(kind.__name__)} or one of {', '.join(table)}; "
        f"received {given!r}{remedy}"
    )


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "AEIO" else f"a {name}"
