"""The training step: one update of the weights from one batch."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from minidl import rng
from minidl.backend import Array
from minidl.batches import Batch
from minidl.engine.tensor import Tensor
from minidl.layers import updates
from minidl.layers.random_layer import RandomLayer
from minidl.optimizers import Optimizer
from minidl.rng import RandomStream
from minidl.trainer.fusion import Compared, Plan
from minidl.trainer.interrupts import Interrupts
from minidl.trainer.recorder import Done, Recorder, Watch, Work
from minidl.trainer.state import TrainState
from minidl.trainer.table import Numbers


class Counted(NamedTuple):
    """Counts of a step on the host."""

    values: Sequence[int]  # in each column of the totals
    streams: Sequence[RandomStream]  # that drew


class Step(Work):
    """One update from one batch: forward, backward, exchange, update, count.

    `fit` gives each batch to a `Recorder`, which runs the step or replays it. A subclass may do the
    same in another way, with the same bits.

    Parameters
    ----------
    state : TrainState
        The state that a step changes; ``state.totals`` is set.
    plan : Plan
        The execution plan of the run.
    interrupts : Interrupts
        Ctrl-C waits while the weights change.
    """

    who = "fit"

    def __init__(self, state: TrainState, plan: Plan, interrupts: Interrupts):
        self.state = state
        self.plan = plan
        self.interrupts = interrupts
        self.feed = plan.feed
        self.updates: updates.Updates = {}  # of moving averages, by the latest forward pass
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Choose the weights to train: callbacks may freeze some between the epochs."""
        model = self.state.model
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.streams = model.streams()
        self._random = [layer for layer in model.walk() if isinstance(layer, RandomLayer)]

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, which a callback may replace."""
        assert self.state.optimizer is not None, "checked by fit"
        return self.state.optimizer

    def __call__(self, batch: Batch) -> None:
        """Update the weights once."""
        self.run(batch, self.numbers())

    def numbers(self, ahead: int = 0) -> Numbers:
        """Return the numbers of the next update, or of a later one."""
        step = rng.checked_integer("fit: step", self.state.step + ahead, 2**32)
        sizes = self.optimizer.numbers(ahead, self.optimizer.groups_of(self.trained))
        rates = tuple(layer.numbers_of(layer.rate_at(step)) for layer in self._scheduled)
        return Numbers(step, 0, sizes, rates)

    @property
    def _scheduled(self) -> list[RandomLayer]:
        return [layer for layer in self._random if layer.is_scheduled]

    def run(self, batch: Batch, numbers: Numbers) -> Done:
        """Update the weights once.

        On an exception before the update, weights and counters are unchanged. An exception within
        the update sets ``state.is_torn``.
        """
        totals = self.state.totals
        with self.drawing() as drew:
            sums, counts, compared = self.backward(batch, numbers)
        self.exchange()
        with self.held():
            self.update(numbers, [(sums, counts)])
            if compared is not None:
                totals.update_metrics(*compared)
        results = self.optimizer.buffers | self.averages() | {"totals": totals.sums}
        return Done(results, Counted(counts, drew))

    def averages(self) -> dict[str, Array]:
        """Return the moving averages that a step changes."""
        return {f"{n}: {average.name}": average.data for n, average in enumerate(self.updates)}

    @contextlib.contextmanager
    def drawing(self) -> Iterator[list[RandomStream]]:
        """Yield a list to which the random streams that draw inside are added at the end."""
        before, drew = [stream.step for stream in self.streams], list[RandomStream]()
        yield drew
        steps = zip(self.streams, before, strict=True)
        drew += [stream for stream, number in steps if stream.step != number]

    def backward(
        self, batch: Batch, numbers: Numbers, gradient: Tensor | None = None
    ) -> tuple[Array, Sequence[int], Compared | None]:
        """Compute the gradients of a batch; return sums, counts and outputs of `Plan.compare`.

        `gradient` is that of the loss, 1 by default.
        """
        streams = (layer.random_stream for layer in self._scheduled)
        moving = dict(zip(streams, numbers.rates, strict=True))
        place = {"step": numbers.step, "row_offset": numbers.row_offset}
        with rng.training(**place, moving=moving), updates.collected() as found:
            loss, sums, counts, compared = self.plan.compare(batch)
        self.updates = self.kept(found)
        if gradient is not None and gradient.dtype != loss.dtype:
            loss.backend.not_recorded("the loss has a dtype of its own")
        for parameter in self.trained:
            parameter.grad = None  # a callback, or a step that was interrupted, may have left one
        loss.backward(gradient, into=self.optimizer.gradients_of(self.trained))
        return sums, counts, compared

    def kept(self, found: updates.Updates) -> updates.Updates:
        """Return the updates of moving averages in arrays that last until `update`."""
        return found

    def update(self, numbers: Numbers, parts: Sequence[tuple[Array, Sequence[int]]]) -> None:
        """Update the weights, and count the update; add sums and counts of each part of a batch."""
        state, optimizer = self.state, self.optimizer
        state.is_torn = True  # until the update is counted
        try:
            optimizer.update(self.trained, numbers.updates)
        except Exception:
            state.is_torn = optimizer.is_changing  # it may have raised before any change
            raise
        for average, values in self.updates.items():
            average.backend.not_recorded("layers keep moving averages")
            average.assign(values)
        for sums, counts in parts:
            state.totals.add(sums, counts)
        state.count_steps()
        state.is_torn = False

    def replay(self, recording: Any, counted: Counted, times: int) -> None:
        """Update the weights by a recording of `run`, so many times, and count it."""
        state = self.state
        with self.held():
            state.is_torn = True  # until the updates are counted
            recording.replay(times)
            self.optimizer.count_updates(self.trained, times)
            for average in self.updates:
                average.note_change()
            for stream in counted.streams:
                stream.step = state.step + times
            state.totals.count(counted.values, times)
            state.count_steps(times)
            state.is_torn = False

    def watch(self) -> Watch:
        """Return a watch on everything that a recording of the step relies on."""
        optimizer = self.optimizer
        of_state, of_plan = (self.state, "optimizer", "totals.sums"), (self.plan, "loss", "metrics")
        attributes = of_state, of_plan, (self, "trained"), (optimizer, *optimizer.settings())
        parts = self.plan.compared_by()
        return Watch(self.state.model, *attributes, parts=parts, arrays=self.arrays)

    def arrays(self) -> list[Array]:
        """Return the arrays that recordings read and that may be replaced."""
        return [*self.optimizer.buffers.values()]

    def counters(self) -> list[tuple[Any, ...]]:
        """Return the attributes that `run` counts in."""
        of_state = self.state, "step", "epoch", "progress", "is_torn"
        of_optimizer = self.optimizer, "calls", "is_changing"
        of_streams = [(stream, "step") for stream in self.streams]
        return [of_state, (self.state.totals, "_counts"), of_optimizer, *of_streams]

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which Ctrl-C waits."""
        return self.interrupts.held()

    def exchange(self) -> None:
        """Combine the gradients with those of other workers; alone, do nothing."""

    def recorder(self, reason: str) -> Any:
        """Return the recorder of this step, or an object with the same methods."""
        model = self.state.model
        return Recorder(model.backend, model.dtype, self, reason)
