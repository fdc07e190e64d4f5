"""Kuzushiji-MNIST: 28x28 images of cursive Japanese (Clanuwat et al., 2018, arXiv:1812.01718)."""

import os

from minidl.datasets.idx_dataset import IdxDataset, Split

DATASET = IdxDataset(
    name="kmnist",
    mirrors=(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",  # the authors'
        # The authors' server is sometimes unreachable (rois-codh/kmnist issue 29).
        "https://huggingface.co/datasets/tanganke/kmnist/resolve/"
        "756d43e894032ce8838db8b32e7500c9c3b5d050/raw/",
    ),
    # From pytorch/vision, torchvision/datasets/mnist.py, class KMNIST.
    gz_md5={
        "train-images-idx3-ubyte": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte": "7320c461ea6c1c855c0b718fb2a4b134",
    },
)


def load_data(data_dir: str | os.PathLike[str] | None = None) -> tuple[Split, Split]:
    """Load Kuzushiji-MNIST, 60,000 training and 10,000 test images.

    Labels: 0 o, 1 ki, 2 su, 3 tsu, 4 na, 5 ha, 6 ma, 7 ya, 8 re, 9 wo.

    Argument, result and errors are those of `mnist.load_data`, with the subfolder `kmnist`.
    """
    return DATASET.load(data_dir)
