"""The training step: one update of the weights from one batch."""

from minidl import rng
from minidl.batches import Batch
from minidl.optimizers import Optimizer
from minidl.trainer.fusion import Plan
from minidl.trainer.interrupts import Interrupts
from minidl.trainer.state import TrainState


class Step:
    """One update from one batch: forward, backward, exchange, update, count.

    `fit` calls ``step(batch)`` and knows nothing else of it. A subclass may do the same in another
    way, with the same bits.

    Parameters
    ----------
    state : TrainState
        The state that a step changes; ``state.totals`` is set.
    plan : Plan
        The execution plan of the run.
    interrupts : Interrupts
        Ctrl-C waits while the weights change.
    """

    def __init__(self, state: TrainState, plan: Plan, interrupts: Interrupts):
        self.state = state
        self.plan = plan
        self.interrupts = interrupts
        # A step is made for each epoch: callbacks may freeze weights in between.
        self.trained = [p for p in state.model.parameters() if p.requires_grad]

    def __call__(self, batch: Batch) -> None:
        """Update the weights once.

        On an exception before the update, weights and counters are unchanged. An exception within
        the update sets ``state.is_torn``.
        """
        state, optimizer, totals = self.state, self.state.optimizer, self.state.totals
        assert optimizer is not None, "checked by fit"
        with rng.training(step=state.step):
            loss, sums, counts, compared = self.plan.compare(batch)
        for parameter in self.trained:
            parameter.grad = None  # a callback, or a step that was interrupted, may have left one
        loss.backward(into=optimizer.gradients_of(self.trained))
        self.exchange()
        self.interrupts.is_held = True
        state.is_torn = True  # until the update is counted
        try:
            self._update(optimizer)
            totals.add(sums, counts)
            state.count_step()
            state.is_torn = False
            if compared is not None:
                totals.update_metrics(*compared)
        finally:
            self.interrupts.release()

    def _update(self, optimizer: Optimizer) -> None:
        try:
            optimizer.update(self.trained)
        except Exception:
            self.state.is_torn = optimizer.is_changing  # it may have raised before any change
            raise

    def exchange(self) -> None:
        """Combine the gradients with those of other workers; alone, do nothing."""
