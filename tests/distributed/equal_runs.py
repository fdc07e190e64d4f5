"""Program that trains all cases, started by `mpiexec` or alone, and writes what they leave.

``python equal_runs.py FOLDER NAME [CASE ...]`` writes files to ``FOLDER/NAME``, and checksums of
each case to ``FOLDER/NAME/found.json``. It also stops some cases, and resumes all those that it
finds stopped in FOLDER, by any number of workers.
"""

import json
import shutil
import sys
import zlib
from pathlib import Path

from equal_cases import CASES, CUSTOM, LogsOfBatches

from minidl import callbacks, checkpoint, models
from minidl.distributed import DataParallel

STOPS = {"dropout": 9, "own_metrics": 14, "early_stopping": 6}  # cases, and a step of each
NOT_OF_A_PART = "logs", "warnings"  # which a resumed run lacks in part


def crc(*parts):
    """Return the checksum of bytes, or of the texts of other values."""
    total = 0
    for part in parts:
        total = zlib.crc32(part if isinstance(part, bytes) else repr(part).encode(), total)
    return total


class Seen(callbacks.Callback):
    """Keeps the logs of the epochs; it may stop after a step."""

    def __init__(self, last_step=None):
        self.last_step = last_step
        if last_step is not None:  # a method would have plain `fit` do one step at a time
            self.on_train_batch_end = self.stop_at_last_step

    def on_train_begin(self, logs):
        self.seen = []

    def on_epoch_end(self, epoch, logs):
        self.seen.append(sorted(logs.items()))

    def stop_at_last_step(self, batch, logs):
        self.model.stop_training = self.model.stop_training or self.model.step == self.last_step


def train(case, folder, distribution, last_step=None, **options):
    """Train, and return what training leaves on this process, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    used = seen, _ = Seen(last_step), callbacks.CSVLogger(folder / "log.csv", append=True)
    if case.saved is not None:
        used = *used, callbacks.ModelCheckpoint(folder, **case.saved)
    texts = case.fit(*used, distribution=distribution, **options)
    model = case.model
    arrays = {name: model.backend.to_numpy(a) for name, a in model.optimizer.state.items()}
    of_batches = [used.seen for used in case.used if isinstance(used, LogsOfBatches)]
    return {
        "weights": crc(*(weight.tobytes() for weight in model.get_weights())),
        "optimizer": crc(model.optimizer.iterations, *(a.tobytes() for a in arrays.values())),
        "rate": model.train_state.learning_rate,
        "history": crc(model.history.epoch, model.history.history),
        "logs": crc(seen.seen, of_batches),
        "counters": [model.step, model.epoch, *(stream.step for stream in model.streams())],
        "warnings": texts if distribution is None or distribution.rank == 0 else [],
    }


def files_of(folder):
    """Return length and checksum of each file."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return {name: [len(data), crc(data)] for name, data in found.items()}


def train_together(case, folder, **options):
    """Train on all workers, and return what training leaves, which must be the same on all."""
    workers = DataParallel(case.shards)
    found = train(case, folder, workers, **options)
    known = {part: value for part, value in found.items() if part != "warnings"}
    everywhere = workers.gather(known)
    assert all(each == known for each in everywhere), (folder, everywhere)
    recording = case.model.recording
    is_recorded = bool(recording.replays and not recording.reason)
    assert is_recorded or options or not case.is_recorded, (folder, recording)
    return found | {"files": files_of(folder) if workers.rank == 0 else {}}


def resume_together(name, stopped, folder):
    """Train the rest of a case that was stopped, and return what is left of the whole run."""
    workers = DataParallel(CASES[name]().shards)
    if workers.rank == 0:
        shutil.copytree(stopped, folder)
    case, path = CASES[name](), checkpoint.latest(stopped)
    case.model = models.load(path, custom_objects=CUSTOM)
    found = train_together(case, folder, resume=True)
    found["files"].pop(path.name, None)  # where it stopped
    return {part: value for part, value in found.items() if part not in NOT_OF_A_PART}


def main(root, start, *names):
    """Train all cases, or some of them."""
    root, found, size = Path(root), {}, DataParallel(99).size
    for name in names or CASES:
        case = CASES[name]()
        if case.shards >= size:
            found[name] = train_together(case, root / start / name)
    for name in (name for name in STOPS if name in (names or CASES)):
        case = CASES[name]()
        train_together(case, root / start / f"{name}-stopped", last_step=STOPS[name])
        assert case.model.step == STOPS[name]
        DataParallel(99).gather(None)  # until all files are written
        for stopped in sorted(root.glob(f"*/{name}-stopped")):
            key = f"{name}-resumed-of-{stopped.parent.name}"
            found[key] = resume_together(name, stopped, root / start / key)
    if DataParallel(99).rank == 0:
        (root / start / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
