"""Dropout of weights."""

import math
from collections.abc import Callable
from typing import Any

from minidl_kernels.placed import keeps_all

from minidl import rng
from minidl.constraints import Constraint
from minidl.engine import ops
from minidl.engine.tensor import Tensor, apply
from minidl.initializers import Initializer
from minidl.layers.base import Layer
from minidl.layers.dense import Dense
from minidl.layers.random_layer import RandomLayer, Rate, RateLike
from minidl.regularizers import Regularizer


class DropConnect(Dense, RandomLayer):
    """A `Dense` layer that drops weights in training: ``activation(x @ (M * weight) / q + bias)``.

    Wan et al., "Regularization of neural networks using DropConnect", ICML 2013. M is the mask of
    the weight and q = 1 - rate. The bias is not dropped, and inference uses all weights.

    Parameters
    ----------
    units : int
        The size of the output's last axis, at least 1.
    rate : float or callable
        The probability of being dropped, in [0, 1], or a function of the step as in `Dropout`.
    per_sample : bool
        Whether each sample has its own mask. This takes the memory of the weights for each sample.
        Otherwise, all samples of a step share one mask, in all its micro-batches.
    seed, stream
        As in `Dropout`.
    activation, use_bias, kernel_initializer, bias_initializer, kernel_constraint
        As in `Dense`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> import minidl
    >>> layer = DropConnect(3, 0.5, seed=0, kernel_initializer="ones")
    >>> x = Tensor([[1.0, 10.0]])
    >>> layer(x)
    Tensor([[11., 11., 11.]], dtype=float32, requires_grad=True)
    >>> with minidl.training(step=0):
    ...     layer(x).numpy()
    array([[0., 2., 0.]], dtype=float32)
    """

    rate: Any = Rate("[0, 1]")
    __repr__ = Layer.__repr__

    def __init__(
        self,
        units: int,
        rate: RateLike,
        per_sample: bool = False,
        activation: str | Callable[[Tensor], Tensor] | None = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        *,
        kernel_constraint: str | Constraint | None = None,
        bias_constraint: str | Constraint | None = None,
        kernel_regularizer: str | Regularizer | None = None,
        bias_regularizer: str | Regularizer | None = None,
        seed: int | None = None,
        stream: int | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(
            units,
            activation,
            use_bias,
            kernel_initializer,
            bias_initializer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            seed=seed,
            stream=stream,
            **layer_arguments,
        )
        if not isinstance(per_sample, bool):
            raise TypeError(
                f"DropConnect: expected per_sample to be True or False, got {per_sample!r}. Pass "
                'the activation by name: activation="relu".'
            )
        self.rate = rate
        self.per_sample = per_sample

    def call(self, x: Tensor) -> Tensor:
        """Return the layer's output, in training with dropped weights."""
        self.check_input(x)
        if not rng.is_training():
            return self.with_weight(x, self.weight)
        shape = (len(x), *self.weight.shape) if self.per_sample else self.weight.shape
        rate = self.current_rate()
        address = self.random_stream.next_address(shape, per_step=not self.per_sample)
        if keeps_all(rate):
            return self.with_weight(x, self.weight)
        numbers = {"rate": rate, "address": address, "noise_shape": shape}
        numbers["scale"] = self.kept_scale(rate)
        weights = apply(ops.affine_dropout, self.weight, **numbers)
        if not self.per_sample:
            return self.with_weight(x, weights)
        vectors = x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])
        y = (vectors @ weights).reshape(*x.shape[:-1], self.units)
        return self.activation(y if self.bias is None else y + self.bias)
