"""5,000 of MNIST's digits, shipped with minidl; mnist_5k.md describes their origin."""

from importlib import resources

import numpy as np

from minidl.datasets.idx_dataset import Split


def load_data() -> tuple[Split, Split]:
    """Load 4,000 training and 1,000 test digits, balanced over the classes, without a download.

    All are from MNIST's training set; no image is in both parts. Each part is shuffled.

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        Images of shape (samples, 28, 28), 0 (paper) to 255 (ink), and labels 0 to 9 of shape
        (samples,), all uint8.

    Raises
    ------
    ValueError
        If the installed file is damaged.
    OSError
        If the installed file is missing.

    Examples
    --------
    >>> (x_train, y_train), (x_test, y_test) = load_data()
    >>> x_train.shape, y_test.shape
    ((4000, 28, 28), (1000,))
    """
    path = resources.files("minidl.datasets") / "mnist_5k.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return ((arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"]))
    except OSError:
        raise
    except Exception as error:  # zipfile and NumPy do not document what damaged files raise
        raise ValueError(
            f"{path}: expected the four arrays of mnist_5k, got: {error}. Reinstall minidl."
        ) from error
