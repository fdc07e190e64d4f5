"""MNIST, Fashion-MNIST and KMNIST: their facts and their folders."""

import os

import numpy as np
import pytest

from minidl.datasets import fashion_mnist, kmnist, mnist
from minidl.datasets.idx_dataset import FILES

needs_mnist = pytest.mark.skipif(
    not os.environ.get("MINIDL_DATA"), reason="needs a folder with MNIST, named by MINIDL_DATA"
)


@pytest.mark.slow
@needs_mnist
def test_mnist_has_the_published_facts():
    (x_train, y_train), (x_test, y_test) = mnist.load_data()
    assert (x_train.shape, x_train.dtype) == ((60_000, 28, 28), np.uint8)
    assert (x_test.shape, x_test.dtype) == ((10_000, 28, 28), np.uint8)
    # The first labels, and the number of digits in each class, as widely published.
    assert y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(y_train).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    # torchvision's examples normalise by this mean and deviation: 0.1307 and 0.3081.
    assert round(x_train.mean() / 255, 4) == 0.1307
    assert round(x_train.std() / 255, 4) == 0.3081


@pytest.mark.parametrize("module", [mnist, fashion_mnist, kmnist])
def test_data_set_has_checksums_of_all_files(module):
    dataset = module.DATASET
    assert len(dataset.mirrors) >= 2
    assert all(mirror.endswith("/") for mirror in dataset.mirrors)
    assert tuple(dataset.content_sha256 or dataset.gz_md5) == FILES
    assert {len(digest) for digest in dataset.content_sha256.values()} <= {64}
    assert {len(digest) for digest in dataset.gz_md5.values()} <= {32}
    assert dataset.samples == (60_000, 10_000)


@pytest.mark.parametrize(
    ("module", "folder"),
    [(mnist, "mnist"), (fashion_mnist, "fashion-mnist"), (kmnist, "kmnist")],
)
def test_load_data_reads_the_subfolder_of_its_name(tmp_path, module, folder):
    with pytest.raises(FileNotFoundError, match=rf"in .*{os.path.basename(tmp_path)}.{folder},"):
        module.load_data(tmp_path)
