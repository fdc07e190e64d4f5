"""Where a run of `fit` stands: what is needed, besides the model, to go on from there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minidl.batches import Samples
from minidl.metrics import Running
from minidl.optimizers import Optimizer
from minidl.parameter import Parameter


def describe_run(
    samples: Samples, held_out: Samples | None, *, batch_size: int, shuffle: bool
) -> dict[str, Any]:
    """Return what a resumed run has in common with the one that was begun, as `Position` has it."""
    return {
        "batch_size": batch_size,
        "samples": len(samples),
        "shuffle": shuffle,
        "data_checksum": samples.checksum(),
        "validation_checksum": 0 if held_out is None else held_out.checksum(),
    }


@dataclass
class Position:
    """Say between which two batches a run is; `fit` keeps it up to date.

    Attributes
    ----------
    epoch : int
        The epoch that runs, or the next one; as `fit` counts them.
    batch : int
        How many of its batches are done.
    batch_size, samples, shuffle : int
        Of the run; 0 before the first.
    data_checksum, validation_checksum : int
        `Samples.checksum` of what it trains on, and of what it is validated on; 0 without any.
    torn : bool
        Whether a step has begun to change weights and is not counted yet. Training that is broken
        off there, as by Ctrl-C, is between no two batches.
    optimizer : Optimizer, optional
        What updates its weights; `compile` puts another in its place.
    earlier : dict of str to (float, int)
        The epoch's `totals` where it was broken off.
    running : Running, optional
        What adds them up now.
    """

    epoch: int = 0
    batch: int = 0
    batch_size: int = 0
    samples: int = 0
    shuffle: int = 0
    data_checksum: int = 0
    validation_checksum: int = 0
    torn: bool = field(default=False, kw_only=True)
    optimizer: Optimizer | None = field(default=None, kw_only=True)
    earlier: dict[str, tuple[float, int]] = field(default_factory=dict, kw_only=True)
    running: Running | None = field(default=None, kw_only=True)

    def check(
        self,
        run: Mapping[str, Any],
        optimizer: Optimizer | None,
        parameters: Sequence[Parameter],
    ) -> None:
        """Raise ValueError where a run, from `describe_run`, is not the one that was begun."""
        for name, expected, received in self.differences(run):
            raise ValueError(
                f"fit: resume=True goes on with a run of {name} {expected}, received {name} "
                f"{received}; give the same, or leave resume out"
            )
        if self.batch_size and not self.is_of(optimizer, parameters):
            raise ValueError(
                "fit: resume=True goes on with a run, and since it began compile was called, or "
                "weights were frozen, unfrozen or added, so that its optimizer is not theirs; "
                "leave that out (a loaded model is compiled), or leave resume out"
            )
        if self.torn:
            raise ValueError(
                "fit: resume=True goes on between two steps, and training was broken off within "
                "one; load the last checkpoint, or leave resume out"
            )

    def is_of(self, optimizer: Optimizer | None, parameters: Sequence[Parameter]) -> bool:
        """Tell whether `optimizer` is the run's, and would go on updating `parameters`."""
        return optimizer is self.optimizer and (optimizer is None or optimizer.is_for(parameters))

    def differences(self, run: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
        """Give where a run, from `describe_run`, is not the one that was begun: name, ours, its."""
        for name, number in run.items():
            if self.batch_size and getattr(self, name) != number:
                yield name, getattr(self, name), number

    def totals(self) -> dict[str, tuple[float, int]]:
        """Return, for the loss and each metric, the epoch's sum so far and its number of samples.

        This waits for the device.
        """
        return self.earlier if self.running is None else self.running.totals()

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch, self.batch, self.earlier, self.running = self.epoch + 1, 0, {}, None
