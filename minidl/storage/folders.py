"""Folders of runs: locks, checks, and the files that a checkpoint folder holds."""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import IO

from minidl.storage.atomic import TEMPORARY, PathLike, check_name, check_writable

STEP_FILE = "step-{:010d}.safetensors"
BEST_FILE = "best.safetensors"
_STEP_FILES = re.compile(r"step-\d{10}\.safetensors")


def step_files(folder: PathLike) -> list[Path]:
    """Return the checkpoints of a folder, sorted by the number of steps."""
    return sorted(path for path in Path(folder).iterdir() if _STEP_FILES.fullmatch(path.name))


def temporary_files(folder: PathLike) -> list[Path]:
    """Return the temporary files of checkpoints, which a killed run may have left in a folder."""
    found = []
    for path in Path(folder).iterdir():
        match = TEMPORARY.fullmatch(path.name)
        if match and (match[1] == BEST_FILE or _STEP_FILES.fullmatch(match[1])):
            found += [path] if path.is_file() else []
    return found


def latest(folder: PathLike) -> Path | None:
    """Return the checkpoint with the most steps that `callbacks.ModelCheckpoint` wrote.

    Returns
    -------
    pathlib.Path or None
        None if the folder has no checkpoint.

    Raises
    ------
    OSError
        If the folder cannot be read.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in (9, 10):
    ...         Path(folder, STEP_FILE.format(step)).touch()
    ...     latest(folder).name
    'step-0000000010.safetensors'
    """
    return max(step_files(folder), default=None)


def check_folder(path: PathLike) -> None:
    """Raise OSError or ValueError if no folder `path` for checkpoints could be made.

    It tries to make one, and leaves nothing.
    """
    check_name(path)
    path = Path(path).absolute()
    existing = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    if not existing.is_dir():
        raise NotADirectoryError(f"{path}: expected a folder, but {existing} is a file.")
    try:
        with tempfile.TemporaryDirectory(dir=existing) as made:
            folder = Path(made, path.relative_to(existing))
            folder.mkdir(parents=True, exist_ok=True)
            check_writable(folder / STEP_FILE.format(0))
    except OSError as error:
        raise PermissionError(
            f"{path}: the folder {existing} is not writable ({error.strerror or error})."
        ) from error


def lock_folder(folder: PathLike) -> IO[str]:
    """Lock a folder for this process until the returned file is closed.

    The operating system releases the lock when the process ends, however it ends.

    Raises
    ------
    BlockingIOError
        If another process, or another part of this one, holds the lock.
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
            f"{folder}: another run or another callback writes here. Give each its own folder."
        ) from error
    return file
