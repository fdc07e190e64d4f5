"""Dropout and normal noise on float32 arrays: minidl's beside a plain copy and the peers.

    python -m bench.dropout [--sizes 10000 65536 ...] [--rounds 7] [--peers jax torch]

Every side returns a new array, of rows of 512 as a layer has them, with rate 0.5, on as many
threads as it takes by itself; "one thread" says where it is one. Noise, x + 0.3 n of normal
numbers n, has one thread on every side. A turn is a burst of calls of at
least a fifth of a second.

The processes keep the memory that they free (glibc is told so): else what is measured at the large
sizes is how fast the system finds fresh pages, which varied tenfold from turn to turn.
"""

import functools
import itertools
import os
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np

from bench.report import command_parser, left_out_lines, made_with, table
from bench.rounds import load_line, median_ratio, median_turn, take_turns
from bench.workers import Side, Worker, team

COLUMNS = 512
RATE, SIGMA = 0.5, 0.3
SIZES = (10_000, 65_536, 1_000_000, 10_000_000, 100_000_000)
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}  # of glibc
ONE_THREAD = {"MINIDL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
QUICK = {"sizes": SIZES[:3], "rounds": 3}

Call = Callable[[], object]
Turn = Callable[[int], float]


# ------------------------------------------------------------------------------ the sides


def turns_of(call_on: Callable[[np.ndarray], Call]) -> Turn:
    """Return a worker's turn: the seconds of a call on an array of so many rows."""

    @functools.lru_cache(maxsize=1)  # the arrays of one size at a time
    def timer(rows: int) -> timeit.Timer:
        call = call_on(np.ones((rows, COLUMNS), "float32"))
        call()  # compiles for this size
        return timeit.Timer(call)

    def turn(rows: int) -> float:
        calls, seconds = timer(rows).autorange()
        return seconds / calls

    return turn


def minidl_dropout() -> Turn:
    """Drop as a layer does."""
    import minidl

    backend = minidl.get_backend("cpu")
    address = minidl.rng.Address(seed=0, stream=0, step=0)
    return turns_of(lambda x: lambda: backend.dropout(x, RATE, address))


def shared_dropout(axis: int) -> Turn:
    """Drop as a layer with a noise shape does, with one decision for all elements along an axis."""
    import minidl

    backend = minidl.get_backend("cpu")
    address = minidl.rng.Address(seed=0, stream=0, step=0)

    def dropped(x: np.ndarray) -> np.ndarray:
        shape = (1, x.shape[1]) if axis == 0 else (x.shape[0], 1)
        keep = backend.keep_factors(shape, RATE, address, x.dtype)
        return backend.select(x, keep, 1 / (1 - RATE))

    return turns_of(lambda x: functools.partial(dropped, x))


def copy() -> Turn:
    """Copy by NumPy, which takes one thread."""
    return turns_of(lambda x: x.copy)


def threaded_copy() -> Turn:
    """Copy in equal parts by Numba's threads."""
    import numba

    @numba.njit
    def copy_part(x, out):
        for i in range(x.size):
            out[i] = x[i]

    @numba.njit(parallel=True)
    def copy_parts(x, out, parts):
        share = (x.size + parts - 1) // parts
        for part in numba.prange(parts):
            rows = slice(part * share, (part + 1) * share)
            copy_part(x[rows], out[rows])

    def copied(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        copy_parts(x.reshape(-1), out.reshape(-1), numba.get_num_threads())
        return out

    return turns_of(lambda x: functools.partial(copied, x))


def numpy_dropout() -> Turn:
    """Draw a random number for each element, compare and choose."""
    generator = np.random.default_rng(0)
    scale = np.float32(1 / (1 - RATE))

    def dropped(x: np.ndarray) -> np.ndarray:
        kept = generator.random(x.shape, dtype="float32") >= RATE
        return np.where(kept, x * scale, np.float32(0))

    return turns_of(lambda x: functools.partial(dropped, x))


def torch_dropout() -> Turn:
    """Drop by PyTorch's function."""
    import torch

    def call_on(x: np.ndarray) -> Call:
        return functools.partial(torch.nn.functional.dropout, torch.from_numpy(x), RATE)

    return turns_of(call_on)


def jax_dropout() -> Turn:
    """Drop by a compiled function with a new key for each call."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def dropped(x, call):
        kept = jax.random.bernoulli(jax.random.fold_in(jax.random.key(0), call), 1 - RATE, x.shape)
        return jnp.where(kept, x / (1 - RATE), 0)

    calls = iter(range(2**31))

    def call_on(x: np.ndarray) -> Call:
        on_device = jax.device_put(x)
        return lambda: dropped(on_device, next(calls)).block_until_ready()

    return turns_of(call_on)


def minidl_noise() -> Turn:
    """Add noise as a layer does."""
    import minidl

    backend = minidl.get_backend("cpu")
    address = minidl.rng.Address(seed=0, stream=0, step=0)
    return turns_of(lambda x: lambda: backend.noise(x, SIGMA, address))


def numpy_noise() -> Turn:
    """Draw normal numbers, multiply them and add them."""
    generator = np.random.default_rng(0)

    def noisy(x: np.ndarray) -> np.ndarray:
        y = generator.standard_normal(x.shape, dtype="float32")
        y *= np.float32(SIGMA)
        y += x
        return y

    return turns_of(lambda x: functools.partial(noisy, x))


def torch_noise() -> Turn:
    """Draw normal numbers of this deviation and add them."""
    import torch

    def call_on(x: np.ndarray) -> Call:
        given = torch.from_numpy(x)
        return lambda: torch.empty_like(given).normal_(0, SIGMA).add_(given)

    return turns_of(call_on)


MINIDL, COPY, THREADED_COPY = "minidl", "copy, one thread", "copy, all threads"
OWN = {
    MINIDL: Side(minidl_dropout),
    "minidl, noise_shape (None, 1)": Side(shared_dropout, {"axis": 1}),
    "minidl, noise_shape (1, None)": Side(shared_dropout, {"axis": 0}),
    COPY: Side(copy),
    THREADED_COPY: Side(threaded_copy),
    "NumPy random and where, one thread": Side(numpy_dropout),
}
PEERS = {
    "jax": ("JAX, compiled", Side(jax_dropout, needs="jax")),
    "torch": ("torch F.dropout", Side(torch_dropout, needs="torch")),
}
NOISE = {MINIDL: Side(minidl_noise), "NumPy standard_normal": Side(numpy_noise)}
NOISE_PEERS = {"torch": ("torch normal_", Side(torch_noise, needs="torch"))}


# ------------------------------------------------------------------------------ the program


def measure(
    sizes: Sequence[int] = SIZES, rounds: int = 7, peers: Sequence[str] = tuple(PEERS)
) -> dict[str, Any]:
    """Return what was measured, as JSON can hold it."""
    dropped = OWN | dict(PEERS[peer] for peer in peers)
    noisy = NOISE | dict(NOISE_PEERS[peer] for peer in peers if peer in NOISE_PEERS)
    return {
        "made_with": made_with(),
        **measure_sides(dropped, KEEP_MEMORY, sizes, rounds),
        "noise": measure_sides(noisy, KEEP_MEMORY | ONE_THREAD, sizes, rounds),
    }


def measure_sides(
    sides: Mapping[str, Side], variables: Mapping[str, str], sizes: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Return the rounds for all sizes, of workers with these environment variables."""
    environment = mock.patch.dict(os.environ, variables)  # which the workers inherit
    with environment, team(sides, warm_up=(1,)) as (workers, _, left_out):
        measured = [measure_size(workers, size, rounds) for size in sizes]
    return {"sizes": measured, "left_out": left_out}


def measure_size(workers: Mapping[str, Worker], size: int, rounds: int) -> dict[str, Any]:
    """Return the rounds for one size, which is rounded down to whole rows."""
    rows = max(1, size // COLUMNS)
    turns = {name: functools.partial(worker, rows) for name, worker in workers.items()}
    for first_turn in turns.values():  # in which kernels for this size are compiled
        first_turn()
    measured = take_turns(turns, rounds, title=f"{rows * COLUMNS:,} elements")
    return {"elements": rows * COLUMNS, "rounds": measured}


def section(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield "## Dropout: billions of elements a second"
    yield ""
    yield (
        "Dropout alone, at rate 0.5, on float32 arrays. A column is a number of elements. Each "
        "side returns a new array, in memory that its process already had. Medians of "
        f"{len(result['sizes'][0]['rounds'])} rounds; in brackets, how many times as fast minidl "
        f"is. Made by `python -m bench.dropout`. {result['made_with']}"
    )
    yield ""
    yield from speeds(result)
    if "noise" in result:
        yield ""
        yield "Normal noise, x + 0.3 n, as `GaussianNoise` adds it, on one thread:"
        yield ""
        yield from speeds(result["noise"])


def speeds(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of the sides, and what else the reader must know."""
    sizes = result["sizes"]
    yield from table(
        ("side", *(f"{size['elements']:,}" for size in sizes)),
        [
            (name, *(cell(size, name) for size in sizes))
            for name in sizes[0]["rounds"][0]["seconds"]
        ],
    )
    yield ""
    yield f"- {load_line([measured for size in sizes for measured in size['rounds']])}"
    yield from left_out_lines(result["left_out"])


def cell(size: Mapping[str, Any], name: str) -> str:
    """Return a side's speed, and minidl's speed over it."""
    faster = median_ratio(size["rounds"], name, MINIDL)
    compared = "" if name == MINIDL else f" ({faster:.2f})"
    return f"{speed(size, name):.3f}{compared}"


def speed(size: Mapping[str, Any], name: str) -> float:
    """Return 1e9 elements a second in the median round."""
    return size["elements"] / median_turn(size["rounds"], name) / 1e9


def draw(result: Mapping[str, Any], axes: Any) -> None:
    """Draw a line for each side, which can be told apart without colours."""
    sizes = result["sizes"]
    elements = [size["elements"] for size in sizes]
    looks = itertools.cycle(("o-", "s--", "^--", "x:", "+:", "v-.", "D-.", "*-"))
    for name in sizes[0]["rounds"][0]["seconds"]:
        axes.loglog(elements, [speed(size, name) for size in sizes], next(looks), label=name)
    axes.set(title="dropout", xlabel="float32 elements", ylabel="billions of elements a second")
    axes.margins(y=0.35)  # room for the legend
    axes.legend(fontsize="x-small", loc="upper center", ncols=2)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the report."""
    parser = command_parser("bench.dropout", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=tuple(PEERS))
    for line in section(measure(**vars(parser.parse_args(argv)))):
        print(line)


if __name__ == "__main__":
    main()
