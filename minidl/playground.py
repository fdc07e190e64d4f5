"""The playground command: ``python -m minidl.playground``."""

import sys

from minidl.commands.playground.command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
