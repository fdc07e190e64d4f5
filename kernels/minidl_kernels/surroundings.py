"""Where the program runs."""

import sys


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook; a terminal of IPython is none."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")
