"""Whole epochs of the notes' network: minidl's `fit`, recorded and eager, beside its peers.

    python -m bench.train [--batch-sizes 32 128 512] [--rounds 7] [--epochs 3] [--peers jax ...]

Each side trains in a process of its own, one epoch of each in turn; see `bench/epochs.py` for what
an epoch is and `bench/rounds.py` for how times are compared.
"""

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench import epochs, images
from bench.report import (
    command_parser,
    left_out_lines,
    made_with,
    numbers,
    processor,
    table,
)
from bench.rounds import (
    best_turns,
    load_line,
    median_ratio,
    median_turn,
    ratios,
    take_turns,
)
from bench.workers import Side, team

MINIDL, EAGER = "minidl `fit`", "minidl `fit`, `record=False`"
BUSY, PRODUCTS = "minidl, busy", "matrix products alone, NumPy"
PEERS = {
    "jax": ("JAX, one scan an epoch", Side(epochs.jax_epoch, needs="jax")),
    "torch": ("torch eager, default Adam", Side(epochs.torch_epoch, needs="torch")),
    "torch-fused": (
        "torch eager, fused Adam",
        Side(epochs.torch_epoch, {"fused": True}, needs="torch"),
    ),
    "torch-compile": (
        "torch.compile, fused Adam",
        Side(epochs.torch_epoch, {"fused": True, "compiled": True}, needs="torch"),
    ),
}
BATCH_SIZES = (32, 128, 512)
QUICK = {"batch_sizes": (512,), "rounds": 2, "epochs": 1, "peers": ("jax", "torch")}

Data = tuple[str, np.ndarray, np.ndarray]


def measure(
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = 7,
    epochs: int = 3,
    peers: Sequence[str] = tuple(PEERS),
    data: Data | None = None,
) -> dict[str, Any]:
    """Return what was measured, as JSON can hold it; `epochs` is the turns a round."""
    name, x, y = data or images.sixty_thousand()
    return {
        "made_with": made_with(),
        "processor": processor(),
        "data": f"{len(x):,} images of {name}",
        "epochs": epochs,
        "batches": [measure_batch(x, y, size, rounds, epochs, peers) for size in batch_sizes],
    }


def measure_batch(
    x: np.ndarray, y: np.ndarray, batch_size: int, rounds: int, epochs: int, peers: Sequence[str]
) -> dict[str, Any]:
    """Return the rounds for one batch size, with each side's losses."""
    ours = {MINIDL: RECORDED, EAGER: NOT_RECORDED, BUSY: RECORDED}
    sides = {**ours, **dict(PEERS[peer] for peer in peers), PRODUCTS: FLOOR}
    with team(sides, x, y, batch_size) as (workers, first, left_out):
        losses = {name: [loss] for name, (_, loss) in first.items()}

        def turn(name: str) -> float:
            with busy_process() if name == BUSY else contextlib.nullcontext():
                seconds, loss = workers[name]()
            losses[name].append(loss)
            return seconds

        turns: Mapping[str, Callable[[], float]] = {
            name: functools.partial(turn, name) for name in workers
        }
        measured = take_turns(turns, rounds, epochs, f"batch {batch_size}")
    return {
        "batch_size": batch_size,
        "rounds": measured,
        "losses": {name: values[:3] for name, values in losses.items()},
        "left_out": left_out,
    }


RECORDED = Side(epochs.minidl_epoch)
NOT_RECORDED = Side(epochs.minidl_epoch, {"record": False})
FLOOR = Side(epochs.products_epoch)


# It ends with its parent, also where that is killed: else it would disturb all later figures.
KEEP_BUSY = """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    pass
"""


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Keep a core busy from another process."""
    with subprocess.Popen([sys.executable, "-c", KEEP_BUSY], stdout=subprocess.PIPE) as busy:
        try:
            busy.stdout.readline()  # it has started
            yield
        finally:
            busy.kill()


def section(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield "## Training: seconds an epoch"
    yield ""
    rounds, epochs = len(result["batches"][0]["rounds"]), result["epochs"]
    yield (
        f"784-512-256-10, dropout 0.5 and 0.3, Adam, {result['data']}, shuffled. Each of {rounds} "
        f"rounds times {epochs} epoch{'s' * (epochs > 1)} of each side, in turn, and takes the "
        f"fastest. Made by `python -m bench.train`. {result['made_with']}"
    )
    yield ""
    yield "Time of minidl's `fit`, divided by the time of each side. Below 1, `fit` is faster:"
    yield ""
    yield from ratio_table(result)
    for batch in result["batches"]:
        yield ""
        yield from batch_lines(batch)


def ratio_table(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of minidl's time over each side's, for each batch size."""
    batches = result["batches"]
    names = dict.fromkeys(name for batch in batches for name in batch["rounds"][0]["seconds"])
    yield from table(
        (result["processor"], *(f"batch {batch['batch_size']}" for batch in batches)),
        [
            (name, *(_ratio(batch["rounds"], name) for batch in batches))
            for name in names
            if name not in (MINIDL, BUSY)
        ],
    )


def _ratio(rounds: Sequence[Any], name: str) -> str:
    return f"{median_ratio(rounds, MINIDL, name):.2f}" if name in rounds[0]["seconds"] else ""


def batch_lines(batch: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of one batch size and what belongs to it."""
    rounds = batch["rounds"]
    sides = [name for name in rounds[0]["seconds"] if name != BUSY]
    yield f"### Batch {batch['batch_size']}"
    yield ""
    yield from table(
        ("side", "median s", "best s", "`fit` / side", "in each round", "loss, first epochs"),
        [
            (
                name,
                f"{median_turn(rounds, name):.2f}",
                f"{min(best_turns(rounds, name)):.2f}",
                f"{median_ratio(rounds, MINIDL, name):.2f}",
                numbers(ratios(rounds, MINIDL, name)),
                numbers((loss for loss in batch["losses"][name] if loss is not None), ".3f"),
            )
            for name in sides
        ],
    )
    yield ""
    yield (
        f"- If another process keeps one core busy, an epoch of `fit` takes "
        f"{median_ratio(rounds, BUSY, MINIDL):.2f} times as long "
        f"(in each round: {numbers(ratios(rounds, BUSY, MINIDL))})."
    )
    yield f"- {load_line(rounds)}"
    yield f"- {loss_line(batch['losses'])}"
    yield from left_out_lines(batch["left_out"])


def loss_line(losses: Mapping[str, Sequence[float | None]]) -> str:
    """Return how far the sides' losses are apart, which shows whether their work is the same."""
    last = {name: values[-1] for name, values in losses.items() if values[-1] is not None}
    furthest = max(abs(loss / last[MINIDL] - 1) for loss in last.values())
    epoch = len(losses[MINIDL])
    return f"In epoch {epoch}, the losses of all sides are within {furthest:.1%} of minidl's."


HATCHES = ("", "///", "...", "xxx", "\\\\\\", "---", "ooo")


def draw(result: Mapping[str, Any], axes: Any) -> None:
    """Draw a group of bars for each batch size; hatches tell the sides apart without colours."""
    batches = result["batches"]
    names = [n for n in dict.fromkeys(n for b in batches for n in b["losses"]) if n != BUSY]
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        here = [(i, b) for i, b in enumerate(batches) if name in b["rounds"][0]["seconds"]]
        axes.bar(
            [i + place * width for i, _ in here],
            [median_turn(batch["rounds"], name) for _, batch in here],
            width,
            label=name.replace("`", ""),
            hatch=HATCHES[place % len(HATCHES)],
            edgecolor="white",
        )
    axes.set_xticks(
        [i + 0.4 - width / 2 for i in range(len(batches))],
        [f"batch {batch['batch_size']}" for batch in batches],
    )
    axes.set(title="training", ylabel="seconds an epoch")
    axes.legend(fontsize="x-small")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the report."""
    parser = command_parser("bench.train", __doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=3, help="turns of each side in a round")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=tuple(PEERS))
    for line in section(measure(**vars(parser.parse_args(argv)))):
        print(line)


if __name__ == "__main__":
    main()
