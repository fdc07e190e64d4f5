"""Is the CUDA half right on this GPU, and how fast is it? A report to paste into an issue.

    python -m bench.gpu [--device cuda:N] [--quick]

The checks compare the GPU with the CPU: masks and random numbers bit for bit; values and gradients,
the loss of ten training steps, to rounding. They compare recorded training with eager training bit
for bit. A line says PASS or FAIL and what was seen. Then come times, measured on this device:
dropout, and training beside PyTorch and JAX, if these are installed. All of it takes less than 6
minutes, with `--quick` less than 2, and is also written to `bench/RESULTS.md`. The exit status is 0
if all checks passed, 1 if one failed, and 2 if the device cannot be used.
"""

import argparse
import functools
import itertools
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "engine"))

import op_table

import minidl
from bench.checks import (
    Check,
    Mismatch,
    Result,
    one_line,
    require_close,
    require_same_bits,
    result_of,
)
from bench.gpu_training import QUICK_ROUNDS, ROUNDS, training_lines
from bench.recordings import recording_checks
from bench.report import with_section
from minidl import Tensor, callbacks, datasets, layers, models, optimizers
from minidl.engine import ops
from minidl.engine.tensor import apply
from minidl.rng import Address, initial_uniform, keep_mask

FOLDER = Path(__file__).parent
EXIT_FAILED, EXIT_NO_DEVICE = 1, 2

CPU: Any = minidl.get_backend("cpu")
DTYPES = ("float16", "float32", "float64")

# ------------------------------------------------------------------------------ the head


def head(backend: Any) -> Iterator[str]:
    """Yield lines that name the versions, the device and its host."""
    runtime = backend.xp.cuda.runtime
    with backend.active:
        device = runtime.getDeviceProperties(runtime.getDevice())
    capability = f"{device['major']}.{device['minor']}"
    distributions = metadata.packages_distributions()
    yield f"## minidl {minidl.__version__} on {device['name'].decode()}"
    yield ""
    yield f"- device: {backend.name}, compute capability {capability}"
    yield f"- device memory: {device['totalGlobalMem'] / 2**30:.1f} GiB"
    yield f"- CUDA, newest that the driver takes: {cuda_version(runtime.driverGetVersion())}"
    yield f"- CUDA, runtime: {cuda_version(runtime.runtimeGetVersion())}"
    yield f"- Python: {platform.python_version()}"
    for module in ("numpy", "cupy", "numba", "numba_cuda", "cuda"):
        found = sorted(set(distributions.get(module, ())))
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in found)
        yield f"- {module}: {versions or 'not installed'}"
    yield f"- host: {platform.platform()}, {os.cpu_count()} CPU threads"


def cuda_version(number: int) -> str:
    """Return in writing what CUDA counts as 1000 * major + 10 * minor."""
    return f"{number // 1000}.{number % 1000 // 10}"


# ------------------------------------------------------------------------------ masks

SHAPES = (
    *((), (0,), (1,), (3,), (4,), (5,), (255,), (256,), (257,)),
    *((0, 3), (3, 0), (1, 256), (2, 257), (3, 63), (5, 64), (2, 3, 65), (257, 3)),
)
RATES = (0, 1e-9, 0.1, 0.5, 0.999999, 1)
ADDRESSES = (
    Address(seed=0, stream=0, step=0, row_offset=0),
    Address(seed=2**64 - 1, stream=2**30 + 3, step=2**32 - 1, row_offset=2**32 - 257),
)
ADDRESS = Address(seed=2**40 + 3, stream=5, step=7, row_offset=11)
LARGE = 2**20 + 3
VIEWS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda x: x.T,
    "every second, reversed": lambda x: x[::2, ::-1],
    "a column": lambda x: x[:, 1:2],
}


def mask_checks(
    backend: Any, shapes: Sequence[tuple[int, ...]] = SHAPES, large: int = LARGE
) -> dict[str, Check]:
    """Return the checks of dropout and random numbers against their contracts and the CPU."""
    xp = backend.xp

    def contract(dtype: str) -> str:
        for shape in shapes:
            ones = backend.asarray(np.ones(shape, dtype))
            for rate in RATES:
                for address in ADDRESSES:
                    kept = backend.dropout(ones, rate, address, rescale=False)
                    expected = keep_mask(shape, rate, **address._asdict()).astype(dtype)
                    what = f"shape {shape}, rate {rate}, {address}"
                    require_same_bits(backend.to_numpy(kept), expected, what)
        return f"{len(shapes)} shapes x {len(RATES)} rates x {len(ADDRESSES)} addresses are equal"

    def many_elements() -> str:
        mask = backend.keep_mask((1, large), 0.25, ADDRESS)
        expected = keep_mask((1, large), 0.25, **ADDRESS._asdict())
        require_same_bits(backend.to_numpy(mask), expected, f"{large:,} elements")
        return f"{large:,} elements are equal"

    def non_contiguous() -> str:
        for dtype in DTYPES:
            host = initial_uniform((19, 70), 2.0, seed=1, stream=0).astype(dtype)
            array = backend.asarray(host)
            for name, view in VIEWS.items():
                received = backend.to_numpy(backend.dropout(view(array), 0.3, ADDRESS))
                expected = CPU.dropout(view(host), 0.3, ADDRESS)
                require_same_bits(received, expected, f"{dtype}, {name}")
                require_same_bits(backend.to_numpy(array), host, f"{dtype}, {name}: the input")
        return f"{len(VIEWS)} views are dropped from as on the CPU, and not modified"

    def not_finite() -> str:
        for dtype in DTYPES:
            host = np.tile(np.array([np.nan, np.inf, -np.inf, -0.0, 1.5], dtype), (5, 13))
            for rate in (0.5, 1):
                received = backend.to_numpy(backend.dropout(backend.asarray(host), rate, ADDRESS))
                expected = CPU.dropout(host, rate, ADDRESS)
                require_same_bits(received, expected, f"{dtype}, rate {rate}")
        return "kept as the CPU keeps them, +0.0 where dropped"

    def in_parts() -> str:
        host = initial_uniform((37, 70), 2.0, seed=2, stream=0).astype("float32")
        expected = CPU.dropout(host, 0.5, ADDRESS)
        parts = ((0, 1), (1, 5), (5, 20), (20, 37))
        for start, stop in parts:
            address = ADDRESS._replace(row_offset=ADDRESS.row_offset + start)
            received = backend.dropout(backend.asarray(host[start:stop]), 0.5, address)
            what = f"rows {start} to {stop}"
            require_same_bits(backend.to_numpy(received), expected[start:stop], what)
        return f"{len(parts)} parts of a batch have the rows of the whole"

    def another_stream() -> str:
        with backend.active, xp.cuda.Stream(non_blocking=True):
            mask = backend.to_numpy(backend.keep_mask((7, large // 7), 0.5, ADDRESS))
        expected = keep_mask(mask.shape, 0.5, **ADDRESS._asdict())
        require_same_bits(mask, expected, "on a stream that does not wait for the default one")
        return "a stream that does not wait for the default one gives equal masks"

    def another_thread() -> str:
        host = np.ones((3, 70), "float32")
        x = backend.asarray(host)
        backend.dropout(x, 0.5, ADDRESS)  # the kernel and the memory are then there
        with ThreadPoolExecutor() as threads:
            received = threads.submit(backend.dropout, x, 0.5, ADDRESS).result()
        require_same_bits(
            backend.to_numpy(received), CPU.dropout(host, 0.5, ADDRESS), "in another thread"
        )
        return "the first launch of a new thread gives equal elements"

    def numbers(dtype: str) -> str:
        for shape in shapes:
            x = initial_uniform(shape, 2.0, seed=8, stream=0).astype(dtype)
            for address in ADDRESSES:
                for what, call in {
                    "uniform": lambda device, a=address, s=shape: device.uniform(s, a, dtype),
                    "normal": lambda device, a=address, s=shape: device.normal(s, a, dtype),
                    "x + sigma n": lambda device, a=address, x=x: device.noise(
                        device.asarray(x), 0.3, a
                    ),
                    "x (1 + sigma n)": lambda device, a=address, x=x: device.noise(
                        device.asarray(x), 0.3, a, is_factor=True
                    ),
                }.items():
                    received = backend.to_numpy(call(backend))
                    require_same_bits(received, call(CPU), f"{what}, shape {shape}, {address}")
        return f"{len(shapes)} shapes x {len(ADDRESSES)} addresses are equal"

    return {
        **{f"masks, {dtype}": functools.partial(contract, dtype) for dtype in DTYPES},
        **{f"numbers, {dtype}": functools.partial(numbers, dtype) for dtype in DTYPES},
        "masks, many elements": many_elements,
        "dropout, non-contiguous inputs": non_contiguous,
        "dropout, NaN and infinity": not_finite,
        "dropout, a batch in parts": in_parts,
        "dropout, another stream": another_stream,
        "dropout, another thread": another_thread,
    }


# ------------------------------------------------------------------------------ ops

# The largest difference allowed, relative to the largest magnitude of the CPU's result.
OP_LIMITS = {"float64": 1e-12, "float32": 1e-5}


class Case(NamedTuple):
    """An op, or a way through it, with its inputs in float64."""

    run: Callable[..., Tensor]
    inputs: tuple[np.ndarray, ...]


def of_table(name: str, case: Any) -> Case:
    """Return a case of the tests' table, in the dtype of its inputs and on their device."""

    def run(*inputs: Tensor) -> Tensor:
        static = case.static
        if inputs[0].dtype == np.float32:
            static = op_table.in_float32(static)
        with inputs[0].backend.active:
            static = op_table.on_device(static, inputs[0].backend)
        return apply(ops.OPS[name], *inputs, **static)

    return Case(run, case.inputs)


X = initial_uniform((6, 70), 2.0, seed=3, stream=0)
OTHER_DTYPE = {"float64": "float32", "float32": "float64"}
OPS = {
    name: [
        of_table(name, case) for case in cases if all(x.size for x in (*case.inputs, case.expected))
    ]
    for name, cases in op_table.CASES.items()
}
# In the table they leave the dtype and the device as they are.
OPS["cast"] = [Case(lambda x: x.astype(OTHER_DTYPE[x.dtype.name]), (X,))]
OPS["transfer"] = [Case(lambda x: x.to("cpu").to(x.device), (X,))]


def op_checks(backend: Any) -> dict[str, Check]:
    """Return a check of each op: its value and its gradients, against the CPU."""

    def outcome(case: Case, device: str, dtype: str) -> list[np.ndarray]:
        leaves: list[Any] = [
            Tensor(x, device, dtype=dtype, requires_grad=True) for x in case.inputs
        ]
        y = case.run(*leaves)
        cotangent = initial_uniform(y.shape, 1.0, seed=4, stream=0).astype(y.dtype)
        y.backward(Tensor(cotangent, device))
        return [y.numpy(), *(leaf.grad.numpy() for leaf in leaves)]

    def distances(case: Case, dtype: str, limit: float) -> Iterator[float]:
        pairs = zip(outcome(case, backend.name, dtype), outcome(case, "cpu", dtype), strict=True)
        for place, pair in enumerate(pairs):
            what = f"gradient {place - 1}" if place else "value"
            yield require_close(*pair, limit, f"{dtype}, {what}")

    def check(name: str) -> str:
        seen = []
        for dtype, limit in OP_LIMITS.items():
            largest = max(max(distances(case, dtype, limit)) for case in OPS[name])
            seen.append(f"{dtype} within {largest:.1e}")
        return ", ".join(seen)

    return {f"op {name}": functools.partial(check, name) for name in OPS}


# ------------------------------------------------------------------------------ training

LOSS_LIMITS = {"float64": 1e-6, "float32": 1e-4}
OPTIMIZER_LIMITS = {"float64": 1e-9, "float32": 1e-3}  # Adam divides small gradients by themselves
UNITS = (512, 256)
STEPS, BATCH = 10, 32


class Losses(callbacks.Callback):
    """Keep the mean loss of the epoch so far, after each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any) -> None:
        """Read the loss."""
        self.values.append(logs["loss"])


def notes_network(device: str, dtype: str = "float32", units: Sequence[int] = UNITS) -> Any:
    """Return the notes' network for digits, compiled."""
    model = models.Sequential(
        [
            layers.Rescaling(1 / 255, input_shape=(28, 28)),
            layers.Flatten(),
            layers.Dense(units[0], activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(units[1], activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ],
        device=device,
        dtype=dtype,
        seed=5,
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def training_checks(backend: Any, units: Sequence[int] = UNITS) -> dict[str, Check]:
    """Return the checks of gradients and of ten training steps."""
    (x, y), _ = datasets.mnist_5k.load_data()
    x, y = x[: STEPS * BATCH], y[: STEPS * BATCH]

    def gradients(device: str, dtype: str) -> dict[str, np.ndarray]:
        model = notes_network(device, dtype, units)
        with minidl.training(step=0):
            outputs = model(x[:BATCH])
            model.loss(y[:BATCH], outputs).backward()
        return {weight.name: weight.grad.numpy() for weight in model.parameters()}

    def same_gradients(dtype: str) -> str:
        received, expected = gradients(backend.name, dtype), gradients("cpu", dtype)
        distances = [
            require_close(received[name], expected[name], OP_LIMITS[dtype], name)
            for name in expected
        ]
        return f"{len(distances)} weights within {max(distances):.1e} of the CPU's"

    def trained(device: str, dtype: str) -> tuple[np.ndarray, list[np.ndarray]]:
        model, seen = notes_network(device, dtype, units), Losses()
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[seen])
        return np.array(seen.values), model.get_weights()

    def same_curve(dtype: str) -> str:
        received, expected = trained(backend.name, dtype)[0], trained("cpu", dtype)[0]
        distances = np.abs(received - expected) / expected
        if not distances.max() <= LOSS_LIMITS[dtype]:
            raise Mismatch(
                f"relative distances from the CPU's {' '.join(f'{d:.0e}' for d in distances)}, "
                f"at most {LOSS_LIMITS[dtype]:.0e} is allowed"
            )
        seen = f"loss {received[0]:.4f} to {received[-1]:.4f}"
        return f"{seen}, within {distances.max():.1e} of the CPU's"

    def same_again() -> str:
        (first, weights), (second, weights_again) = (
            trained(backend.name, "float32") for _ in range(2)
        )
        require_same_bits(second, first, "losses")
        for place, (again, weight) in enumerate(zip(weights_again, weights, strict=True)):
            require_same_bits(again, weight, f"weight {place}")
        return "losses and weights have the same bits"

    def by_dtype(title: str, check: Callable[[str], str]) -> dict[str, Check]:
        return {f"{title}, {dtype}": functools.partial(check, dtype) for dtype in LOSS_LIMITS}

    return {
        **by_dtype("training, gradients of all weights", same_gradients),
        **by_dtype("training, ten steps", same_curve),
        "training, two runs with one seed": same_again,
    }


# ------------------------------------------------------------------------------ optimizers

OPTIMIZERS: dict[str, Callable[[], optimizers.Optimizer]] = {
    "sgd": lambda: optimizers.SGD(0.1),
    "sgd with momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "sgd with Nesterov's momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: optimizers.RMSprop(0.01),
    "adam": lambda: optimizers.Adam(0.01),
    "adamw": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
}


def optimizer_checks(backend: Any, rows: int = 600) -> dict[str, Check]:
    """Return the checks of each optimizer: four updates, on batches whose rows are many chunks."""
    x, y = (
        initial_uniform((rows, 257), 1.0, seed=6, stream=0),
        initial_uniform((rows, 1), 1.0, seed=6, stream=1),
    )

    def trained(device: str, optimizer: optimizers.Optimizer, dtype: str) -> list[np.ndarray]:
        stack = [layers.Dense(33, activation="relu", input_shape=(257,)), layers.Dense(1)]
        model = models.Sequential(stack, device=device, dtype=dtype, seed=5)
        model.compile(optimizer, "mse")
        model.fit(x, y, batch_size=rows // 2, epochs=2, verbose=0)
        return model.get_weights()

    def check(name: str) -> str:
        seen = []
        for dtype, limit in OPTIMIZER_LIMITS.items():
            received, expected = (
                trained(device, OPTIMIZERS[name](), dtype) for device in (backend.name, "cpu")
            )
            distances = [
                require_close(mine, theirs, limit, f"{dtype}, weight {place}")
                for place, (mine, theirs) in enumerate(zip(received, expected, strict=True))
            ]
            seen.append(f"{dtype} within {max(distances):.1e}")
        return ", ".join(seen)

    return {f"optimizer {name}": functools.partial(check, name) for name in OPTIMIZERS}


# ------------------------------------------------------------------------------ timings

SIZES, QUICK_SIZES = tuple(2**n for n in range(16, 27, 2)), (2**16, 2**18)
BATCHES, QUICK_BATCHES = (32, 128, 512), (128,)
BURST_SECONDS = 0.02
REPEATS = 5


def seconds(backend: Any, call: Callable[[], object]) -> float:
    """Return the median time of a call, in bursts between two synchronisations."""

    def burst(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        backend.synchronize()
        return (time.perf_counter() - began) / calls

    burst(1)  # compiles, and fills the memory pools
    calls = max(1, int(BURST_SECONDS / burst(1)))
    return statistics.median(burst(calls) for _ in range(REPEATS))


def dropout_rates(backend: Any, size: int) -> list[str]:
    """Return GB/s, read and written, of dropout on float32 and of a plain copy."""
    x = backend.asarray(np.ones((size // 512, 512), "float32"))
    with backend.active:
        times = (
            seconds(backend, lambda: backend.dropout(x, 0.5, ADDRESS)),
            seconds(backend, x.copy),
        )
    return [f"{2 * x.nbytes / took / 1e9:.1f}" for took in times]


def training_times(backend: Any, batch: int, units: Sequence[int] = UNITS) -> list[str]:
    """Return ms of a step whose batch is on the device, and s of an epoch of `fit`."""
    (x, y), _ = datasets.mnist_5k.load_data()
    model = notes_network(backend.name, units=units)
    inputs, targets = Tensor(x[:batch], backend.name), Tensor(y[:batch], backend.name)
    steps = itertools.count()

    def step() -> None:
        with minidl.training(step=next(steps)):
            loss = model.loss(targets, model(inputs))
        loss.backward()
        model.optimizer.update(model.parameters())

    step_time = seconds(backend, step)
    epoch_time = seconds(backend, lambda: model.fit(x, y, batch_size=batch, verbose=0))
    return [f"{step_time * 1e3:.3f}", f"{epoch_time:.3f}"]


def table(
    title: str,
    columns: Sequence[str],
    measure: Callable[[Any, int], list[str]],
    backend: Any,
    rows: Sequence[int],
) -> Iterator[str]:
    """Yield a table: for each row what is measured on the device and, beside it, on the CPU."""
    both = [f"{column}, {who}" for who in (backend.name, "cpu") for column in columns]
    yield f"| {' | '.join([title, *both])} |"
    yield "|---" * (1 + len(both)) + "|"
    for row in rows:
        cells = []
        for device in (backend, CPU):
            try:
                cells += measure(device, row)
            except Exception as error:  # such as too little memory; the other rows are still good
                cells += [f"not measured: {one_line(error)}"] * len(columns)
        yield f"| {' | '.join([f'{row:,}', *cells])} |"


def timings(
    backend: Any, sizes: Sequence[int], batches: Sequence[int], units: Sequence[int] = UNITS
) -> Iterator[str]:
    """Yield the lines of the tables of times."""
    yield (
        f"Medians of {REPEATS}, with the time of launching; GB/s count what is read and written. "
        "A step has its batch on the device; an epoch is `fit` on 4,000 digits of the host."
    )
    yield ""
    columns = ("dropout GB/s", "copy GB/s")
    yield from table("float32 elements", columns, dropout_rates, backend, sizes)
    yield ""
    measure = functools.partial(training_times, units=units)
    yield from table("batch", ("step ms", "epoch s"), measure, backend, batches)


# ------------------------------------------------------------------------------ the report


def report(
    backend: Any,
    checks: dict[str, Check],
    times: Iterator[str],
    training: Iterator[str],
    results: list[Result],
) -> Iterator[str]:
    """Yield the lines of the report as they are found; the results are appended to `results`."""
    yield from head(backend)
    yield ""
    yield "### Checks against the CPU"
    yield ""
    for name, check in checks.items():
        results.append(result_of(name, check))
        yield str(results[-1])
    yield ""
    yield f"The longer check: `pytest --device {backend.name}`"
    yield ""
    yield "### Times, measured on this device and its host"
    yield ""
    yield from times
    yield ""
    yield "### Training beside PyTorch and JAX"
    yield ""
    yield from training
    yield ""
    passed = sum(result.passed for result in results)
    yield f"{passed} checks passed, {len(results) - passed} failed"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report, write it to a section of `RESULTS.md`, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", type=cuda_name, default="cuda", help="cuda or cuda:N")
    parser.add_argument("--quick", action="store_true", help="leave out the long timings")
    arguments = parser.parse_args(argv)
    try:
        backend = minidl.get_backend(arguments.device)
    except minidl.DeviceError as error:
        print(f"bench.gpu: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_NO_DEVICE
    checks = (
        mask_checks(backend)
        | op_checks(backend)
        | optimizer_checks(backend)
        | training_checks(backend)
        | recording_checks(backend, notes_network)
    )
    full, quick = (SIZES, BATCHES, ROUNDS), (QUICK_SIZES, QUICK_BATCHES, QUICK_ROUNDS)
    sizes, batches, rounds = quick if arguments.quick else full
    times = timings(backend, sizes, batches)
    training = training_lines(backend.name, batches, rounds)
    results: list[Result] = []
    lines = []
    for line in report(backend, checks, times, training, results):
        print(line, flush=True)
        lines.append(f"#{line}" if line.startswith("#") else line)  # below a heading of the file
    file = FOLDER / "RESULTS.md"
    text = with_section(file.read_text(encoding="utf-8"), "bench.gpu", lines)
    file.write_text(text, encoding="utf-8")
    return 0 if all(result.passed for result in results) else EXIT_FAILED


def cuda_name(text: str) -> str:
    """Return the name of a CUDA device, or refuse it."""
    if re.fullmatch(r"cuda(:\d+)?", text):
        return text
    raise argparse.ArgumentTypeError(f"expected cuda or cuda:N, got {text!r}")


if __name__ == "__main__":
    sys.exit(main())
