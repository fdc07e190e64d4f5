"""Fashion-MNIST: 28x28 images of clothing (Xiao, Rasul, Vollgraf, 2017, arXiv:1708.07747)."""

import os

from minidl.datasets.idx_dataset import IdxDataset, Split

DATASET = IdxDataset(
    name="fashion-mnist",
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # the authors'
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",  # Keras'
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    # From pytorch/vision, torchvision/datasets/mnist.py, class FashionMNIST.
    gz_md5={
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)


def load_data(data_dir: str | os.PathLike[str] | None = None) -> tuple[Split, Split]:
    """Load Fashion-MNIST, 60,000 training and 10,000 test images.

    Labels: 0 T-shirt/top, 1 trouser, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker,
    8 bag, 9 ankle boot.

    Argument, result and errors are those of `mnist.load_data`, with the subfolder `fashion-mnist`.
    """
    return DATASET.load(data_dir)
