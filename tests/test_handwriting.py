"""Drawn digits: found, cut apart and prepared as MNIST's images, and recognised."""

import os

import drawings
import numpy as np
import pytest

from minidl import datasets, images, models, train
from minidl.commands import predict

pillow = pytest.importorskip("PIL.Image", reason="needs the extra images")
X, Y = datasets.mnist_5k.load_data()[1]


def stroke(shape=(90, 60), place=(slice(20, 70), slice(28, 34)), paper=235, ink=30):
    page = np.full(shape, paper, np.uint8)
    page[place] = ink
    return page


def only(image, **options):
    """Return the one digit in an image as floats."""
    found = images.prepare(image, **options)
    assert found.shape == (1, 28, 28)
    assert found.dtype == np.uint8
    return found[0].astype(float)


def test_prepare_keeps_images_of_mnist():
    found = [images.prepare(image) for image in X[:50]]
    assert np.mean([len(digits) == 1 for digits in found]) >= 0.96
    changes = [np.abs(f[0] - x.astype(float)).max() for f, x in zip(found, X, strict=False)]
    assert np.mean(np.array(changes) <= 4) >= 0.9


def test_prepare_fits_into_20_pixels_and_centres_by_mass():
    for image in (stroke(), stroke(place=(slice(2, 12), slice(1, 55))), 255 - X[3]):
        found = only(image)
        rows, columns = np.nonzero(found)
        assert 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 22
        centre = [(found.sum(axis=axis) @ np.arange(28)) / found.sum() for axis in (0, 1)]
        assert np.abs(np.array(centre) - 14).max() <= 0.6  # as MNIST's, see below
        assert found.max() == 255


def test_centre_of_mass_of_mnist_is_at_pixel_14():
    mass = X.astype(float)
    for axis in (1, 2):
        centres = (mass.sum(axis=axis) @ np.arange(28)) / mass.sum(axis=(1, 2))
        assert abs(centres.mean() - 14) < 0.05


@pytest.mark.parametrize("style", ["thick", "thin", "transparent", "photo"])
def test_prepare_finds_dark_and_light_ink_by_itself(style):
    _, picture = next(drawings.drawings(style, 7))
    dark = only(picture)
    if style != "transparent":
        light = only(pillow.fromarray(255 - np.asarray(picture.convert("RGB"))))
        assert np.abs(dark - light).mean() < 6
    assert 0.05 < (dark > 127).mean() + 0.02 < 0.4


def test_prepare_takes_ink_as_it_is_told():
    assert not np.array_equal(images.prepare(X[3], invert=True), images.prepare(X[3]))
    assert np.array_equal(only(stroke(), invert=True), only(stroke()))
    assert np.array_equal(only(255 - stroke(), invert=False), only(stroke()))


def test_prepare_removes_a_shadow():
    light = np.linspace(1, 0.5, 60) * np.where(np.arange(90) < 45, 1, 0.7)[:, None]
    shaded = (stroke() * light).astype(np.uint8)
    assert np.abs(only(shaded) - only(stroke())).mean() < 8


def test_prepare_reads_transparent_pictures_with_dark_or_light_ink():
    for tone in (0, 255):
        page = np.full((90, 60, 4), tone, np.uint8)
        page[..., 3] = 255 - stroke(paper=255, ink=0)
        assert np.array_equal(only(page), only(stroke(paper=255, ink=0)))


def test_prepare_reads_files_pictures_and_arrays_alike(tmp_path):
    expected = images.prepare(stroke())
    picture = pillow.fromarray(stroke())
    picture.save(tmp_path / "x.png")
    assert np.array_equal(images.prepare(picture), expected)
    assert np.array_equal(images.prepare(picture.convert("P")), expected)
    assert np.array_equal(images.prepare(tmp_path / "x.png"), expected)
    assert np.array_equal(images.prepare(np.stack([stroke()] * 3, axis=-1)), expected)


@pytest.mark.parametrize("options", [{}, {"ruled": True}, {"as_photo": True}], ids=str)
def test_prepare_reads_a_sheet_in_order(options):
    lines = ["0100", "1", "001"]
    found = images.prepare(drawings.sheet(lines, seed=4, **options))
    has_ink_in_the_middle = [int(image[14, 12:17].max() > 127) for image in found]
    assert "".join("01"[has_ink] for has_ink in has_ink_in_the_middle) == "".join(lines)


@pytest.mark.parametrize("angle", [0, 7])
def test_prepare_ignores_a_table_around_the_sheet(angle):
    sheet = pillow.fromarray(stroke(shape=(300, 300), place=(slice(90, 200), slice(140, 155))))
    sheet = sheet.convert("RGBA").rotate(angle, expand=True)
    table = pillow.new("RGB", (430, 420), (70, 50, 40))
    table.paste(sheet, (40, 30), sheet)
    found = only(table)
    columns = np.flatnonzero((found > 127).any(axis=0))
    assert np.ptp(columns) <= 6  # the stroke alone


def test_prepare_joins_strokes_above_each_other_and_parts_those_beside():
    page = np.full((100, 200), 255, np.uint8)
    page[20:26, 32:60] = page[30:90, 30:36] = 0
    page[20:90, 70:76] = 0
    assert len(images.prepare(page)) == 2


@pytest.mark.parametrize("seed", range(3))
def test_prepare_finds_nothing_on_blank_paper(seed):
    rng = np.random.default_rng(seed)
    blank = drawings.photo(pillow.new("L", (500, 400)), rng)
    noise = rng.normal(128, 20, (90, 60)).clip(0, 255).astype(np.uint8)
    for image in (blank, np.full((90, 60), 255, np.uint8), np.zeros((1, 1), np.uint8)):
        assert images.prepare(image).shape == (0, 28, 28)
    assert len(images.prepare(noise)) <= 1


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 40), (2, 3), (3, 3000), (700, 2), (28, 28), (31, 64)]
)
def test_prepare_returns_images_for_any_picture(shape):
    rng = np.random.default_rng(1)
    for image in (
        rng.integers(0, 256, shape, np.uint8),
        255 * rng.integers(0, 2, shape, np.uint8),
        rng.integers(0, 256, (*shape, 4), np.uint8),
        np.where(np.arange(shape[1]) % 9 < 3, 255, np.zeros((shape[0], 1))).astype(np.uint8),
    ):
        found = images.prepare(image)
        assert (found.shape[1:], found.dtype) == ((28, 28), np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9)),
        np.zeros(9, np.uint8),
        np.zeros((9, 9, 2), np.uint8),
        np.zeros((0, 9), np.uint8),
    ],
    ids=["float", "vector", "channels", "empty"],
)
def test_prepare_rejects_other_arrays(image):
    with pytest.raises(ValueError, match="prepare: expected uint8 of shape"):
        images.prepare(image)


def test_prepare_rejects_16_bits():
    with pytest.raises(ValueError, match="8 bits a channel"):
        images.prepare(pillow.fromarray(np.zeros((9, 9), np.uint16)))


def test_prepare_reduces_huge_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 2**16)
    monkeypatch.setattr(images, "JPEG_SIDE", 64)
    page = pillow.fromarray(np.kron(stroke(), np.ones((6, 6), np.uint8)))
    page.save(tmp_path / "x.jpg")
    assert np.abs(only(tmp_path / "x.jpg") - only(stroke())).mean() < 8
    page.save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: .* pixels"):
        images.prepare(tmp_path / "x.png")


# ------------------------------------------------------------------------- the README's network


def check_recognition(path, data, seed, least):
    """Train the network of the README's first command; count its right answers of 80 drawings."""
    assert train.main(["--data", data, "--save", str(path), "--quiet"]) == 0
    model = models.load(path)
    drawn = [pair for style in drawings.STYLES for pair in drawings.drawings(style, seed)]
    x = np.stack([images.prepare(picture)[0] for _, picture in drawn])
    is_right = model.predict(x, verbose=0).argmax(axis=1) == [digit for digit, _ in drawn]
    draws = {"samples": predict.DRAWS, "verbose": 0}
    is_unsure = model.predict(x, **draws).mutual_information > predict.UNSURE
    assert is_right.sum() >= least
    assert is_unsure[~is_right].sum() >= 0.5 * (~is_right).sum() - 1
    others = [images.prepare(picture)[0] for _, picture in drawings.doodles("thick", seed)]
    information = model.predict(np.stack(others), **draws).mutual_information
    assert (information > predict.UNSURE).mean() >= 0.6
    assert is_unsure[is_right].mean() <= 0.4
    # MNIST's own images keep their answers.
    _, (x, y) = datasets.mnist_5k.load_data()
    found = [images.prepare(image) for image in x[:300]]
    kept = [place for place, digits in enumerate(found) if len(digits) == 1]
    assert len(kept) >= 0.99 * len(found)
    before = model.predict(x[kept], verbose=0).argmax(axis=1)
    after = model.predict(np.concatenate([found[place] for place in kept]), verbose=0).argmax(
        axis=1
    )
    assert (after == y[kept]).mean() >= (before == y[kept]).mean() - 0.005


@pytest.mark.slow
def test_network_of_the_shipped_digits_recognises_drawings(tmp_path):
    # 76 to 78 with the seeds from 101 on, which the development did not use.
    check_recognition(tmp_path / "x.safetensors", "mnist-5k", seed=104, least=72)


@pytest.mark.exhaustive
@pytest.mark.skipif("MINIDL_DATA" not in os.environ, reason="needs MNIST in MINIDL_DATA")
def test_network_of_the_readme_recognises_drawings(tmp_path):
    check_recognition(tmp_path / "x.safetensors", "mnist", seed=104, least=76)
