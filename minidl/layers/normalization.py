"""Normalisation of activations, over the samples of a batch or within each sample."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import constraints, regularizers, rng
from minidl.alternatives import keras_defaults
from minidl.arguments import Number, integer
from minidl.constraints import Constraint
from minidl.engine import ops
from minidl.engine.parameter import Parameter
from minidl.engine.tensor import Tensor, apply
from minidl.initializers import Initializer
from minidl.layers import updates
from minidl.layers.base import Layer
from minidl.regularizers import Regularizer


class _Normalization(Layer):
    """Base of both layers: weights of the shape of `axis`, in which mean 0 becomes beta."""

    epsilon: Any = Number("[0, inf)")

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: str | Initializer = "zeros",
        gamma_initializer: str | Initializer = "ones",
        *,
        beta_constraint: str | Constraint | None = None,
        gamma_constraint: str | Constraint | None = None,
        beta_regularizer: str | Regularizer | None = None,
        gamma_regularizer: str | Regularizer | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(**layer_arguments)
        self.axis = list(axis) if isinstance(axis, Sequence) else axis
        self.axes(2**31)  # raises for an axis that no input has
        self.epsilon = epsilon
        self.center, self.scale = center, scale
        self.beta_initializer, self.gamma_initializer = beta_initializer, gamma_initializer
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)

    def axes(self, ndim: int) -> tuple[int, ...]:
        """Return the axes of the weights in an input of `ndim` axes, from 1 on, in order."""
        given = self.axis if isinstance(self.axis, list) else [self.axis]
        places = [integer(f"{self.label}: axis", place) for place in given]
        axes = {place + ndim if place < 0 else place for place in places}
        if not axes or min(axes) < 1 or max(axes) >= ndim or len(axes) < len(given):
            raise ValueError(
                f"{self.label}: expected axis to name axes of the input, each once and not the "
                f"batch axis 0, got {self.axis!r}."
            )
        return tuple(sorted(axes))

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Create gamma and beta."""
        shape = tuple(input_shape[place] for place in self.axes(len(input_shape)))
        self.gamma: Parameter | None = None
        self.beta: Parameter | None = None
        if self.scale:
            self.gamma = self._add_weight_of("gamma", "weight", shape)
        if self.center:
            self.beta = self._add_weight_of("beta", "bias", shape)
        self.weight_shape = shape

    def call(self, x: Tensor) -> Tensor:
        """Return the normalised input, of the same shape and dtype."""
        axes = self.axes(x.ndim)
        found = tuple(x.shape[place] for place in axes)
        if found != self.weight_shape:
            raise ValueError(
                f"{self.label}: expected lengths {self.weight_shape} along axis {self.axis}, got "
                f"shape {x.shape}. For other inputs build a new model."
            )
        y = self.normalized(x.astype(np.promote_types(x.dtype, "float32")), axes)
        if self.gamma is not None:
            y = y * self.along(axes, self.gamma, x)
        if self.beta is not None:
            y = y + self.along(axes, self.beta, x)
        return y.astype(x.dtype)

    def normalized(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Return the input with mean 0 and variance 1."""
        return apply(ops.standardize, x, axis=axes, epsilon=self.epsilon)

    @staticmethod
    def along(axes: tuple[int, ...], weight: Tensor, x: Tensor) -> Tensor:
        """Return a weight in a shape that broadcasts to `x`."""
        if axes == tuple(range(x.ndim - len(axes), x.ndim)):
            return weight
        return weight.reshape([x.shape[n] if n in axes else 1 for n in range(x.ndim)])


@keras_defaults(synchronized=False, renorm=False)
class BatchNormalization(_Normalization):
    """Layer that normalises each feature over the batch (Ioffe & Szegedy, ICML 2015, algorithm 1).

    In training it returns ``gamma * (x - mean) / sqrt(variance + epsilon) + beta``, with mean and
    variance over all axes but `axis`. In inference, and in Monte-Carlo prediction, moving averages
    of both stand for them, and if the layer is frozen, by ``trainable = False``. Otherwise each
    training step moves these, as in Keras::

        moving_mean = moving_mean * momentum + mean * (1 - momentum)

    Outputs for a sample depend on the batch. So `fit` rejects this layer in a run whose batches are
    cut into shards. A batch of one sample normalises to 0.

    Parameters
    ----------
    axis : int
        The axis of the features; not 0, which is the batch.
    momentum : float
        In [0, 1]. PyTorch's momentum is 1 minus this.
    epsilon : float
        0 or above.
    center, scale : bool
        Whether beta is added, and whether gamma is a factor.
    beta_initializer, gamma_initializer : str or Initializer
        The initial values of beta and gamma.
    beta_constraint, gamma_constraint, beta_regularizer, gamma_regularizer
        As in `Dense`.
    moving_mean_initializer, moving_variance_initializer : str or Initializer
        Those of the averages.

    Attributes
    ----------
    gamma, beta : Parameter or None
        Shape (features,). In files their names are those of PyTorch, ``weight`` and ``bias``.
    moving_mean, moving_variance : Parameter
        Shape (features,), frozen; in files ``running_mean`` and ``running_var``. The averaged
        variance is that of the batch, divided by its size n as in Keras; PyTorch's by n - 1.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> import minidl
    >>> layer, x = BatchNormalization(momentum=0.5, epsilon=0.0), Tensor([[1.0], [3.0]])
    >>> with minidl.training():
    ...     y = layer(x)
    >>> y.numpy().ravel(), layer.moving_mean.numpy()
    (array([-1.,  1.], dtype=float32), array([1.], dtype=float32))
    """

    needs_whole_batches = True
    not_trained = ("running_mean", "running_var")
    momentum: Any = Number("[0, 1]")

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: str | Initializer = "zeros",
        gamma_initializer: str | Initializer = "ones",
        moving_mean_initializer: str | Initializer = "zeros",
        moving_variance_initializer: str | Initializer = "ones",
        **layer_arguments: Any,
    ):
        options = epsilon, center, scale, beta_initializer, gamma_initializer
        super().__init__(integer("BatchNormalization: axis", axis), *options, **layer_arguments)
        self.momentum = momentum
        self.moving_mean_initializer = moving_mean_initializer
        self.moving_variance_initializer = moving_variance_initializer

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Create gamma, beta and the moving averages."""
        super().build(input_shape)
        shape = self.weight_shape
        self.moving_mean = self.add_weight("running_mean", shape, self.moving_mean_initializer)
        initializer = self.moving_variance_initializer
        self.moving_variance = self.add_weight("running_var", shape, initializer)

    @property
    def _is_frozen(self) -> bool:
        learned = [weight for weight in (self.gamma, self.beta) if weight is not None]
        return not (any(w.requires_grad for w in learned) if learned else self._trainable)

    def normalized(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Return the input with mean 0 and variance 1; in training, move the averages."""
        averages = self.moving_mean, self.moving_variance
        if not rng.is_training() or rng.is_monte_carlo() or self._is_frozen:
            mean, variance = (self.along(axes, each.astype(x.dtype), x) for each in averages)
            return (x - mean) / (variance + self.epsilon) ** 0.5
        with x.backend.active:
            moments = x.backend.xp.empty((2, *self.weight_shape), x.dtype)
        others = tuple(place for place in range(x.ndim) if place not in axes)
        y = apply(ops.standardize, x, axis=others, epsilon=self.epsilon, moments=moments)
        with x.backend.active:
            for average, values in zip(averages, moments, strict=True):
                updates.move(average, values, self.momentum)
        return y


@keras_defaults(rms_scaling=False)
class LayerNormalization(_Normalization):
    """Layer that normalises each sample over its features (Ba et al., arXiv:1607.06450, section 3).

    It returns ``gamma * (x - mean) / sqrt(variance + epsilon) + beta``, with mean and variance over
    `axis`, in training and in inference.

    Parameters
    ----------
    axis : int or list of int
        The axes of the features; not 0, which is the batch.
    epsilon, center, scale, and those of beta and gamma
        As in `BatchNormalization`. PyTorch's default epsilon is 1e-5.

    Attributes
    ----------
    gamma, beta : Parameter or None
        Of the lengths along `axis`. In files their names are ``weight`` and ``bias``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> LayerNormalization(epsilon=0.0)(Tensor([[1.0, 3.0]])).numpy()
    array([[-1.,  1.]], dtype=float32)
    """
