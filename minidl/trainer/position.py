"""Progress of a run, and the data and arguments that a resumed run must share with it."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from minidl.batches import Samples
from minidl.trainer.batch_source import BatchSource


class Position(NamedTuple):
    """Progress of a `fit` run, and the data and arguments that it was begun with.

    Attributes
    ----------
    epoch : int
        The epoch in progress, or the next one, as `fit` counts them.
    batch : int
        The number of its batches that are done.
    batch_size, samples, shuffle : int
        Arguments of the run; 0 before the first. `samples` is 0 if an iterable yields the batches.
    data_checksum, validation_checksum : int
        `Samples.checksum` of the training and validation samples; 0 without any.
    shards : int
        The number of parts that each batch is cut into.
    """

    epoch: int = 0
    batch: int = 0
    batch_size: int = 0
    samples: int = 0
    shuffle: int = 0
    data_checksum: int = 0
    validation_checksum: int = 0
    shards: int = 1

    @property
    def is_known(self) -> bool:
        """Whether a resumed run can go on here: not within an epoch of an iterable."""
        return self.samples > 0 or self.batch == 0

    def differences(self, arguments: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
        """Yield name, old and new value of each of `run_arguments` that is not the run's."""
        for name, value in arguments.items():
            if self.batch_size and getattr(self, name) != value:
                yield name, getattr(self, name), value


def run_arguments(
    samples: Samples | BatchSource,
    held_out: Samples | BatchSource | None,
    *,
    batch_size: int,
    shuffle: bool,
    shards: int = 1,
) -> dict[str, int]:
    """Return the data and arguments that a resumed run must share, as fields of `Position`."""
    return {
        "samples": len(samples) if isinstance(samples, Samples) else 0,
        "batch_size": batch_size,
        "shuffle": int(shuffle and isinstance(samples, Samples)),
        "data_checksum": _checksum(samples),
        "validation_checksum": _checksum(held_out),
        "shards": shards,
    }


def _checksum(samples: Samples | BatchSource | None) -> int:
    return samples.checksum() if isinstance(samples, Samples) else 0
