"""Atomic file writes."""

import contextlib
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

PathLike = str | os.PathLike[str]
# The files that a killed process may leave behind; the group is the name of the file to write.
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")


def write_atomically(path: PathLike, content: bytes) -> None:
    """Write a file so that, at every instant, `path` is the old file or the new one.

    The content is written to a temporary file in the same folder, synced to the disk, and renamed;
    then the folder is synced. If `path` is a symbolic link, its target is replaced. The new file
    has the permissions of the file that it replaces. On an error the old file stays and the
    temporary file is removed. A killed process may leave the temporary file, whose name matches
    `TEMPORARY`.

    Raises
    ------
    OSError
        As `check_writable`, or if the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "numbers.txt")
    ...     write_atomically(path, b"1 2 3")
    ...     path.read_text()
    '1 2 3'
    """
    check_writable(path)
    path = _target(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            if path.exists() and path.stat().st_mode != temporary.stat().st_mode:
                shutil.copymode(path, temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if os.name != "nt":  # Windows cannot open a folder
        _sync_folder(path.parent)


def _target(path: PathLike) -> Path:
    """Return the file behind symbolic links; it need not exist."""
    return Path(os.path.realpath(path))


def _sync_folder(folder: Path) -> None:
    """Wait until the file names of a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: PathLike) -> None:
    """Raise OSError if no file `path` could be written."""
    path, folder = Path(path).absolute(), _target(path).parent
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file name, got a folder.")
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist. Create it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {folder} is not writable.")


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
        raise ValueError(f"{path}: expected a regular file, got a folder, a pipe or a device.")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ValueError(f"{path}: expected at most {max_bytes:,} bytes, got {status.st_size:,}.")
