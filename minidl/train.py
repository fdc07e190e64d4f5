"""The training command: ``python -m minidl.train``."""

import sys

from minidl.commands.train import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
