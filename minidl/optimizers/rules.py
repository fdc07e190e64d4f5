"""Update rules: SGD, RMSprop, Adam and AdamW."""

from typing import Any

from minidl.alternatives import keras_defaults
from minidl.arguments import Number, choose
from minidl.backend import Array
from minidl.optimizers.base import Optimizer
from minidl.optimizers.schedules import LearningRate

CLIPPING = dict.fromkeys(("clipnorm", "clipvalue", "global_clipnorm"))
KERAS_OPTIMIZER = {**CLIPPING, "use_ema": False, "ema_momentum": 0.99, "loss_scale_factor": None}


@keras_defaults(name="SGD", **KERAS_OPTIMIZER)
class SGD(Optimizer):
    """Gradient descent, with momentum if it is given.

    With momentum m and gradient g: v = m v - rate g; w = w + v. With `nesterov` (Sutskever et al.,
    ICML 2013): w = w + m v - rate g.

    Parameters
    ----------
    learning_rate, weight_decay
        As in `Optimizer`.
    momentum : float
        In [0, 1).
    nesterov : bool
        Whether to use Nesterov's momentum.

    Examples
    --------
    >>> SGD(0.1, momentum=0.9).state_names
    ('velocity',)
    """

    momentum: Any = Number("[0, 1)")

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        weight_decay: float | None = None,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.momentum = momentum
        self.nesterov = nesterov

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The velocity, with momentum."""
        return ("velocity",) if self.momentum else ()

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Update `weights` in place."""
        self.backend.sgd(
            weights,
            gradients,
            self.state["velocity"] if self.momentum else None,
            rate=rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            decay=decay,
        )


@keras_defaults(name="rmsprop", momentum=0.0, centered=False, **KERAS_OPTIMIZER)
class RMSprop(Optimizer):
    """Gradient divided by its running root mean square (Hinton, lecture 6e, 2012).

    Parameters
    ----------
    learning_rate, weight_decay
        As in `Optimizer`.
    rho : float
        Decay rate of the running mean, in [0, 1).
    epsilon : float
        Added to the mean square, 0 or above.
    """

    state_names = ("square",)
    rho: Any = Number("[0, 1)")
    epsilon: Any = Number("[0, inf)")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.9,
        *,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.rho = rho
        self.epsilon = epsilon

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Update `weights` in place."""
        self.backend.rmsprop(
            weights,
            gradients,
            self.state["square"],
            rate=rate,
            rho=self.rho,
            epsilon=self.epsilon,
            decay=decay,
        )


@keras_defaults(name="adam", amsgrad=False, **KERAS_OPTIMIZER)
class Adam(Optimizer):
    """Adam: running means of the gradient and of its square.

    Kingma & Ba, ICLR 2015, algorithm 1 in the form at the end of section 2, with Keras' epsilon.

    Parameters
    ----------
    learning_rate, weight_decay
        As in `Optimizer`.
    beta_1, beta_2 : float
        Decay rates of the means, in [0, 1).
    epsilon : float
        Added to the root of the mean square, 0 or above.
    """

    state_names = ("mean", "square")
    beta_1: Any = Number("[0, 1)")
    beta_2: Any = Number("[0, 1)")
    epsilon: Any = Number("[0, inf)")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,
        weight_decay: float | None = None,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def step_size(self, rate: float, iterations: int) -> float:
        """Return the learning rate with both bias corrections."""
        updates = iterations + 1
        return rate * (1 - self.beta_2**updates) ** 0.5 / (1 - self.beta_1**updates)

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Update `weights` in place."""
        self.backend.adam(
            weights,
            gradients,
            self.state["mean"],
            self.state["square"],
            rate=rate,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            decay=decay,
        )


@keras_defaults(name="adamw", amsgrad=False, **KERAS_OPTIMIZER)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019).

    Parameters
    ----------
    learning_rate, weight_decay, beta_1, beta_2, epsilon
        As in `Adam`, in Keras' order.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay)


_BY_NAME: dict[str, type[Any]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}


def get(optimizer: str | Optimizer) -> Optimizer:
    """Return the optimizer of that name with its defaults, or the given one.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the names.
    """
    return choose("optimizer", optimizer, Optimizer, _BY_NAME)
