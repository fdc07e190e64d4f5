"""Find, download and check data sets that consist of MNIST's four IDX files.

A data set is looked for in one place after the other:

1. the folder that the caller names, else the one in the environment variable `MINIDL_DATA`. It
   has a sub-folder for each data set with the four files, `.gz` or plain. What is missing there is
   an error: a folder that was asked for is not silently replaced by a download;
2. the user's cache, where earlier downloads are;
3. the mirrors. A download is checked before it comes into the cache.
"""

import hashlib
import logging
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

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
READ_SECONDS = 30  # the longest silence in the middle of a download

Split = tuple[np.ndarray, np.ndarray]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IdxDataset:
    """A data set in MNIST's format and what its files must be.

    Parameters
    ----------
    name
        The name of its folder, in the data folder and in the cache.
    mirrors
        URLs, each ending in "/", of folders that hold the four files, compressed with gzip.
    content_sha256
        For each file the SHA-256 of its uncompressed content. Checked wherever the file is found.
    gz_md5
        For each file the MD5 of the compressed file on the mirrors. Checked for downloads and in
        the cache; files in a data folder may be plain or compressed anew.
    samples
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
            A file is not what it must be.
        OSError
            The data set is not in the given folder, or can't be had from any mirror.
        """
        if data_dir is None:
            data_dir = os.environ.get("MINIDL_DATA") or None
        if data_dir is None:
            arrays = [self._from_cache(file) for file in FILES]
        else:
            arrays = self._from_folder(Path(data_dir, self.name))
        x_train, y_train, x_test, y_test = arrays
        return (x_train, y_train), (x_test, y_test)

    def _from_folder(self, folder: Path) -> list[np.ndarray]:
        paths = []
        for file in FILES:
            candidates = (folder / f"{file}.gz", folder / file)
            existing = [path for path in candidates if path.is_file()]
            if not existing:
                raise FileNotFoundError(
                    f"{self.name}: expected {file}.gz or {file} in {folder}, found neither; put "
                    f"the files {', '.join(FILES)} there, or name no folder (data_dir, MINIDL_DATA)"
                    " to download them"
                )
            paths.append(existing[0])
        try:
            return [self._read(file, path) for file, path in zip(FILES, paths, strict=True)]
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}; replace that file") from error

    def _from_cache(self, file: str) -> np.ndarray:
        # pooch takes 0.2 s to import; who loads no such data set shall not pay for it.
        import pooch

        path = Path(pooch.os_cache("minidl"), self.name, f"{file}.gz")
        if path.exists():
            try:
                return self._read_archive(file, path)
            except ValueError as error:
                logger.warning("%s: %s; downloading it again", self.name, error)
        return self._download(file, path)

    def _download(self, file: str, target: Path) -> np.ndarray:
        import pooch  # slow: see _from_cache

        fetch = pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty(),
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            chunk_size=2**16,
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        reasons = []
        for mirror in self.mirrors:
            # A neighbour of the target: the move at the end is atomic and leaves no half file.
            with tempfile.TemporaryDirectory(dir=target.parent, prefix="download-") as folder:
                download = Path(folder, target.name)
                logger.info("downloading %s%s", mirror, target.name)
                try:
                    fetch(mirror + target.name, str(download), None)
                    array = self._read_archive(file, download)
                    os.replace(download, target)
                    return array
                except (OSError, ValueError) as error:
                    reasons.append(f"{mirror}: {_in_short(error)}")
        raise OSError(
            "\n  ".join([f"{self.name}: no mirror delivered {target.name}:", *reasons])
            + f"\nGet the files {', '.join(f'{file}.gz' for file in FILES)} elsewhere, put them "
            f"into a folder DIR/{self.name}, and name DIR by data_dir, --data-dir or the "
            "environment variable MINIDL_DATA; or take datasets.mnist_5k, 5,000 digits that come "
            "with minidl."
        )

    def _read_archive(self, file: str, path: Path) -> np.ndarray:
        if file in self.gz_md5:
            with open(path, "rb") as archive:
                found = hashlib.file_digest(archive, "md5").hexdigest()
            if found != self.gz_md5[file]:
                raise ValueError(f"{path}: expected MD5 {self.gz_md5[file]}, found {found}")
        return self._read(file, path)

    def _read(self, file: str, path: Path) -> np.ndarray:
        samples = self.samples[0 if file.startswith("train") else 1]
        shape = (samples, *IMAGE_SHAPE) if "images" in file else (samples,)
        array = idx.read(path, max_bytes=math.prod(shape), sha256=self.content_sha256.get(file))
        if array.dtype != np.uint8 or array.shape != shape:
            raise ValueError(
                f"{path}: expected uint8 of shape {shape}, found {array.dtype} of {array.shape}"
            )
        if array.ndim == 1 and array.max() >= CLASSES:
            raise ValueError(f"{path}: expected labels below {CLASSES}, found {array.max()}")
        return array


def _in_short(error: Exception) -> str:
    """Return what happened, without the exceptions that requests and urllib3 wrap around it."""
    wrapped = error.args[0] if error.args else error
    return str(getattr(wrapped, "reason", None) or error)
