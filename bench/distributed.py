"""Training by two processes with one thread each, beside one process and beside PyTorch DDP.

    python -m bench.distributed [--quick] [--rounds 5] [--epochs 3] [--batch-sizes 128 512 2048]
    python -m bench.distributed --predict [--weights N] [--batch B] [--workers 1 2 4 8]

Each side is a group of processes, started anew in each round; see `bench/groups.py`. `--predict`
prints what a step would cost elsewhere, by the model in `bench/cost.py`. Constants that are not
given are measured here, or among the processes of an `mpiexec` that started this program.
"""

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench import cost, epochs, images
from bench.groups import Group, Task
from bench.report import command_parser, left_out_lines, made_with, processor, table
from bench.rounds import Round, load_line, median_ratio, take_turns
from bench.workers import Unavailable

BATCH_SIZES = (128, 512, 2048)
PLAIN = "minidl, plain `fit`"
QUICK = {"rounds": 1, "epochs": 2, "image_count": 4096}


def shared(shards: int, size: int) -> str:
    """Return the name of a side of minidl."""
    return f"minidl, {size} {_PROCESSES[size]}, {shards} shard{'s' * (shards > 1)}"


def ddp(adam: str, size: int) -> str:
    """Return the name of a side of PyTorch."""
    return f"PyTorch DDP, {size} {_PROCESSES[size]}, {adam} Adam"


_PROCESSES = {1: "process", 2: "processes"}
SIDES = {
    PLAIN: Group("minidl"),
    **{
        shared(shards, size): Group("minidl", size, {"shards": shards})
        for shards in (1, 2, 8)
        for size in (1, 2)
        if size <= shards
    },
    **{
        ddp(adam, size): Group("torch", size, {"fused": adam == "fused"})
        for size in (1, 2)
        for adam in ("default", "fused")
    },
}
# What is divided by what, and the goal for some batch sizes.
RATIOS: Sequence[tuple[str, str, str, str]] = (
    (
        "speed-up by the second process, 2 shards",
        *(shared(2, 1), shared(2, 2)),
        "",
    ),
    (
        "speed-up by the second process, 8 shards",
        *(shared(8, 1), shared(8, 2)),
        "at least 1.7 at 2048",
    ),
    ("1 shard over plain `fit`", shared(1, 1), PLAIN, ""),
    ("2 shards over plain `fit`", shared(2, 1), PLAIN, ""),
    (
        "8 shards over plain `fit`",
        *(shared(8, 1), PLAIN),
        "at most 1.35 at 512, 1.15 at 2048",
    ),
    *(
        (
            f"{shared(shards, size)}, over DDP with {adam} Adam",
            *(shared(shards, size), ddp(adam, size)),
            "at most 1",
        )
        for size in (1, 2)
        for adam in ("default", "fused")
        for shards in (size, 8)
    ),
)


def measure(
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = 5,
    epochs: int = 3,
    image_count: int = 20_480,
) -> dict[str, Any]:
    """Return what was measured, as JSON can hold it; `epochs` is the turns a round."""
    task = Task(batch_sizes, image_count, epochs)
    present, left_out = available(SIDES)
    answers: dict[str, list[Any]] = {name: [] for name in present}

    def turn(name: str) -> float:
        answers[name].append(present[name](task))
        return sum(sum(batch["seconds"]) for batch in answers[name][-1].values())

    turns: Mapping[str, Callable[[], float]] = {
        name: functools.partial(turn, name) for name in present
    }
    loads = [each["load"] for each in take_turns(turns, rounds, title="distributed")]
    return {
        "made_with": made_with(),
        "processor": processor(),
        "data": f"{image_count:,} images of {images.sixty_thousand()[0]}",
        "epochs": epochs,
        "batches": [batch_of(answers, size, image_count / size, loads) for size in batch_sizes],
        "left_out": left_out,
    }


def available(sides: Mapping[str, Group]) -> tuple[dict[str, Group], dict[str, str]]:
    """Return the sides that can run here, and the reasons of the others."""
    present, left_out = dict[str, Group](), dict[str, str]()
    for name, group in sides.items():
        try:
            group.check()
        except Unavailable as reason:
            left_out[name] = str(reason)
        else:
            present[name] = group
    return present, left_out


def batch_of(
    answers: Mapping[str, Sequence[Any]], batch_size: int, steps: float, loads: Sequence[float]
) -> dict[str, Any]:
    """Return what the groups answered for one batch size, with seconds of a step."""
    of_size = {name: [a[str(batch_size)] for a in each] for name, each in answers.items()}
    return {
        "batch_size": batch_size,
        "rounds": [
            {
                "seconds": {
                    name: [seconds / steps for seconds in each[n]["seconds"]]
                    for name, each in of_size.items()
                },
                "load": load,
            }
            for n, load in enumerate(loads)
        ],
        **{
            key: {name: each[-1][key] for name, each in of_size.items() if key in each[-1]}
            for key in ("loss", "sent", "checksum")
        },
    }


# ------------------------------------------------------------------------------ the report


def section(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    batches = result["batches"]
    rounds, heads = batches[0]["rounds"], [f"batch {batch['batch_size']}" for batch in batches]
    yield "## Training by two processes"
    yield ""
    yield (
        f"784-512-256-10, dropout 0.5 and 0.3, Adam, {result['data']}, shuffled, as bytes for "
        "minidl and float32 for PyTorch. One thread a process; PyTorch's DDP communicates by gloo. "
        f"Each of {len(rounds)} rounds starts each side anew, and times {result['epochs']} epochs "
        "after a first one, in which kernels are compiled and steps recorded. Made by "
        f"`python -m bench.distributed`. {result['made_with']}"
    )
    yield ""
    yield (
        "Ratios of times, each of the fastest epoch of a round. A speed-up is the time of one "
        "process divided by that of two, so larger is better. In the other rows, the time of "
        "the first side is divided by that of the second, so smaller is better:"
    )
    yield ""
    yield from table(
        (result["processor"], "goal", *heads),
        [
            (name, goal, *(_ratio(batch["rounds"], above, below) for batch in batches))
            for name, above, below, goal in RATIOS
        ],
    )
    yield ""
    yield "Milliseconds of a step: the median over all epochs, and in brackets the minimum:"
    yield ""
    yield from table(
        ("side", *heads, "bytes sent a step / bytes of the weights"),
        [
            (
                name,
                *(_milliseconds(batch["rounds"], name) for batch in batches),
                _sent(batches[0], name),
            )
            for name in rounds[0]["seconds"]
        ],
    )
    yield ""
    yield f"- {load_line(rounds)}"
    yield f"- {equal_line(batches)}"
    yield f"- {loss_line(batches)}"
    yield from left_out_lines(result["left_out"])


def summary(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of `docs/more-than-one-machine.md`."""
    batches = result["batches"]
    yield (
        "Milliseconds of a training step, for the network of the README on MNIST, one thread a "
        "process (median; the speed-up is that of the best epochs):"
    )
    yield ""
    names = [PLAIN, shared(8, 1), shared(8, 2), *(ddp(adam, 2) for adam in ("default", "fused"))]
    speed_up = [_ratio(batch["rounds"], shared(8, 1), shared(8, 2)) for batch in batches]
    yield from table(
        (result["processor"], *(f"batch {batch['batch_size']}" for batch in batches)),
        [
            *(
                (name, *(_milliseconds(batch["rounds"], name).split()[0] for batch in batches))
                for name in names
                if name in batches[0]["rounds"][0]["seconds"]
            ),
            ("speed-up by the second process, 8 shards", *speed_up),
        ],
    )


def _ratio(rounds: Sequence[Round], above: str, below: str) -> str:
    are_there = {above, below} <= rounds[0]["seconds"].keys()
    return f"{median_ratio(rounds, above, below):.2f}" if are_there else ""


def _milliseconds(rounds: Sequence[Round], side: str) -> str:
    times = [seconds * 1e3 for each in rounds for seconds in each["seconds"][side]]
    return f"{statistics.median(times):.2f} ({min(times):.2f})"


def _sent(batch: Mapping[str, Any], side: str) -> str:
    """Return the bytes sent over those of the weights, which hardly depend on the batch."""
    return f"{batch['sent'][side]:.4f}" if side in batch["sent"] else ""


def equal_line(batches: Sequence[Mapping[str, Any]]) -> str:
    """Return whether the trained weights depended on the number of processes."""
    pairs = [(shared(1, 1), PLAIN), *((shared(s, 2), shared(s, 1)) for s in (2, 8))]
    checksums = {batch["batch_size"]: batch["checksum"] for batch in batches}
    pairs = [pair for pair in pairs if all(set(pair) <= each.keys() for each in checksums.values())]
    other = [
        f"{name} at batch {size}"
        for size, each in checksums.items()
        for name, like in pairs
        if each[name] != each[like]
    ]
    if other:
        return f"The trained weights had OTHER BITS than those of one process: {', '.join(other)}"
    same = "; ".join(" as ".join(pair) for pair in pairs)
    return f"The trained weights had the same bits: {same}."


def loss_line(batches: Sequence[Mapping[str, Any]]) -> str:
    """Return how far the sides' losses are apart, which shows whether their work is the same."""
    apart = [
        max(abs(loss / batch["loss"][PLAIN] - 1) for loss in batch["loss"].values())
        for batch in batches
    ]
    return (
        f"In the last epoch, the losses of all sides are within {max(apart):.1%} of plain `fit`'s."
    )


# ------------------------------------------------------------------------------ the command


def print_prediction(options: Any) -> None:
    """Print what the model says; constants that are not given are measured."""
    given = {name: getattr(options, name) for name in cost.Machine._fields}
    line = "All constants are given."
    machine: cost.Machine | None = cost.Machine(**given)
    if None in given.values():
        machine, line = cost.measured_machine()
        if machine is None:
            return
        machine = machine._replace(**{n: value for n, value in given.items() if value is not None})
    shards = options.shards or max(8, *options.workers)
    print(line)
    for text in cost.prediction_lines(
        machine, options.weights, options.batch, options.workers, shards
    ):
        print(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the report, or predict."""
    parser = command_parser("bench.distributed", __doc__)
    parser.add_argument("--quick", action="store_true", help="a run of about a minute")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each side a round")
    model = parser.add_argument_group("prediction")
    model.add_argument("--predict", action="store_true")
    notes = cost.weights_of(epochs.UNITS)
    model.add_argument("--weights", type=int, default=notes, help=f"of the network; {notes:,}")
    model.add_argument("--batch", type=int, default=2048, help="rows of a whole batch; 2048")
    model.add_argument("--workers", type=int, nargs="+", default=(1, 2, 4, 8))
    model.add_argument("--shards", type=int, help="8, or the number of workers if that is more")
    helps = {
        "flops": "floating-point operations a second of a worker",
        "bandwidth": "bytes a second that a worker sends",
        "latency": "seconds of a message",
        "memory": "bytes a second of a pass over the weights",
    }
    for name, text in helps.items():
        model.add_argument(f"--{name}", type=float, help=f"{text}; measured by default")
    options = parser.parse_args(argv)
    if options.predict:
        print_prediction(options)
        return
    chosen = {name: getattr(options, name) for name in ("batch_sizes", "rounds", "epochs")}
    for line in section(measure(**(chosen | QUICK if options.quick else chosen))):
        print(line)


if __name__ == "__main__":
    main()
