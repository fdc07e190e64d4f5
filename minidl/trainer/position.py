"""Progress of a run, and what a resumed run must share with it."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from minidl.batches import Samples


class Position(NamedTuple):
    """Progress of a `fit` run, and the data and arguments that it was begun with.

    Attributes
    ----------
    epoch : int
        The epoch in progress, or the next one, as `fit` counts them.
    batch : int
        The number of its batches that are done.
    batch_size, samples, shuffle : int
        Arguments of the run; 0 before the first.
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

    def differences(self, arguments: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
        """Yield name, old and new value of each of `run_arguments` that is not the run's."""
        for name, value in arguments.items():
            if self.batch_size and getattr(self, name) != value:
                yield name, getattr(self, name), value


def run_arguments(
    samples: Samples, held_out: Samples | None, *, batch_size: int, shuffle: bool, shards: int = 1
) -> dict[str, int]:
    """Return the data and arguments that a resumed run must share, as fields of `Position`."""
    return {
        "batch_size": batch_size,
        "samples": len(samples),
        "shuffle": int(shuffle),
        "data_checksum": samples.checksum(),
        "validation_checksum": 0 if held_out is None else held_out.checksum(),
        "shards": shards,
    }
