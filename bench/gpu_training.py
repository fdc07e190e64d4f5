"""Training on a GPU: recorded and eager `fit` beside PyTorch and JAX, in float32 without TF32.

Each side works in a process of its own, one after the other in each round; see `bench/epochs.py`
for the network. The peers have their images on the GPU from the start. `fit` copies them there in
its first epoch, and records its steps in it. So a turn has two epochs, and the second one is timed.
The time of 10 epochs has all of this.
"""

import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench import epochs, images
from bench.recordings import replays_together
from bench.report import left_out_lines, table
from bench.rounds import load_line, median_ratio, median_turn, take_turns
from bench.workers import Side, Unavailable, Worker, team
from minidl import callbacks

RECORDED, EAGER = "minidl `fit`", "minidl `fit`, `record=False`"
SINGLE = "minidl `fit`, one launch a step"  # `RECORDED` has several steps in a launch
KERNELS = "kernels of a recorded step alone"
ROUNDS, QUICK_ROUNDS = 5, 2
LONG_EPOCHS, LONG_BATCH_SIZE = 10, 128
PROFILED = range(5, 15)  # batches of the second epoch


class Trained(NamedTuple):
    """What came of a few epochs at one batch size."""

    seconds: float  # of all epochs
    epoch: float  # seconds of an epoch, the first one left out
    loss: float


Turn = Callable[..., list[Trained]]
"""Takes a number of epochs and batch sizes."""


def sides(device: str) -> dict[str, Side]:
    """Return the sides: `fit`, and the peers that may be missing."""
    options = {"device": device}
    return {
        RECORDED: Side(fit_turns, options),
        SINGLE: Side(fit_turns, options | {"together": sys.maxsize}),
        EAGER: Side(fit_turns, options | {"record": False}),
        "torch eager, fused Adam": Side(torch_turns, options, needs="torch"),
        "torch CUDA graph, fused Adam": Side(torch_turns, options | {"graph": True}, needs="torch"),
        "JAX, one scan an epoch": Side(jax_turns, options, needs="jax"),
    }


# ------------------------------------------------------------------------------ sides


def fit_turns(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    device: str,
    record: bool = True,
    together: int | None = None,
) -> Turn:
    """Train by `fit`; `together` is what `replays_together` takes."""

    @functools.cache
    def model_of(batch_size: int) -> Any:
        return epochs.minidl_network(images.shape[1:], device)

    def trained(count: int, batch_size: int) -> Trained:
        model, ends = model_of(batch_size), EpochEnds()
        began = time.perf_counter()
        with replays_together(model.backend, together):
            history = model.fit(
                *(images, labels),
                batch_size=batch_size,
                epochs=count,
                verbose=0,
                record=record,
                callbacks=[ends],
            )
        whole = time.perf_counter() - began
        epochs.require_recorded(model, record)
        return Trained(whole, warm([began, *ends.times]), history.history["loss"][-1])

    return lambda count, *batch_sizes: [trained(count, size) for size in batch_sizes]


class EpochEnds(callbacks.Callback):
    """Note when the epochs end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any) -> None:
        """Wait for the device and note the time."""
        self.model.backend.synchronize()
        self.times.append(time.perf_counter())


def warm(times: Sequence[float]) -> float:
    """Return the median time between two of these, the first pair left out if there are more."""
    steps = np.diff(times)
    return statistics.median(steps[1:] if len(steps) > 1 else steps)


def torch_turns(
    images: np.ndarray, labels: np.ndarray, *, device: str, graph: bool = False
) -> Turn:
    """Train by PyTorch."""
    return turns(
        lambda size: epochs.torch_epoch(
            images, labels, size, fused=True, device=device, graph=graph
        )
    )


def jax_turns(images: np.ndarray, labels: np.ndarray, *, device: str) -> Turn:
    """Train by JAX."""
    return turns(lambda size: epochs.jax_epoch(images, labels, size, device=device))


def turns(build: Callable[[int], epochs.Turn]) -> Turn:
    """Return a function that trains for some epochs with what `build` returns for a batch size."""
    built = functools.cache(build)

    def trained(count: int, batch_size: int) -> Trained:
        times, losses = zip(*(built(batch_size)() for _ in range(count)), strict=True)
        return Trained(sum(times), warm(np.cumsum([0.0, *times])), losses[-1])

    return lambda count, *batch_sizes: [trained(count, size) for size in batch_sizes]


# ------------------------------------------------------------------------------ kernels


class Kernels(NamedTuple):
    """The kernels of a replayed step: how many, and the sum of their own times in seconds."""

    count: float
    seconds: float


def kernel_times(
    images: np.ndarray, labels: np.ndarray, *, device: str
) -> Callable[[int], Kernels]:
    """Return a function that measures the kernels of replayed steps, as CUPTI times them.

    PyTorch's profiler reads CUPTI. It sees the work of the whole process, so also minidl's.
    """
    from torch.profiler import ProfilerActivity, profile

    def measured(batch_size: int) -> Kernels:
        with profile(activities=[ProfilerActivity.CUDA]):
            pass  # CUPTI starts before there are graphs, whose kernels it can tell apart then
        profiled = Profiled(profile(activities=[ProfilerActivity.CUDA]))
        count = batch_size * (PROFILED.stop + 1)
        model = epochs.minidl_network(images.shape[1:], device)
        model.fit(
            *(images[:count], labels[:count]),
            batch_size=batch_size,
            epochs=2,
            verbose=0,
            callbacks=[profiled],
        )
        epochs.require_recorded(model, True)
        return kernels_of(profiled.profiler.events())

    return measured


def kernels_of(events: Sequence[Any]) -> Kernels:
    """Return what the profiler's events say of one of the profiled steps."""
    times = [event.time_range.elapsed_us() for event in events if "CUDA" in str(event.device_type)]
    if not times:
        raise RuntimeError("the profiler saw no kernels")
    return Kernels(len(times) / len(PROFILED), sum(times) / len(PROFILED) / 1e6)


class Profiled(callbacks.Callback):
    """Profile some steps of the second epoch, when all of them are replayed."""

    def __init__(self, profiler: Any):
        self.profiler = profiler
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any) -> None:
        """Note the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any) -> None:
        """Begin before the first of the steps."""
        if self._epoch == 1 and batch == PROFILED.start:
            self.model.backend.synchronize()
            self.profiler.start()

    def on_train_batch_end(self, batch: int, logs: Any) -> None:
        """End after the last of the steps."""
        if self._epoch == 1 and batch == PROFILED[-1]:
            self.model.backend.synchronize()
            self.profiler.stop()


def measured_kernels(
    x: np.ndarray, y: np.ndarray, device: str, batch_sizes: Sequence[int]
) -> tuple[dict[int, Kernels], dict[str, str]]:
    """Return the kernels for each batch size, and the reason if they cannot be measured."""
    side = Side(kernel_times, {"device": device}, needs="torch")
    try:
        with Worker(side, x, y) as worker:
            return {size: worker(size) for size in batch_sizes}, {}
    except Unavailable as reason:
        return {}, {KERNELS: str(reason)}


# ------------------------------------------------------------------------------ the report


def training_lines(device: str, batch_sizes: Sequence[int], rounds: int) -> Iterator[str]:
    """Yield the lines of the report on training."""
    name, x, y = images.sixty_thousand()
    yield (
        f"Microseconds a step: the second epoch of each turn, {len(x):,} images of {name}, over "
        f"its steps; medians of {rounds} rounds. In brackets the time of recorded `fit`, divided "
        "by that of the side, in the median of the rounds. float32 without TF32 on all sides. "
        f"The last columns: {LONG_EPOCHS} epochs of the warm program, one run each."
    )
    yield ""
    try:
        yield from measured_lines(device, batch_sizes, rounds, x, y)
    except Unavailable as reason:  # of `fit` itself
        yield f"not measured: {reason}"


def measured_lines(
    device: str, batch_sizes: Sequence[int], rounds: int, x: np.ndarray, y: np.ndarray
) -> Iterator[str]:
    """Yield the table of all sides, and what belongs to it."""
    warm_up = (2, *batch_sizes)
    with team(sides(device), x, y, warm_up=warm_up) as (workers, _, left_out):
        measured = {
            size: take_turns(
                {
                    name: functools.partial(epoch_seconds, worker, size)
                    for name, worker in workers.items()
                },
                rounds,
                title=f"batch {size}",
            )
            for size in batch_sizes
        }
        long = {name: worker(LONG_EPOCHS, LONG_BATCH_SIZE)[0] for name, worker in workers.items()}
    kernels, without_kernels = measured_kernels(x, y, device, batch_sizes)
    yield from table(
        (
            "side",
            *(f"batch {size}" for size in batch_sizes),
            f"s for {LONG_EPOCHS} epochs, batch {LONG_BATCH_SIZE}",
            "their loss",
        ),
        [
            (
                name,
                *(cell(measured[size], name, len(x), size) for size in batch_sizes),
                f"{trained.seconds:.2f}",
                f"{trained.loss:.3f}",
            )
            for name, trained in long.items()
        ]
        + kernel_row(measured, kernels, len(x)),
    )
    yield ""
    for size in batch_sizes:
        yield f"- batch {size}: {load_line(measured[size])}"
    yield from left_out_lines(left_out | without_kernels)


def epoch_seconds(worker: Callable[..., Any], batch_size: int) -> float:
    """Return the seconds of a warm epoch."""
    return worker(2, batch_size)[0].epoch


def steps_of(samples: int, batch_size: int) -> int:
    """Return the number of steps in an epoch."""
    return -(-samples // batch_size)


def cell(rounds: Any, name: str, samples: int, batch_size: int) -> str:
    """Return a side's microseconds a step, and minidl's time over them."""
    step = median_turn(rounds, name) / steps_of(samples, batch_size)
    return f"{step * 1e6:.1f} ({median_ratio(rounds, RECORDED, name):.2f})"


def kernel_row(
    measured: Mapping[int, Any], kernels: Mapping[int, Kernels], samples: int
) -> list[tuple[str, ...]]:
    """Return the row of the kernels alone, if they were measured."""
    if not kernels:
        return []
    cells = []
    for size, (count, seconds) in kernels.items():
        step = median_turn(measured[size], RECORDED) / steps_of(samples, size)
        cells.append(f"{seconds * 1e6:.1f} ({step / seconds:.2f}), {count:g} kernels")
    return [(KERNELS, *cells, "", "")]
