"""Where a run of `fit` stands: what is needed, besides the model, to go on from there."""

from dataclasses import dataclass, field

from minidl.metrics import Running


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
    earlier: dict[str, tuple[float, int]] = field(default_factory=dict, kw_only=True)
    running: Running | None = field(default=None, kw_only=True)

    def check(self, batch_size: int, samples: int, shuffle: bool) -> None:
        """Raise ValueError where a run with these numbers is not the one that was begun."""
        asked = {"batch_size": batch_size, "samples": samples, "shuffle": shuffle}
        for name, number in asked.items():
            if self.batch_size and getattr(self, name) != number:
                raise ValueError(
                    f"fit: resume=True goes on with a run of {name} {getattr(self, name)}, "
                    f"received {name} {number}; give the same, or leave resume out"
                )

    def totals(self) -> dict[str, tuple[float, int]]:
        """Return, for the loss and each metric, the epoch's sum so far and its number of samples.

        This waits for the device.
        """
        return self.earlier if self.running is None else self.running.totals()

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch, self.batch, self.earlier, self.running = self.epoch + 1, 0, {}, None
