"""The one place of fusion: neighbours among the layers, or layer and loss, computed as one op.

The numbers are those of computing one after the other, up to rounding; masks have the same bits.
"""

from collections.abc import Sequence

from minidl import ops, rng
from minidl.autograd import Tensor, apply
from minidl.backend import Array
from minidl.batches import Batch
from minidl.layers.base import Layer
from minidl.layers.dense import Dense
from minidl.layers.dropout import Dropout
from minidl.losses import Loss, SparseCategoricalCrossentropy
from minidl.metrics import Accuracy, Metric, SparseCategoricalAccuracy


def through(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """Send `x` through the layers, a `Dense` and the `Dropout` after it as one op."""
    place = 0
    while place < len(layers):
        layer = layers[place]
        following = layers[place + 1] if place + 1 < len(layers) else None
        if following is not None and can_drop_at_once(layer, following, x):
            x = dense_dropout(layer, following, x)
            place += 2
        else:
            x = layer(x)
            place += 1
    return x


def can_drop_at_once(layer: Layer, following: Layer, x: Tensor) -> bool:
    """Tell whether `dense_dropout` is there for these layers and this input."""
    return (
        type(layer) is Dense
        and type(following) is Dropout
        and layer.built
        and following.built
        and layer.fused_activation is not None
        and layer.is_one_op(x)
        and following.rate > 0
        and rng.current_block() is not None
    )


def dense_dropout(dense: Layer, dropout: Layer, x: Tensor) -> Tensor:
    """Apply both layers in training."""
    assert isinstance(dense, Dense), "see can_drop_at_once"
    assert isinstance(dropout, Dropout), "see can_drop_at_once"
    dense.check_input(x)
    return apply(
        ops.dense,
        x,
        dense.weight,
        dense.bias,
        activation=dense.fused_activation,
        rate=dropout.rate,
        address=dropout.next_address(x),
        rescale=dropout.scaling == "train",
    )


def can_classify_at_once(layer: Layer, batch: Batch, loss: Loss, metrics: Sequence[Metric]) -> bool:
    """Tell whether `classify` gives what `loss` and `metrics` make of the outputs of `layer`.

    It does for the last layer of a classifier, softmax and cross-entropy with class numbers, where
    ``layer.is_one_op`` holds for its input too.
    """
    return (
        type(layer) is Dense
        and layer.activation is Tensor.softmax
        and batch.weight is None
        and batch.y is not None
        and batch.y.ndim == 1
        and type(loss) is SparseCategoricalCrossentropy
        and not loss.from_logits
        and all(type(metric) in (Accuracy, SparseCategoricalAccuracy) for metric in metrics)
    )


def classify(dense: Layer, x: Tensor, labels: Array, sums: Array) -> Tensor:
    """Return the mean loss of a batch; `sums` takes it and the number of right predictions."""
    assert isinstance(dense, Dense), "see can_classify_at_once"
    dense.check_input(x)
    return apply(ops.dense_cross_entropy, x, dense.weight, dense.bias, labels=labels, sums=sums)
