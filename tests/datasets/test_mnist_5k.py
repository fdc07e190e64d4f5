"""The 5,000 digits shipped with minidl."""

import hashlib
import os

import numpy as np
import pytest

from minidl.datasets import mnist, mnist_5k

# As in mnist_5k.md, which has the program that makes the arrays.
SHA256 = [
    "bcfddb79ced74a8fc4b4e22dd43fa6c8265c9a6b0256b433a4dbe84e71fbdda8",
    "10657d494dc10324bb981ad579335d6fd10de427872f83684a4bac76801747fe",
    "a912b821ec4d85cc09ba5c3951081006df0c2de1e574a9c349e00fc78ec1a708",
    "77a95a80c06e52eeceb6dbe885a7da7884bdff1e327dd45a7a3fd18360d14444",
]


@pytest.fixture(scope="module")
def digits():
    return mnist_5k.load_data()


def test_load_data_returns_balanced_shuffled_classes(digits):
    for (images, labels), count in zip(digits, (4000, 1000), strict=True):
        assert (images.shape, images.dtype) == ((count, 28, 28), np.uint8)
        assert (labels.shape, labels.dtype) == ((count,), np.uint8)
        assert np.bincount(labels).tolist() == [count // 10] * 10
        # Shuffled: the source is sorted by class.
        assert len(np.unique(labels[: count // 10])) == 10


def test_load_data_returns_the_published_arrays(digits):
    arrays = [array for split in digits for array in split]
    assert [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays] == SHA256


def test_provenance_lists_the_same_checksums(digits):
    provenance = os.path.join(os.path.dirname(mnist_5k.__file__), "mnist_5k.md")
    with open(provenance, encoding="utf-8") as file:
        text = file.read()
    assert all(digest in text for digest in SHA256)


def test_no_image_is_in_both_parts(digits):
    (x_train, _), (x_test, _) = digits
    images = {image.tobytes() for image in (*x_train, *x_test)}
    assert len(images) == 5000


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_load_data_rejects_a_damaged_file(tmp_path, monkeypatch, content):
    (tmp_path / "mnist_5k.npz").write_bytes(content)
    monkeypatch.setattr(mnist_5k.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=r"mnist_5k\.npz: expected the four arrays"):
        mnist_5k.load_data()


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("MINIDL_DATA"), reason="needs a folder with MNIST, named by MINIDL_DATA"
)
def test_all_images_are_from_the_training_set_of_mnist(digits):
    (x_train, y_train), (x_test, _) = mnist.load_data()
    known = {(image.tobytes(), label) for image, label in zip(x_train, y_train, strict=True)}
    for images, labels in digits:
        assert all((i.tobytes(), label) in known for i, label in zip(images, labels, strict=True))
    assert not known & {(x_test[0].tobytes(), label) for label in range(10)}
