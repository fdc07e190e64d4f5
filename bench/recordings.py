"""Checks of recorded training on a device: equal bits, numbers of launches, and products."""

import contextlib
import functools
import importlib
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.checks import Check, Mismatch, require_same_bits
from minidl import callbacks, datasets
from minidl.rng import initial_uniform

DTYPES = ("float32", "float64")
SAMPLES, BATCH_SIZES = 300, (32, 128)  # the last batch has 12 and 44 samples
EPOCHS = 4  # the last batch is replayed in the fourth
UNITS = (784, 512, 256, 10)
PLACES = (0, 1, 2, 3, 5, 16, 63)  # in a flat buffer, in elements

Network = Callable[[str, str], Any]
"""Returns a compiled network on a device, of a dtype."""


def recording_checks(
    backend: Any, network: Network, units: Sequence[int] = UNITS
) -> dict[str, Check]:
    """Return the checks of recordings."""
    checks: dict[str, Check] = {}
    for dtype in DTYPES:
        checks[f"recording, same bits, {dtype}"] = functools.partial(
            same_bits, backend, network, dtype
        )
    checks["recording, several steps in a launch"] = functools.partial(
        same_together, backend, network
    )
    checks["recording, launches"] = functools.partial(same_launches, backend, network)
    for dtype in DTYPES:
        checks[f"products at any address, {dtype}"] = functools.partial(
            same_products, backend, units, dtype
        )
    return checks


def same_bits(backend: Any, network: Network, dtype: str) -> str:
    """Compare the weights, the history and the checkpoint of recorded and of eager training."""
    seen = []
    for batch_size in BATCH_SIZES:
        what = f"batch {batch_size}"
        recorded, eager = (
            trained(backend, network, dtype, batch_size, record) for record in (True, False)
        )
        whole = SAMPLES // batch_size * EPOCHS
        # Two batches of each size are eager, and one is a trial.
        expected = (2, whole - 3 + EPOCHS - 3)
        if recorded.recording[:2] != expected:
            raise Mismatch(f"{what}: expected {expected}, got {recorded.recording}")
        for place, pair in enumerate(zip(recorded.get_weights(), eager.get_weights(), strict=True)):
            require_same_bits(*pair, f"{what}, weight {place}")
        if recorded.history.history != eager.history.history:
            raise Mismatch(f"{what}: the histories differ")
        if checkpoint(recorded) != checkpoint(eager):
            raise Mismatch(f"{what}: the checkpoints differ")
        seen.append(f"{what} with {expected[1]} replays")
    return f"{', '.join(seen)}: weights, history and checkpoint are equal"


def trained(
    backend: Any,
    network: Network,
    dtype: str,
    batch_size: int,
    record: bool,
    samples: int | None = None,
) -> Any:
    """Return a network after a few epochs."""
    (x, y), _ = datasets.mnist_5k.load_data()
    model, count = network(backend.name, dtype), samples or SAMPLES
    model.fit(x[:count], y[:count], batch_size=batch_size, epochs=EPOCHS, verbose=0, record=record)
    return model


def checkpoint(model: Any) -> bytes:
    """Return the bytes of a model's file, which has the optimizer's state and all counters."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        return path.read_bytes()


# ------------------------------------------------------------------------------ several steps


def same_together(backend: Any, network: Network) -> str:
    """Compare training where launches have several steps with training where each has one."""
    seen = []
    together = recording_module(backend).TOGETHER
    for batch_size in BATCH_SIZES:
        what = f"batch {batch_size}"
        samples = batch_size * (together + 6)  # more than one launch in an epoch
        several, single = (
            counted_training(backend, network, batch_size, samples, most)
            for most in (together, sys.maxsize)
        )
        if several[1] == 0 or single[1] > 0:
            raise Mismatch(
                f"{what}: expected launches of {together} steps and then none, "
                f"got {several[1]} and {single[1]}"
            )
        for place, pair in enumerate(
            zip(several[0].get_weights(), single[0].get_weights(), strict=True)
        ):
            require_same_bits(*pair, f"{what}, weight {place}")
        if checkpoint(several[0]) != checkpoint(single[0]):
            raise Mismatch(f"{what}: the checkpoints differ")
        seen.append(f"{what} with {several[1]} launches of {together} steps")
    return f"{', '.join(seen)}: weights and checkpoint are those of single launches"


def counted_training(
    backend: Any, network: Network, batch_size: int, samples: int, together: int
) -> tuple[Any, int]:
    """Return a trained network, and the number of launches that had several steps."""
    chain, count = recording_module(backend)._Chain, 0
    launch = chain.launch

    def counted(self: Any, stream: Any) -> None:
        nonlocal count
        count += 1
        launch(self, stream)

    chain.launch = counted
    try:
        with replays_together(backend, together):
            model = trained(backend, network, "float32", batch_size, True, samples)
    finally:
        chain.launch = launch
    return model, count


@contextlib.contextmanager
def replays_together(backend: Any, most: int | None) -> Iterator[None]:
    """Let so many replays be one launch: `sys.maxsize` for none, None for as many as usual."""
    module = recording_module(backend)
    before = module.TOGETHER
    module.TOGETHER = most or before
    try:
        yield
    finally:
        module.TOGETHER = before


def recording_module(backend: Any) -> Any:
    """Return the module that records on a device."""
    return importlib.import_module(f"{backend.kernels}.recording")


# ------------------------------------------------------------------------------ launches


def same_launches(backend: Any, network: Network) -> str:
    """Compare the launches of an eager step with those of a recorded one."""
    seen = []
    for batch_size in BATCH_SIZES:
        nodes = trained(backend, network, "float32", batch_size, True).recording.launches
        if nodes is None:
            return "not counted: this CuPy cannot describe graphs"
        launches = eager_launches(backend, network, batch_size)
        if nodes != launches + 1:
            raise Mismatch(
                f"batch {batch_size}: expected one node more than the {launches} launches of an "
                f"eager step, got {nodes}"
            )
        seen.append(f"batch {batch_size}: {launches} launches, {nodes} nodes")
    return ", ".join(seen)


def eager_launches(backend: Any, network: Network, batch_size: int) -> int:
    """Return the number of launches of the third eager step."""
    (x, y), _ = datasets.mnist_5k.load_data()
    counted = LaunchCount(backend)
    network(backend.name, "float32").fit(
        x, y, batch_size=batch_size, verbose=0, record=False, callbacks=[counted]
    )
    return counted.launches


class LaunchCount(callbacks.Callback):
    """Capture the third step in a CUDA graph of its own, which is not launched, and stop there."""

    def __init__(self, backend: Any):
        self._cuda = backend.xp.cuda
        self._recording = recording_module(backend).Recording
        self._pool = self._cuda.MemoryPool()
        self._memory = contextlib.ExitStack()

    def on_train_batch_begin(self, batch: int, logs: Any) -> None:
        """Begin to capture."""
        if batch == 2:
            self._memory.enter_context(self._cuda.using_allocator(self._pool.malloc))
            self._cuda.get_current_stream().begin_capture()

    def on_train_batch_end(self, batch: int, logs: Any) -> None:
        """Count the nodes of the graph."""
        if batch == 2:
            graph = self._cuda.get_current_stream().end_capture()
            self._memory.close()
            captured = self._recording(graph, self._pool)
            self.launches = captured.launches
            captured.close()
            self.model.stop_training = True


# ------------------------------------------------------------------------------ products


def same_products(backend: Any, units: Sequence[int], dtype: str) -> str:
    """Compare products whose second factor or result lies at several places of a flat buffer."""
    count = 0
    for batch_size in BATCH_SIZES:
        for a, b, transposed in factors(units, batch_size, dtype):
            products = [
                product(backend, a, b, transposed, place_b, place_out)
                for place_b, place_out in [*((p, 0) for p in PLACES), *((0, p) for p in PLACES)]
            ]
            for place, received in enumerate(products):
                what = f"{a.shape} by {b.shape}, transposed {transposed}, placement {place}"
                require_same_bits(received, products[0], what)
            count += 1
    return f"{count} products have the same bits at {len(PLACES)} places of a flat buffer"


def factors(
    units: Sequence[int], batch_size: int, dtype: str
) -> list[tuple[np.ndarray, np.ndarray, tuple[bool, bool]]]:
    """Return the factors of a step's products, and which of the two are transposed."""
    found = []
    for inputs, outputs in itertools.pairwise(units):
        x, weight, gradient = (
            initial_uniform(shape, 1.0, seed=7, stream=number).astype(dtype)
            for number, shape in enumerate(
                ((batch_size, inputs), (inputs, outputs), (batch_size, outputs))
            )
        )
        found += [
            (x, weight, (False, False)),
            (x, gradient, (True, False)),
            (gradient, weight, (False, True)),
        ]
    return found


def product(
    backend: Any,
    a: np.ndarray,
    b: np.ndarray,
    transposed: tuple[bool, bool],
    place_b: int,
    place_out: int,
) -> np.ndarray:
    """Return the product of two matrices; `b` and the result lie at places of flat buffers."""
    xp = backend.xp
    with backend.active:
        rows = a.shape[1] if transposed[0] else a.shape[0]
        columns = b.shape[0] if transposed[1] else b.shape[1]
        placed_b = xp.zeros(place_b + b.size, b.dtype)[place_b:].reshape(b.shape)
        placed_b[...] = backend.asarray(b)
        out = xp.zeros(place_out + rows * columns, a.dtype)[place_out:].reshape(rows, columns)
        backend.matmul(
            backend.asarray(a),
            placed_b,
            transpose_a=transposed[0],
            transpose_b=transposed[1],
            out=out,
        )
        return backend.to_numpy(out)
