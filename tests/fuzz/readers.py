"""Fuzzer of the file readers: each input must be read or rejected with a ValueError.

``python tests/fuzz/readers.py [--inputs 100000] [READER ...]`` runs for minutes to hours and prints
the memory that each reader took. The tests feed a few inputs. Inputs are valid files with bytes
changed, cut, inserted, doubled or copied from another file. Some have large numbers in the place of
lengths, and some checkpoints have another description. The folder of the inputs is printed at the
start. If a run fails, the folder stays, with the last input in it.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from minidl import images, layers, models  # noqa: E402  the checkout's own
from minidl.datasets import idx  # noqa: E402
from minidl.storage import registry, tensor_file  # noqa: E402

MEMORY_BOUND = 512 * 2**20  # beyond the memory of the process at the start, for any input
SECONDS_BOUND = 5  # of processor time, for one input
HANG_SECONDS = 60  # of the clock: a longer input ends the process
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)

# For each reader of a format, the kind and the ending of its files. The readers of weights that
# have no name here are called by the ending.
FORMATS = {
    "checkpoint": ("model", ".safetensors"),
    "torch": ("weights", ".safetensors"),
    "keras": ("weights", ".weights.h5"),
}
FORMATS |= {
    ending.removeprefix("."): (kind, ending)
    for kind, ending in registry._formats
    if kind == "weights" and (kind, ending) not in FORMATS.values()
}
READERS = ("idx", "image", *FORMATS)


# ------------------------------------------------------------------------------ valid files


def model() -> models.Sequential:
    """Return a small trained network."""
    inner = models.Sequential([layers.Dense(3, "tanh"), layers.Dropout(0.25)])
    stack = [layers.Flatten(), layers.Dense(4, "relu"), layers.Dropout(0.5), inner]
    network = models.Sequential([layers.Input((4, 3)), *stack, layers.Dense(2, "softmax")], seed=1)
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.arange(96.0).reshape(8, 4, 3) / 96
    network.fit(x, np.arange(8) % 2, epochs=2, batch_size=4, verbose=0)
    return network


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Return valid files for each reader."""
    network = model()
    network.save(folder / "x.safetensors")
    checkpoint = (folder / "x.safetensors").read_bytes()
    weights = {}
    for name, (kind, ending) in FORMATS.items():
        if kind == "weights":
            network.save_weights(folder / f"y{ending}")
            weights[name] = [(folder / f"y{ending}").read_bytes()]
    weights["torch"] += [without_checksum(*weights["torch"])] * 2
    pixels = np.arange(12, dtype="uint8").reshape(4, 3) * 20
    stream = io.BytesIO()
    np.save(stream, pixels)
    head = struct.pack(">HBB2I", 0, 8, 2, 4, 3)
    return {
        "checkpoint": [
            checkpoint,
            without_checksum(checkpoint),
            large_sample(folder / "z.safetensors"),
        ],
        **weights,
        "idx": [head + pixels.tobytes(), gzipped(head + pixels.tobytes())],
        "image": [stream.getvalue(), head + pixels.tobytes(), *pictures(pixels)],
    }


def large_sample(path: Path) -> bytes:
    """Return a small checkpoint of a network whose samples have 64 MiB."""
    network = models.Sequential([layers.Input((1,)), *(layers.Softmax() for _ in range(48))])
    network.save(path)
    content = without_checksum(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    head = content[8 : 8 + length].replace(b"[1]", b"[16777216]")
    return len(head).to_bytes(8, "little") + head + content[8 + length :]


def without_checksum(content: bytes) -> bytes:
    """Return a safetensors file without a checksum, so that its damage reaches the reader."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"].pop(tensor_file.CHECKSUM)
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + content[8 + length :]


def gzipped(content: bytes) -> bytes:
    """Return the content compressed with gzip."""
    import gzip

    return gzip.compress(content, mtime=0)


def pictures(pixels: np.ndarray) -> list[bytes]:
    """Return a picture in each format and mode."""
    from PIL import Image

    found = []
    for kind, mode in (("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "L"), ("JPEG", "RGB")):
        stream = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(stream, kind)
        found.append(stream.getvalue())
    return found


# ------------------------------------------------------------------------------ damaged files


def damage(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return `content` with random damage."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        place = chance.randrange(len(data) + 1)
        length = chance.choice((1, 2, 4, 8, 64))
        match chance.randrange(8):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << chance.randrange(8)
            case 1:
                data[place : place + length] = chance.randbytes(length)
            case 2:
                width = chance.choice((1, 2, 4, 8))
                value = chance.choice(INTERESTING) % 2 ** (8 * width)
                data[place : place + width] = value.to_bytes(
                    width, chance.choice(("big", "little"))
                )
            case 3:
                del data[place:]
            case 4:
                del data[place : place + length]
            case 5:
                data[place:place] = data[place : place + chance.choice((8, 256))]
            case 6:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                data[place : place + length] = other[start : start + length]
            case 7:
                data[place:place] = chance.choice(
                    (b"9" * 20, b"[" * 500, b'{"a":', b"\xff" * 9, b"-")
                )
    return bytes(data)


def edited_checkpoint(content: bytes, chance: random.Random) -> bytes:
    """Return an intact checkpoint with random changes of its description."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    texts = json.loads(header["__metadata__"]["minidl"])
    for _ in range(chance.choice((1, 1, 2, 5))):
        places = [(None, None, texts)]
        for _, _, thing in places:
            if isinstance(thing, dict | list):
                keys = thing if isinstance(thing, dict) else range(len(thing))
                places += [(thing, key, thing[key]) for key in keys]
        inside, key, value = chance.choice(places[1:])
        choices = [None, True, -1, 0, 2**40, 2**70, 1e300, float("nan"), "x", "", [], {}, value]
        choices += [other for _, _, other in places[1:]]
        inside[key] = json.loads(json.dumps(chance.choice(choices)))
        if isinstance(inside, list) and chance.random() < 0.2:
            inside *= 2
        if len(json.dumps(texts)) > 100_000:
            break
    header["__metadata__"]["minidl"] = json.dumps(texts)
    header["__metadata__"].pop(tensor_file.CHECKSUM, None)
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + content[8 + length :]


# ------------------------------------------------------------------------------ the readers


def readers() -> dict[str, Callable[[Path], object]]:
    """Return the readers by name; each takes the path of a file."""
    network = model()
    return {
        "checkpoint": models.load,
        **{name: network.load_weights for name, (kind, _) in FORMATS.items() if kind == "weights"},
        "idx": lambda path: idx.read(path, max_bytes=2**24),
        "image": lambda path: np.array(images.read(path, (4, 3))),
    }


def peak_memory() -> int:
    """Return the largest memory of this process since `forget_peak`, in bytes.

    On Linux ``ru_maxrss`` is no such number: it starts from the peak of the parent process, through
    fork and exec. A child of a large process would hide all that its reader takes.
    """
    if sys.platform == "linux":
        (line,) = (x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Let `peak_memory` start from the memory of now, where the system can (proc(5))."""
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")


def fuzz(name: str, count: int, seed: int = 0) -> dict[str, int]:
    """Feed `count` inputs to a reader; return how many it read and rejected, and its memory.

    A reader that hangs ends the process with its traceback.

    Raises
    ------
    AssertionError
        If an input takes more memory or time than the bounds.
    Exception
        If a reader raises anything but ValueError.
    """
    chance = random.Random(f"{name} {seed}")
    numbers = {"read": 0, "rejected": 0}
    folder = Path(tempfile.mkdtemp(prefix="minidl-fuzz-"))
    print(f"{name}: the inputs are in {folder}", file=sys.stderr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes and damaged metadata
        good = seeds(folder)
        reader = readers()[name]
        others = [content for contents in good.values() for content in contents]
        path = folder / f"input{FORMATS[name][1] if name in FORMATS else ''}"
        path.write_bytes(good[name][0])
        reader(path)  # imports libraries
        forget_peak()
        before = peak_memory()
        for content in good[name]:
            path.write_bytes(content)
            reader(path)  # must not raise
        grown = peak_memory() - before
        assert grown < MEMORY_BOUND, f"{name} took {grown:,} bytes for valid files"
        for _ in tqdm(range(count), name, disable=None):
            content = chance.choice(good[name])
            if name == "checkpoint" and chance.random() < 0.6:
                content = edited_checkpoint(content, chance)
            else:
                content = damage(content, others, chance)
            path.write_bytes(content)
            began = time.process_time()
            # Unlike a signal, this also ends compiled code.
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=sys.__stderr__)
            try:
                reader(path)
                numbers["read"] += 1
            except ValueError:
                numbers["rejected"] += 1
            finally:
                faulthandler.cancel_dump_traceback_later()
            taken, grown = time.process_time() - began, peak_memory() - before
            assert taken < SECONDS_BOUND, f"{name} took {taken:.0f} s"
            assert grown < MEMORY_BOUND, f"{name} took {grown:,} bytes"
    shutil.rmtree(folder)
    return numbers | {"MiB": (peak_memory() - before) // 2**20}


def main() -> int:
    """Fuzz the readers of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", help="default: all")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faulthandler.enable()  # names a reader that crashes
    for name in arguments.readers or READERS:
        began = time.perf_counter()
        numbers = fuzz(name, arguments.inputs, arguments.seed)
        seconds = time.perf_counter() - began
        print(f"{name:10} {arguments.inputs:,} inputs: {numbers}, {seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
