"""Validation by several workers."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from minidl.batches import Batch
from minidl.distributed.communicator import Communicator
from minidl.trainer.fusion import Plan
from minidl.trainer.inference import Evaluation
from minidl.trainer.recorder import Done
from minidl.trainer.table import Numbers

_Sums = tuple[int, Any, Sequence[int]]


class SharedEvaluation(Evaluation):
    """Means of loss and metrics, with whole batches dealt out to the workers.

    The sums of the batches are added in their order, so the means have the bits of `Evaluation`.
    Metrics that are not means need all outputs: each worker then does all batches.
    """

    who = "fit"

    def __init__(self, model: Any, plan: Plan, record: bool, runs: float, workers: Communicator):
        self._workers, self._is_first = workers, True
        super().__init__(model, plan, record, runs // workers.size)

    def means(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the means of loss and metrics over batches of the feed, in inference mode."""
        self._is_dealt = all(metric.is_mean for metric in self._plan.metrics)
        if not self._is_dealt:
            return super().means(batches)
        workers, backend = self._workers, self._model.backend
        workers.doing = "in validation"
        self.totals = self._plan.new_totals()
        with self._mode():
            dealt = islice(enumerate(batches), workers.rank, None, workers.size)
            # Kernels are compiled once on each machine.
            with workers.first_on_machine() if self._is_first else nullcontext():
                mine = [*self._sums_of(islice(dealt, 1))]
            mine += self._sums_of(dealt)
            self._is_first = False
            for _, sums, counts in sorted(chain(*workers.gather(mine)), key=itemgetter(0)):
                self.totals.add(backend.asarray(sums), counts)
        return dict(self.totals)

    def _sums_of(self, numbered: Iterable[tuple[int, Batch]]) -> Iterator[_Sums]:
        """Yield number, sums and counts of each batch."""
        for number, batch in numbered:
            done = self._recorder(batch)
            # A copy: a recording writes the sums of the next batch to the same place.
            yield number, self._model.backend.to_numpy(done.results["sums"]), done.counted

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Compare a batch; if each worker does all batches, also add it to the totals."""
        if not self._is_dealt:
            return super().run(batch, numbers)
        _, sums, counts, _ = self._plan.compare(batch)
        return Done({"sums": sums}, counts)

    def replay(self, recording: Any, counted: Sequence[int], times: int) -> None:
        """Compare batches by a recording of `run`."""
        recording.replay(times)
