"""The sweep command: ``python -m minidl.sweep``."""

import sys

from minidl.commands.sweep import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
