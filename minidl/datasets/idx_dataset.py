"""Data sets in the four IDX files of MNIST: search, download and checks.

The search goes through these places in order:

1. the folder that the caller names, or else the one in the environment variable `MINIDL_DATA`. It
   has a subfolder for each data set with the four files, `.gz` or plain. A missing file is an
   error: a download never replaces a named folder;
2. the user's cache of earlier downloads;
3. the mirrors. A download is checked before it is moved into the cache.
"""

import functools
import hashlib
import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minidl import console
from minidl.datasets import idx

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
IMAGE_SHAPE = (28, 28)
CLASSES = 10
CONNECT_SECONDS = 5
READ_SECONDS = 30  # the longest pause within a download

Split = tuple[np.ndarray, np.ndarray]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IdxDataset:
    """A data set in MNIST's format, with the checksums of its files.

    Parameters
    ----------
    name : str
        The name of its folder, in the data folder and in the cache.
    mirrors : tuple of str
        URLs, each ending in "/", of folders that hold the four files, compressed with gzip.
    content_sha256 : mapping
        For each file the SHA-256 of its uncompressed content. It is checked in every place.
    gz_md5 : mapping
        For each file the MD5 of the compressed file on the mirrors. It is checked for downloads
        and in the cache; files in a data folder may be plain or recompressed.
    samples : tuple of int
        The number of training and of test images.
    """

    name: str
    mirrors: tuple[str, ...]
    content_sha256: Mapping[str, str] = field(default_factory=dict)
    gz_md5: Mapping[str, str] = field(default_factory=dict)
    samples: tuple[int, int] = (60_000, 10_000)

    def load(self, data_dir: str | os.PathLike[str] | None = None) -> tuple[Split, Split]:
        """Return `(x_train, y_train), (x_test, y_test)`, all uint8.

        Raises
        ------
        ValueError
            If a file has other contents than expected.
        OSError
            If the data set is not in the given folder, or if no mirror delivers it.
        """
        if data_dir is None:
            data_dir = os.environ.get("MINIDL_DATA") or None
        if data_dir is None:
            read = self._from_cache
        else:
            read = functools.partial(self._from_folder, Path(data_dir, self.name))
        x_train, y_train, x_test, y_test = map(read, FILES)
        return (x_train, y_train), (x_test, y_test)

    def _from_folder(self, folder: Path, file: str) -> np.ndarray:
        for path in (folder / f"{file}.gz", folder / file):
            if path.is_file():
                return self._read(file, path)
        raise FileNotFoundError(
            f"{self.name}: expected {file}.gz or {file} in {folder}, got neither. Put the files "
            f"{', '.join(FILES)} there, or leave out data_dir and MINIDL_DATA to download them."
        )

    def _from_cache(self, file: str) -> np.ndarray:
        import pooch  # here, because its import takes 0.2 s

        path = Path(pooch.os_cache("minidl"), self.name, f"{file}.gz")
        if path.exists():
            try:
                return self._read_archive(file, path)
            except ValueError as error:
                logger.warning("%s: %s Downloading the file again.", self.name, error)
        return self._download(file, path)

    def _download(self, file: str, target: Path) -> np.ndarray:
        import pooch  # slow: see _from_cache

        fetch = pooch.HTTPDownloader(
            progressbar=console.is_terminal(sys.stderr),
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            chunk_size=2**16,
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        reasons = []
        for mirror in self.mirrors:
            # In the target's folder, so that the move at the end is atomic.
            with tempfile.TemporaryDirectory(dir=target.parent, prefix="download-") as folder:
                download = Path(folder, target.name)
                logger.info("downloading %s%s", mirror, target.name)
                try:
                    fetch(mirror + target.name, str(download), None)
                    array = self._read_archive(file, download)
                    os.replace(download, target)
                    return array
                except (OSError, ValueError) as error:
                    reasons.append(f"  {mirror}: {_cause(error)}")
        failure = OSError(f"{self.name}: expected {target.name} from a mirror, got only errors:")
        for line in (
            *reasons,
            "Without a network, use mnist_5k (--data mnist-5k), which comes with minidl.",
            f"Or put {', '.join(f'{file}.gz' for file in FILES)} into a folder DIR/{self.name}.",
            "Then pass DIR as data_dir, --data-dir or the environment variable MINIDL_DATA.",
        ):
            failure.add_note(line)
        raise failure

    def _read_archive(self, file: str, path: Path) -> np.ndarray:
        if file in self.gz_md5:
            with open(path, "rb") as archive:
                found = hashlib.file_digest(archive, "md5").hexdigest()
            if found != self.gz_md5[file]:
                raise ValueError(
                    f"{path}: expected MD5 {self.gz_md5[file]}, got {found}. {idx.GET_AGAIN}"
                )
        return self._read(file, path)

    def _read(self, file: str, path: Path) -> np.ndarray:
        samples = self.samples[0 if file.startswith("train") else 1]
        shape = (samples, *IMAGE_SHAPE) if "images" in file else (samples,)
        array = idx.read(path, max_bytes=math.prod(shape), sha256=self.content_sha256.get(file))
        if array.dtype != np.uint8 or array.shape != shape:
            raise ValueError(
                f"{path}: expected uint8 of shape {shape}, got {array.dtype} of {array.shape}. "
                "Use the original file."
            )
        if array.ndim == 1 and array.max() >= CLASSES:
            raise ValueError(
                f"{path}: expected labels below {CLASSES}, got {array.max()}. Use the "
                "original file."
            )
        return array


def _cause(error: Exception) -> str:
    """Return the cause of an error, without the exceptions of requests and urllib3 around it."""
    wrapped = error.args[0] if error.args else error
    text = str(getattr(wrapped, "reason", None) or error)
    return re.sub(r"^\S*HTTPS?Connection.*?[>)]: ", "", text)  # the mirror is known
