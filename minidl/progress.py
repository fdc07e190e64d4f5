"""What a run shows of itself: bars on a terminal, lines anywhere else."""

import math
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

from minidl.batches import Batch, Feed
from minidl.callbacks import Callback, Logs


class ProgressBar(Callback):
    """Show a bar for each epoch on a terminal, and one line for each epoch anywhere else."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Start the bar."""
        self._started = time.perf_counter()
        self._bar = _bar(self._title(epoch), self.params["steps"], self.params["verbose"])

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Move the bar; loss and metrics are read when it is drawn."""
        if self._bar.update():
            self._bar.set_postfix({name: f"{value:.4f}" for name, value in logs.items()})

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Replace the bar by the epoch's line."""
        self._bar.close()
        seconds = time.perf_counter() - self._started
        print(line(f"{self._title(epoch)} - {seconds:.1f} s", logs), flush=True)

    def on_train_end(self, logs: Logs) -> None:
        """Take away the bar of an epoch that was broken off."""
        if hasattr(self, "_bar"):
            self._bar.close()

    def _title(self, epoch: int) -> str:
        return f"Epoch {epoch + 1}/{self.params['epochs']}"


def bar(title: str, feed: Feed, batch_size: int, verbose: int) -> Iterator[Batch]:
    """Give the samples in batches, with a bar on a terminal where `verbose` is 1."""
    steps = math.ceil(len(feed) / batch_size)
    with _bar(title, steps, verbose) as shown:
        for batch in feed.batches(batch_size):
            yield batch
            shown.update()


def _bar(title: str, steps: int, verbose: int) -> tqdm:
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return tqdm(
        total=steps,
        desc=title,
        unit="step",
        file=sys.stdout,
        disable=verbose != 1 or not on_terminal,
        leave=False,
        dynamic_ncols=True,
    )


def line(title: str, logs: Logs) -> str:
    """Return a line of results.

    Examples
    --------
    >>> line("Epoch 1/2", {"loss": 0.25})
    'Epoch 1/2 - loss: 0.2500'
    """
    return " - ".join([title, *(f"{name}: {value:.4f}" for name, value in logs.items())])


def checked_verbose(who: str, verbose: str | int) -> int:
    """Return how much is printed, or raise ValueError for what says nothing of it."""
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f'{who}: verbose must be "auto", 0, 1 or 2, received {verbose!r}')
    return 1 if verbose == "auto" else int(verbose)
