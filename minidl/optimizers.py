"""How gradients change weights: one pass over all weights, in place, on the device.

An optimizer lays the weights it updates into one flat buffer, of which each weight becomes a view;
gradients and state are flat buffers of the same layout. So each rule below is written once, for
one array.
"""

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from minidl import schedules
from minidl.autograd import Tensor
from minidl.backend import Array, Backend
from minidl.by_name import choose
from minidl.keras_gaps import Missing, missing_attribute, refuse
from minidl.parameter import Parameter
from minidl.schedules import LearningRateSchedule

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "get", "schedules"]


class Optimizer:
    """Update weights from their gradients; subclass it and give `rule` and `state_names`.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule
        0 or above. It may be set between updates.
    weight_decay : float, optional
        Before each update weights shrink by this times the learning rate (decoupled, as in
        Loshchilov & Hutter, ICLR 2019, algorithm 2).

    Attributes
    ----------
    iterations : int
        The number of updates made.
    is_changing : bool
        Whether the latest update has begun to change weights and state, and is not done with it.

    Examples
    --------
    A training loop written by hand:

    >>> import minidl
    >>> from minidl import Tensor, layers, losses, models
    >>> model = models.Sequential([layers.Dense(1, input_shape=(2,))], seed=1)
    >>> optimizer, loss = SGD(0.1), losses.MeanSquaredError()
    >>> x, y = Tensor([[1.0, 2.0]]), Tensor([[3.0]])
    >>> for step in range(20):
    ...     with minidl.training(step=step):
    ...         error = loss(y, model(x))
    ...     error.backward()
    ...     optimizer.update(model.parameters())
    >>> error.item() < 1e-3
    True
    """

    state_names: tuple[str, ...] = ()
    backend: Backend  # of the weights, known from the first update on
    lr = Missing("Optimizer")

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        *,
        weight_decay: float | None = None,
        **not_taken: Any,
    ):
        refuse("optimizer's arguments", not_taken, who=type(self).__name__)
        if weight_decay is not None:
            self.check("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or above")
        self.learning_rate = learning_rate
        self.weight_decay = None if weight_decay is None else float(weight_decay)
        self.iterations = 0
        self.is_changing = False
        self.state: dict[str, Array] = {}
        self._parameters: list[Parameter] = []
        self._weights: Array = None
        self._gradients: Array = None
        self._views: list[Array] = []
        self._into: dict[Tensor, Array] = {}

    if not TYPE_CHECKING:  # there it would stand for every name

        def __getattr__(self, name: str) -> Any:
            return missing_attribute(self, "Optimizer", name)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the buffers: in a copy the views would no longer lie in them."""
        return vars(self) | {"_weights": None, "_gradients": None, "_views": [], "_into": {}}

    @property
    def learning_rate(self) -> float | LearningRateSchedule:
        """The learning rate of the next update, or the schedule that gives it."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float | LearningRateSchedule) -> None:
        number = rate if isinstance(rate, LearningRateSchedule) else schedules.as_rate(rate)
        if number is None:
            error = ValueError if isinstance(rate, Real) else TypeError
            raise error(
                f"{type(self).__name__}: learning_rate must be {schedules.RATE}, or a "
                f"LearningRateSchedule, received {rate!r}"
            )
        self._learning_rate: float | LearningRateSchedule = number

    def check(self, name: str, value: float, holds: bool, expected: str) -> None:
        """Raise ValueError where a hyperparameter is not what is expected."""
        if not holds:
            raise ValueError(f"{type(self).__name__}: {name} must be {expected}, received {value}")

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Multiply the flat `weights` by `decay` and update them, in place.

        `gradients` may be overwritten.
        """
        raise NotImplementedError

    def gradients_of(self, parameters: Sequence[Parameter]) -> dict[Tensor, Array]:
        """Return where `update` reads the gradient of each parameter: ``backward(into=...)``.

        What is written there need not be copied. It is overwritten in the next step: copy what you
        keep. Frozen parameters have no place.
        """
        trained = _trained(parameters)
        if not trained:
            return {}
        with trained[0].backend.active:
            self._lay_out(trained)
        return self._into

    def update(self, parameters: Sequence[Parameter]) -> None:
        """Update `parameters` from their ``grad``, and clear it.

        Those that require no gradient are frozen and stay as they are.

        Raises
        ------
        ValueError
            If a parameter has no gradient, they are not those of the first update, or the schedule
            gives no learning rate; nothing is changed then.
        TypeError
            If the weights are float16.
        """
        self.is_changing = False
        parameters = _trained(parameters)
        missing = [parameter.name for parameter in parameters if parameter.grad is None]
        if missing:
            raise ValueError(
                f"{type(self).__name__}: no gradient for {', '.join(missing)}; "
                "call backward() on a loss that depends on it"
            )
        if not parameters:
            return
        if parameters[0].dtype == "float16":
            raise TypeError(
                f"{type(self).__name__}: float16 weights cannot be trained, since squares of their "
                'gradients underflow; use dtype="float32"'
            )
        self.backend = backend = parameters[0].backend
        rate = self._next_rate()
        with backend.active:
            self._lay_out(parameters)
            for parameter in parameters:
                view = self._into[parameter]
                assert parameter.grad is not None
                if parameter.grad.data is not view:
                    view[...] = parameter.grad.data
                parameter.grad = None
                parameter.note_change()
            self.is_changing = True
            self.rule(self._weights, self._gradients, rate, 1 - rate * (self.weight_decay or 0))
            for parameter in parameters:
                if parameter.constraint is not None:
                    parameter.constraint.apply(parameter.data, backend)
        self.iterations += 1
        self.is_changing = False

    def _next_rate(self) -> float:
        """Return the learning rate of the next update."""
        schedule = self.learning_rate
        if not isinstance(schedule, LearningRateSchedule):
            return schedule
        # Python's float takes on the dtype of the weights, a NumPy float64 would not.
        who = f"{type(self).__name__}: {type(schedule).__name__}"
        step = self.iterations
        return schedules.returned_rate(who, schedule(step), f"update {step}")

    def is_for(self, parameters: Sequence[Parameter]) -> bool:
        """Tell whether `update` takes `parameters`: any at first, then the same again."""
        return self._are_known(_trained(parameters))

    def _are_known(self, trained: Sequence[Parameter]) -> bool:
        known = self._parameters
        return not known or (len(trained) == len(known) and all(map(operator.is_, trained, known)))

    def restore(
        self, parameters: Sequence[Parameter], iterations: int, state: dict[str, Array]
    ) -> None:
        """Go on where an optimizer stood that had updated `parameters`, if it had."""
        self._parameters = _trained(parameters) if iterations else []
        self.iterations, self.state = iterations, state

    def _lay_out(self, parameters: Sequence[Parameter]) -> None:
        """Make each weight a view of one flat buffer, where it is not one already.

        State that the rule needs is made too, also later: a momentum may be given in between.
        """
        if not self._are_known(parameters):
            raise ValueError(
                f"{type(self).__name__}: expected the {len(self._parameters)} weights of the first "
                f"update, received {len(parameters)} that are not the same; use one optimizer for "
                "each model, and a new one (or compile again) after freezing or adding weights"
            )
        xp = parameters[0].backend.xp
        if not self._views or any(
            p.data is not v for p, v in zip(parameters, self._views, strict=True)
        ):
            self._parameters = list(parameters)
            shapes = [parameter.shape for parameter in parameters]
            self._weights = xp.concatenate([parameter.data.ravel() for parameter in parameters])
            self._gradients = xp.empty_like(self._weights)
            self._views = _views(self._weights, shapes)
            self._into = dict(zip(parameters, _views(self._gradients, shapes), strict=True))
            for parameter, view in zip(parameters, self._views, strict=True):
                parameter.data = view
        for name in self.state_names:
            if name not in self.state:
                self.state[name] = xp.zeros_like(self._weights)


def _trained(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Return those that are not frozen."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def _views(flat: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Cut a flat buffer into arrays of `shapes`."""
    views, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        views.append(flat[start : start + size].reshape(shape))
        start += size
    return views


class SGD(Optimizer):
    """Go down the gradient, with momentum where it is given.

    With momentum m and gradient g: v = m v - rate g; w = w + v; with `nesterov` (Sutskever et al.,
    ICML 2013) w = w + m v - rate g.
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        weight_decay: float | None = None,
        **not_taken: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **not_taken)
        self.check("momentum", momentum, 0 <= momentum < 1, "in [0, 1)")
        self.momentum = float(momentum)
        self.nesterov = nesterov

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The velocity, with momentum."""
        return ("velocity",) if self.momentum else ()

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Update `weights`."""
        self.backend.sgd(
            weights,
            gradients,
            self.state["velocity"] if self.momentum else None,
            rate=rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            decay=decay,
        )


class RMSprop(Optimizer):
    """Divide the gradient by a running root mean square of itself (Hinton, lecture 6e, 2012)."""

    state_names = ("square",)

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        rho: float = 0.9,
        *,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        **not_taken: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **not_taken)
        self.check("rho", rho, 0 <= rho < 1, "in [0, 1)")
        self.check("epsilon", epsilon, epsilon >= 0, "0 or above")
        self.rho = float(rho)
        self.epsilon = float(epsilon)

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Update `weights`."""
        self.backend.rmsprop(
            weights,
            gradients,
            self.state["square"],
            rate=rate,
            rho=self.rho,
            epsilon=self.epsilon,
            decay=decay,
        )


class Adam(Optimizer):
    """Follow running means of the gradient and of its square.

    Kingma & Ba, ICLR 2015, algorithm 1 in the form of the end of section 2, with Keras' epsilon.
    """

    state_names = ("mean", "square")

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,
        weight_decay: float | None = None,
        **not_taken: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **not_taken)
        self.check("beta_1", beta_1, 0 <= beta_1 < 1, "in [0, 1)")
        self.check("beta_2", beta_2, 0 <= beta_2 < 1, "in [0, 1)")
        self.check("epsilon", epsilon, epsilon >= 0, "0 or above")
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Update `weights`."""
        updates = self.iterations + 1
        self.backend.adam(
            weights,
            gradients,
            self.state["mean"],
            self.state["square"],
            rate=rate * (1 - self.beta_2**updates) ** 0.5 / (1 - self.beta_1**updates),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            decay=decay,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019)."""

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **not_taken: Any,
    ):
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay, **not_taken
        )


_BY_NAME: dict[str, type[Any]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}


def get(optimizer: str | Optimizer) -> Optimizer:
    """Return the optimizer of that name with its defaults, or the one given.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.
    """
    return choose("optimizer", optimizer, Optimizer, _BY_NAME)
