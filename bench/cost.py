"""Model of what a step of several workers costs, and how its constants are measured.

A weight and row take 6 floating-point operations, forward and backward. The optimizer moves 28
bytes a weight, and so does about each shard of a worker after its first one: weights are read and
gradients written again, copied and added. Each worker sends two messages to each other one,
together 2 (W - 1) / W gradients of 4 bytes a weight. Nothing else is done meanwhile.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench import epochs
from bench.groups import Group, Task, minidl_training
from bench.report import table

OPERATIONS, UPDATE_BYTES, SHARD_BYTES, GRADIENT_BYTES = 6, 28, 28, 4


class Machine(NamedTuple):
    """The constants of the model, for each worker."""

    flops: float
    """Floating-point operations a second."""
    bandwidth: float
    """Bytes a second that it sends while it receives as many."""
    latency: float
    """Seconds of a message without content."""
    memory: float
    """Bytes a second of a pass over the weights, by the optimizer or for a shard."""

    @property
    def break_even(self) -> float:
        """Rows a worker for which the exchange of many workers takes as long as the products."""
        return 2 * GRADIENT_BYTES / OPERATIONS * self.flops / self.bandwidth


class Step(NamedTuple):
    """Seconds of the parts of a step."""

    products: float
    shards: float
    exchange: float
    update: float


def predict(machine: Machine, weights: int, batch: int, workers: int, shards: int) -> Step:
    """Return what a step costs; `shards` is 1 or more for each worker."""
    share = 2 * (workers - 1) / workers
    owned = -(-shards // workers)  # by the worker with the most
    return Step(
        products=OPERATIONS * weights * batch / workers / machine.flops,
        shards=SHARD_BYTES * weights * (owned - 1) / machine.memory,
        exchange=(
            share * GRADIENT_BYTES * weights / machine.bandwidth
            + 2 * (workers - 1) * machine.latency
        ),
        update=UPDATE_BYTES * weights / machine.memory,
    )


def prediction_lines(
    machine: Machine, weights: int, batch: int, workers: Sequence[int], shards: int
) -> Iterator[str]:
    """Yield the table for some numbers of workers."""
    plain = sum(predict(machine, weights, batch, 1, 1))
    yield (
        f"{weights:,} weights, batch {batch:,}, {shards} shards; a worker: {machine.flops:.3g} "
        f"flop/s, {machine.bandwidth:.3g} bytes/s sent, latency {machine.latency:.2g} s, "
        f"{machine.memory:.3g} bytes/s of memory."
    )
    yield f"Plain `fit` takes {plain * 1e3:.4g} ms a step."
    yield (
        f"b* = {machine.break_even:.0f}: with so many rows a worker, the exchange of many workers "
        "takes as long as their matrix products. Use several times as many."
    )
    yield ""
    yield from table(
        ("workers", "rows a worker", *(f"{part} ms" for part in Step._fields), "step ms", "faster"),
        [
            (
                *(f"{size}", f"{batch / size:.0f}"),
                *(f"{part * 1e3:.4g}" for part in step),
                *(f"{sum(step) * 1e3:.4g}", f"{plain / sum(step):.2f}"),
            )
            for size in workers
            for step in [predict(machine, weights, batch, size, shards)]
        ],
    )


# ------------------------------------------------------------------------------ measurement

FEW_ROWS, SOME_ROWS, MANY_ROWS = 16, 256, 2048  # in a batch, for each worker
SHARDS = 8  # of a worker
SMALL = (784, 32, 32, 10)  # a network whose exchange is mostly latency
IMAGES, EPOCHS = 8192, 4  # for each worker


def weights_of(units: Sequence[int]) -> int:
    """Return the number of weights and biases of a network."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(units))


class Times(NamedTuple):
    """Seconds of a step, of the notes' network if no other is named."""

    alone: float
    """Of plain `fit` with `FEW_ROWS`; below, of all workers with as many each."""
    together: float
    small_alone: float
    """The same, of the network `SMALL`."""
    small_together: float
    one_shard: float
    """Of all workers with `SOME_ROWS` and a shard each; below, with `SHARDS`."""
    many_shards: float
    many_rows: float
    """Of plain `fit` with `MANY_ROWS`."""


def machine_of(times: Times, workers: int) -> Machine:
    """Return the constants for which the model predicts these times.

    Times that the model cannot have, such as an exchange in less than no time, count as 1 ns.
    """
    weights, small = weights_of(epochs.UNITS), weights_of(SMALL)
    shard = _positive(times.many_shards - times.one_shard) / (SHARDS - 1)
    memory = SHARD_BYTES * weights / shard
    a_row = _positive(times.many_rows - UPDATE_BYTES * weights / memory) / MANY_ROWS
    exchange = times.together - times.alone
    small_exchange = times.small_together - times.small_alone
    a_weight = _positive(exchange - small_exchange) / (weights - small)
    latency = _positive(small_exchange - small * a_weight) / (2 * (workers - 1))
    return Machine(
        flops=OPERATIONS * weights / a_row,
        bandwidth=2 * (workers - 1) / workers * GRADIENT_BYTES / a_weight,
        latency=latency,
        memory=memory,
    )


def _positive(seconds: float) -> float:
    return max(seconds, 1e-9)


def measured_machine() -> tuple[Machine | None, str]:
    """Return the constants and a line on how they were measured.

    Started by `mpiexec`, the workers are its processes; all but the first return None. Otherwise
    two processes of this machine are started.
    """
    from minidl.distributed import DataParallel

    started = DataParallel(shards=2**20)
    workers = max(2, started.size)

    def seconds(rows: int, shards: int | None, units: Sequence[int] = epochs.UNITS) -> float:
        """Return the best time of a step, of plain `fit`, or of all workers with so many shards."""
        size = 1 if shards is None else workers
        task = Task((rows * size,), IMAGES * size, EPOCHS, units, is_synthetic=True)
        shards = None if shards is None else shards * workers
        if started.size == 1:
            options = {} if shards is None else {"shards": shards}
            (answer,) = Group("minidl", size, options)(task).values()
        elif started.rank == 0 or shards is not None:
            (answer,) = minidl_training(task, shards) or ({"seconds": [0.0]},)
        else:
            return 0.0
        return min(answer["seconds"]) / (IMAGES / rows)

    times = Times(
        alone=seconds(FEW_ROWS, None),
        together=seconds(FEW_ROWS, 1),
        small_alone=seconds(FEW_ROWS, None, SMALL),
        small_together=seconds(FEW_ROWS, 1, SMALL),
        one_shard=seconds(SOME_ROWS, 1),
        many_shards=seconds(SOME_ROWS, SHARDS),
        many_rows=seconds(MANY_ROWS, None),
    )
    if started.rank:
        return None, ""
    where = "on one machine, one thread each" if started.size == 1 else "as mpiexec placed them"
    return machine_of(times, workers), f"Measured with {workers} workers, {where}."
