"""What the commands share: how they read arguments and report errors, each in one line."""

import argparse
import math
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

EXIT_UNREAD, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


class InputError(Exception):
    """Report, in one line, what the user gave and what can be done."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line long."""

    def __init__(self, module: str, description: str | None):
        super().__init__(prog=f"python -m {module}", description=description, allow_abbrev=False)
        self.module = module

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit."""
        self.exit(EXIT_BAD_INPUT, f"{self.module}: {printable(message)}\n")


def number(
    kind: type, low: float, high: float = math.inf, *, above: bool = False
) -> Callable[[str], Any]:
    """Return a parser of numbers in [low, high], in (low, high] where `above` is true."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low < value if above else low <= value) or not value <= high or value == math.inf:
            edge = f"above {low}" if above else f"at least {low}"
            bound = f"{edge} and at most {high}" if high < math.inf else edge
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {noun} {bound}, received {text!r}")
        return value

    return parse


def complain(module: str, error: Exception) -> int:
    """Print an error in one line and return the exit status; end quietly where nobody reads on."""
    if isinstance(error, BrokenPipeError):
        # What is left would be written at exit, and fail again (Python docs, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNREAD
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    print(f"{module}: {printable(text)}", file=sys.stderr)
    return EXIT_BAD_INPUT


def printable(text: str) -> str:
    r"""Return a text, as a file's name, so that it can be printed and does nothing to a terminal.

    Control characters, and bytes of names that are no UTF-8, become escapes.

    Examples
    --------
    >>> printable("größe \x1b[31m \udcff")
    'größe \\x1b[31m \\udcff'
    """
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)
