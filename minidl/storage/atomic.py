"""Atomic file writes."""

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PathLike = str | os.PathLike[str]
# The files that a killed process may leave behind; the group is the name of the file to write, or
# the first NAME_BYTES of a longer one: the systems limit the length of a name.
TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{8}\.tmp")
NAME_BYTES = 100


def write_atomically(path: PathLike, content: bytes) -> None:
    """Write a file so that, at every instant, `path` is the old file or the new one.

    The content is written to a temporary file in the same folder, synced to the disk, and renamed;
    then the folder is synced. If `path` is a symbolic link, its target is replaced. The new file
    has the permissions of the file that it replaces. On an error the old file stays and the
    temporary file is removed. A killed process may leave the temporary file, whose name matches
    `TEMPORARY`.

    Raises
    ------
    OSError, ValueError
        As `check_writable`; OSError also if the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "numbers.txt")
    ...     write_atomically(path, b"1 2 3")
    ...     path.read_text()
    '1 2 3'
    """
    target = _target(path)
    with _temporary_file(path) as file:
        if target.exists() and target.stat().st_mode != os.fstat(file.fileno()).st_mode:
            shutil.copymode(target, file.name)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        file.close()  # Windows cannot rename an open file
        os.replace(file.name, target)
    if os.name != "nt":  # Windows cannot open a folder
        _sync_folder(target.parent)


def _target(path: PathLike) -> Path:
    """Return the file behind symbolic links; it need not exist."""
    check_name(path)
    return Path(os.path.realpath(path))


def _sync_folder(folder: Path) -> None:
    """Wait until the file names of a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary_file(path: PathLike) -> Iterator[IO[bytes]]:
    """Yield a new file in the folder of `path`; remove it afterwards if it has its name still."""
    path, target = Path(path).absolute(), _target(path)
    folder = target.parent
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file name, got a folder.")
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist. Create it first.")
    with contextlib.suppress(FileNotFoundError):
        target.stat()  # of a name that is too long, for instance
    name = os.fsencode(target.name)[:NAME_BYTES].decode(errors="ignore")
    temporary = folder / f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        try:
            file = open(temporary, "xb")  # noqa: SIM115  os.access is wrong for /proc
        except OSError as error:
            reason = f"the folder {folder} is not writable ({error.strerror})."
            raise type(error)(f"{path}: {reason}") from error
        with file:
            yield file
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(path: PathLike) -> None:
    """Raise OSError or ValueError if no file `path` could be written: try it, leave nothing."""
    with _temporary_file(path):
        pass


def check_name(path: PathLike) -> None:
    """Raise ValueError if `path` is empty or has a NUL character, as no name of a file has."""
    name = os.fspath(path)
    if not name or "\0" in name:
        raise ValueError(
            f"path: expected a name of characters other than NUL, got {name!r}. Correct it."
        )


def check_regular_file(path: PathLike, max_bytes: int | None = None) -> None:
    """Raise ValueError unless `path` is a regular file of at most `max_bytes`.

    Opening a pipe or a device could wait forever.

    Raises
    ------
    OSError
        If the file does not exist.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise ValueError(f"{path}: expected a regular file, got {found}. Pass another path.")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ValueError(f"{path}: expected at most {max_bytes:,} bytes, got {status.st_size:,}.")
