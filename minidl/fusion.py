"""The one place of fusion: a `Dense` that is followed by a `Dropout` runs as one op."""

from minidl import ops, rng
from minidl.autograd import Tensor, apply
from minidl.layers import activations
from minidl.layers.base import Layer
from minidl.layers.dense import Dense
from minidl.layers.dropout import Dropout

FUSED_ACTIVATIONS = ((activations.linear, "linear"), (Tensor.relu, "relu"))


def _fused_name(dense: Dense) -> str | None:
    """Return the name of the activation that the fused op knows, or None."""
    names = (name for function, name in FUSED_ACTIVATIONS if dense.activation is function)
    return next(names, None)


def can_fuse(layer: Layer, following: Layer, x: Tensor) -> bool:
    """Tell whether `dense_dropout` is there for these layers and this input."""
    return (
        type(layer) is Dense
        and type(following) is Dropout
        and layer.built
        and following.built
        and layer.bias is not None
        and _fused_name(layer) is not None
        and following.rate > 0
        and x.ndim == 2
        and rng.current_block() is not None
    )


def dense_dropout(dense: Layer, dropout: Layer, x: Tensor) -> Tensor:
    """Apply both layers in training, with the result of applying one after the other."""
    assert isinstance(dense, Dense), "see can_fuse"
    assert isinstance(dropout, Dropout), "see can_fuse"
    dense.check_input(x)
    return apply(
        ops.dense,
        x,
        dense.weight,
        dense.bias,
        activation=_fused_name(dense),
        rate=dropout.rate,
        address=dropout.next_address(x),
        rescale=dropout.scaling == "train",
    )
