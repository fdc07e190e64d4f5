"""MNIST: 28x28 images of handwritten digits (LeCun, Cortes, Burges, 1998)."""

import os

from minidl.datasets.idx_dataset import IdxDataset, Split

DATASET = IdxDataset(
    name="mnist",
    # The original site, yann.lecun.com, refuses downloads (pytorch/vision issue 1938).
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",  # torchvision's
        "https://storage.googleapis.com/cvdf-datasets/mnist/",  # github.com/cvdfoundation/mnist
        "https://raw.githubusercontent.com/fgnt/mnist/master/",  # github.com/fgnt/mnist
    ),
    # Checksums of the content, because recompressed copies are common.
    content_sha256={
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
)


def load_data(data_dir: str | os.PathLike[str] | None = None) -> tuple[Split, Split]:
    """Load MNIST, 60,000 training and 10,000 test images.

    Parameters
    ----------
    data_dir : path, optional
        A folder with the subfolder `mnist`. If None, the folder that the environment variable
        `MINIDL_DATA` names. Without either, the user's cache or a download.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        Images of shape (samples, 28, 28), 0 (paper) to 255 (ink), and labels 0 to 9 of shape
        (samples,), all uint8.

    Raises
    ------
    ValueError
        If a file differs from MNIST's.
    OSError
        If MNIST is not in the given folder, or if no mirror delivers it.
    """
    return DATASET.load(data_dir)
