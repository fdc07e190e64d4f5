"""What the commands share: how they read arguments and report errors, each in one line."""

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn

EXIT_BAD_INPUT = 2


class InputError(Exception):
    """Report, in one line, what the user gave and what can be done."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line long."""

    def __init__(self, module: str, description: str | None):
        super().__init__(prog=f"python -m {module}", description=description, allow_abbrev=False)
        self.module = module

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit."""
        self.exit(EXIT_BAD_INPUT, f"{self.module}: {message}\n")


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
    """Print an error in one line and return the exit status."""
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"{module}: {text}", file=sys.stderr)
    return EXIT_BAD_INPUT
