"""The prediction command: ``python -m minidl.predict``."""

import sys

from minidl.commands.predict import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
