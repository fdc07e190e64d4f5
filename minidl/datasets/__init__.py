"""Image data sets, as NumPy arrays in the form of Keras.

===============  ===============================  ==================================
module           data                             source
===============  ===============================  ==================================
`mnist_5k`       4,000 + 1,000 of MNIST's digits  shipped with minidl
`mnist`          handwritten digits               a folder, the cache, or a download
`fashion_mnist`  pieces of clothing               a folder, the cache, or a download
`kmnist`         cursive Japanese characters      a folder, the cache, or a download
===============  ===============================  ==================================

Each has `load_data()`, which returns `(x_train, y_train), (x_test, y_test)`: images of shape
(samples, 28, 28) and labels 0 to 9 of shape (samples,), both uint8. The last three hold 60,000
training and 10,000 test images; `idx_dataset` lists where it searches for them. `idx.read` reads
any file in the IDX format.
"""

from minidl.datasets import fashion_mnist, idx, kmnist, mnist, mnist_5k

__all__ = ["fashion_mnist", "idx", "kmnist", "mnist", "mnist_5k"]
