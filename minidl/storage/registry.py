"""Registry of file formats: which functions save and load a file, by the ending of its name.

A format registers itself when its module is imported. So a model can save itself without knowing
any format, and a new format is one file and one row of the table in `minidl.formats`.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from minidl.storage.atomic import PathLike

_formats: dict[tuple[str, str], "Format"] = {}


class Format(NamedTuple):
    """The functions of one format.

    Attributes
    ----------
    save : callable
        Takes a model and a path.
    load : callable or None
        Returns what a file holds; its arguments depend on the kind. None if files are not read.
    check : callable or None
        Takes a model, and raises what `save` would raise for it.
    """

    save: Callable[..., None]
    load: Callable[..., Any] | None = None
    check: Callable[[Any], None] | None = None


def register(kind: str, ending: str, entry: Format) -> None:
    """Add a format.

    Parameters
    ----------
    kind : {"model", "weights", "network"}
        What a file holds: a whole model, its weights, or the network for other runtimes.
    ending : str
        The ending of the file names: ``".safetensors"``.
    """
    _formats[kind, ending] = entry


def find(kind: str, path: PathLike) -> Format:
    """Return the format of a file by its name.

    Raises
    ------
    ValueError
        If no format of this kind has the ending. The message lists the endings.
    """
    endings = [ending for known, ending in _formats if known == kind]
    for ending in endings:
        if os.fspath(path).endswith(ending):
            return _formats[kind, ending]
    expected = " or ".join(f"NAME{ending}" for ending in endings)
    raise ValueError(
        f"{path}: expected {expected} for a file of {kind}, got {os.path.basename(path)!r}. "
        "Rename the file."
    )
