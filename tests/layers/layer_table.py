"""Table of all layers: how to make one, the shape of its input, and its function in PyTorch."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from minidl import initializers, layers, rng

RANDOM = initializers.GlorotUniform(seed=3)
RATE, SEED = 0.4, 1  # of random layers
STEP = 5  # at which layers are called in training


class Row(NamedTuple):
    """A layer with an input."""

    make: Callable[..., layers.Layer]  # takes the arguments of all layers: name and input_shape
    shape: tuple[int, ...]
    # The function of training in PyTorch, of the module torch, the input and the weights.
    in_torch: Callable[..., Any] | None = None


def square(x):
    """Return an activation that is not a name."""
    return x * x


def dense(torch, x, weight, bias):
    """Return a layer without an activation, in PyTorch."""
    return torch.nn.functional.linear(x, weight.T, bias)


def mask(torch, x, noise_shape=None):
    """Return minidl's mask, since the dropout of PyTorch draws other bits."""
    address = {"seed": SEED, "stream": 0, "step": STEP}
    return torch.from_numpy(rng.keep_mask(noise_shape or tuple(x.shape), RATE, **address))


def shared(*noise_shape):
    """Return dropout with shared decisions, in PyTorch."""
    return lambda torch, x: x * mask(torch, x, noise_shape) / (1 - RATE)


def alpha(*noise_shape):
    """Return alpha dropout, in PyTorch."""

    def function(torch, x):
        kept = mask(torch, x, noise_shape)
        limit = torch.nn.functional.selu(torch.tensor(-1e3, dtype=x.dtype))
        factor = ((1 - RATE) * (1 + RATE * limit**2)) ** -0.5
        return factor * torch.where(kept, x, limit) - factor * RATE * limit

    return function


def drop_connect(torch, x, weight, bias):
    """Return a layer with dropped weights, in PyTorch."""
    return dense(torch, x, weight * mask(torch, weight) / (1 - RATE), bias)


def drop_connect_per_sample(torch, x, weight):
    """Return a layer with a mask of the weight for each sample, in PyTorch."""
    kept = mask(torch, weight, (len(x), *weight.shape))
    return torch.einsum("b...i,bio->b...o", x, weight * kept / (1 - RATE))


def normal(torch, x):
    """Return minidl's normal numbers, since PyTorch draws others."""
    return torch.from_numpy(rng.normal(tuple(x.shape), seed=SEED, stream=0, step=STEP)).to(x.dtype)


def concrete(**arguments):
    """Return a layer that learns its rate, with the weights of `concrete_in_torch`."""
    inner = layers.Dense(4, kernel_initializer=RANDOM, bias_initializer="ones")
    return layers.ConcreteDropout(inner, RATE, 0.5, seed=SEED, **arguments)


def concrete_in_torch(torch, x, logit, weight, bias):
    """Return the layer that learns its rate, in PyTorch, with minidl's uniform numbers."""
    address = {"seed": SEED, "stream": 0, "step": STEP}
    u = torch.from_numpy(rng.uniform(tuple(x.shape), **address)).to(x.dtype)
    z = torch.sigmoid((logit + torch.logit(u)) / 0.5)
    return dense(torch, x * (1 - z) / (1 - torch.sigmoid(logit)), weight, bias)


def batch_norm(torch, x, weight, bias, *averages, channels=1):
    """Return batch normalisation in training, in PyTorch, whose channels are axis 1."""
    x = x.movedim(channels, 1)
    y = torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=1e-3)
    return y.movedim(1, channels)


def named(name, function=None):
    """Return the row of an activation of that name, in PyTorch's functional module by default."""

    def in_torch(torch, x):
        return (function or (lambda f, x: getattr(f, name)(x)))(torch.nn.functional, x)

    return Row(partial(layers.Activation, name), (3, 5), in_torch)


LAYERS = {
    "Activation": [
        named("elu"),
        named("gelu"),
        named("gelu_tanh", lambda f, x: f.gelu(x, approximate="tanh")),
        named("leaky_relu", lambda f, x: f.leaky_relu(x, 0.2)),
        named("silu"),
        named("softplus"),
        named("swish", lambda f, x: f.silu(x)),
        Row(partial(layers.Activation, "linear"), (3, 5), lambda torch, x: x * 1),
        Row(partial(layers.Activation, "relu"), (3, 5), lambda torch, x: torch.relu(x)),
        Row(partial(layers.Activation, "selu"), (3, 5), lambda torch, x: torch.selu(x)),
        Row(partial(layers.Activation, "sigmoid"), (3, 5), lambda torch, x: torch.sigmoid(x)),
        Row(partial(layers.Activation, "softmax"), (3, 5), lambda torch, x: torch.softmax(x, -1)),
        Row(partial(layers.Activation, "tanh"), (3, 5), lambda torch, x: torch.tanh(x)),
        Row(partial(layers.Activation, square), (3, 5), lambda torch, x: x * x),
    ],
    "AlphaDropout": [
        Row(partial(layers.AlphaDropout, RATE, seed=SEED), (3, 70), alpha()),
        Row(partial(layers.AlphaDropout, RATE, (None, 1, None), SEED), (3, 4, 5), alpha(3, 1, 5)),
    ],
    "BatchNormalization": [
        Row(layers.BatchNormalization, (7, 5), batch_norm),
        Row(
            partial(layers.BatchNormalization, gamma_initializer=RANDOM, beta_initializer="ones"),
            (4, 3, 5),
            partial(batch_norm, channels=2),
        ),
        Row(
            partial(layers.BatchNormalization, 1, 0.5, scale=False),
            (4, 3, 2, 2),
            lambda torch, x, bias, *averages: batch_norm(torch, x, None, bias),
        ),
    ],
    "ConcreteDropout": [
        Row(concrete, (3, 70), concrete_in_torch),
        Row(concrete, (2, 3, 5), concrete_in_torch),
    ],
    "Dense": [
        Row(
            partial(layers.Dense, 4, kernel_initializer=RANDOM, bias_initializer="ones"),
            (3, 5),
            dense,
        ),
        Row(
            partial(layers.Dense, 4, kernel_initializer=RANDOM, bias_initializer="ones"),
            (4, 3, 5),
            dense,
        ),
        Row(
            partial(layers.Dense, 1, "tanh", kernel_initializer=RANDOM),
            (1, 1),
            lambda torch, *inputs: torch.tanh(dense(torch, *inputs)),
        ),
        Row(
            partial(layers.Dense, 4, use_bias=False, kernel_initializer=RANDOM),
            (2, 3, 5),
            lambda torch, x, weight: dense(torch, x, weight, None),
        ),
        Row(
            partial(layers.Dense, 4, "relu", kernel_initializer=RANDOM),
            (3, 5),
            lambda torch, *inputs: torch.relu(dense(torch, *inputs)),
        ),
        Row(
            partial(layers.Dense, 4, "softmax", kernel_initializer=RANDOM),
            (3, 5),
            lambda torch, *inputs: torch.softmax(dense(torch, *inputs), -1),
        ),
    ],
    "DropConnect": [
        Row(
            partial(layers.DropConnect, 4, RATE, seed=SEED, kernel_initializer=RANDOM),
            (3, 5),
            drop_connect,
        ),
        Row(
            partial(
                layers.DropConnect,
                4,
                RATE,
                True,
                "relu",
                use_bias=False,
                seed=SEED,
                kernel_initializer=RANDOM,
            ),
            (3, 5),
            lambda torch, *inputs: torch.relu(drop_connect_per_sample(torch, *inputs)),
        ),
        Row(
            partial(layers.DropConnect, 2, RATE, True, seed=SEED, kernel_initializer=RANDOM),
            (3, 2, 2, 5),
            lambda *inputs: drop_connect_per_sample(*inputs[:-1]) + inputs[-1],
        ),
    ],
    "DropPath": [
        Row(partial(layers.DropPath, RATE, seed=SEED), (5, 3, 4), shared(5, 1, 1)),
        Row(partial(layers.DropPath, RATE, "step", SEED), (5, 3, 4), shared(1, 1, 1)),
    ],
    "Dropout": [
        Row(
            partial(layers.Dropout, RATE, seed=SEED),
            (3, 70),
            lambda torch, x: x * mask(torch, x) / (1 - RATE),
        ),
        Row(
            partial(layers.Dropout, RATE, seed=SEED, scaling="inference"),
            (2, 3, 5),
            lambda torch, x: x * mask(torch, x),
        ),
        Row(partial(layers.Dropout, RATE, seed=SEED), (5,)),
        Row(partial(layers.Dropout, RATE, (None, 1, 5), SEED), (3, 4, 5), shared(3, 1, 5)),
        Row(partial(layers.Dropout, RATE, (1, None), SEED), (3, 5), shared(1, 5)),
    ],
    "ELU": [
        Row(partial(layers.ELU, 0.5), (3, 5), lambda torch, x: torch.nn.functional.elu(x, 0.5)),
    ],
    "Flatten": [
        Row(layers.Flatten, (3, 2, 4), lambda torch, x: torch.flatten(x, 1)),
        Row(layers.Flatten, (3, 5), lambda torch, x: torch.flatten(x, 1)),
        Row(layers.Flatten, (3,)),
    ],
    "GaussianDropout": [
        Row(
            partial(layers.GaussianDropout, 0.2, seed=SEED),
            (3, 70),
            lambda torch, x: x * (1 + 0.5 * normal(torch, x)),
        ),
        Row(
            partial(layers.GaussianDropout, rate=0.5, seed=SEED),
            (2, 3, 5),
            lambda torch, x: x * (1 + normal(torch, x)),
        ),
    ],
    "GaussianNoise": [
        Row(
            partial(layers.GaussianNoise, 1.5, seed=SEED),
            (3, 70),
            lambda torch, x: x + 1.5 * normal(torch, x),
        ),
        Row(
            partial(layers.GaussianNoise, stddev=0.25, seed=SEED),
            (2, 3, 5),
            lambda torch, x: x + 0.25 * normal(torch, x),
        ),
        Row(partial(layers.GaussianNoise, 0.25, seed=SEED), (5,)),
    ],
    "LayerNormalization": [
        Row(
            partial(layers.LayerNormalization, epsilon=1e-5, gamma_initializer=RANDOM),
            (3, 70),
            lambda torch, x, *weights: torch.nn.functional.layer_norm(x, (70,), *weights),
        ),
        Row(
            partial(layers.LayerNormalization, (-1, 1), 1e-5),
            (2, 3, 5),
            lambda torch, x, *weights: torch.nn.functional.layer_norm(x, (3, 5), *weights),
        ),
        Row(
            partial(layers.LayerNormalization, 1, 1e-5, center=False, gamma_initializer=RANDOM),
            (2, 3, 4),
            lambda torch, x, weight: torch.nn.functional.layer_norm(
                x.movedim(1, 2), (3,), weight
            ).movedim(2, 1),
        ),
    ],
    "LeakyReLU": [
        Row(
            partial(layers.LeakyReLU, 0.1),
            (3, 5),
            lambda torch, x: torch.nn.functional.leaky_relu(x, 0.1),
        ),
    ],
    "ReLU": [
        Row(layers.ReLU, (3, 5), lambda torch, x: torch.relu(x)),
        Row(
            partial(layers.ReLU, 0.75, 0.2, 0.05),
            (3, 5),
            lambda torch, x: torch.where(x > 0.05, x.clamp(max=0.75), 0.2 * (x - 0.05)),
        ),
    ],
    "Rescaling": [
        Row(partial(layers.Rescaling, 1 / 255), (3, 5), lambda torch, x: x / 255),
        Row(partial(layers.Rescaling, 2.0, offset=-1.0), (3, 5), lambda torch, x: x * 2 - 1),
    ],
    "SpatialDropout1D": [
        Row(partial(layers.SpatialDropout1D, RATE, SEED), (3, 4, 5), shared(3, 1, 5)),
    ],
    "SpatialDropout2D": [
        Row(partial(layers.SpatialDropout2D, RATE, None, SEED), (3, 2, 4, 5), shared(3, 1, 1, 5)),
        Row(
            partial(layers.SpatialDropout2D, RATE, "channels_first", SEED),
            (3, 5, 2, 4),
            shared(3, 5, 1, 1),
        ),
    ],
    "SpatialDropout3D": [
        Row(
            partial(layers.SpatialDropout3D, RATE, seed=SEED),
            (3, 2, 1, 4, 5),
            shared(3, 1, 1, 1, 5),
        ),
    ],
    "Softmax": [
        Row(layers.Softmax, (3, 5), lambda torch, x: torch.softmax(x, -1)),
        Row(partial(layers.Softmax, axis=1), (2, 3, 4), lambda torch, x: torch.softmax(x, 1)),
    ],
}
ROWS = {f"{name}{number}": row for name, rows in LAYERS.items() for number, row in enumerate(rows)}
