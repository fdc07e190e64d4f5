"""Distribution of a run over processes: the base class is one process alone."""

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from minidl.trainer.fusion import Plan
from minidl.trainer.inference import Evaluation
from minidl.trainer.interrupts import Interrupts
from minidl.trainer.state import TrainState
from minidl.trainer.step import Step


class Distribution:
    """One process that trains alone.

    `minidl.distributed.DataParallel` is the other: each of its methods involves all workers.

    Attributes
    ----------
    rank, shards : int
        The number of this process, and of the parts that each batch is cut into.
    """

    rank = 0
    shards = 1

    def guarded(self) -> AbstractContextManager[Any]:
        """Return a context around all of `fit`: an error that leaves it ends all workers."""
        return contextlib.nullcontext()

    def agreed(self) -> AbstractContextManager[Any]:
        """Return a context for checks before training: an error of one worker is one of all."""
        return contextlib.nullcontext()

    def begin(self, run: Any, arguments: Mapping[str, int]) -> None:
        """Check that all workers are about to train the same."""

    def interrupts(self) -> Interrupts:
        """Return what defers Ctrl-C in a run."""
        return Interrupts()

    def step(self, state: TrainState, plan: Plan, interrupts: Interrupts) -> Step:
        """Return the step of a run."""
        return Step(state, plan, interrupts)

    def evaluation(self, model: Any, plan: Plan, record: bool, batches: float) -> Evaluation:
        """Return the validation of a run, of so many batches in all."""
        return Evaluation(model, plan, record, batches)

    def must_stop(self, model: Any) -> bool:
        """Return whether training stops here; all workers ask at the same points."""
        return model.stop_training

    def check_equal(self, state: TrainState) -> None:
        """Raise if the weights of the workers differ."""
