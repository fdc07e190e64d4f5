"""Files that are there whole or not at all, whenever the process or the machine stops."""

import contextlib
import os
import secrets
import stat
import sys
import tempfile
from pathlib import Path
from typing import IO

PathLike = str | os.PathLike[str]
TEMPORARY = ".*.tmp"  # what `write_whole` may leave behind


def write_whole(path: PathLike, content: bytes) -> None:
    """Write a file so that, at every instant, `path` is the old file or the new one.

    Where `path` is a symbolic link, the file is the one that it leads to.

    A temporary file in the same folder is written to the disk, then renamed, then the folder is
    written to the disk. On an error the old file stays and the temporary one is taken away; only a
    process that is killed leaves it behind, under a name that starts with a dot and ends in
    ``.tmp``.

    Raises
    ------
    OSError
        As `check_writable`, or if the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "numbers.txt")
    ...     write_whole(path, b"1 2 3")
    ...     path.read_text()
    '1 2 3'
    """
    check_writable(path)
    path = _destination(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
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


def _destination(path: PathLike) -> Path:
    """Return the place that is written to, behind symbolic links; there may be nothing yet."""
    return Path(os.path.realpath(path))


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: PathLike) -> None:
    """Raise OSError where no file `path` could be written, before there is one to write."""
    path, folder = Path(path).absolute(), _destination(path).parent
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected the name of a file, received a folder's")
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {folder} is not writable")


def check_folder(path: PathLike) -> None:
    """Raise OSError where no folder `path` with files in it could be made; leave nothing there."""
    path = Path(path).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{path}: expected a folder, and {there} is a file")
    try:
        tempfile.TemporaryDirectory(dir=there).cleanup()  # /proc says that it is writable
    except OSError as error:
        raise PermissionError(
            f"{path}: the folder {there} is not writable ({error.strerror})"
        ) from error


def check_regular(path: PathLike, max_bytes: int | None = None) -> None:
    """Raise ValueError unless `path` is a file of at most `max_bytes`; reading a pipe would wait.

    Raises
    ------
    OSError
        If there is nothing of that name.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: expected a file, found a folder, a pipe or a device")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ValueError(f"{path}: expected at most {max_bytes:,} bytes, found {status.st_size:,}")


def lock_folder(folder: PathLike) -> IO[str]:
    """Take a folder for this process until the file that is returned is closed.

    The system gives it free when the process ends, however it ends.

    Raises
    ------
    BlockingIOError
        If another process, or another part of this one, has it.
    """
    file = open(Path(folder, ".lock"), "a", encoding="utf-8")  # noqa: SIM115  the caller closes it
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise BlockingIOError(
            f"{folder}: another run, or another callback, writes here; give each a folder of its "
            "own"
        ) from error
    return file
