"""The training step of several workers: gradients of shards, their exchange, one update each."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from minidl.backend import Array
from minidl.batches import Batch
from minidl.distributed.communicator import Communicator
from minidl.distributed.exchange import Exchange
from minidl.distributed.tree import owned, rows_of
from minidl.engine.parameter import Parameter
from minidl.engine.tensor import Tensor
from minidl.layers.updates import Updates
from minidl.rng import RandomStream
from minidl.trainer.fusion import Plan
from minidl.trainer.interrupts import Interrupts
from minidl.trainer.recorder import NOT_WANTED, Done, Recorder, Recording, Watch, Work
from minidl.trainer.state import TrainState
from minidl.trainer.step import Counted, Step
from minidl.trainer.table import Numbers

PARTLY_USED = (
    "fit: expected each shard to have gradients for the same weights, got some for {} in a part of "
    "the shards. Leave distribution out, or use them always."
)
Outputs = list[tuple[np.ndarray, np.ndarray | None]]  # with their logits


class _Found(NamedTuple):
    """Results of the work on a shard, beside its gradients and its sums."""

    counts: Sequence[int]
    streams: Sequence[RandomStream]  # that drew
    outputs: Outputs | None  # for metrics that are not means


class SharedStep(Step):
    """One update from one batch, by all workers.

    A worker computes the gradients of its shards one by one. `Exchange` adds up those of all, in an
    order that does not depend on the workers. So all make the same update. As a `Work`, it is this
    update alone; the part before is another one, so that the exchange is between two recordings.

    Parameters
    ----------
    state, plan, interrupts
        As in `Step`.
    communicator : Communicator
        The workers.
    shards : int
        The number of shards.
    """

    def __init__(
        self,
        state: TrainState,
        plan: Plan,
        interrupts: Interrupts,
        communicator: Communicator,
        shards: int,
    ):
        self.shards, self._communicator = shards, communicator
        size = communicator.size
        self._all_owned = [owned(shards, size, rank) for rank in range(size)]
        self.own_shards = self._all_owned[communicator.rank]
        self._tails: Array = None
        self._places: Updates = {}
        self._has_updated = False
        super().__init__(state, plan, interrupts)
        self._work = _ShardGradients(self)
        self.recorder(NOT_WANTED)

    def begin_epoch(self) -> None:
        """Choose the weights to train."""
        super().begin_epoch()
        self.without = set[Parameter]()  # the weights without a gradient in the latest step
        # A new one, since its buffers have the size of the trained weights.
        self._exchange = Exchange(self._communicator, self.shards, self.state.model.backend)

    # -------------------------------------------------------------------- as a recorder

    def recorder(self, reason: str) -> "SharedStep":
        """Return itself: it has a recorder for each of its two parts."""
        device = self.state.model.backend, self.state.model.dtype
        self._shard_recorder = Recorder(*device, self._work, reason)
        self._update_recorder = Recorder(*device, self, reason)
        return self

    @property
    def report(self) -> Recording:
        """The reports on both parts, added up."""
        shard, update = self._shard_recorder.report, self._update_recorder.report
        is_known = shard.launches is not None and update.launches is not None
        return Recording(
            shard.recordings + update.recordings,
            shard.replays + update.replays,
            (shard.launches or 0) + (update.launches or 0) if is_known else None,
            shard.reason or update.reason,
        )

    def give_up(self, reason: str) -> None:
        """Do all further batches eagerly."""
        self._shard_recorder.give_up(reason)
        self._update_recorder.give_up(reason)

    def work_ahead(self, batch: Batch, most: int) -> int:
        """Update the weights once, and return 1."""
        self(batch)
        return 1

    # -------------------------------------------------------------------- the step

    def __call__(self, batch: Batch) -> None:
        """Update the weights once."""
        workers, partial_sums = self._communicator, self._exchange.gradients
        workers.doing = f"in step {self.state.step}"
        found: dict[int, _Found] = {}
        self._is_known = False  # which weights have a gradient in this step
        self._work.begin(batch)
        for shard in self.own_shards:
            if shard > self.own_shards.start:
                partial_sums.store()
            if self._part(batch, shard):
                found[shard] = self._gradients_of(batch, shard)
            else:
                self.optimizer.gradients_of(self.trained)  # creates them in a first step
                self.optimizer.gradients[...] = 0
            partial_sums.add(shard, 1, self.optimizer.gradients)
        example = next(iter(found.values()), None)
        if example is None:  # the counts, and the weights that are used, are needed all the same
            example = self._first_of(batch)
            self.optimizer.gradients[...] = 0
        self._counts = [self._counts_of(batch, n, example.counts) for n in range(self.shards)]
        self.exchange()
        outputs: list[Outputs] = []
        if example.outputs is not None:  # before the update: a worker may fail in the meantime
            outputs = self._all_outputs({n: f.outputs for n, f in found.items()})
        # A kernel is compiled once on each machine; other workers read it from the disk.
        with nullcontext() if self._has_updated else workers.first_on_machine():
            self._update_recorder(batch)
        self._has_updated = True
        if outputs:
            self._update_metrics(batch, outputs)

    def trial(self, batch: Batch) -> np.ndarray:
        """Return the gradients of the first shard of a batch; the state stays as it was."""
        random = self.state.snapshot("random")
        self._is_known = False
        self._work.begin(batch)
        with self._communicator.first_on_machine():
            self._first_of(batch)
        self.state.load_state(random)
        for parameter in self.trained:
            parameter.grad = None
        return self.state.model.backend.to_numpy(self.optimizer.gradients)

    def exchange(self) -> None:
        """Add up the gradients of all workers, and exchange the sums of their shards."""
        self._exchange(self.optimizer.gradients, self._tails)

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Update the weights by the gradients that were exchanged."""
        optimizer = self.optimizer
        for parameter, view in optimizer.gradients_of(self.trained).items():
            parameter.grad = None if parameter in self.without else parameter.like(view)
        parts = [
            (tail, self._counts[shard])
            for shards, tails in zip(self._all_owned, self._tails, strict=True)
            for shard, tail in zip(shards, tails, strict=False)
            if self._counts[shard][0]
        ]
        with self.held():
            self.update(numbers, parts)
        results = {"gradients": optimizer.gradients, "totals": self.state.totals.sums}
        results |= self.averages()
        counts = [sum(column) for column in zip(*self._counts, strict=True)]
        return Done(optimizer.buffers | results, Counted(counts, []))

    def kept(self, found: Updates) -> Updates:
        """Copy updates of moving averages to fixed places: another recording reads them."""
        for average, values in found.items():
            if average not in self._places:
                self._places[average] = average.backend.xp.empty_like(values)
            self._places[average][...] = values
        return self._places

    def arrays(self) -> list[Array]:
        """Return the arrays that recordings read and that may be replaced."""
        return [*super().arrays(), self._tails]

    def note_gradients(self) -> None:
        """Note which weights have no gradient; it must be the same in all shards."""
        without = {parameter for parameter in self.trained if parameter.grad is None}
        if without:
            self.state.model.backend.not_recorded("weights have no gradient")
        views = self.optimizer.gradients_of(self.trained)
        for parameter in without:
            views[parameter][...] = 0
        if self._is_known and without != self.without:
            names = ", ".join(sorted(p.name for p in without ^ self.without))
            raise ValueError(PARTLY_USED.format(names))
        self.without, self._is_known = without, True

    # -------------------------------------------------------------------- parts

    def _part(self, batch: Batch, shard: int) -> Batch:
        return batch.part(*rows_of(shard, self.shards, len(batch)))

    def _gradients_of(self, batch: Batch, shard: int) -> _Found:
        """Compute the gradients of a shard."""
        self._work.aim(shard)
        done = self._shard_recorder(self._part(batch, shard))
        self._write_tail(shard, done.results["sums"])
        return done.counted

    def _first_of(self, batch: Batch) -> _Found:
        """Compute the gradients of the first shard that has samples."""
        shard = next(n for n in range(self.shards) if self._part(batch, n))
        return self._gradients_of(batch, shard)

    def _counts_of(self, batch: Batch, shard: int, example: Sequence[int]) -> tuple[int, ...]:
        """Return the counts of a shard from those of another one: both in proportion to rows."""
        rows = len(self._part(batch, shard))
        return tuple(count // example[0] * rows for count in example)

    def _write_tail(self, shard: int, sums: Array) -> None:
        """Write the sums of a shard to its place in the tail of this worker."""
        workers = self._communicator
        shape = workers.size, max(map(len, self._all_owned)), len(sums)
        if self._tails is None or self._tails.shape != shape:
            self._tails = self.state.model.backend.xp.zeros(shape)
        if shard in self.own_shards:
            self._tails[workers.rank, shard - self.own_shards.start] = sums

    def _all_outputs(self, found: Mapping[int, Outputs | None]) -> list[Outputs]:
        """Return the outputs of the shards of all workers, by shard."""
        shards = [item for part in self._communicator.gather(found) for item in part.items()]
        return [each for _, each in sorted(shards, key=itemgetter(0))]

    def _update_metrics(self, batch: Batch, all_outputs: Sequence[Outputs]) -> None:
        """Add the outputs of all workers to the metrics that are not means."""
        model = self.state.model
        predictions = []
        for shards in zip(*all_outputs, strict=True):
            outputs, logits = zip(*shards, strict=True)
            y_pred = Tensor(np.concatenate(outputs), device=model.device)
            if logits[0] is not None:
                y_pred.logits = Tensor(np.concatenate(logits), device=model.device)
            predictions.append(y_pred)
        found = predictions if isinstance(batch.y, list) else predictions[0]
        self.state.totals.update_metrics(batch.y, found, batch.weight)


class _ShardGradients(Work):
    """Gradients of one shard after the other, weighed by the share of its rows in the batch."""

    who = "fit"

    def __init__(self, step: SharedStep):
        self._step, self.feed = step, step.feed
        # For each number of rows, the share has one place, which recordings read, and a value.
        self._shares: dict[int, tuple[Tensor, float]] = {}

    def begin(self, batch: Batch) -> None:
        """Begin with a batch."""
        self._batch, self._now = batch, self._step.numbers()
        self._streams = [(stream, stream.step) for stream in self._step.streams]

    def aim(self, shard: int) -> None:
        """Choose the next shard."""
        self._shard = shard
        self._first, stop = self._bounds(shard, len(self._batch))
        rows = stop - self._first
        share = rows / len(self._batch)
        place, before = self._shares.get(rows, (None, None))
        if place is None:
            model = self._step.state.model
            place = Tensor.of(model.backend.xp.ones((), model.dtype), model.backend)
        if share != before:  # else nothing need be launched
            place.data[...] = share
        self._shares[rows] = place, share

    def _bounds(self, shard: int, rows: int) -> tuple[int, int]:
        return rows_of(shard, self._step.shards, rows)

    def numbers(self, ahead: int = 0) -> Numbers:
        """Return the numbers of the shard."""
        return self._now._replace(row_offset=self._first)

    def upcoming(self, batch: Batch) -> Iterator[tuple[int, Numbers]]:
        """Yield start and numbers of this shard, and of the next ones of this worker and size."""
        whole, size = self._batch, len(batch)
        yield batch.start, self.numbers()
        for ahead, start in enumerate(range(whole.start, len(whole.order), len(whole))):
            rows = min(len(whole), len(whole.order) - start)
            numbers = self._step.numbers(ahead)
            for shard in self._step.own_shards:
                first, stop = self._bounds(shard, rows)
                if stop - first == size and (ahead or shard > self._shard):
                    yield start + first, numbers._replace(row_offset=first)

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Compute the gradients of the shard."""
        step, backend = self._step, self._step.state.model.backend
        for stream, number in self._streams:  # so that `drawing` sees what an earlier shard drew
            stream.step = number
        with step.drawing() as drew:
            sums, counts, compared = step.backward(batch, numbers, self._shares[len(batch)][0])
        step.note_gradients()
        outputs = None
        if compared is not None:
            found = compared[1] if isinstance(compared[1], list) else [compared[1]]
            host = backend.to_numpy
            outputs = [
                (host(y.data), None if y.logits is None else host(y.logits.data)) for y in found
            ]
        results = {"gradients": step.optimizer.gradients, "sums": sums}
        results |= {f"{n}: {a.name}": values for n, (a, values) in enumerate(step.updates.items())}
        return Done(results, _Found(counts, drew, outputs))

    def replay(self, recording: Any, counted: _Found, times: int) -> None:
        """Compute the gradients of the shard by a recording of `run`."""
        recording.replay(times)
        for stream in counted.streams:
            stream.step = self._now.step + 1

    def watch(self) -> Watch:
        """Return a watch on everything that a recording relies on."""
        return self._step.watch()
