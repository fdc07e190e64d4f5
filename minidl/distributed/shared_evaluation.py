"""Validation by several workers."""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from minidl import rng
from minidl.batches import Batch
from minidl.distributed.communicator import Communicator
from minidl.engine.backward import no_grad
from minidl.trainer.fusion import Plan
from minidl.trainer.inference import Evaluation
from minidl.trainer.recorder import Done
from minidl.trainer.table import Numbers


class SharedEvaluation(Evaluation):
    """Means of loss and metrics, with whole batches dealt out to the workers.

    The sums of the batches are added in their order, so the means have the bits of `Evaluation`.
    Metrics that are not means need all outputs: each worker then does all batches.
    """

    who = "fit"

    def __init__(self, model: Any, plan: Plan, record: bool, runs: int, workers: Communicator):
        self._workers, self._is_first = workers, True
        super().__init__(model, plan, record, runs // workers.size)

    def means(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the means of loss and metrics over batches of the feed, in inference mode."""
        if not all(metric.is_mean for metric in self._plan.metrics):
            return super().means(batches)
        workers, backend = self._workers, self._model.backend
        workers.doing = "in validation"
        mine: list[tuple[int, Any, Sequence[int]]] = []
        self._totals = self._plan.new_totals()
        with backend.active, backend.stream(), rng.inference(), no_grad():
            for number, batch in enumerate(batches):
                if number % workers.size == workers.rank:
                    done = self._recorder(batch)
                    mine.append((number, backend.to_numpy(done.results["sums"]), done.counted))
            for _, sums, counts in sorted(chain(*workers.gather(mine)), key=itemgetter(0)):
                self._totals.add(backend.asarray(sums), counts)
        return dict(self._totals)

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Compare a batch; with metrics that are not means, also add it to the totals."""
        _, sums, counts, compared = self._plan.compare(batch)
        if compared is not None:
            return super().run(batch, numbers)
        return Done({"sums": sums}, counts)

    def replay(self, recording: Any, counted: Sequence[int], times: int) -> None:
        """Compare batches by a recording of `run`."""
        recording.replay(times)
