"""Data of `fit`, `evaluate` and `predict`, and the methods for single batches."""

from collections.abc import Collection
from typing import Any

from minidl.arguments import positive_integer
from minidl.batches import Samples
from minidl.engine.scope import keeps_scopes
from minidl.models.network import Network
from minidl.trainer.batch_source import BatchSource, yields_batches
from minidl.trainer.fusion import Plan
from minidl.trainer.interrupts import Interrupts
from minidl.trainer.step import Step


class DataMethods(Network):
    """The part of `Model` that receives data."""

    def _checked_samples(self, who: str, x: Any, y: Any, weight: Any = None) -> Samples:
        raise NotImplementedError

    def _plan(self, samples: Samples | BatchSource) -> Plan:
        raise NotImplementedError

    def evaluate(self, x: Any, y: Any = None, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    def predict(self, x: Any, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    def _data(
        self, who: str, x: Any, y: Any, weight: Any = None, steps: int | None = None
    ) -> Samples | BatchSource:
        """Return checked samples, or a source if x is an iterable; the model is built for them."""
        found: Samples | BatchSource
        if y is None and weight is None and yields_batches(x):
            count = _checked_steps(who, steps)
            found = BatchSource(who, x, lambda *parts: self._of_batch(who, *parts), count)
            self._build_for(found.example.x.shape[1:])
            return found
        _refuse_steps(who, steps)
        found = self._checked_samples(who, x, y, weight)
        self._build_for(found.x.shape[1:])
        return found

    def _of_batch(self, who: str, x: Any, y: Any = None, weight: Any = None) -> Samples:
        if y is None:
            raise TypeError(
                f"{who}: expected batches (x, y), got x without y. Yield tuples of both."
            )
        return self._checked_samples(f"{who}: a batch", x, y, weight)

    def _inputs(self, x: Any, steps: int | None) -> Samples | BatchSource:
        """Return the inputs of `predict`; the model is built for them."""
        found: Samples | BatchSource
        if yields_batches(x, tuple):
            count = _checked_steps("predict", steps)
            found = BatchSource("predict", x, lambda x, *_: Samples.checked("predict", x), count)
            example = found.example
        else:
            _refuse_steps("predict", steps)
            found = example = Samples.checked("predict", x)
        if not self.built or self.built_for != example.x.shape[1:]:
            self._build_for(example.x.shape[1:])  # raises if the samples do not fit
        return found

    def _held_out(self, validation_data: Any, steps: int | None) -> Samples | BatchSource | None:
        """Return the samples of ``validation_data``, or None without any."""
        who = "fit: validation_data"
        if validation_data is None:
            _refuse_steps(who, steps)
            return None
        if yields_batches(validation_data):
            return self._data(who, validation_data, None, None, steps)
        if not isinstance(validation_data, list | tuple) or len(validation_data) not in (2, 3):
            raise ValueError(
                "fit: expected validation_data to be (x, y), (x, y, sample_weight) or an iterable "
                f"of batches, got a {type(validation_data).__name__}. Pass a tuple of arrays."
            )
        _refuse_steps(who, steps)
        return self._checked_samples(who, *validation_data)

    def _array_samples(self, samples: Samples | BatchSource) -> Samples:
        """Return the samples if they are arrays, or raise ValueError."""
        if isinstance(samples, BatchSource):
            raise ValueError(
                "fit: expected arrays for validation_split or a distribution, got an iterable of "
                "batches. Pass arrays, or leave these out."
            )
        return samples

    @keeps_scopes
    def train_on_batch(
        self, x: Any, y: Any, sample_weight: Any = None, *, return_dict: bool = False
    ) -> Any:
        """Update the weights once; return loss and metrics of this batch alone as `evaluate` does.

        Random decisions have the model's step, and the row in the batch, as address: those of
        `fit`. The model's ``step`` goes on counting, its last run cannot be resumed.

        Parameters
        ----------
        x, y, sample_weight, return_dict
            As in `fit` and `evaluate`.

        Raises
        ------
        RuntimeError
            If the model is not compiled, or is in `fit`.
        """
        if self.run is not None:
            raise RuntimeError(
                f"train_on_batch: {self.label} is in fit. Call it before or after fit, or on "
                "copy.deepcopy(model)."
            )
        samples = self._checked_samples("train_on_batch", x, y, sample_weight)
        self._build_for(samples.x.shape[1:])
        state, plan = self.train_state, self._plan(samples)
        assert state.optimizer is not None, "checked with the samples"
        state.optimizer.check(self.parameters())
        (batch,) = plan.feed.batches(len(samples))
        before = state.progress, state.epoch, state.totals
        state.totals = plan.new_totals()
        try:
            with self.backend.active, self.backend.stream(), Interrupts() as interrupts:
                Step(state, plan, interrupts)(batch)
            values = dict(state.totals)
        finally:
            state.progress, state.epoch, state.totals = before
            self._change_run("train_on_batch changed the weights")
        return returned(values, return_dict)

    def test_on_batch(
        self, x: Any, y: Any, sample_weight: Any = None, *, return_dict: bool = False
    ) -> Any:
        """Return loss and metrics of one batch, as `evaluate` does."""
        size = len(x)
        values = self.evaluate(x, y, size, 0, sample_weight=sample_weight, return_dict=True)
        return returned(values, return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """Return the outputs for one batch, as `predict` does."""
        return self.predict(x, len(x), 0)


def returned(values: dict[str, float], return_dict: bool) -> Any:
    """Return what `evaluate` returns for these values."""
    if return_dict:
        return values
    return list(values.values()) if len(values) > 1 else values["loss"]


# The arguments for numbers of batches.
_STEPS = {"fit": "steps_per_epoch", "fit: validation_data": "validation_steps"}


def _checked_steps(who: str, steps: int | None) -> int | None:
    name = _STEPS.get(who, "steps")
    return None if steps is None else positive_integer(f"{who}: {name}", steps)


def _refuse_steps(who: str, steps: int | None) -> None:
    if steps is not None:
        raise TypeError(
            f"{who.partition(':')[0]}: expected {_STEPS.get(who, 'steps')} to be None for arrays, "
            f"got {steps!r}. Pass as many samples as you need, or an iterable of batches."
        )


def checked_frequency(given: int | Collection[int]) -> int | list[int]:
    """Return ``validation_freq``, or raise ValueError."""
    if isinstance(given, Collection) and not isinstance(given, str):
        return [positive_integer("fit: validation_freq", epoch) for epoch in given]
    return positive_integer("fit: validation_freq", given)
