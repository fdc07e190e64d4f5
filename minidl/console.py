"""Printed output. Nothing that is printed may end a run."""

import codecs
import numbers
import sys
from typing import Any

_ASCII_LINES = str.maketrans("━─┃│┏┳┓┡╇┩├┼┤└┴┘", "--||++++++++++++")  # of tables


def write(text: str, stream: Any, end: str = "\n") -> OSError | None:
    """Write and flush a text; never raise an error, whatever the stream is.

    Parameters
    ----------
    text : str
        The text. Characters that the stream's encoding lacks become escapes, as in `encodable`.
    stream : object
        ``sys.stdout`` or ``sys.stderr``, which may be None, closed, or an object with only
        ``write``. Nothing is written if that is not possible.
    end : str
        Added to the text.

    Returns
    -------
    OSError or None
        The error of the system, such as a full disk or a closed pipe.

    Examples
    --------
    >>> write("größe", sys.stdout)
    größe
    >>> write("größe", None)
    """
    try:
        try:
            stream.write(encodable(text + end, stream))
        except UnicodeError:  # the stream does not have the encoding that it names
            stream.write((text + end).encode("ascii", "backslashreplace").decode())
        if hasattr(stream, "flush"):
            stream.flush()
    except OSError as error:
        return error
    except Exception:  # the stream may be of any class, and raise anything
        return None
    return None


def is_terminal(stream: Any) -> bool:
    """Return whether a stream, which may be of any kind, is a terminal."""
    try:
        return bool(stream.isatty())
    except Exception:  # see write
        return False


class Output:
    """A stream for other libraries: as the given one, but `write` and `flush` never raise."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write and flush a text."""
        write(text, self._stream, end="")

    def flush(self) -> None:
        """Do nothing: `write` has flushed."""


def encodable(text: str, stream: Any) -> str:
    r"""Return a text that a stream can encode.

    If its encoding lacks a character of the text, such characters become backslash escapes, and
    the lines of tables become ``+``, ``-`` and ``|``. A stream without an encoding has UTF-8.

    Examples
    --------
    >>> import io
    >>> encodable("│ größe │ 模 │", io.TextIOWrapper(io.BytesIO(), "latin-1"))
    '| größe | \\u6a21 |'
    """
    try:
        encoding = codecs.lookup(stream.encoding).name
    except Exception:  # no stream, no encoding, or an unknown one
        encoding = "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII_LINES).encode(encoding, "backslashreplace").decode(encoding)
    return text


def printable(text: str) -> str:
    r"""Return a text, such as a file name, with escapes for what a terminal must not receive.

    These are control characters, bytes of names that are not UTF-8, and characters that the
    encoding of standard output lacks.

    Examples
    --------
    >>> printable("größe \x1b[31m \udcff")
    'größe \\x1b[31m \\udcff'
    """
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return encodable(escaped, sys.stdout)


def readable(value: Any) -> str:
    """Return a logged value for people, in the form of Keras.

    A number has 4 decimals. It has an exponent if it is 0.001 or less, so that a small loss is not
    shown as 0, or from 1e10 on. Integers and values that are not numbers are shown as they are.

    Examples
    --------
    >>> [readable(value) for value in (0.25, 3.1e-06, 1e30, float("nan"), 7, "late")]
    ['0.2500', '3.1000e-06', '1.0000e+30', 'nan', '7', 'late']
    """
    if not isinstance(value, str | numbers.Integral):
        try:
            number = float(value)
        except Exception:  # a value of any class
            return printable(str(value))
        is_plain = number == 0 or 1e-3 < abs(number) < 1e10
        return f"{number:.4f}" if is_plain else f"{number:.4e}"
    return printable(str(value))
