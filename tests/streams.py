"""Streams of unusual kinds, which may stand in the place of standard output."""

import io


class Writer:
    """Object with `write` only."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


class Flusher(Writer):
    """Object with `write` and `flush`."""

    def flush(self):
        pass


class Failing(Flusher):
    """Terminal on which each write raises an error."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def isatty(self):
        return True

    def write(self, text):
        raise self.error


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def detached():
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8")
    stream.detach()
    return stream


def encoded(encoding, *, is_terminal=False):
    """Return a text file in memory; its bytes are in ``buffer``."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding, write_through=True)
    stream.isatty = lambda: is_terminal
    return stream


def written(stream):
    """Return what is in a file of `encoded`."""
    return stream.buffer.getvalue().decode(stream.encoding)


# Functions, because a stream is used up; none may end a run.
STREAMS = {
    "none": lambda: None,
    "write only": Writer,
    "write and flush": Flusher,
    "closed": closed,
    "detached": detached,
    "memory": io.StringIO,
    "bytes": io.BytesIO,
    "read only": lambda: io.TextIOWrapper(io.BufferedReader(io.BytesIO())),
    "broken pipe": lambda: Failing(BrokenPipeError(32, "Broken pipe")),
    "full disk": lambda: Failing(OSError(28, "No space left on device")),
    "odd": lambda: Failing(RuntimeError("odd")),
    "ascii": lambda: encoded("ascii"),
    "ascii terminal": lambda: encoded("ascii", is_terminal=True),
}
