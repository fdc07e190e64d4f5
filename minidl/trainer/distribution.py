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
    rank, size, shards : int
        The number of this process, of all processes, and of the parts that each batch is cut into.
    """

    rank, size = 0, 1
    shards = 1

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        return [value]

    def first_on_machine(self) -> AbstractContextManager[None]:
        """Return a context that one process of each machine enters first, as for a download."""
        return contextlib.nullcontext()

    def device(self, name: str) -> str:
        """Return the device of this process, of which `name` may leave the number out."""
        return name

    def guarded(self) -> AbstractContextManager[Any]:
        """Return a context around all of `fit`: an error that leaves it ends all workers."""
        return contextlib.nullcontext()

    def agreed(self) -> AbstractContextManager[Any]:
        """Return a context for checks before training: an error of one worker is one of all."""
        return contextlib.nullcontext()

    def begin(self, run: Any, arguments: Mapping[str, Any]) -> None:
        """Check that all workers are about to train the same."""

    def interrupts(self) -> Interrupts:
        """Return the object that defers Ctrl-C in a run."""
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
