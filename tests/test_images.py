"""Image files: PNG, JPEG, IDX and NPY, and files that are rejected."""

import gzip
import struct
import sys
import zlib

import numpy as np
import pytest

from minidl import datasets, images

pillow = pytest.importorskip("PIL.Image", reason="needs the extra images")
DIGIT = datasets.mnist_5k.load_data()[1][0][0]


def picture(path, pixels=DIGIT, mode=None, **options):
    pillow.fromarray(pixels).convert(mode or "L").save(path, **options)
    return path


@pytest.mark.parametrize("name", ["x.png", "misnamed.jpg"])
def test_read_returns_the_pixels_of_a_png(name, tmp_path):
    found = images.read(picture(tmp_path / name, format="PNG"), (28, 28))
    assert found.dtype == np.uint8
    assert np.array_equal(found, DIGIT[None])


def test_read_returns_a_jpeg_with_its_losses(tmp_path):
    found = images.read(picture(tmp_path / "x.jpg", quality=100), (28, 28))
    assert np.abs(found[0].astype(int) - DIGIT).max() < 10


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1"])
def test_read_converts_colours_to_grey(mode, tmp_path):
    black_and_white = np.where(DIGIT > 127, 255, 0).astype("uint8")
    found = images.read(picture(tmp_path / "x.png", black_and_white, mode), (28, 28))
    assert np.array_equal(found[0], black_and_white)


def test_read_inverts_dark_ink_and_fills_transparency(tmp_path):
    path = picture(tmp_path / "x.png", 255 - DIGIT)
    assert np.array_equal(images.read(path, (28, 28), invert=True)[0], DIGIT)
    ink = np.zeros((28, 28, 4), "uint8")  # black ink on a transparent background
    ink[..., 3] = DIGIT
    pillow.fromarray(ink).save(tmp_path / "transparent.png")
    found = images.read(tmp_path / "transparent.png", (28, 28), invert=True)[0]
    assert np.abs(found.astype(int) - DIGIT).max() <= 1


def test_read_rotates_photos_by_their_exif_data(tmp_path):
    turned = pillow.Exif()
    turned[274] = 6  # the tag of the orientation: rotate clockwise by 90 degrees
    stored = np.rot90(DIGIT)
    assert not np.array_equal(stored, DIGIT)
    path = picture(tmp_path / "x.png", stored, exif=turned)
    assert np.array_equal(images.read(path, (28, 28))[0], DIGIT)


def test_read_resizes_pictures(tmp_path):
    large = np.kron(DIGIT, np.ones((4, 4), "uint8"))
    found = images.read(picture(tmp_path / "x.png", large), (28, 28))
    assert np.array_equal(found[0], DIGIT)
    assert images.read(picture(tmp_path / "y.png"), (14, 20)).shape == (1, 14, 20)


def idx_file(path, array, compress=False):
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if compress else content)
    return path


def test_read_returns_arrays_of_one_or_more_samples(tmp_path):
    several = np.stack([DIGIT, 255 - DIGIT])
    for array, expected in ((DIGIT, DIGIT[None]), (several, several)):
        np.save(tmp_path / "x.npy", array)
        paths = [tmp_path / "x.npy", idx_file(tmp_path / "x.idx", array)]
        paths.append(idx_file(tmp_path / "x.gz", array, compress=True))
        for path in paths:
            assert np.array_equal(images.read(path, (28, 28)), expected)
    np.save(tmp_path / "float.npy", DIGIT / 255)
    assert images.read(tmp_path / "float.npy", (28, 28)).dtype == np.float64


def npy(shape, descr="<f8", content=b""):
    head = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}}}".encode()
    head += b" " * (-(10 + len(head) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


LONGDOUBLE = np.dtype("longdouble")  # equals double on some systems


def png(width, height):
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a PNG, JPEG, IDX or NPY file, .* b''"),
        (b"GIF89a", "expected a PNG, JPEG, IDX or NPY file, .* b'GIF89a'"),
        (b"\x89PNG\r\n\x1a\n", "expected an intact image"),
        (b"\xff\xd8\xff\xe0 and so on", "expected an intact image"),
        (png(28, 28), "expected an intact image"),
        (png(2**31 - 1, 2**31 - 1), "expected an intact image .*pixels"),
        (png(5000, 5000), r"at most 16,777,216 pixels, got: \(5000, 5000\) pixels"),
        (b"\0\0\x08\x01\0\0", "expected 4 bytes for 1 dimensions, got 2"),
        (b"\x93NUMPY", "expected an intact NPY file"),
        (npy((2**40,)), "expected an intact NPY file"),
        (npy((2, 28, 28), "|O"), "expected an intact NPY file"),
        (npy((28, 28), "|S1", b"x" * 784), r"expected integers, bool, or floats .* got \|S1"),
        (npy((28, 28), "<c8", bytes(8 * 784)), "expected integers, .* got complex64"),
        *(
            [(npy((28, 28), LONGDOUBLE.str, bytes(784 * LONGDOUBLE.itemsize)), "of 16, 32 or 64")]
            if LONGDOUBLE.itemsize > 8
            else []
        ),
        (npy((28, 27), "|u1", b"x" * 756), r"shape \(28, 28\), got \(28, 27\)"),
        (npy((0, 28, 28), "|u1", b""), "expected an intact NPY file|got"),
        (npy((1,), "|u1").replace(b"(1,)", b"(" * 4), "expected an intact NPY file"),
    ],
)
def test_read_rejects_damaged_files(content, message, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'x'}: .*{message}"):
        images.read(tmp_path / "x", (28, 28))


def test_read_rejects_16_bits_and_networks_without_images(tmp_path):
    pillow.fromarray(np.full((28, 28), 40_000, "uint16")).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: .* 8 bits a channel .* 16 bits or more"):
        images.read(tmp_path / "x.png", (28, 28))
    with pytest.raises(ValueError, match=r"y\.png: expected a network for images, got .* \(784,\)"):
        images.read(picture(tmp_path / "y.png"), (784,))


def test_read_without_pillow_reads_arrays_only(tmp_path, monkeypatch):
    path = picture(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", DIGIT)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"x\.png: .*Pillow.*pip install 'minidl\[images\]'"):
        images.read(path, (28, 28))
    assert images.read(tmp_path / "x.npy", (28, 28)).shape == (1, 28, 28)
