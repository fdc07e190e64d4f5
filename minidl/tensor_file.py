"""Files of named arrays in the safetensors format: no pickle, no code, nothing to execute.

A file is a little-endian uint64, that many bytes of JSON, and the arrays
(https://huggingface.co/docs/safetensors, "Format"). The library checks that the arrays lie side by
side and fill the file, so none can be larger than the file. Its texts, which other readers pass
over, hold a SHA-256 of all the rest: a file with one changed bit is not read.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from types import TracebackType

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minidl.files import PathLike, check_regular, write_whole

MAX_HEADER_BYTES = 2**24
CHECKSUM = "minidl_sha256"  # among the texts of the files that are written here
DTYPES = {
    "BOOL": np.dtype("bool"),
    "F16": np.dtype("float16"),
    "F32": np.dtype("float32"),
    "F64": np.dtype("float64"),
    "I64": np.dtype("int64"),
}


def write(
    path: PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays and texts; `path` is the old file or the whole new one at every instant.

    Equal arrays and texts give equal files, byte for byte.

    Raises
    ------
    OSError
        If the file cannot be written; an older one stays as it is.
    ValueError
        If texts and names are longer than `TensorFile` reads.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "x.safetensors")
    ...     write(path, {"x": np.arange(3.0)}, {"unit": "m"})
    ...     with TensorFile(path) as file:
    ...         file.shapes, file.metadata, file.read("x")
    ({'x': (3,)}, {'unit': 'm'}, array([0., 1., 2.]))
    """
    contiguous = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    texts = dict(metadata or {})
    texts[CHECKSUM] = _checksum(sorted(contiguous.items()), texts)
    write_whole(path, _with_texts(save(contiguous), texts))


def _with_texts(content: bytes, texts: Mapping[str, str]) -> bytes:
    """Return a file with texts; the library would put them in an order that varies."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = {"__metadata__": texts, **json.loads(content[8:end])}
    head = json.dumps(header, ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)  # the arrays begin at a multiple of 8
    if len(head) > MAX_HEADER_BYTES:
        raise ValueError(
            f"save: expected texts and names of at most {MAX_HEADER_BYTES:,} bytes, received "
            f"{len(head):,}; let callbacks log less, or train for fewer epochs with each fit"
        )
    return b"".join((len(head).to_bytes(8, "little"), head, memoryview(content)[end:]))


def _checksum(arrays: Iterable[tuple[str, np.ndarray]], texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of texts and of arrays, which come in the order of their names."""
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name, array in arrays:
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.ravel().data)
    return digest.hexdigest()


class TensorFile:
    """An open file of arrays, of which one at a time is in memory.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        What is in the file.
    dtypes : dict of str to numpy.dtype
        Of which kind it is.
    metadata : dict of str to str
        The file's texts, but for the checksum.

    Raises
    ------
    ValueError
        If the file is not of this format, is damaged, or holds other dtypes than `DTYPES`. Damage
        to numbers is noticed where the file has a checksum, as all that `write` writes have.
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: PathLike):
        self.path = path
        check_regular(path)
        with open(path, "rb") as file:
            start = file.read(8)
        if int.from_bytes(start, "little") > MAX_HEADER_BYTES:
            raise ValueError(
                f"{path}: expected a safetensors file with a header of at most "
                f"{MAX_HEADER_BYTES:,} bytes, found a file that starts with {start!r}"
            )
        try:
            self._file = safe_open(path, framework="np").__enter__()
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a safetensors file, found: {error}") from error
        self.metadata: dict[str, str] = self._file.metadata() or {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        for name in self._file.keys():  # noqa: SIM118  it is no dictionary
            part = self._file.get_slice(name)
            if part.get_dtype() not in DTYPES:
                self.close()
                raise ValueError(
                    f"{path}: {name} has dtype {part.get_dtype()}; expected one of "
                    f"{', '.join(DTYPES)}"
                )
            self.shapes[name] = tuple(part.get_shape())
            self.dtypes[name] = DTYPES[part.get_dtype()]
        self._check(self.metadata.pop(CHECKSUM, None))

    def _check(self, checksum: str | None) -> None:
        """Raise ValueError where the file has another checksum; files of others have none."""
        arrays = ((name, self.read(name)) for name in sorted(self.shapes))
        if checksum is not None and checksum != _checksum(arrays, self.metadata):
            self.close()
            raise ValueError(
                f"{self.path}: damaged: its contents do not have the checksum that was written "
                f"with them; use an older file, or, if they were changed on purpose, write them "
                f"without the text {CHECKSUM}"
            )

    def read(self, name: str) -> np.ndarray:
        """Return a copy of an array."""
        return self._file.get_tensor(name)

    def close(self) -> None:
        """Close the file."""
        self._file.__exit__(None, None, None)

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
