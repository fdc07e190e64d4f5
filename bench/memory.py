"""Memory: what the main command takes at its peak, and what dropout keeps for the backward pass.

python -m bench.memory
"""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.report import command_parser, made_with, table

COMMAND = ("-m", "minidl.train", "--epochs", "1", "--quiet")
QUICK_COMMAND = (*COMMAND, "--data", "mnist-5k")
QUICK = {"command": QUICK_COMMAND}
SHAPE = (128, 512)


# A process counts the memory of the one that started it as its own, so a small one starts it.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_bytes(command: Sequence[str]) -> int:
    """Return the peak of resident memory of a Python command, as the system counts it."""
    ran = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command], check=True, stdout=subprocess.PIPE
    )
    return int(ran.stdout) * (1 if sys.platform == "darwin" else 1024)


def array_bytes_kept(call: Callable[[], Any]) -> int:
    """Return the bytes of NumPy arrays that are new and alive while the result of `call` is."""
    only_arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)

    def alive() -> int:
        traces = tracemalloc.take_snapshot().filter_traces([only_arrays]).traces
        return sum(trace.size for trace in traces)

    call()  # what is made once, such as a compiled kernel's constants, is not counted
    tracemalloc.start()
    try:
        before = alive()
        result = call()
        kept = alive() - before
        del result
    finally:
        tracemalloc.stop()
    return kept


def kept_by_layer(layer: Any) -> int:
    """Return the bytes that the gradient of a layer needs besides the layer's output."""
    import minidl

    x = minidl.Tensor(np.ones(SHAPE, "float32"), requires_grad=True)

    def forward() -> Any:
        with minidl.training(step=0):
            return layer(x)

    return array_bytes_kept(forward) - forward().data.nbytes


def kept_by_network(rates: Sequence[float]) -> int:
    """Return the bytes alive between the two passes through the notes' network."""
    import minidl
    from minidl import layers, models

    (hidden, last), (rows, _) = (512, 256), SHAPE
    model = models.Sequential(
        [
            layers.Dense(hidden, activation="relu", input_shape=(784,)),
            *(layers.Dropout(rate) for rate in rates[:1]),
            layers.Dense(last, activation="relu"),
            *(layers.Dropout(rate) for rate in rates[1:]),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.ones((rows, 784), "float32"), np.zeros(rows, "uint8")

    def forward() -> Any:
        with minidl.training(step=0):
            return model.loss(y, model(x))

    return array_bytes_kept(forward)


def measure(command: Sequence[str] = COMMAND) -> dict[str, Any]:
    """Return what was measured, as JSON can hold it."""
    from minidl import layers

    return {
        "made_with": made_with(),
        "command": " ".join(("python", *command)),
        "peak": peak_bytes(command),
        "layer": kept_by_layer(layers.Dropout(0.5, seed=0)),
        "with_dropout": kept_by_network((0.5, 0.3)),
        "without_dropout": kept_by_network(()),
    }


def section(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    rows, units = SHAPE
    yield "## Memory"
    yield ""
    yield f"Made by `python -m bench.memory`. {result['made_with']}"
    yield ""
    yield from table(
        ("what", "bytes"),
        [
            (f"`{result['command']}`, peak of resident memory", f"{result['peak']:,}"),
            (
                f"`Dropout(0.5)` on {rows} x {units} float32, kept for the backward pass",
                f"{result['layer']:,}",
            ),
            (
                f"the notes' network, batch {rows}, all arrays kept for the backward pass",
                f"{result['with_dropout']:,}",
            ),
            ("the same network without its dropout layers", f"{result['without_dropout']:,}"),
        ],
    )
    yield ""
    yield (
        "The last three rows count NumPy's arrays, by `tracemalloc`. The second row leaves out the "
        "output of the layer, which the next layer keeps."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the report."""
    parser = command_parser("bench.memory", __doc__)
    parser.parse_args(argv)
    for line in section(measure()):
        print(line)


if __name__ == "__main__":
    main()
