"""Progress output: bars on a terminal, lines in files and pipes."""

import math
import sys
import time
from collections.abc import Iterator

from minidl_kernels.surroundings import in_notebook
from tqdm import tqdm

from minidl import console
from minidl.batches import Batch
from minidl.callbacks.base import Callback, Logs
from minidl.trainer.fusion import Plan


class ProgressBar(Callback):
    """A bar for each epoch on a terminal, and one line for each epoch anywhere else."""

    comes_last = True
    writes = True

    def on_train_begin(self, logs: Logs) -> None:
        """Reset the clock and the bar."""
        self._bar: tqdm | None = None
        self._started = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Advance the bar; loss and metrics are read only when it is drawn."""
        if self._bar is None:
            title = self._title(self.model.position.epoch)
            self._bar = _bar(title, self.params["steps"], self.params["verbose"], done=batch)
        if self._bar.update():
            self._bar.set_postfix({name: console.readable(logs[name]) for name in logs})

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Replace the bar by the epoch's line."""
        self.close()
        seconds = time.perf_counter() - self._started
        console.write(line(f"{self._title(epoch)} - {seconds:.1f} s", logs), sys.stdout)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _title(self, epoch: int) -> str:
        return f"Epoch {epoch + 1}/{self.params['epochs']}"


def bar(title: str, plan: Plan, batch_size: int, verbose: int) -> Iterator[Batch]:
    """Yield the batches of a plan, with a bar on a terminal if `verbose` is 1."""
    with _bar(title, plan.samples.steps(batch_size), verbose) as shown:
        for batch in plan.feed.batches(batch_size):
            yield batch
            shown.update()


def _bar(title: str, steps: float | None, verbose: int, done: int = 0) -> tqdm:
    is_shown = in_notebook() or console.is_terminal(sys.stdout)
    return _kind_of_bar()(
        total=None if steps == math.inf else steps,
        initial=done,
        desc=title,
        unit="step",
        file=console.Output(sys.stdout),
        disable=verbose != 1 or not is_shown,
        leave=False,
        dynamic_ncols=True,
    )


def _kind_of_bar() -> type[tqdm]:
    """Return the bar of notebooks where it can be shown, otherwise that of text."""
    if in_notebook():
        from tqdm import notebook  # imports ipywidgets, if they are there

        if getattr(notebook, "IProgress", None) is not None:
            return notebook.tqdm
    return tqdm


def line(title: str, logs: Logs) -> str:
    """Return a line of results, as `console.readable` shows them.

    Examples
    --------
    >>> line("Epoch 1/2", {"loss": 0.25})
    'Epoch 1/2 - loss: 0.2500'
    """
    return " - ".join([title, *(f"{name}: {console.readable(logs[name])}" for name in logs)])


def checked_verbose(who: str, verbose: str | int) -> int:
    """Return the verbosity as 0, 1 or 2, or raise ValueError."""
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f'{who}: expected verbose to be "auto", 0, 1 or 2, got {verbose!r}.')
    return 1 if verbose == "auto" else int(verbose)
