"""The playground command: ``python -m minidl.playground``."""

import sys

from minidl.commands.playground import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
