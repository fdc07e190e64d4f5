"""Fusion: execution plans of models for `fit`, `evaluate` and `predict`.

Only this file decides what is fused: a leading `Rescaling` and `Flatten` into the gathering of
batches, a `Dense` with the `Dropout` after it if that shares no decisions, and the last layer of a
classifier with its loss and accuracy. The results equal those of the separate operations up to
rounding, and the masks have the same bits.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from minidl import rng
from minidl.backend import Array, Backend
from minidl.batches import Batch, Feed, Samples
from minidl.engine import ops
from minidl.engine.parameter import Parameter
from minidl.engine.tensor import Tensor, apply
from minidl.layers import terms
from minidl.layers.base import Layer
from minidl.layers.dense import Dense
from minidl.layers.dropout import Dropout
from minidl.layers.reshaping import Flatten, Rescaling
from minidl.losses import Loss, SparseCategoricalCrossentropy
from minidl.losses.base import MEANS
from minidl.metrics import Accuracy, Metric, SparseCategoricalAccuracy
from minidl.trainer.batch_source import BatchSource, SourceFeed
from minidl.trainer.totals import MetricStates, Sums, Totals

Stage = Callable[[Tensor], Tensor]
Compared = tuple[Any, Any, Any]  # targets, outputs and weights
Comparison = tuple[Tensor, Array, Sequence[int], Compared | None]


@dataclass
class DenseThenDropout:
    """A `Dense` layer and the `Dropout` after it, one operation in training if possible."""

    dense: Dense
    dropout: Dropout

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output of both layers."""
        dense, dropout = self.dense, self.dropout
        if not (
            rng.is_training()
            and (dropout.is_scheduled or dropout.rate > 0)
            and dense.built
            and dropout.built
            and dense.fused_activation is not None
            and dense.is_one_op(x)
        ):
            return dropout(dense(x))
        dense.check_input(x)
        rate, address = dropout.next_draw((len(x), dense.units))
        return apply(
            ops.dense,
            x,
            dense.weight,
            dense.bias,
            activation=dense.fused_activation,
            rate=rate,
            address=address,
            rescale=dropout.scaling == "train",
        )


def stages(layers: Sequence[Layer]) -> list[Stage]:
    """Return the stages of the forward pass: the layers, some of them fused."""
    found: list[Stage] = []
    for layer in layers:
        before = found[-1] if found else None
        if type(layer) is Dropout and layer.noise_shape is None and type(before) is Dense:
            found[-1] = DenseThenDropout(before, layer)
        else:
            found.append(layer)
    return found


def through(stages: Iterable[Stage], x: Any) -> Any:
    """Return the output of the last stage; each is called on the output of the one before it."""
    for stage in stages:
        x = stage(x)
    return x


class Plan:
    """Execution plan of a model for one data set, made once per run.

    Parameters
    ----------
    layers : sequence of Layer
        The layers of a `Sequential`, or the model itself.
    backend : Backend
        The device.
    dtype : numpy.dtype
        The dtype of the inputs in a batch.
    samples : Samples or BatchSource
        The data set.
    loss : Loss, optional
        None for predictions.
    metrics : sequence of Metric
        The metrics.

    Attributes
    ----------
    layers : sequence of Layer
        The layers after the feed, not fused.
    feed : Feed
        The source of batches, which does the work of the first layers if it can.
    loss, metrics
        The loss and the metrics of the outputs.
    samples : Samples or BatchSource
        The data set.
    columns : dict of str to int
        For each logged name its column in the sums that `compare` returns.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        backend: Backend,
        dtype: Any,
        samples: Samples | BatchSource,
        loss: Loss | None = None,
        metrics: Sequence[Metric] = (),
    ):
        self.layers, options = _after_feed(layers)
        make = Feed if isinstance(samples, Samples) else SourceFeed
        self.feed: Feed = make(samples, backend, dtype, **options)  # type: ignore[arg-type]
        self._backend, self._dtype, self.samples = backend, dtype, samples
        self._sums: Array | None = None  # of all totals: one place for recorded steps
        self._weights: list[Parameter] | None = None
        self.set_comparison(loss, metrics)

    def set_comparison(self, loss: Loss | None, metrics: Sequence[Metric]) -> None:
        """Plan again for this loss and these metrics."""
        self.loss, self.metrics = loss, metrics
        self._classifier = self._fused_classifier()
        self._stages = stages(self.layers[:-1] if self._classifier else self.layers)
        self.columns = {"loss": 0}
        names = [*(loss.value_names if loss else ()), *(metric.name for metric in metrics)]
        for column, name in enumerate(names, start=1):
            self.columns[name] = 1 if self._classifier else column

    def _fused_classifier(self) -> Dense | None:
        """Return the last layer if one operation can compute it with loss and metrics."""
        last = self.layers[-1] if self.layers else None
        samples = self.samples
        if (
            type(last) is Dense
            and last.built
            and last.activation is Tensor.softmax
            and samples.weight is None
            and samples.y is not None
            and samples.y.ndim == 1
            and type(self.loss) is SparseCategoricalCrossentropy
            and not self.loss.from_logits
            and self.loss.reduction in MEANS
            and all(type(m) in (Accuracy, SparseCategoricalAccuracy) for m in self.metrics)
            and (last.units > 1 or not any(type(m) is Accuracy for m in self.metrics))
        ):
            return last
        return None

    def compared_by(self) -> list[Any]:
        """Return the loss and the metrics, and their parts."""
        wholes = [self.loss, *self.metrics]
        return wholes + [part for whole in wholes for part in getattr(whole, "made_of", ())]

    def outputs(self, batch: Batch) -> Tensor:
        """Return the model's outputs for a batch of the feed."""
        with rng.batch_of(len(batch.x)), terms.collected():
            x = through(self._stages, batch.x)
            return x if self._classifier is None else self._classifier(x)

    def compare(self, batch: Batch) -> Comparison:
        """Return the loss of a batch of the feed, and the arguments of `Totals.add`.

        The loss is the mean of the samples, plus the terms of layers and the penalties on weights.

        Returns
        -------
        loss : Tensor
            The loss.
        sums : array
            The loss and the sum of each metric.
        counts : tuple of int
            The number of values in each of the sums.
        compared : Compared or None
            The arguments of `Totals.update_metrics`, if a metric is not a mean.
        """
        with rng.batch_of(len(batch.x)), terms.collected() as added:
            x = through(self._stages, batch.x)
            last = self._classifier
            if last is not None and last.is_one_op(x):
                found = self._classify(last, x, batch)
            else:
                found = self._compare_outputs(x if last is None else last(x), batch)
        if self._weights is None:  # all layers are built now
            below = (p for layer in self.layers for p in layer.parameters())
            self._weights = [*dict.fromkeys(below)]
        parts = [term for _, term in added] + terms.penalties(self._weights)
        return self._with_terms(found, parts) if parts else found

    def _with_terms(self, found: Comparison, added: Sequence[Tensor]) -> Comparison:
        """Add the terms of layers and the penalties on weights to a loss and its sum."""
        loss, sums, *others = found
        self._backend.not_recorded("layers add terms to the loss")
        for term in added:
            loss = loss + term.astype(loss.dtype)
        with self._backend.active:
            sums = sums.copy()
            sums[0] = loss.data
        return loss, sums, *others

    def _classify(self, last: Dense, x: Tensor, batch: Batch) -> Comparison:
        """Return `compare` for the input of the last layer, by one operation."""
        assert batch.y is not None, "checked by fit"
        last.check_input(x)
        with self._backend.active:
            sums = self._backend.xp.empty(2, self._dtype)
        arrays = {"labels": batch.y.data, "sums": sums}
        loss = apply(ops.dense_cross_entropy, x, last.weight, last.bias, **arrays)
        width = 2 if self.metrics else 1
        return loss, sums[:width], (len(x),) * width, None

    def new_totals(self, before: Sums | None = None, states: MetricStates | None = None) -> Totals:
        """Return totals for batches of the feed, with copies of the metrics that are not means."""
        metrics = [metric.fresh() for metric in self.metrics if not metric.is_mean]
        size = len(set(self.columns.values()))
        if self._sums is None or len(self._sums) != size:
            with self._backend.active:
                self._sums = self._backend.xp.empty(size)
        return Totals(self.columns, self._backend, before, metrics, states, self._sums)

    def loss_of(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of the model's outputs."""
        assert self.loss is not None, "given for fit and evaluate"
        return self.loss(batch.y, outputs, batch.weight)

    def _compare_outputs(self, outputs: Tensor, batch: Batch) -> Comparison:
        """Return `compare` for the model's outputs."""
        assert self.loss is not None, "given for fit and evaluate"
        losses, rows = self.loss.with_parts(batch.y, outputs, batch.weight), len(batch.x)
        # All metrics of a fused classifier are the same number.
        metrics = self.metrics[:1] if self._classifier else self.metrics
        results = [
            metric.batch_sum(batch.y, outputs) if metric.is_mean else (0.0, 0) for metric in metrics
        ]
        xp = self._backend.xp
        with self._backend.active:
            means = [loss.data.astype("float64") for loss in losses]
            parts = [means[0], *(rows * mean for mean in means[1:]), *(sum_ for sum_, _ in results)]
            sums = xp.stack([xp.asarray(part) for part in parts])
        compared = None if all(m.is_mean for m in metrics) else (batch.y, outputs, batch.weight)
        return losses[0], sums, (rows,) * len(losses) + tuple(n for _, n in results), compared


def _after_feed(layers: Sequence[Layer]) -> tuple[list[Layer], dict[str, Any]]:
    """Return the layers that the feed does not compute, and its options for those that it does.

    The feed computes a `Rescaling`, a `Flatten`, or the two in this order.
    """
    rest = list(layers)
    options: dict[str, Any] = {}
    if rest and type(rest[0]) is Rescaling:
        options = {"scale": rest[0].scale, "offset": rest[0].offset}
        del rest[0]
    if rest and type(rest[0]) is Flatten:
        options["flat"] = True
        del rest[0]
    return rest, options
