"""IDX files: all dtypes and shapes, and damage of every kind."""

import gzip
import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.datasets import idx

DTYPES = ["uint8", "int8", "int16", "int32", "float32", "float64"]
HEADER_OF_3_LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 3])
LABELS = HEADER_OF_3_LABELS + bytes([7, 2, 1])
COMPRESSED = gzip.compress(LABELS, mtime=0)  # so that all processes name the tests alike


@pytest.fixture
def write(tmp_path):
    def write_file(content):
        path = tmp_path / "some-file"
        path.write_bytes(content)
        return path

    return write_file


def test_read_returns_a_handwritten_file(write):
    # 0x0B int16, 2 dimensions 1 x 2: 258 and -2, big-endian.
    content = bytes.fromhex("00000b02 00000001 00000002 0102 fffe")
    array = idx.read(write(content))
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, [[258, -2]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (1,), (5,), (257,), (3, 4), (2, 0, 3), (2, 3, 4, 1)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_read_returns_every_dtype_in_a_new_array(write, encode, dtype, shape, pack):
    expected = (np.arange(np.prod(shape)) * 37.5 % 127).astype(dtype).reshape(shape)
    array = idx.read(write(pack(encode(expected))))
    assert array.dtype == np.dtype(dtype)
    assert array.dtype.isnative
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.flags.owndata
    np.testing.assert_array_equal(array, expected, strict=True)


def test_read_of_zero_dimensions_returns_one_element(write):
    array = idx.read(write(bytes.fromhex("00000d00 3fc00000")))
    np.testing.assert_array_equal(array, np.array(1.5, np.float32), strict=True)


def test_read_joins_gzip_members(write):
    path = write(gzip.compress(LABELS[:6]) + gzip.compress(LABELS[6:]))
    np.testing.assert_array_equal(idx.read(path), [7, 2, 1])


def test_read_recognises_gzip_by_content(tmp_path):
    plain = tmp_path / "plain.gz"
    plain.write_bytes(LABELS)
    np.testing.assert_array_equal(idx.read(str(plain)), [7, 2, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected 4 bytes for the magic number, got 0"),
        (b"\0\0\x08", "expected 4 bytes for the magic number, got 3"),
        (b"PK\3\4", r"expected an IDX file.* got b'PK"),
        (b"\0\0\x0a\1", "type codes 0x08, .*, 0x0E, got 0x0A"),
        (b"\0\0\x08\x41" + bytes(4 * 65), "at most 64 dimensions, got 65"),
        (b"\0\0\x08\3" + bytes(11), "expected 12 bytes for 3 dimensions, got 11"),
        (LABELS[:-1], r"expected 3 bytes for shape \(3,\), got 2"),
        (LABELS + b"\0", r"end after shape \(3,\), got more"),
        (b"\0\0\x0e\2" + b"\xff" * 8, r"at most 1,073,741,824 bytes, got shape .* of float64"),
        (b"\0\0\x08\xff" + b"\xff" * 1020, "at most 64 dimensions, got 255"),
        (b"\0\0\x08\5" + bytes(4) + b"\xff" * 16, "at most 1,073,741,824 bytes, got shape"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_read_rejects_wrong_content(write, content, message, pack):
    path = write(pack(content))
    with pytest.raises(ValueError, match=message) as error:
        idx.read(path)
    assert str(path) in str(error.value)


def flip(content, position):
    changed = bytearray(content)
    changed[position] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize(
    "content",
    [
        COMPRESSED[:-1],
        COMPRESSED[:12],
        flip(COMPRESSED, -8),  # the checksum
        flip(COMPRESSED, -1),  # the length
        flip(COMPRESSED, 2),  # the method
        flip(COMPRESSED, 10),  # the first block
        COMPRESSED + b"something else",
    ],
)
def test_read_rejects_damaged_gzip(write, content):
    path = write(content)
    with pytest.raises(ValueError, match="expected an intact gzip file") as error:
        idx.read(path)
    assert str(path) in str(error.value)


def test_read_accepts_max_bytes_and_rejects_more(write):
    assert idx.read(write(LABELS), max_bytes=3).shape == (3,)
    with pytest.raises(ValueError, match=r"at most 2 bytes, got shape \(3,\) of uint8"):
        idx.read(write(LABELS), max_bytes=2)


def test_read_does_not_decompress_or_allocate_a_bomb(write):
    too_long = gzip.compress(LABELS + bytes(2**26), compresslevel=1)
    too_large = gzip.compress(b"\0\0\x08\1\x7f\xff\xff\xff" + bytes(2**20))
    for content in (too_long, too_large):
        path = write(content)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="some-file"):
                idx.read(path)
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()


def test_read_compares_sha256_of_uncompressed_content(write):
    digest = hashlib.sha256(LABELS).hexdigest()
    for level in (1, 9):
        path = write(gzip.compress(LABELS, level))
        np.testing.assert_array_equal(idx.read(path, sha256=digest), [7, 2, 1])
    other = hashlib.sha256(HEADER_OF_3_LABELS + bytes([7, 2, 0])).hexdigest()
    with pytest.raises(ValueError, match=f"SHA-256 {other}, got {digest}"):
        idx.read(write(LABELS), sha256=other)


def test_read_of_missing_file_or_folder_raises_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        idx.read(tmp_path / "missing")
    with pytest.raises(OSError, match=tmp_path.name):
        idx.read(tmp_path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("idx") / "scratch"


def read_or_reject(path, content):
    path.write_bytes(content)
    try:
        array = idx.read(path, max_bytes=2**16)
    except (ValueError, OSError):
        return
    assert array.nbytes <= 2**16


@settings(deadline=None)  # reading is not timed
@given(content=st.binary(max_size=64), pack=st.sampled_from([bytes, gzip.compress]))
def test_read_of_random_bytes_raises_no_other_error(scratch, content, pack):
    read_or_reject(scratch, pack(content))
    read_or_reject(scratch, b"\x1f\x8b\x08\x00" + content)
    read_or_reject(scratch, pack(b"\0\0" + content))


@settings(deadline=None)  # reading is not timed
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 5), max_size=4),
    pack=st.sampled_from([bytes, gzip.compress]),
    data=st.data(),
)
def test_read_of_mutated_files_raises_no_other_error(scratch, encode, dtype, shape, pack, data):
    content = bytearray(pack(encode(np.ones(shape, dtype))))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read_or_reject(scratch, bytes(content[: data.draw(st.integers(0, len(content)))]))
    read_or_reject(scratch, bytes(content))
