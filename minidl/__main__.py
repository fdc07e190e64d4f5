"""The list of commands: ``python -m minidl``."""

import sys
from collections.abc import Sequence

from minidl.commands import cli

COMMANDS = {
    "train": "train a network with dropout on MNIST or similar images",
    "predict": "classify images with a saved network",
    "playground": "write a page on which to draw digits and watch dropout",
    "sweep": "train with several rates and seeds, and compare the runs",
}
EPILOG = """\
Each command has --help. `python -m minidl.train` is the same as `minidl-train`, and so on.
`python -m pydoc minidl` lists the modules of the library. README.md and docs/ of the source
distribution have the guides.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the commands and return the exit status: 0, or 2 for invalid arguments."""
    lines = (f"  minidl-{name:<10}  {purpose}" for name, purpose in COMMANDS.items())
    parser = cli.Parser("minidl", "\n".join(("commands:", *lines)), EPILOG)
    _, rest = parser.parse_known_args(argv)
    if rest:
        names = ", ".join(f"minidl-{name}" for name in COMMANDS)
        parser.error(f"expected no arguments, got {rest[0]!r}. Run one of {names}.")
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
