"""Update rules: SGD, RMSprop, Adam, AdamW and Nadam."""

from itertools import accumulate
from operator import mul
from typing import Any

from minidl_kernels.placed import place_of

from minidl.alternatives import keras_defaults
from minidl.arguments import Number, choose
from minidl.backend import Array
from minidl.optimizers.base import Optimizer
from minidl.optimizers.schedules import LearningRate

KERAS_OPTIMIZER = {
    "decay": None,
    "ema_momentum": 0.99,
    "loss_scale_factor": None,
    "lr": None,
    "use_ema": False,
}


@keras_defaults(name="SGD", **KERAS_OPTIMIZER)
class SGD(Optimizer):
    """Gradient descent, with momentum if it is given.

    With momentum m and gradient g: v = m v - rate g; w = w + v. With `nesterov` (Sutskever et al.,
    ICML 2013): w = w + m v - rate g.

    Parameters
    ----------
    learning_rate, weight_decay, options
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
        **options: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **options)
        self.momentum = momentum
        self.nesterov = nesterov

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The velocity, with momentum."""
        return ("velocity",) if self.momentum else ()

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Update `weights` in place."""
        velocity = self.state["velocity"] if self.momentum else None
        options: Any = {"momentum": self.momentum, "nesterov": self.nesterov}
        self.backend.sgd(weights, gradients, velocity, rate=rate, decay=decay, **options)


@keras_defaults(name="rmsprop", momentum=0.0, centered=False, **KERAS_OPTIMIZER)
class RMSprop(Optimizer):
    """Gradient divided by its running root mean square (Hinton, lecture 6e, 2012).

    Parameters
    ----------
    learning_rate, weight_decay, options
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
        **options: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **options)
        self.rho = rho
        self.epsilon = epsilon

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Update `weights` in place."""
        square, options = self.state["square"], {"rho": self.rho, "epsilon": self.epsilon}
        self.backend.rmsprop(weights, gradients, square, rate=rate, decay=decay, **options)


@keras_defaults(name="adam", **KERAS_OPTIMIZER)
class Adam(Optimizer):
    """Adam: running means of the gradient and of its square.

    Kingma & Ba, ICLR 2015, algorithm 1 in the form at the end of section 2, with Keras' epsilon.

    Parameters
    ----------
    learning_rate, weight_decay, options
        As in `Optimizer`.
    beta_1, beta_2 : float
        Decay rates of the means, in [0, 1).
    epsilon : float
        Added to the root of the mean square, 0 or above.
    amsgrad : bool
        Whether to divide by the root of the largest mean square so far (Reddi et al., ICLR 2018,
        algorithm 2). On the CPU, such updates are not recorded.
    """

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
        amsgrad: bool = False,
        weight_decay: float | None = None,
        **options: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **options)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.amsgrad = amsgrad

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The means, and with amsgrad the largest mean square."""
        return ("mean", "square", "largest") if self.amsgrad else ("mean", "square")

    def step_size(self, rate: float, iterations: int) -> float:
        """Return the learning rate with both bias corrections."""
        updates = iterations + 1
        return rate * (1 - self.beta_2**updates) ** 0.5 / (1 - self.beta_1**updates)

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Update `weights` in place."""
        if self.amsgrad:
            self._update_means(gradients)
            mean, square, largest = (self.state[name] for name in self.state_names)
            self.backend.xp.maximum(largest, square, out=largest)
            self._divide(weights, _in_xp(rate) * mean, largest, decay)
            return
        means = self.state["mean"], self.state["square"]
        options = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        self.backend.adam(weights, gradients, *means, rate=rate, decay=decay, **options)

    def _update_means(self, gradients: Array) -> None:
        """Update the means in place by functions of arrays, for which there is no kernel."""
        self.backend.not_recorded(f"{type(self).__name__} has no kernel for its arguments")
        mean, square = self.state["mean"], self.state["square"]
        mean += (1 - self.beta_1) * (gradients - mean)
        square += (1 - self.beta_2) * (gradients * gradients - square)

    def _divide(self, weights: Array, step: Array, square: Array, decay: float) -> None:
        """Decay the weights and subtract a step divided by a root, in place."""
        weights *= _in_xp(decay)
        weights -= step / (self.backend.xp.sqrt(square) + self.epsilon)


def _in_xp(number: float) -> Any:
    """Return a number for functions of arrays: a placed one as the array where it lies."""
    place = place_of(number)
    return number if place is None else place


@keras_defaults(name="adamw", **KERAS_OPTIMIZER)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019).

    Parameters
    ----------
    learning_rate, weight_decay, beta_1, beta_2, epsilon, options
        As in `Adam`, in Keras' order.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **options: Any,
    ):
        means = beta_1, beta_2, epsilon
        super().__init__(learning_rate, *means, weight_decay=weight_decay, **options)


# Products of 1 - 0.96^i / 2 for i from 1 to n. The later factors are 1.
_WARMUP = [*accumulate((1 - 0.96**i / 2 for i in range(1, 1001)), mul, initial=1.0)]


@keras_defaults(name="nadam", amsgrad=False, **KERAS_OPTIMIZER)
class Nadam(Adam):
    """Adam with Nesterov's momentum.

    Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016, algorithm 2, with Keras'
    momentum beta_1 (1 - 0.96^t / 2) in update t. On the CPU, its updates are not recorded.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon, weight_decay, options
        As in `Adam`; `amsgrad` must be False.
    """

    def step_sizes(self, rate: float, iterations: int) -> tuple[float, ...]:
        """Return the factors of the mean, of the gradient, and of the mean square."""
        now, ahead = iterations + 1, iterations + 2
        products = [self.beta_1**t * _WARMUP[min(t, 1000)] for t in (now, ahead)]
        momenta = [self.beta_1 * (1 - 0.96**t / 2) for t in (now, ahead)]
        of_mean = rate * momenta[1] / (1 - products[1])
        of_gradient = rate * (1 - momenta[0]) / (1 - products[0])
        return of_mean, of_gradient, 1 / (1 - self.beta_2**now)

    def rule(self, weights: Array, gradients: Array, *numbers: float) -> None:
        """Update `weights` in place."""
        of_mean, of_gradient, of_square, decay = map(_in_xp, numbers)
        self._update_means(gradients)
        step = of_mean * self.state["mean"] + of_gradient * gradients
        self._divide(weights, step, of_square * self.state["square"], decay)


_KINDS: tuple[type[Any], ...] = (SGD, RMSprop, Adam, AdamW, Nadam)
_BY_NAME = {kind.__name__.lower(): kind for kind in _KINDS}


def get(optimizer: str | Optimizer) -> Optimizer:
    """Return the optimizer of that name with its defaults, or the given one.

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the names.
    """
    return choose("optimizer", optimizer, Optimizer, _BY_NAME)
