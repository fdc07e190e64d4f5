"""Concrete dropout, which learns its rate."""

import math
from typing import Any

import numpy as np

from minidl import rng
from minidl.arguments import Number
from minidl.engine.tensor import Tensor
from minidl.initializers import Constant
from minidl.layers.dense import Dense
from minidl.layers.random_layer import RandomLayer


class ConcreteDropout(RandomLayer):
    """A `Dense` layer with dropout of its inputs, at a rate that is learned.

    Gal, Hron & Kendall, "Concrete dropout", NeurIPS 2017. In training, each input is multiplied by
    (1 - z) / (1 - p), where z = sigmoid((logit p + logit u) / temperature) is a smooth form of a
    decision (section 3), and u a uniform number with an address. The rate p has a gradient, and is
    trained through its logit, a weight. In inference nothing is dropped.

    The layer adds to the loss (equations 2 to 4, in the form of the authors' code)::

        weight_regularizer * sum(kernel ** 2) / (1 - p)
        - dropout_regularizer * inputs * entropy(p)

    The first term needs the kernel that follows the dropout. So this layer holds the `Dense`, as in
    the authors' code. The bias has no term.

    Parameters
    ----------
    layer : Dense
        The layer after the dropout.
    rate : float
        The first rate, in (0, 1).
    temperature : float
        Above 0. The lower, the closer is z to 0 or 1.
    weight_regularizer, dropout_regularizer : float
        At least 0; the defaults are those of the authors' code. For N samples, a mean cross-entropy
        and the prior length scale l, the paper's values are l**2 / (2 N) and 1 / N.
    learning_rate_factor : float
        Of the logit, as in `add_weight`. The gradient of the rate is small beside those of weights,
        but optimizers such as Adam move all weights alike: a factor above 1 lets it keep up.
    seed, stream : int, optional
        As in `Dropout`.

    Attributes
    ----------
    logit : Parameter
        log(p / (1 - p)), of shape (1,).
    learned_rate : float
        The present p; `rate` until the layer is built.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> import minidl
    >>> layer = ConcreteDropout(Dense(1, kernel_initializer="ones"), rate=0.3, seed=0)
    >>> x = Tensor([[1.0, 1.0, 1.0, 1.0]])
    >>> layer(x).numpy()
    array([[4.]], dtype=float32)
    >>> with minidl.training(step=0):
    ...     y = layer(x)
    >>> len(layer.losses), round(layer.learned_rate, 6)
    (1, 0.3)
    """

    rate: Any = Number("(0, 1)")
    temperature: Any = Number("(0, inf)")
    weight_regularizer: Any = Number("[0, inf)")
    dropout_regularizer: Any = Number("[0, inf)")
    learning_rate_factor: Any = Number("[0, inf)")

    def __init__(
        self,
        layer: Dense,
        rate: float = 0.1,
        temperature: float = 0.1,
        *,
        weight_regularizer: float = 1e-6,
        dropout_regularizer: float = 1e-5,
        learning_rate_factor: float = 1.0,
        seed: int | None = None,
        stream: int | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(seed=seed, stream=stream, **layer_arguments)
        if not isinstance(layer, Dense):
            raise TypeError(
                f"ConcreteDropout: expected a Dense layer, got {layer!r:.80}. Use "
                "ConcreteDropout(Dense(8), rate)."
            )
        self.layer = layer
        self.rate = rate
        self.temperature = temperature
        self.weight_regularizer = weight_regularizer
        self.dropout_regularizer = dropout_regularizer
        self.learning_rate_factor = learning_rate_factor

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Create the logit of the rate."""
        value = Constant(math.log(self.rate) - math.log1p(-self.rate))
        factor = self.learning_rate_factor
        self.logit = self.add_weight("logit", (1,), value, learning_rate_factor=factor)

    def call(self, x: Tensor) -> Tensor:
        """Return the layer's output for `x`, in training with dropout."""
        odds = self.logit.exp()  # p / (1 - p)
        inverse = odds + 1  # 1 / (1 - p)
        if rng.is_training():
            _, address = self.next_draw(x.shape)
            logits = (self._drawn(x, address) + self.logit) * (-1 / self.temperature)
            x = x * logits.sigmoid() * inverse
        y = self.layer(x)
        weight = self.layer.weight
        squares = (weight * weight).sum() * inverse.sum()
        entropy = (inverse.log() - self.logit * odds / inverse).sum()
        dropout = entropy * (weight.shape[0] * self.dropout_regularizer)
        self.add_loss(squares * self.weight_regularizer - dropout)
        return y

    @staticmethod
    def _drawn(x: Tensor, address: rng.Address) -> Tensor:
        """Return log(u / (1 - u)); in float16 some u would be 0 or 1."""
        wide = "float64" if x.dtype == np.float64 else "float32"
        u = x.like(x.backend.uniform(x.shape, address, wide))
        return (u / (1 - u)).log().astype(x.dtype)

    @property
    def learned_rate(self) -> float:
        """The present rate; reading it waits for the device."""
        return (1 + math.tanh(self.logit.item() / 2)) / 2 if self.built else self.rate
