"""Registry of file formats: which functions save and load a file, by the ending of its name.

A format registers itself when its module is imported. So a model can save itself without knowing
any format, and a new format is one file and one row of the table in `minidl.formats`.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from minidl.storage.atomic import PathLike

_formats: dict[tuple[str, str], "Format"] = {}


def _not_read(*arguments: Any) -> Any:
    raise ValueError("load: expected a format that can be read, got one that is only written.")


def _not_checked(model: Any) -> None:
    """Accept every model."""


class Format(NamedTuple):
    """The functions of one format.

    Attributes
    ----------
    save : callable
        Takes a model and a path.
    load : callable
        Returns what a file holds. Its arguments depend on the kind: those of `models.load` for a
        model, a model and a path for weights.
    check : callable
        Takes a model, and raises what `save` would raise for it.
    matching : callable
        Takes a model and a path, and returns the model of the file. It raises ValueError if the
        two are not of one program.
    """

    save: Callable[..., None]
    load: Callable[..., Any] = _not_read
    check: Callable[[Any], None] = _not_checked
    matching: Callable[..., Any] = _not_read


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
    raise ValueError(
        f"{path}: expected a file name that ends in {' or '.join(endings)}, got "
        f"{os.path.basename(path)!r}. Pass another path."
    )
