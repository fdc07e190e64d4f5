"""Files of named arrays in the safetensors format.

A file is a little-endian uint64, that many bytes of JSON, and the arrays
(https://huggingface.co/docs/safetensors, "Format"). It holds no pickle and no code. The library
checks that the arrays lie side by side and fill the file, so no array is larger than the file. The
metadata, which other readers ignore, hold a SHA-256 of all the rest: a file with one changed bit is
rejected.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minidl.storage.atomic import PathLike, check_regular_file, write_atomically

MAX_HEADER_BYTES = 2**24
CHECKSUM = "minidl_sha256"  # the metadata entry of the checksum
DTYPES = {
    "BOOL": np.dtype("bool"),
    "F16": np.dtype("float16"),
    "F32": np.dtype("float32"),
    "F64": np.dtype("float64"),
    **{f"{kind}{8 * n}": np.dtype(f"{kind.lower()}{n}") for kind in "IU" for n in (1, 2, 4, 8)},
}


def write(
    path: PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays and metadata atomically.

    Equal arrays and metadata give equal files, byte for byte.

    Raises
    ------
    OSError
        If the file cannot be written. An older file stays.
    TypeError
        If the dtype of an array is not one of `DTYPES`.
    ValueError
        If names and metadata are longer than `TensorFile` reads.

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
    for name, array in arrays.items():
        check_dtype(f"save: expected {name}", array.dtype)
    contiguous = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    complete = dict(metadata or {})
    complete[CHECKSUM] = _checksum(sorted(contiguous.items()), complete)
    write_atomically(path, _with_metadata(save(contiguous), complete))


def check_dtype(expected: str, dtype: np.dtype) -> None:
    """Raise TypeError if files cannot hold arrays of this dtype; `expected` begins the message."""
    if dtype not in DTYPES.values():
        known = ", ".join(map(str, DTYPES.values()))
        raise TypeError(
            f"{expected} to have one of the dtypes {known}, got {dtype.str}. Convert it to one of "
            "them."
        )


def as_json(value: object) -> str:
    """Return a value as JSON; scalars of NumPy become numbers.

    Raises
    ------
    TypeError, ValueError
        If JSON cannot hold the value.
    """
    return json.dumps(value, default=_as_number)


def _as_number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"expected a JSON value or an array, got a {type(value).__name__}")


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return a file with metadata in a fixed order; the library's own order varies."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = {"__metadata__": metadata, **json.loads(content[8:end])}
    head = json.dumps(header, ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)  # the arrays begin at a multiple of 8
    if len(head) > MAX_HEADER_BYTES:
        raise ValueError(
            f"save: expected names and metadata of at most {MAX_HEADER_BYTES:,} bytes, got "
            f"{len(head):,}. Let callbacks log less, or train for fewer epochs with each fit."
        )
    return b"".join((len(head).to_bytes(8, "little"), head, memoryview(content)[end:]))


def _checksum(arrays: Iterable[tuple[str, np.ndarray]], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of metadata and arrays; the arrays are sorted by name."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in arrays:
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.ravel().data)
    return digest.hexdigest()


class TensorFile:
    """An open file of arrays; `read` loads one array at a time.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        The shape of each array.
    dtypes : dict of str to numpy.dtype
        The dtype of each array.
    metadata : dict of str to str
        The metadata without the checksum.

    Raises
    ------
    ValueError
        If the file has another format, is damaged, or holds other dtypes than `DTYPES`. Damage to
        the values is detected if the file has a checksum, as all files by `write` have.
    OSError
        If the file cannot be opened.
    """

    def __init__(self, path: PathLike):
        self.path = path
        check_regular_file(path)
        with open(path, "rb") as file:
            start = file.read(8)
        if int.from_bytes(start, "little") > MAX_HEADER_BYTES:
            raise ValueError(
                f"{path}: expected a safetensors file with a header of at most "
                f"{MAX_HEADER_BYTES:,} bytes, got a file that starts with {start!r}."
            )
        try:
            self._file = safe_open(path, framework="np").__enter__()
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a safetensors file, got: {error}.") from error
        self.metadata: dict[str, str] = self._file.metadata() or {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        for name in self._file.keys():  # noqa: SIM118  not a dictionary
            part = self._file.get_slice(name)
            if part.get_dtype() not in DTYPES:
                self.close()
                raise ValueError(
                    f"{path}: expected {name} to have one of the dtypes {', '.join(DTYPES)}, got "
                    f"{part.get_dtype()}."
                )
            self.shapes[name] = tuple(part.get_shape())
            self.dtypes[name] = DTYPES[part.get_dtype()]
        self._check(self.metadata.pop(CHECKSUM, None))

    def _check(self, checksum: str | None) -> None:
        """Raise ValueError if the checksum is wrong; files of other programs have none."""
        arrays = ((name, self.read(name)) for name in sorted(self.shapes))
        if checksum is not None and checksum != _checksum(arrays, self.metadata):
            self.close()
            raise ValueError(
                f"{self.path}: expected contents with the checksum in the file, got other "
                f"contents: the file is damaged. Use an older file. If you changed it on purpose, "
                f"write it without the metadata entry {CHECKSUM}."
            )

    def read(self, name: str) -> np.ndarray:
        """Return a copy of an array."""
        return self._file.get_tensor(name)

    def close(self) -> None:
        """Close the file."""
        self._file.__exit__(None, None, None)

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
