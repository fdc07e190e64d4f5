"""minidl: a small deep-learning framework whose dropout gives the same bits on every device.

======================  ====================================================================
`models`                `Sequential` and `Model`: compile, fit, evaluate, predict, summary
`layers`                `Dense`, `Dropout` and its family; `Layer`, the base of your own
`losses`, `metrics`     what training minimises, and what it reports
`optimizers`            `SGD`, `RMSprop`, `Adam`, `AdamW`, `Nadam`, and learning-rate schedules
`initializers`          initial values of weights
`constraints`           constraints on weights
`regularizers`          penalties on weights, which are terms of the loss
`callbacks`             actions around training
`distributed`           `DataParallel`: training by many processes or machines
`minidl.sklearn`        `MLPClassifier` and `MLPRegressor`; needs the extra `sklearn`
`datasets`              MNIST and similar data sets
`images`                `prepare`: drawn digits as in MNIST; needs the extra `images`
`Tensor`, `no_grad`     the automatic differentiation, which can be used alone
`where`, `stack`, ...   functions of tensors: also `concatenate`, `minimum`, `maximum`
`from_dlpack`           a tensor that shares the memory of another library's array
`training`              training mode and the address of its random draws
`rng`                   random streams; masks and random numbers at an address
`set_num_threads`       the number of CPU threads; also MINIDL_NUM_THREADS
`get_backend`           the backend of a device, by its name
`DeviceError`           raised for a device that is not available
`checkpoint`            `latest`, the newest file that `ModelCheckpoint` wrote to a folder
`testing`               `check_gradient`, for your own operations
======================  ====================================================================
"""

import sys

from minidl_kernels.threads import set_num_threads

import minidl.formats  # noqa: F401  registers the formats of `Model.save`
from minidl import (
    callbacks,
    checkpoint,
    constraints,
    datasets,
    distributed,
    images,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    regularizers,
    rng,
    testing,
)
from minidl.alternatives import suggest_alternatives
from minidl.backend import DeviceError, get_backend
from minidl.engine.backward import no_grad
from minidl.engine.dlpack import from_dlpack
from minidl.engine.functions import concatenate, maximum, minimum, stack, where
from minidl.engine.tensor import Tensor
from minidl.rng import training
from minidl.version import __version__ as __version__

__all__ = [
    "DeviceError",
    "Tensor",
    "callbacks",
    "checkpoint",
    "concatenate",
    "constraints",
    "datasets",
    "distributed",
    "from_dlpack",
    "get_backend",
    "images",
    "initializers",
    "layers",
    "losses",
    "maximum",
    "metrics",
    "minimum",
    "models",
    "no_grad",
    "optimizers",
    "regularizers",
    "rng",
    "set_num_threads",
    "stack",
    "testing",
    "training",
    "where",
]

suggest_alternatives(
    sys.modules[__name__], callbacks, datasets, layers, losses, metrics, models, optimizers
)
