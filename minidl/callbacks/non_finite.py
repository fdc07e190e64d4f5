"""Callback that ends training when numbers are no longer finite."""

import math
from typing import Any

import numpy as np

from minidl.arguments import positive_integer
from minidl.callbacks.base import Callback, Logs
from minidl.trainer.diagnosis import CHANGED_BY_A_STEP, non_finite_weight, repeat_until_failure
from minidl.trainer.loop import Run


class TerminateOnNaN(Callback):
    """End of training when the loss or a weight is NaN or infinite, with a rollback.

    The model returns to the last step at which all numbers were finite, and a `RuntimeWarning`
    names what failed. The history keeps the logs of the epoch that failed, with the values that are
    not finite; it is not validated, so that its ``val_`` values are NaN. If the run is resumed, the
    epoch goes on, and its logs replace them.

    Checking each step would wait for the device, so only every `every`-th step is checked. On a
    failure, the model returns to the last checked state and repeats the steps since then, checking
    the output of every layer. Repeated steps give the same bits. The model is left before the
    failed step.

    A run may begin with numbers that are not finite, or be interrupted after the failed step and
    then resumed. No finite state of the epoch is known then. So the model stays as it is, the
    warning says so, and the run cannot be resumed: load an earlier checkpoint.

    Parameters
    ----------
    every : int
        The number of steps between two checks. The end of an epoch is always checked.

    Attributes
    ----------
    found : str or None
        Where the first value appeared that is not finite, or that the cause is unknown.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from minidl import layers, models, optimizers
    >>> model = models.Sequential([layers.Dense(2, name="first"), layers.Dense(1)])
    >>> model.compile(optimizers.SGD(1e30), "mse")
    >>> guard = TerminateOnNaN()
    >>> x, y = np.ones((8, 3)), np.ones((8, 1))
    >>> with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
    ...     history = model.fit(x, y, epochs=9, callbacks=[guard], verbose=0)
    >>> guard.found
    'the outputs of dense in step 1'
    >>> all(np.isfinite(weight).all() for weight in model.get_weights())
    True
    """

    def __init__(self, every: int = 100):
        self.every = positive_integer("TerminateOnNaN: every", every)
        self.found: str | None = None
        self._good: dict[str, Any] | None = None

    def on_train_begin(self, logs: Logs) -> None:
        """Forget earlier training."""
        self.found = None
        self._good = None

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Forget the last checked state: steps of an earlier epoch are not repeated."""
        self._good = None

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Keep the state at the beginning of the epoch or of a resumed run, if it is finite."""
        if self._good is None:
            loss, _ = self.model.train_state.totals_of_epoch().get("loss", (0.0, 0))
            self._keep_finite_state(loss)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Check loss and weights if it is time."""
        model, run = self.model, self.model.run
        assert run is not None, "called within fit"
        is_due = (batch + 1) % self.every == 0 or batch + 1 >= run.steps
        if not is_due or self._keep_finite_state(logs["loss"]):
            return
        means = dict(logs)  # before the rollback
        self.found = self._roll_back(run)
        names = [*means, *(name for name in self.params["metrics"] if name not in means)]
        model.train_state.record_divergence({name: means.get(name, math.nan) for name in names})
        model.stop_training = True

    def _keep_finite_state(self, loss: float) -> bool:
        """Keep the state if the weights and the loss of the epoch so far are finite."""
        is_finite = math.isfinite(loss) and non_finite_weight(self.model.parameters()) is None
        if is_finite:
            self._good = self.model.train_state.snapshot(*CHANGED_BY_A_STEP)
        return is_finite

    def _roll_back(self, run: Run) -> str:
        """Return to the last step at which all numbers were finite; return what failed then."""
        state = self.model.train_state
        if self._good is None:
            state.obstacle = "TerminateOnNaN knew no finite state to return to"
            return (
                f"the loss or a weight at step {self.model.step}. The model stays there, since no "
                "finite state of this epoch is known. Load an earlier checkpoint."
            )
        state.load_state(self._good)
        with np.errstate(all="ignore"):
            found = repeat_until_failure(run)
        if found is not None:
            return found
        state.load_state(self._good)
        return (
            f"unknown cause: repeating the steps after step {self.model.step} gave finite numbers. "
            "Check what your callbacks change."
        )

    def on_train_end(self, logs: Logs) -> None:
        """Warn of what was found."""
        if self.found is not None:
            assert self.model.run is not None, "called within fit"
            text = f"TerminateOnNaN: stopped, not finite: {self.found}"
            self.model.run.warnings.append(RuntimeWarning(text))
