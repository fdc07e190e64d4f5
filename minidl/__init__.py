"""minidl: a small deep-learning framework whose dropout gives the same bits on every device.

======================  ====================================================================
`models`                `Sequential` and `Model`: compile, fit, evaluate, predict, summary
`layers`                `Dense`, `Dropout`, ...; `Layer` to write your own
`losses`, `metrics`     what training makes small, and what it reports
`optimizers`            `SGD`, `RMSprop`, `Adam`, `AdamW`, and learning-rate schedules
`initializers`          where weights start
`constraints`           what they must satisfy
`callbacks`             what happens around training
`datasets`              MNIST and its kin
`Tensor`, `no_grad`     the autograd underneath, which can be used alone
`from_dlpack`           a tensor that shares the memory of another library's array
`training`              training mode and the address of its random draws
`rng`                   the mask contract: every dropout decision has an address
`set_num_threads`       how many threads the CPU works on; MINIDL_NUM_THREADS says it too
`get_backend`           what computes on a device, by its name
`DeviceError`           what is raised for a device that is not there
`minidl.checkpoint`     `latest`, the newest file that `ModelCheckpoint` left in a folder
`minidl.testing`        `check_gradient`, for operations of your own
======================  ====================================================================
"""

import sys

from minidl_kernels.threads import set_num_threads

from minidl import (
    callbacks,
    constraints,
    datasets,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    rng,
)
from minidl.autograd import Tensor, from_dlpack, no_grad
from minidl.backend import DeviceError, get_backend
from minidl.keras_gaps import tell_nearest
from minidl.rng import training
from minidl.version import __version__ as __version__

__all__ = [
    "DeviceError",
    "Tensor",
    "callbacks",
    "constraints",
    "datasets",
    "from_dlpack",
    "get_backend",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "no_grad",
    "optimizers",
    "rng",
    "set_num_threads",
    "training",
]

tell_nearest(
    sys.modules[__name__], callbacks, datasets, layers, losses, metrics, models, optimizers
)
