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


def test_read_prepares_pictures_for_networks_of_28x28_only(tmp_path):
    path = picture(
        tmp_path / "x.png", np.pad(255 - np.hstack([DIGIT, DIGIT]), 9, constant_values=255)
    )
    assert np.array_equal(images.read(path, (28, 28), prepared=True), images.prepare(path))
    assert images.read(path, (28, 28), prepared=True).shape == (2, 28, 28)
    assert images.read(path, (14, 20), prepared=True).shape == (1, 14, 20)
    assert images.read(path, (28, 28)).shape == (1, 28, 28)
    np.save(tmp_path / "x.npy", DIGIT)
    assert np.array_equal(images.read(tmp_path / "x.npy", (28, 28), prepared=True), DIGIT[None])


@pytest.mark.parametrize("x", [np.stack([DIGIT] * 12), np.stack([DIGIT] * 12) / 255.0])
def test_write_shows_ten_images_in_a_row(x, tmp_path):
    images.write(tmp_path / "x.png", x)
    page = np.asarray(pillow.open(tmp_path / "x.png"))
    assert page.shape == (2 * 4 * 30, 10 * 4 * 30)
    assert np.array_equal(page[124:236:4, 124:236:4], DIGIT)
    assert (page[120:, 240:] == images.FRAME).all()


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


def png(width, height, rows=b"", *, bits=8, colours=0, before=(), after=()):
    """Return a PNG of encoded rows, with chunks before and after its pixels."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    pixels = (b"IDAT", zlib.compress(rows))
    parts = [(b"IHDR", head), *before, pixels, *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


PALETTE = (b"PLTE", bytes([0, 0, 0, 102, 102, 102]))


def tiff(orientation):
    """Return EXIF data with one entry."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)


# Two pixels: a transparent one and the grey 102.
@pytest.mark.parametrize(
    ("bits", "colours", "row", "chunks"),
    [
        (2, 0, b"\x60", [(b"tRNS", b"\0\1")]),
        (4, 0, b"\x36", [(b"tRNS", b"\0\3")]),
        (8, 0, b"\x03\x66", [(b"tRNS", b"\0\3")]),
        (8, 0, b"\x03\x66", [(b"tRNS", b"\1\3")]),  # the upper byte is ignored
        (8, 2, b"\1\2\3fff", [(b"tRNS", b"\0\1\0\2\0\3")]),
        (16, 2, b"\x12\x34" * 3 + b"fg" * 3, [(b"tRNS", b"\x12\x34" * 3)]),
        (1, 3, b"\x40", [PALETTE, (b"tRNS", b"\0")]),
        (2, 3, b"\x10", [PALETTE, (b"tRNS", b"\0")]),
        (4, 3, b"\x01", [PALETTE, (b"tRNS", b"\0")]),
        (8, 3, b"\0\1", [PALETTE, (b"tRNS", b"\0\xff")]),
        (8, 4, b"\x03\x00\x66\xff", []),
        (16, 4, b"\3\3\0\0ff\xff\xff", []),
        (8, 6, b"\1\2\3\0fff\xff", []),
        (16, 6, b"\1\1" * 3 + b"\0\0" + b"ff" * 3 + b"\xff\xff", []),
    ],
)
@pytest.mark.parametrize(("invert", "expected"), [(False, [0, 102]), (True, [0, 153])])
def test_read_fills_transparent_pixels(bits, colours, row, chunks, invert, expected, tmp_path):
    if (bits, colours) == (2, 0):
        expected = [0, 85 if invert else 170]  # the nearest grey
    path = tmp_path / "x.png"
    path.write_bytes(png(2, 1, b"\0" + row, bits=bits, colours=colours, before=chunks))
    assert images.read(path, (1, 2), invert=invert).tolist() == [[expected]]


@pytest.mark.parametrize(("bit", "expected"), [(0, [0, 255]), (1, [0, 0])])
def test_read_fills_transparent_pixels_of_one_bit(bit, expected, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(2, 1, b"\0\x40", bits=1, before=[(b"tRNS", bytes([0, bit]))]))
    assert images.read(path, (1, 2)).tolist() == [[expected]]


BOMB = zlib.compress(bytes(2**21))
LONG_TEXT = (b"tEXt", b"Comment\0" + b"x" * (2**26 + 1))


@pytest.mark.parametrize(
    "chunk",
    [
        (b"eXIf", b"junk"),
        (b"eXIf", b""),
        (b"eXIf", tiff(1)[:-9]),
        (b"eXIf", tiff(99)),
        (b"tEXt", b"no keyword"),
        (b"tEXt", b"Raw profile type exif\0junk"),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation='junk'"),
        (b"zTXt", b"Comment\0\0" + BOMB),
        (b"zTXt", b"Comment\0\7junk"),
        (b"iTXt", b"Comment\0\1\0\0\0" + BOMB),
        (b"iCCP", b"profile\0\0" + BOMB),
        (b"iCCP", b"profile\0\7junk"),
        (b"gAMA", b"1"),
        (b"cHRM", b"short"),
        (b"sRGB", b""),
        (b"pHYs", b"1"),
        (b"acTL", b""),
        (b"fcTL", b"short"),
        (b"fdAT", b""),
        (b"prIv", b"unknown"),
        pytest.param(LONG_TEXT, id="long text"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_read_ignores_chunks_beside_the_pixels(chunk, place, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(2, 1, b"\0\x03\x66", **{place: [chunk]}))
    assert images.read(path, (1, 2)).tolist() == [[[3, 102]]]


@pytest.mark.parametrize(
    "chunk",
    [
        (b"eXIf", tiff(3)),
        (b"tEXt", b"Raw profile type exif\0\nexif\n32\n" + (b"Exif\0\0" + tiff(3)).hex().encode()),
        (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'),
    ],
    ids=["exif", "profile", "xmp"],
)
def test_read_rotates_png_with_long_text(chunk, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(2, 1, b"\0\x03\x66", before=[LONG_TEXT, chunk]))
    assert images.read(path, (1, 2)).tolist() == [[[102, 3]]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow
@pytest.mark.parametrize("data", [b"", b"junk", tiff(1)[:-9], tiff(99)])
def test_read_ignores_invalid_exif_data_of_a_jpeg(data, tmp_path):
    path = picture(tmp_path / "x.jpg", exif=b"Exif\0\0" + data)
    assert images.read(path, (28, 28)).shape == (1, 28, 28)


GOOD = png(2, 1, b"\0\x03\x66", before=[(b"tEXt", b"Comment\0text")])


@pytest.mark.parametrize("length", [*range(8, len(GOOD) - 24, 3)])
def test_read_rejects_a_truncated_png(length, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(GOOD[:length])
    with pytest.raises(ValueError, match=r"x\.png: expected an intact image"):
        images.read(path, (1, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a PNG, JPEG, IDX or NPY file, got an empty file"),
        (b"GIF89a", "expected a PNG, JPEG, IDX or NPY file, .* b'GIF89a'"),
        (b"\x89PNG\r\n\x1a\n", "expected an intact image"),
        (b"\xff\xd8\xff\xe0 and so on", "expected an intact image"),
        (png(28, 28), "expected an intact image"),
        (png(2**31 - 1, 2**31 - 1), "expected an intact image .*pixels"),
        (png(5000, 5000), r"at most 16,777,216 pixels, got: 5,000 x 5,000 pixels"),
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
