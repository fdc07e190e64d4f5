"""Compare what two versions of minidl compute, bit for bit, in one run on one machine.

    python tests/regression/compare_commits.py [COMMIT] [--keep FOLDER]

Processors differ in the last bits of their matrix products, so no results are committed. Instead
this program checks out COMMIT (default: the last commit before the rebuild) beside the working
tree, has both compute the same things in processes of their own, and compares every number:

- weights, history, evaluation, predictions and Monte-Carlo predictions of three networks with
  several optimizers after two epochs;
- checkpoints, entry by entry: entries of one name are equal, new entries may appear;
- files for Keras, PyTorch and ONNX, byte by byte;
- what the training command saves and logs;
- a run that the older version broke off in mid-epoch, resumed by both.

It exits with status 1 if anything differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
BEFORE_THE_REBUILD = "65152fb"
TIMES = {"seconds", "images_per_second", "first_step_seconds", "version"}


# ------------------------------------------------------------------------------ recording


def record(folder: Path, interrupted: Path | None) -> None:
    """Compute everything with the minidl on the path, and write it into `folder`."""
    from minidl import datasets, layers, models, optimizers

    (x, y), (x_test, y_test) = datasets.mnist_5k.load_data()
    x, y, x_test, y_test = x[:2000], y[:2000], x_test[:300], y_test[:300]
    one_hot, targets = np.eye(10, dtype="float32")[y], x.reshape(len(x), -1)[:, 300:310] / 255.0
    weights = np.linspace(0.5, 1.5, len(x))

    def notes() -> Any:
        return models.Sequential(
            [
                layers.Rescaling(1 / 255, input_shape=(28, 28)),
                layers.Flatten(),
                layers.Dense(512, activation="relu"),
                layers.Dropout(0.5),
                layers.Dense(256, activation="relu"),
                layers.Dropout(0.3),
                layers.Dense(10, activation="softmax"),
            ],
            seed=3,
        )

    def nested() -> Any:
        inner = models.Sequential([layers.Dense(64, activation="tanh"), layers.Dropout(0.4)])
        return models.Sequential(
            [
                layers.Flatten(input_shape=(28, 28)),
                layers.Rescaling(1 / 255, -0.1),
                layers.Dropout(0.2, scaling="inference"),
                inner,
                layers.Dense(48, kernel_constraint="max_norm"),
                layers.ReLU(),
                layers.Dropout(0.25, seed=11),
                layers.Dense(10),
                layers.Softmax(),
            ],
            seed=2**40 + 5,
        )

    def regression() -> Any:
        return models.Sequential(
            [
                layers.Rescaling(1 / 255, input_shape=(28, 28)),
                layers.Flatten(),
                layers.Dense(40, activation="relu", kernel_initializer="he_normal"),
                layers.Dropout(0.5),
                layers.Dense(10, activation="sigmoid"),
            ],
            dtype="float64",
            seed=1,
        )

    sparse, categorical = "sparse_categorical_crossentropy", "categorical_crossentropy"
    schedule = optimizers.schedules.CosineDecay(0.05, 100)
    decays = {"weight_decay": 0.01}
    cases: dict[str, tuple[Any, Any, str, list[str], Any, dict[str, Any]]] = {
        "notes-adam": (notes, optimizers.Adam(), sparse, ["accuracy"], y, {}),
        "notes-sgd": (
            notes,
            optimizers.SGD(schedule, momentum=0.9, nesterov=True),
            sparse,
            ["accuracy", "sparse_categorical_accuracy"],
            y,
            {"batch_size": 96},
        ),
        "nested-adam": (
            nested,
            optimizers.Adam(0.002, beta_1=0.8, **decays),
            categorical,
            ["accuracy"],
            one_hot,
            {"sample_weight": weights, "validation_split": 0.2},
        ),
        "nested-sgd": (nested, optimizers.SGD(0.05), sparse, ["accuracy"], y, {"batch_size": 7}),
        "regression-rmsprop": (
            regression,
            optimizers.RMSprop(),
            "mse",
            [],
            targets,
            {"batch_size": 64, "shuffle": False},
        ),
        "regression-adamw": (regression, optimizers.AdamW(), "mse", [], targets, {}),
    }
    for name, (build, optimizer, loss, metrics, goal, arguments) in cases.items():
        model = build()
        model.compile(optimizer, loss, metrics=metrics)
        history = model.fit(x, goal, epochs=2, verbose=0, **arguments)
        drawn = model.predict(x_test, samples=5, verbose=0)
        numbers = {f"weight {n}": weight for n, weight in enumerate(model.get_weights())}
        numbers |= {f"history {key}": np.array(row) for key, row in history.history.items()}
        numbers["evaluation"] = np.array(model.evaluate(x, goal, verbose=0))
        numbers["prediction"] = model.predict(x_test, verbose=0)
        numbers["one prediction"] = model.predict(x_test[:1], verbose=0)
        parts = zip(drawn._fields, drawn, strict=True)
        numbers |= {f"samples {key}": part for key, part in parts if part is not None}
        np.savez(folder / f"{name}.npz", **numbers)
        model.save(folder / f"{name}.checkpoint.safetensors")
        model.save_weights(folder / f"{name}.weights.h5")
        model.save_weights(folder / f"{name}.torch.safetensors")
        model.export(folder / f"{name}.onnx")

    interrupt(folder / "interrupted.safetensors", notes, x, y)
    model = models.load(interrupted or folder / "interrupted.safetensors")
    history = model.fit(x, y, batch_size=50, epochs=3, verbose=0, resume=True)
    numbers = {f"weight {n}": weight for n, weight in enumerate(model.get_weights())}
    numbers |= {f"history {key}": np.array(row) for key, row in history.history.items()}
    np.savez(folder / "resumed.npz", **numbers)

    for device_free in (["--optimizer", "adam"], ["--optimizer", "sgd", "--max-norm", "2"]):
        name = f"command-{device_free[1]}"
        command = [sys.executable, "-m", "minidl.train", "--data", "mnist-5k", "--epochs", "2"]
        command += ["--hidden", "64", "32", "--quiet", *device_free]
        command += ["--save", str(folder / f"{name}.checkpoint.safetensors")]
        command += ["--log-json", str(folder / f"{name}.jsonl")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def interrupt(path: Path, build: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Save a run that stops in the middle of its second epoch."""
    from minidl import callbacks

    class Stop(callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any) -> None:
            self.model.stop_training = self.model.step == 57

    model = build()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=50, epochs=3, verbose=0, callbacks=[Stop()])
    model.save(path)


# ------------------------------------------------------------------------------ comparing


def contents(path: Path) -> Mapping[str, Any]:
    """Return what a file holds, entry by entry; a file without entries is one entry."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return dict(arrays)
    if path.name.endswith("safetensors"):
        with safe_open(path, framework="np") as file:
            entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            texts = file.metadata() or {}
        described = json.loads(texts.get("minidl", "{}"))
        return entries | {f"text/{name}": value for name, value in described.items()}
    if path.suffix == ".jsonl":
        return {
            f"event {n}/{name}": value
            for n, line in enumerate(path.read_text().splitlines())
            for name, value in json.loads(line).items()
            if name not in TIMES
        }
    return {"bytes": path.read_bytes()}


def differences(old: Any, new: Any, where: str) -> Iterator[str]:
    """Yield where `new` lacks an entry of `old`, or has another value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in old:
            if name in new:
                yield from differences(old[name], new[name], f"{where}/{name}")
            else:
                yield f"{where}/{name}: missing"
    elif isinstance(old, np.ndarray):
        kind = (old.dtype, old.shape)
        if kind != (new.dtype, new.shape) or old.tobytes() != new.tobytes():
            yield f"{where}: {count_different(old, new)}"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{where}[{place}]")
    elif old != new:
        shown = ("other bytes",) if isinstance(old, bytes) else (f"{old!r:.200}", f"{new!r:.200}")
        yield f"{where}: {' became '.join(shown)}"


def count_different(old: np.ndarray, new: np.ndarray) -> str:
    """Return how many numbers differ, and by how much at most."""
    if old.shape != new.shape:
        return f"shape {old.shape} became {new.shape}"
    unequal = old != new
    return f"{unequal.sum()} of {old.size} differ, at most by {abs(old - new).max():.3g}"


def compare(old: Path, new: Path) -> tuple[int, list[str]]:
    """Return the number of entries compared, and the differences."""
    found: list[str] = []
    entries = 0
    for path in sorted(old.iterdir()):
        before, after = contents(path), contents(new / path.name)
        entries += len(before)
        found += differences(before, after, path.name)
    return entries, found


def run_in(checkout: Path, folder: Path, interrupted: Path | None = None) -> None:
    """Record with the minidl of a checkout, in a process of its own."""
    folder.mkdir(parents=True)
    path = os.pathsep.join((str(checkout), str(checkout / "kernels")))
    command = [sys.executable, __file__, "--record", str(folder)]
    if interrupted is not None:
        command += ["--interrupted", str(interrupted)]
    subprocess.run(command, check=True, cwd=folder, env=os.environ | {"PYTHONPATH": path})


def main() -> int:
    """Run the comparison; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", default=BEFORE_THE_REBUILD)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what both wrote there")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--interrupted", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.record is not None:
        record(arguments.record, arguments.interrupted)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary, "results")
        checkout = Path(temporary, "checkout")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", checkout, arguments.commit], check=True)
        try:
            run_in(checkout, folder / "old")
            run_in(ROOT, folder / "new", folder / "old" / "interrupted.safetensors")
        finally:
            subprocess.run([*git, "remove", "--force", checkout], check=True)
        entries, found = compare(folder / "old", folder / "new")
    for difference in found:
        print(difference)
    print(f"{entries} entries compared with {arguments.commit}, {len(found)} differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
