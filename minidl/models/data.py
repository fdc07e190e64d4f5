"""Data of `fit`, `evaluate` and `predict`, and the methods for single batches."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from minidl.arguments import number_array, positive_integer
from minidl.batches import Samples, of_one
from minidl.engine.scope import keeps_scopes
from minidl.engine.tensor import Tensor
from minidl.layers import Dense, Softmax, activations
from minidl.layers.base import Layer
from minidl.losses import Loss
from minidl.losses.crossentropies import expects_probabilities
from minidl.losses.outputs import fields
from minidl.trainer.batch_source import BatchSource, yields_batches
from minidl.trainer.fusion import Plan
from minidl.trainer.interrupts import Interrupts
from minidl.trainer.step import Step

DEFAULT_BATCH_SIZE = 32
WHOLE = 2**63  # a batch size above any number of samples
NOT_PROBABILITIES = ("linear", "relu", "tanh")  # activations whose outputs are not in [0, 1]


class DataMethods:
    """The part of `Model` that receives data."""

    def _plan(self: Any, samples: Samples | BatchSource) -> Plan:
        """Return the execution plan for these samples, with loss and metrics."""
        layers = self._planned_layers()
        return Plan(layers, self.backend, self.dtype, samples, self.loss, self.metrics)

    def _host_inputs(self: Any, who: str, x: Any) -> Any:
        """Return x as one array; of a list of one array, as Keras passes one input, that array."""
        return of_one(x, slice(1, None), self.input_shape)

    def _host_outputs(self: Any, who: str, name: str, values: Any) -> Any:
        """Return targets or weights in a form that `Samples.checked` accepts."""
        # Structured arrays are only those of several outputs; others are rejected here.
        return values if fields(values) is values else number_array(who, name, values)

    def _planned_layers(self: Any) -> Sequence[Layer]:
        """Return the layers in the order of execution."""
        return [self]

    def _is_called_as(self: Any, kind: Any) -> bool:
        """Return whether a subclass of `kind` has defined no call of its own."""
        return type(self).call is kind.call and type(self).__call__ is kind.__call__

    def _ends(self: Any) -> Sequence[Layer]:
        """Return the layers that compute the outputs, if they are known."""
        return ()

    def _data(
        self: Any,
        who: str,
        x: Any,
        y: Any,
        weight: Any = None,
        steps: int | None = None,
        class_weight: Any = None,
        restarts: bool = False,
    ) -> Samples | BatchSource:
        """Return checked samples, or a source if x is an iterable; the model is built for them."""
        if y is None and weight is None and yields_batches(x):
            check = partial(_checked_batch, self, who, class_weight)
            found: Samples | BatchSource = BatchSource(who, x, check, steps, restarts)
        else:
            _refuse_steps(who, steps)
            found = self._checked_samples(who, x, y, weight)
        self._build_for(found.x.shape[1:])
        return found

    def _check_trained(self: Any, who: str) -> None:
        """Raise ValueError unless there are weights to train."""
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise ValueError(
                f"{who}: expected weights to train, got none in {self.label}. Add a Dense layer, "
                "or set layer.trainable = True."
            )

    def _inputs(self: Any, x: Any, steps: int | None) -> Samples | BatchSource:
        """Return the inputs of `predict`; the model is built for them."""
        if yields_batches(x, tuple):
            check = partial(_checked_inputs, self)
            found: Samples | BatchSource = BatchSource("predict", x, check, steps)
        else:
            _refuse_steps("predict", steps)
            found = _checked_inputs(self, x)
        if not self.built or self.built_for != found.x.shape[1:]:
            self._build_for(found.x.shape[1:])  # raises if the samples do not fit
        return found

    def _held_out(self: Any, given: Any, steps: int | None) -> Samples | BatchSource | None:
        """Return the samples of ``validation_data``, or None without any."""
        who = "fit: validation_data"
        if given is not None and not isinstance(given, tuple) and yields_batches(given):
            return self._data(who, given, None, None, steps, restarts=True)
        _refuse_steps(who, steps)
        if given is None:
            return None
        if not isinstance(given, list | tuple) or len(given) not in (2, 3):
            raise ValueError(
                "fit: expected validation_data to be (x, y), (x, y, sample_weight) or an iterable "
                f"of batches, got a {type(given).__name__}. Pass a tuple of arrays."
            )
        return self._checked_samples(who, *given)

    @keeps_scopes
    def train_on_batch(
        self: Any, x: Any, y: Any, sample_weight: Any = None, *, return_dict: bool = False
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
        self._check_trained("train_on_batch")
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
        self: Any, x: Any, y: Any, sample_weight: Any = None, *, return_dict: bool = False
    ) -> Any:
        """Return loss and metrics of one batch, as `evaluate` does."""
        return self.evaluate(x, y, WHOLE, 0, sample_weight=sample_weight, return_dict=return_dict)

    def predict_on_batch(self: Any, x: Any) -> Any:
        """Return the outputs for one batch, as `predict` does."""
        return self.predict(x, WHOLE, 0)


def returned(values: dict[str, float], return_dict: bool) -> Any:
    """Return values in the form of `evaluate`: by name, in a list, or the loss alone."""
    if return_dict:
        return values
    return list(values.values()) if len(values) > 1 else values["loss"]


def _checked_batch(
    model: Any, who: str, class_weight: Any, x: Any, y: Any = None, weight: Any = None
) -> Samples:
    if y is None:
        raise TypeError(f"{who}: expected batches (x, y), got x without y. Yield tuples of both.")
    samples = model._checked_samples(f"{who}: a batch", x, y, weight)
    return samples if class_weight is None else samples.weighted_by_class(class_weight)


def _checked_inputs(model: Any, x: Any, *others: Any) -> Samples:
    return Samples.checked("predict", model._host_inputs("predict", x))


def only_arrays(samples: Samples | BatchSource) -> Samples:
    """Return the samples if they are arrays, or raise ValueError."""
    if isinstance(samples, BatchSource):
        raise ValueError(
            "fit: expected arrays for validation_split or a distribution, got an iterable of "
            "batches. Join its batches with np.concatenate, or leave these out."
        )
    return samples


def _refuse_steps(who: str, steps: int | None) -> None:
    if steps is not None:
        raise TypeError(
            f"{who}: expected a number of steps for an iterable of batches only, got {steps!r} "
            "for arrays. Pass as many samples as you need."
        )


def check_activation(who: str, last: Layer, loss: Loss) -> None:
    """Raise ValueError if a loss cannot be that of the outputs of a layer."""
    function: Any = getattr(last, "activation", None)
    if type(last) is Softmax:
        function = Tensor.softmax
    found, fitting = activations.name_of(function), getattr(loss, "activation", "softmax")
    kind = type(loss).__name__
    if found == fitting and getattr(loss, "from_logits", False):
        raise ValueError(
            f"{who}: expected logits for {kind}(from_logits=True), got {found} outputs of "
            f"{last.label}. Leave from_logits out, or leave out the {found}."
        )
    is_known = type(last) is Dense and found in NOT_PROBABILITIES
    if is_known and expects_probabilities(loss):
        raise ValueError(
            f"{who}: expected probabilities for {kind}, got {found} outputs of {last.label}. Use "
            f'activation="{fitting}", or {kind}(from_logits=True).'
        )


def checked_batch_size(who: str, given: int | None, default: int = DEFAULT_BATCH_SIZE) -> int:
    """Return a batch size, by default that of Keras, or raise ValueError."""
    return default if given is None else positive_integer(who, given)


def checked_frequency(given: int | Collection[int]) -> int | list[int]:
    """Return ``validation_freq``, or raise ValueError."""
    if isinstance(given, Collection) and not isinstance(given, str):
        return [positive_integer("fit: validation_freq", epoch) for epoch in given]
    return positive_integer("fit: validation_freq", given)
