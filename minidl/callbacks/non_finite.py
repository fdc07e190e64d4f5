"""Stop when numbers are no longer finite, and say where that began."""

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from minidl import rng
from minidl.autograd import no_grad
from minidl.backend import Array
from minidl.batches import Batch
from minidl.callbacks.base import Callback, Logs
from minidl.layers import Dropout
from minidl.metrics import Running

if TYPE_CHECKING:
    from minidl.models import Model


TO_THE_CALL_OF_FIT = 6  # frames from on_train_end, so that the warning names the user's line


class TerminateOnNaN(Callback):
    """Stop when the loss or a weight is NaN or infinite, at the last step where all was finite.

    At the end of training a `RuntimeWarning` says where that was.

    Looking at every step would make the device wait, so it is done now and then. Where something is
    wrong, the model goes back to the last state that was looked at, and the steps since then are
    taken again, one by one, with every layer's output looked at: they come out the same. The model
    is left before the step that failed.

    Parameters
    ----------
    every : int
        The number of steps from one look to the next; the end of an epoch is looked at too.

    Attributes
    ----------
    found : str or None
        Where the first value that is not finite appeared.

    Examples
    --------
    >>> import numpy as np
    >>> from minidl import layers, models, optimizers
    >>> model = models.Sequential([layers.Dense(2, name="first"), layers.Dense(1)])
    >>> model.compile(optimizers.SGD(1e30), "mse")
    >>> guard = TerminateOnNaN()
    >>> x, y = np.ones((8, 3)), np.ones((8, 1))
    >>> import warnings
    >>> with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
    ...     history = model.fit(x, y, epochs=9, callbacks=[guard], verbose=0)
    >>> guard.found
    'the outputs of dense in step 1'
    >>> all(np.isfinite(weight).all() for weight in model.get_weights())
    True
    """

    def __init__(self, every: int = 100):
        if every < 1:
            raise ValueError(f"TerminateOnNaN: every must be at least 1, received {every}")
        self.every = every
        self.found: str | None = None
        self._good: Snapshot | None = None

    def on_train_begin(self, logs: Logs) -> None:
        """Forget earlier training."""
        self.found = None

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Begin anew: steps of an earlier epoch are not taken again."""
        self._good = None

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Keep the state that the epoch begins with."""
        if self._good is None:
            self._good = Snapshot(self.model)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Look at loss and weights where it is time."""
        if (batch + 1) % self.every and batch + 1 < self.params["steps"]:
            return
        if math.isfinite(logs["loss"]) and failing_weight(self.model) is None:
            self._good = Snapshot(self.model)
            return
        assert self._good is not None, "taken before the first step"
        self._good.restore(self.model)
        with np.errstate(all="ignore"):
            self.found = _take_again(self.model)
        if self.found is None:
            self._good.restore(self.model)
            self.found = f"something outside of the steps after step {self.model.step}"
        self.model.stop_training = True

    def on_train_end(self, logs: Logs) -> None:
        """Say where it stopped; a bar on the terminal is gone by now."""
        if self.found is not None:
            message = f"TerminateOnNaN: stopped, not finite: {self.found}"
            warnings.warn(message, RuntimeWarning, stacklevel=TO_THE_CALL_OF_FIT)


class Snapshot:
    """A copy, on the device, of all that a training step changes."""

    def __init__(self, model: "Model"):
        assert model.optimizer is not None, "fit has checked it"
        with model.backend.active:
            self._weights = [parameter.data.copy() for parameter in model.parameters()]
            self._state = {name: values.copy() for name, values in model.optimizer.state.items()}
        self._iterations = model.optimizer.iterations
        random_layers = [layer for layer in model.walk() if isinstance(layer, Dropout)]
        self._random_steps = [(layer, layer.step) for layer in random_layers]
        self._step, self._epoch = model.step, model.epoch
        totals = model.position.totals()
        self._position = replace(model.position, earlier=totals, running=None)

    def restore(self, model: "Model") -> None:
        """Bring the model back to what it was."""
        assert model.optimizer is not None, "fit has checked it"
        with model.backend.active:
            for parameter, values in zip(model.parameters(), self._weights, strict=True):
                parameter.assign(values)
            for name, values in model.optimizer.state.items():
                values[...] = self._state.get(name, 0)  # 0 before the first update
        model.optimizer.iterations = self._iterations
        for layer, step in self._random_steps:
            layer.step = step
        model.step, model.epoch = self._step, self._epoch
        model.position = replace(self._position)


def _take_again(model: "Model") -> str | None:
    """Take the steps from the model's position on, until one fails; return where, if one does."""
    totals = model.position.totals()
    model.position.running = running = Running(model.metrics, model.backend)
    running.restore(totals)
    for batch in model.batches_left():
        before = Snapshot(model)
        found = _failing_layer(model, batch)
        if found is None:
            model.train_step(batch, running)
            found = failing_weight(model)
        if found is not None:
            before.restore(model)
            return f"{found} in step {model.step}"
    return None


def _failing_layer(model: "Model", batch: Batch) -> str | None:
    """Return the first layer, or else the loss, that is not finite for a batch of the feed."""
    if not _is_finite(model, batch.x.data):
        return "the inputs"
    x = batch.x
    with rng.training(step=model.step), no_grad():
        for layer in model.stages():
            x = layer(x)
            if not _is_finite(model, x.data):
                return f"the outputs of {layer.label}"
        loss = model.loss(batch.y, x, batch.weight)
    return None if _is_finite(model, loss.data) else "the loss"


def failing_weight(model: "Model") -> str | None:
    """Return the first weight that is not finite."""
    names = (p.name for p in model.parameters() if not _is_finite(model, p.data))
    name = next(names, None)
    return None if name is None else f"the update of {name}"


def _is_finite(model: "Model", values: Array) -> bool:
    """Tell whether all of an array of the device is finite; this waits for it."""
    with model.backend.active:
        return bool(model.backend.xp.isfinite(values).all())
