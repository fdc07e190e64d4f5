"""The loop of `fit`: epochs of steps, and calls of the callbacks."""

import functools
import math
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from minidl import rng
from minidl.batches import Batch
from minidl.trainer.distribution import Distribution
from minidl.trainer.fusion import Plan
from minidl.trainer.inference import Evaluation
from minidl.trainer.position import Position
from minidl.trainer.recorder import NOT_WANTED, obstacle_of
from minidl.trainer.state import TrainState
from minidl.trainer.step import Step
from minidl.trainer.totals import Totals

STEPS_AT_ONCE = 16  # replayed where no callback acts on batches; Ctrl-C waits for them, at most
LONGEST_WAIT = 0.2  # seconds


@dataclass(eq=False)
class Run:
    """One call of `fit`.

    Parameters
    ----------
    model : Model
        Its ``stop_training`` ends the run; its ``seed`` decides the order of the samples.
    state : TrainState
        What the run changes; it begins at ``state.progress.position``.
    plan : Plan
        The execution plan for the training samples.
    epochs : int
        The epoch at which the run ends.
    validation : Plan or None
        The execution plan for the validation samples.
    callbacks : CallbackList
        The callbacks.
    record : bool
        Whether steps are recorded.
    distribution : Distribution
        The processes that share the run.
    validation_freq : int or collection of int
        The number of epochs from one validation to the next, or the epochs to validate, from 1.
    validation_batch_size : int
        The number of samples in a batch of the validation.

    Attributes
    ----------
    interrupts : Interrupts
        Deferral of Ctrl-C.
    is_training : bool
        Whether weights that a callback sets are a part of the run: until its end.
    warnings : list of Warning
        Warnings of the callbacks and of the run; `fit` issues them at its caller's line.
    """

    model: Any
    state: TrainState
    plan: Plan
    epochs: int
    validation: Plan | None
    callbacks: Any
    is_training: bool = True
    warnings: list[Warning] = field(default_factory=list)
    record: bool = True
    distribution: Distribution = field(default_factory=Distribution)
    validation_freq: int | Collection[int] = 1
    validation_batch_size: int = 32

    def __post_init__(self) -> None:
        self.interrupts = self.distribution.interrupts()
        self.step = self.make_step()
        self.recorder = self.step.recorder(self._obstacle() if self.record else NOT_WANTED)
        self._step_seconds = 0.0  # of the last step

    @functools.cached_property
    def _evaluation(self) -> Evaluation:
        assert self.validation is not None, "asked for validation only"
        runs = self.validation.samples.steps(self.validation_batch_size) * self.epochs
        return self.distribution.evaluation(self.model, self.validation, self.record, runs)

    @property
    def position(self) -> Position:
        """Where the run is."""
        return self.state.progress.position

    @property
    def steps(self) -> float:
        """The number of steps in this epoch; inf if it is not known yet."""
        return self.plan.samples.steps(self.position.batch_size)

    def start(
        self, arguments: Mapping[str, int], first_epoch: int, verbose: int, *, is_new: bool
    ) -> None:
        """Begin the run with `run_arguments`, and train.

        If a callback or another process rejects the run, the model stays as it was.
        """
        self.model.run = self
        try:
            with closing(self.callbacks):
                with self._undone_on_error():
                    with self.distribution.agreed():
                        if is_new:
                            self.state.begin_run(arguments, first_epoch)
                        # An interrupted run that is resumed keeps a stop that was set before.
                        if self.state.progress.moment is None:
                            self.model.stop_training = False
                    self._begin(arguments, verbose)
                self.train()
        finally:
            self.model.run = None

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """Restore model and state if the run is rejected inside."""
        model, state = self.model, self.state
        before, rate, was_stopped = vars(state).copy(), state.learning_rate, model.stop_training
        try:
            yield
        except BaseException:
            vars(state).update(before)
            if state.optimizer and not state.optimizer.calls:
                state.optimizer.restore([], 0, {})  # a trial step may have laid it out
            model.stop_training = was_stopped
            if rate is not None:
                state.learning_rate = rate
            raise

    def _begin(self, arguments: Mapping[str, int], verbose: int) -> None:
        """Compare the run with those of other processes, and call the callbacks."""
        names = "epochs", "validation_freq", "validation_batch_size"
        settings = {name: getattr(self, name) for name in names}
        self.distribution.begin(self, {**arguments, **settings})
        logged = self.state.logged
        held_out = logged if self.validation is not None else ()
        params: dict[str, Any] = {"epochs": self.epochs, "verbose": verbose}
        params["metrics"] = [*logged, *(f"val_{name}" for name in held_out)]
        with self.distribution.agreed():
            params["steps"] = None if math.isinf(self.steps) else self.steps
            self.callbacks.begin(params)

    def train(self) -> None:
        """Train until the last epoch is over, or until ``model.stop_training``."""
        self.state.left = None
        try:
            self._train()
        finally:
            self.model.recording = self.recorder.report
            self.state.undo_broken_callback()
            self.state.left = self.state.fingerprint()

    def _train(self) -> None:
        state, callbacks = self.state, self.callbacks
        history = state.progress.history
        logs: Mapping[str, float] = history.logs[-1] if history.logs else {}
        with self.interrupts:
            callbacks.finish(self.begin_totals() if self.position.batch else logs)
            while self._has_epochs():
                epoch = self.position.epoch
                if self.position.batch == 0:
                    callbacks.notify("on_epoch_begin", epoch, {})
                logs = means = self._train_epoch()
                if self.position.batch < self.steps:
                    break  # stopped within the epoch: it is neither validated nor recorded
                means |= self._validate(epoch)
                self.distribution.check_equal(state)
                state.end_epoch(means, callbacks.memories())
                callbacks.notify("on_epoch_end", epoch, means)
            self._add_warnings()
            self.is_training = False
            callbacks.notify("on_train_end", self.position.epoch, logs)
            state.progress = state.progress._replace(moment=None)  # the run is complete

    def _add_warnings(self) -> None:
        shortages = [plan.samples.shortage for plan in (self.plan, self.validation) if plan]
        optimizer = self.step.optimizer
        if optimizer.without_gradient:
            self.warnings.append(
                UserWarning(
                    "fit: expected a gradient for each weight, got none in some steps for "
                    f"{', '.join(optimizer.without_gradient)}. They stayed as they were in these "
                    "steps. Use them in call, or set requires_grad=False."
                )
            )
            optimizer.without_gradient = {}
        self.warnings += [UserWarning(text) for text in shortages if text]

    def _has_epochs(self) -> bool:
        if self.position.batch == self.steps:
            return True  # the epoch has yet to be validated and recorded
        is_stopped = self.distribution.must_stop(self.model)
        goes_on = self.position.epoch < self.epochs and not is_stopped and not self.state.obstacle
        # Within an epoch, its batches are at hand already.
        return goes_on and (self.position.batch > 0 or self.plan.samples.begin_epoch())

    def _train_epoch(self) -> dict[str, float]:
        """Train on the batches that the epoch has left; return the epoch's logs."""
        callbacks = self.callbacks
        self.plan.set_comparison(self.model.loss, self.model.metrics)  # compile may have changed it
        totals = self.begin_totals()
        self.step.begin_epoch()
        if reason := self._obstacle():
            self.recorder.give_up(reason)
        backend = self.model.backend
        most = 1 if callbacks.act_on_batches else STEPS_AT_ONCE
        with backend.active, backend.stream():
            batches = self.batches_left()
            for batch in batches:
                callbacks.notify("on_train_batch_begin", self.position.batch, {})
                begun = time.monotonic()
                is_short = most * self._step_seconds < LONGEST_WAIT
                done = self.recorder.work_ahead(batch, most if is_short else 1)
                self._step_seconds = (time.monotonic() - begun) / done
                callbacks.notify("on_train_batch_end", self.position.batch - 1, totals)
                deque(islice(batches, done - 1), maxlen=0)  # the others are done, too
                if self.distribution.must_stop(self.model):
                    break
        self.model.recording = self.recorder.report
        return dict(totals)

    def _obstacle(self) -> str:
        return obstacle_of(self.model, self.plan, self.model.optimizer)

    def _validate(self, epoch: int) -> dict[str, float]:
        """Return the epoch's logs of the validation, if it is due."""
        plan, often = self.validation, self.validation_freq
        is_due = (epoch + 1) % often == 0 if isinstance(often, int) else epoch + 1 in often
        if plan is None or not is_due or not plan.samples.begin_epoch():
            return {}
        plan.set_comparison(self.model.loss, self.model.metrics)
        evaluation, observers = self._evaluation, self.callbacks.observers
        batches = plan.feed.batches(self.validation_batch_size)
        values = evaluation.means(observers.watching(batches, lambda: evaluation.totals))
        observers.end(values)
        return {f"val_{name}": value for name, value in values.items()}

    def make_step(self) -> Step:
        """Return the step that updates the weights of this run."""
        return self.distribution.step(self.state, self.plan, self.interrupts)

    def begin_totals(self) -> Totals:
        """Return new totals of the epoch in progress, with the batches that are done."""
        state = self.state
        state.totals = self.plan.new_totals(state.totals_of_epoch(), state.metrics_of_epoch())
        return state.totals

    def batches_left(self) -> Iterator[Batch]:
        """Yield the batches that the epoch has left."""
        position, count = self.position, self.position.samples
        if not count:
            return self.plan.feed.batches(position.batch_size)
        order = np.arange(count)
        if position.shuffle:
            has_begun = position.batch > 0  # then it is counted already, see count_steps
            epoch = self.state.epoch - 1 if has_begun else self.state.epoch
            order = rng.permutation(count, seed=self.model.seed, epoch=epoch)
        size = position.batch_size
        return self.plan.feed.batches(size, order[position.batch * size :])
