"""One epoch of the notes' network, in each framework.

784-512-256-10, relu, dropout 0.5 and 0.3, softmax, sparse categorical cross-entropy, Adam with
Keras' settings, weights as Glorot and Bengio start them, all samples once in a new order, the last
batch smaller. Each function takes uint8 images, labels and a batch size, and returns a function
that trains for an epoch and returns its seconds and the mean of the loss over its samples.

The peers have the images as float32 in [0, 1] from the start, which is best for them; minidl has
the bytes and scales each batch in its first layer.
"""

import functools
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

UNITS = (784, 512, 256, 10)
RATES = (0.5, 0.3)
LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7

Turn = Callable[[], tuple[float, float | None]]


def timed(epoch: Callable[[], float | None]) -> Turn:
    """Return a function that trains for an epoch and returns its seconds and its loss."""

    def turn() -> tuple[float, float | None]:
        began = time.perf_counter()
        loss = epoch()
        return time.perf_counter() - began, loss

    return turn


def scaled(images: np.ndarray) -> np.ndarray:
    """Return float32 rows in [0, 1]."""
    return images.reshape(len(images), -1).astype("float32") / np.float32(255)


def glorot_uniform(generator: np.random.Generator) -> list[np.ndarray]:
    """Return first weights of shapes (in, out)."""
    return [
        generator.uniform(-1, 1, (fan_in, fan_out)).astype("float32")
        * np.float32((6 / (fan_in + fan_out)) ** 0.5)
        for fan_in, fan_out in itertools.pairwise(UNITS)
    ]


def minidl_network(
    shape: tuple[int, ...], device: str = "cpu", units: Sequence[int] = UNITS
) -> Any:
    """Return minidl's network for images of a shape, compiled."""
    from minidl import layers, models

    model = models.Sequential(
        [
            layers.Rescaling(1 / 255, input_shape=shape),
            layers.Flatten(),
            layers.Dense(units[1], activation="relu"),
            layers.Dropout(RATES[0]),
            layers.Dense(units[2], activation="relu"),
            layers.Dropout(RATES[1]),
            layers.Dense(units[3], activation="softmax"),
        ],
        device=device,
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def minidl_epoch(
    images: np.ndarray, labels: np.ndarray, batch_size: int, *, record: bool = True
) -> Turn:
    """Train by `fit`, with recorded steps or eagerly."""
    model = minidl_network(images.shape[1:])

    def epoch() -> float:
        history = model.fit(images, labels, batch_size=batch_size, verbose=0, record=record)
        require_recorded(model, record)
        return history.history["loss"][0]

    return timed(epoch)


def require_recorded(model: Any, record: bool) -> None:
    """Raise if steps that should be recorded were eager: they would be timed as recorded ones."""
    if record and model.recording.reason:
        raise RuntimeError(f"steps were not recorded: {model.recording.reason}")


def jax_epoch(
    images: np.ndarray, labels: np.ndarray, batch_size: int, *, device: str = "cpu"
) -> Turn:
    """Train by one compiled scan over the batches; weights are updated in place."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others need the GPU's memory
    import jax
    import jax.numpy as jnp

    if device != "cpu":
        jax.config.update("jax_default_matmul_precision", "highest")  # without TF32
        jax.config.update("jax_default_device", jax.devices("cuda")[number_of(device)])
    count = len(images)
    whole = count // batch_size * batch_size
    x, y = jax.device_put(scaled(images)), jax.device_put(labels.astype("int32"))
    generator = np.random.default_rng(0)

    def loss_of(layers, rows, key):
        h = x[rows]
        for (weight, bias), rate, layer_key in zip(
            layers, RATES, jax.random.split(key, len(RATES)), strict=False
        ):
            h = jax.nn.relu(h @ weight + bias)
            kept = jax.random.bernoulli(layer_key, 1 - rate, h.shape)
            h = jnp.where(kept, h / (1 - rate), 0)
        weight, bias = layers[-1]
        log_probabilities = jax.nn.log_softmax(h @ weight + bias)
        return -jnp.take_along_axis(log_probabilities, y[rows][:, None], axis=1).mean()

    def step(state, rows):
        layers, mean, square, t = state
        t += 1
        loss, gradient = jax.value_and_grad(loss_of)(
            layers, rows, jax.random.fold_in(jax.random.key(0), t)
        )
        mean = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, mean, gradient)
        square = jax.tree.map(lambda s, g: BETA_2 * s + (1 - BETA_2) * g * g, square, gradient)
        rate = LEARNING_RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        layers = jax.tree.map(
            lambda w, m, s: w - rate * m / (jnp.sqrt(s) + EPSILON), layers, mean, square
        )
        return (layers, mean, square, t), loss * len(rows)

    @functools.partial(jax.jit, donate_argnums=0)
    def scan(state, order):
        state, losses = jax.lax.scan(step, state, order[:whole].reshape(-1, batch_size))
        total = losses.sum()
        if whole < count:
            state, loss = step(state, order[whole:])
            total += loss
        return state, total / count

    layers = [(w, np.zeros(w.shape[1], "float32")) for w in glorot_uniform(generator)]
    zeros = [jax.tree.map(np.zeros_like, layers) for _ in range(2)]
    state = jax.device_put((layers, *zeros, np.int32(0)))

    def epoch() -> float:
        nonlocal state
        state, loss = scan(state, generator.permutation(count).astype("int32"))
        return float(loss)

    return timed(epoch)


def torch_epoch(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    *,
    fused: bool = False,
    compiled: bool = False,
    device: str = "cpu",
    graph: bool = False,
    parallel: bool = False,
) -> Turn:
    """Train step by step: default or fused Adam; eager, compiled, or as a CUDA graph.

    With `parallel`, each process of `torch.distributed` trains on its part of every batch.
    """
    import torch
    from torch import distributed, nn

    if device != "cpu":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    x = torch.from_numpy(scaled(images)).to(device)
    y = torch.from_numpy(labels.astype("int64")).to(device)
    linear = [nn.Linear(*units, device=device) for units in itertools.pairwise(UNITS)]
    for layer in linear:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    network = nn.Sequential(
        *(linear[0], nn.ReLU(), nn.Dropout(RATES[0])),
        *(linear[1], nn.ReLU(), nn.Dropout(RATES[1])),
        linear[2],
    )
    rank, size = 0, 1
    if parallel:
        rank, size = distributed.get_rank(), distributed.get_world_size()
        network = nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.Adam(
        network.parameters(),
        lr=LEARNING_RATE,
        betas=(BETA_1, BETA_2),
        eps=EPSILON,
        fused=fused or None,
        capturable=graph,
    )
    total = torch.zeros((), device=device)

    def loss_of(x, y):
        return nn.functional.cross_entropy(network(x), y)

    if compiled:
        loss_of = torch.compile(loss_of, dynamic=False)

    def step(rows):
        optimizer.zero_grad()
        loss = loss_of(x[rows], y[rows])
        loss.backward()
        optimizer.step()
        total.add_(loss.detach() * len(rows))

    if graph:
        sizes = {batch_size, len(x) % batch_size} - {0}
        step = as_graphs(step, [torch.arange(size, device=device) for size in sizes])

    def epoch() -> float:
        total.zero_()
        for rows in torch.randperm(len(x), device=device).split(batch_size):
            step(rows.tensor_split(size)[rank])
        return total.item() * size / len(x)

    return timed(epoch)


def as_graphs(step: Callable[[Any], None], places: Sequence[Any]) -> Callable[[Any], None]:
    """Return a step that copies its rows to the place of their size and replays a graph."""
    graphs = {len(place): (place, captured(functools.partial(step, place))) for place in places}

    def replay(rows: Any, kept: Any = step) -> None:  # kept: a graph reads the step's tensors
        place, graph = graphs[len(rows)]
        place.copy_(rows)
        graph()

    return replay


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """Return the replay of a CUDA graph, captured as PyTorch's manual says."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def number_of(device: str) -> int:
    """Return the number of a CUDA device, 0 without one in its name."""
    return int(device.partition(":")[2] or 0)


def products_epoch(images: np.ndarray, labels: np.ndarray, batch_size: int) -> Turn:
    """Compute the matrix products of an epoch, forward and backward, and nothing else."""
    batches, rest = divmod(len(images), batch_size)

    def epoch() -> None:
        for a, b, out in products * batches + last_products:
            np.matmul(a, b, out=out)

    products, last_products = products_of_step(batch_size), products_of_step(rest)
    return timed(epoch)


def products_of_step(rows: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return pairs of factors with the array for their product; without rows there are none."""
    if rows == 0:
        return []
    generator = np.random.default_rng(0)
    weights = glorot_uniform(generator)
    h = [generator.random((rows, units), dtype="float32") for units in UNITS]
    gradients = [generator.random((rows, units), dtype="float32") for units in UNITS]
    forward = [(h[i], w, np.empty_like(h[i + 1])) for i, w in enumerate(weights)]
    backward = []
    for i, w in reversed(list(enumerate(weights))):
        backward.append((h[i].T, gradients[i + 1], np.empty_like(w)))
        if i > 0:  # nobody asks for the gradient of the images
            backward.append((gradients[i + 1], w.T, np.empty_like(h[i])))
    return forward + backward
