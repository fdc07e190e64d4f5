"""Program of workers on GPUs: train on each kind of device, and keep what each run leaves.

    mpiexec -n 2 python tests/distributed/cuda_program.py FOLDER DEVICES...

A device is the number of GPUs that the test double of CuPy pretends to have, or a real one by its
name. Each run gets a folder of its own in FOLDER, for the number of workers and the device.
"""

import gc
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # cuda_double
sys.path.append(str(Path(__file__).parents[1] / "ptx"))

import minidl
from minidl import callbacks, layers, models, optimizers
from minidl.distributed import DataParallel

NUMBERS = np.random.default_rng(0)
X, Y = NUMBERS.normal(size=(28, 5)).astype("float32"), NUMBERS.integers(0, 3, 28)


class Counter(callbacks.Callback):
    """Counts what the device and its link to the host do in each step."""

    def __init__(self, counts):
        super().__init__()
        self.counts, self.steps = counts, []

    def on_train_batch_begin(self, batch, logs):
        self.counts.reset()

    def on_train_batch_end(self, batch, logs):
        self.steps.append({name: n for name, n in asdict(self.counts).items() if n})


def train(folder, device, counts):
    """Train a small network by all workers, and keep its state in a folder."""
    distribution = DataParallel(shards=4)
    name = distribution.device(device)
    folder.mkdir(exist_ok=True)
    model = models.Sequential(
        [
            layers.Dense(6, activation="relu", input_shape=(5,)),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ],
        seed=3,
        device=name,
    )
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    counter = [] if counts is None else [Counter(counts)]
    history = model.fit(
        X,
        Y,
        batch_size=8,
        epochs=2,
        verbose=0,
        validation_data=(X[:9], Y[:9]),
        callbacks=[callbacks.ModelCheckpoint(folder), *counter],
        distribution=distribution,
    )
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    (folder / f"weights-{distribution.rank}").write_bytes(weights)
    facts = {"history": history.history, "device": name, "sent": distribution.bytes_sent}
    facts |= {"recording": model.recording._asdict()}
    facts |= {"steps": counter[0].steps if counter else []}
    (folder / f"facts-{distribution.rank}").write_text(json.dumps(facts))


def main(folder, *devices):
    """Train on each device."""
    minidl.set_num_threads(1)
    size = DataParallel(shards=4).size
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for device in devices:
        place = Path(folder) / f"{size}-{device}"
        if not device.isdigit():
            train(place, device, None)
            continue
        from cuda_double.install import cuda_double

        with cuda_double(int(device)) as counts:
            train(place, "cuda", counts)
            gc.collect()  # while the devices of its recordings are there


if __name__ == "__main__":
    main(*sys.argv[1:])
