"""Base class of optimizers: one pass over all weights, in place, on the device.

An optimizer copies the weights that it updates into one flat buffer, and each weight becomes a view
of it. Gradients and state are flat buffers of the same layout, so that each rule is written once,
for one array.
"""

import operator
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from numbers import Real
from typing import TYPE_CHECKING, Any

from minidl.alternatives import RefusesMethods, missing_attribute, unavailable
from minidl.arguments import Number, Shown, as_list, optional, positive_integer, undefined
from minidl.backend import Array, Backend
from minidl.engine.parameter import Parameter
from minidl.optimizers import schedules
from minidl.optimizers.buffers import Buffers, scale_down, trained_of, views_of
from minidl.optimizers.schedules import LearningRate

Group = tuple[float, float]  # factors of the learning rate and of the decay

# Attributes that change from update to update; `rule` does not read them.
_COUNTERS = {"calls", "is_changing", "without_gradient", "_learning_rate"}


class Optimizer(Shown, RefusesMethods):
    """Update of weights from their gradients; a subclass defines `rule` and `state_names`.

    Parameters
    ----------
    learning_rate : float or callable
        0 or above. It can be set between updates. A `LearningRateSchedule`, or another function of
        the number of the update, returns it. Files can hold schedules, but not other functions.
    weight_decay : float, optional
        Each update first shrinks the weights by this times the learning rate (decoupled, as in
        Loshchilov & Hutter, ICLR 2019, algorithm 2).
    clipnorm, clipvalue, global_clipnorm : float, optional
        Above 0; at most one of them. The largest norm of the gradient of each weight, the largest
        absolute value of an element, or the largest norm of all gradients together (Pascanu et al.,
        ICML 2013). Larger ones are scaled down, or cut. On the CPU, such updates are not recorded.
    gradient_accumulation_steps : int, optional
        Only every n-th call of `update` changes the weights, by the mean of n gradients. Clipping
        and decay belong to this update. As in Keras, constraints hold after each call, and a
        schedule gets the number of the call. Such steps are not recorded.
    undecayed : sequence of str
        Regular expressions. Weights in whose `keras_name` (kernel, bias, gamma or beta of a layer)
        one is found are not decayed; see also `exclude_from_weight_decay`.

    Attributes
    ----------
    iterations : int
        The number of updates made.
    calls : int
        The number of calls of `update`: the updates, or the gradients that were accumulated.
    state : dict of str to array
        The flat buffers of the rule, by `state_names`.
    without_gradient : dict
        Its keys are the names of weights that an update left as they were, without a gradient.
    is_changing : bool
        Whether the latest update has begun to change weights and state, and has not finished.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number, or is out of range.

    Examples
    --------
    A training loop written by hand:

    >>> import minidl
    >>> from minidl import Tensor, layers, losses, models, optimizers
    >>> model = models.Sequential([layers.Dense(1, input_shape=(2,))], seed=1)
    >>> optimizer, loss = optimizers.SGD(0.1), losses.MeanSquaredError()
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
    lr = unavailable("Optimizer", "lr")
    weight_decay: Any = Number("[0, inf)", or_none=True)
    clipnorm: Any = Number("(0, inf)", or_none=True)
    clipvalue: Any = Number("(0, inf)", or_none=True)
    global_clipnorm: Any = Number("(0, inf)", or_none=True)

    def __init__(
        self,
        learning_rate: LearningRate,
        *,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        gradient_accumulation_steps: int | None = None,
        undecayed: Sequence[str] = (),
    ):
        self.learning_rate = learning_rate
        self.weight_decay, self.clipnorm = weight_decay, clipnorm
        self.clipvalue, self.global_clipnorm = clipvalue, global_clipnorm
        who = type(self).__name__
        if [clipnorm, clipvalue, global_clipnorm].count(None) < 2:
            raise ValueError(
                f"{who}: expected at most one of clipnorm, clipvalue and global_clipnorm, got "
                "several. Choose one."
            )
        self.gradient_accumulation_steps = optional(
            positive_integer, f"{who}: gradient_accumulation_steps", gradient_accumulation_steps
        )
        self.undecayed = tuple(as_list(who, "undecayed", undecayed))
        self.calls = 0
        self.is_changing = False
        self.without_gradient: dict[str, None] = {}
        self.state: dict[str, Array] = {}
        self._parameters: list[Parameter] = []
        self._buffers: Buffers | None = None

    if not TYPE_CHECKING:  # type checkers would accept every attribute

        def __getattr__(self, name: str) -> Any:
            return missing_attribute(self, "Optimizer", name)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy without the flat buffers: its weights are no longer views."""
        return vars(self) | {"_buffers": None}

    @property
    def learning_rate(self) -> LearningRate:
        """The learning rate of the next update, or the schedule that returns it."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: LearningRate) -> None:
        is_function = callable(rate) and not isinstance(rate, type)
        number = rate if is_function else schedules.as_rate(rate)
        if number is None:
            error = ValueError if isinstance(rate, Real) else TypeError
            raise error(
                f"{type(self).__name__}: expected learning_rate to be {schedules.RATE}, or a "
                f"LearningRateSchedule or another function of the update, got {rate!r}. Pass a "
                "float such as 0.001."
            )
        self._learning_rate: LearningRate = number

    @property
    def iterations(self) -> int:
        """The number of updates made."""
        return self.calls // (self.gradient_accumulation_steps or 1)

    @iterations.setter
    def iterations(self, updates: int) -> None:
        self.calls = updates * (self.gradient_accumulation_steps or 1)

    @property
    def buffer_names(self) -> tuple[str, ...]:
        """The names of the flat buffers in `state`: those of the rule, and sums of gradients."""
        return (*self.state_names, *(["accumulated"] if self.gradient_accumulation_steps else ()))

    def exclude_from_weight_decay(
        self, var_list: Sequence[Parameter] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Leave the decay out for these weights, and for those with a pattern in their Keras name.

        Parameters
        ----------
        var_list : sequence of Parameter, optional
            Weights.
        var_names : sequence of str, optional
            Regular expressions, such as ``"bias"`` or ``"gamma"``.

        Examples
        --------
        >>> from minidl import optimizers
        >>> optimizer = optimizers.AdamW()
        >>> optimizer.exclude_from_weight_decay(var_names=["bias"])
        >>> optimizer.undecayed
        ('bias',)
        """
        exact = (f"^{re.escape(parameter.keras_name)}$" for parameter in var_list or ())
        self.undecayed = *self.undecayed, *exact, *(var_names or ())

    def rule(self, weights: Array, gradients: Array, rate: float, decay: float) -> None:
        """Multiply the flat `weights` by `decay` and update them, in place.

        `rate` is what `step_size` returned; `gradients` may be overwritten.
        """
        undefined(self, "rule(self, weights, gradients, rate, decay)")

    def step_size(self, rate: float, iterations: int) -> float:
        """Return the step size of an update for its learning rate: usually the same."""
        return rate

    def step_sizes(self, rate: float, iterations: int) -> tuple[float, ...]:
        """Return the numbers that `rule` takes before the decay: usually the step size alone."""
        return (self.step_size(rate, iterations),)

    def groups_of(self, parameters: Sequence[Parameter]) -> list[Group]:
        """Return the groups of parameters that share their numbers, in order, each once."""
        return list(dict.fromkeys(map(self._group, parameters)))

    def _group(self, parameter: Parameter) -> Group:
        """Return the factors of the learning rate and of the decay."""
        patterns = self.undecayed if self.weight_decay else ()
        is_excluded = f"^{re.escape(parameter.name)}$" in patterns  # in files of before
        is_excluded |= any(re.search(pattern, parameter.keras_name) for pattern in patterns)
        return parameter.learning_rate_factor, float(not is_excluded)

    def numbers(
        self, ahead: int = 0, groups: Sequence[Group] = ((1.0, 1.0),)
    ) -> tuple[tuple[float, ...], ...]:
        """Return the numbers that `rule` takes in the next or a later call of `update`.

        They are the step sizes and the decay, for each of the groups.

        Raises
        ------
        ValueError
            If the schedule returns an invalid learning rate.
        """
        calls = self.calls + ahead
        iterations = calls // (self.gradient_accumulation_steps or 1)
        rate, decay = self._rate(calls), self.weight_decay or 0
        rates = [(rate * factor, decay * share) for factor, share in groups]
        return tuple((*self.step_sizes(each, iterations), 1 - each * d) for each, d in rates)

    def gradients_of(self, parameters: Sequence[Parameter]) -> Mapping[Parameter, Array]:
        """Return the arrays that `update` reads gradients from, for ``backward(into=...)``.

        A gradient that is written there is not copied. The next step overwrites it. Frozen
        parameters have no array.
        """
        trained = trained_of(parameters)
        if not trained:
            return {}
        with trained[0].backend.active:
            return self._laid_out(trained).gradient_views

    def update(
        self, parameters: Sequence[Parameter], numbers: Sequence[tuple[float, ...]] | None = None
    ) -> None:
        """Update `parameters` from their ``grad``, and clear ``grad``.

        `numbers` are what `numbers` returns for `groups_of` the parameters, if they are known.

        Parameters that require no gradient are frozen: they stay as they are. So do those without
        a gradient, on which no loss depends: neither weights nor state of theirs change, as in
        Keras.

        Raises
        ------
        ValueError
            If no parameter has a gradient, or the schedule returns an invalid learning rate.
            Nothing is changed then.
        TypeError, ValueError
            As `check`.
        """
        self.is_changing = False
        parameters = trained_of(parameters)
        if not parameters:
            return
        without = [parameter for parameter in parameters if parameter.grad is None]
        if len(without) == len(parameters):
            names = ", ".join(parameter.name for parameter in without)
            raise ValueError(
                f"{type(self).__name__}: expected a gradient, got none for {names}. Call "
                "backward() on a loss that depends on them."
            )
        self.backend = backend = parameters[0].backend
        groups = self.groups_of(parameters)
        numbers = self.numbers(0, groups) if numbers is None else numbers
        by_group = dict(zip(groups, numbers, strict=True))
        with backend.active:
            buffers = self._laid_out(parameters)
            for parameter, view in buffers.gradient_views.items():
                if parameter.grad is None:
                    backend.not_recorded(f"{parameter.name} has no gradient")
                    view[...] = 0
                    continue
                if parameter.grad.data is not view:
                    backend.not_recorded(f"the gradient of {parameter.name} is copied")
                    view[...] = parameter.grad.data
                parameter.grad = None
                parameter.note_change()
            kept = [view.copy() for view in self._views_of(without)] if without else []
            self.is_changing = True
            if self._is_due(buffers.gradients):
                for parameter in without:  # earlier gradients do not count in the norm of all
                    buffers.gradient_views[parameter][...] = 0
                self._clip(buffers)
                self._run_rule(buffers, by_group)
            for parameter in parameters:  # also while gradients are accumulated, as in Keras
                if parameter.constraint is not None:
                    backend.not_recorded(f"{parameter.name} has a constraint")
                    parameter.constraint.apply(parameter.data, backend)
            if without:  # the rule and the constraints are for all weights
                for view, values in zip(self._views_of(without), kept, strict=True):
                    view[...] = values
                self.without_gradient |= {parameter.name: None for parameter in without}
        self.calls += 1
        self.is_changing = False

    def _is_due(self, gradients: Array) -> bool:
        """Return whether this call updates, by the mean of the gradients since the last update."""
        steps = self.gradient_accumulation_steps
        if steps is None:
            return True
        total = self.state["accumulated"]
        if (self.calls + 1) % steps:
            total += gradients
            return False
        gradients += total
        gradients /= steps
        total[...] = 0
        return True

    def _clip(self, buffers: Buffers) -> None:
        """Cut the elements of the gradients, or scale them down to the largest norm."""
        if self.clipvalue or self.clipnorm or self.global_clipnorm:
            self.backend.not_recorded("gradients are clipped")
        if self.clipvalue:
            flat = buffers.gradients
            self.backend.xp.clip(flat, -self.clipvalue, self.clipvalue, out=flat)
        for gradient in buffers.gradient_views.values() if self.clipnorm else ():
            scale_down(gradient, self.clipnorm, self.backend)
        if self.global_clipnorm:
            scale_down(buffers.gradients, self.global_clipnorm, self.backend)

    def _run_rule(self, buffers: Buffers, numbers: Mapping[Group, tuple[float, ...]]) -> None:
        """Run the rule on each part of the buffers whose weights share a group."""
        if len(numbers) == 1:
            self.rule(buffers.weights, buffers.gradients, *next(iter(numbers.values())))
            return
        state, end = self.state, 0
        try:
            for group, members in groupby(self._parameters, self._group):
                start, end = end, end + sum(parameter.size for parameter in members)
                self.state = {name: flat[start:end] for name, flat in state.items()}
                weights, gradients = buffers.weights[start:end], buffers.gradients[start:end]
                self.rule(weights, gradients, *numbers[group])
        finally:
            self.state = state

    def count_updates(self, parameters: Sequence[Parameter], times: int) -> None:
        """Count updates of `parameters` that were replayed."""
        for parameter in parameters:
            parameter.note_change()
        self.calls += times

    @property
    def buffers(self) -> dict[str, Array]:
        """The flat buffers that an update changes: weights and state; none before the first one."""
        return {} if self._buffers is None else {"weights": self._buffers.weights, **self.state}

    @property
    def gradients(self) -> Array:
        """The flat buffer of `gradients_of`, once it was called."""
        assert self._buffers is not None, "made by gradients_of"
        return self._buffers.gradients

    def settings(self) -> list[str]:
        """Return the names of the attributes that `rule` depends on."""
        return [name for name in vars(self) if name not in _COUNTERS]

    def _views_of(self, parameters: Sequence[Parameter]) -> list[Array]:
        """Return the parts of the weights and of the state that belong to `parameters`."""
        assert self._buffers is not None, "laid out by update"
        flats = [self._buffers.weights, *(self.state[name] for name in self.state_names)]
        views = [views_of(flat, self._parameters) for flat in flats]
        return [view[parameter] for view in views for parameter in parameters]

    def _rate(self, calls: int) -> float:
        """Return the learning rate of an update after so many calls."""
        schedule = self.learning_rate
        if not callable(schedule):
            return schedule
        # A Python float adopts the dtype of the weights; a NumPy float64 would not.
        who = f"{type(self).__name__}: {schedules.name_of(schedule)}"
        try:
            rate: Any = schedule(calls)
        except ArithmeticError as error:  # an overflow, or a division by zero
            rate = error
        return schedules.returned_rate(who, rate, f"update {calls}")

    def is_for(self, parameters: Sequence[Parameter]) -> bool:
        """Return whether `update` accepts `parameters`: any at first, then the same ones."""
        return self._are_known(trained_of(parameters))

    def check(self, parameters: Sequence[Parameter]) -> None:
        """Raise if `update` would reject `parameters`.

        Raises
        ------
        ValueError
            If they are not those of the first update, or have several dtypes.
        TypeError
            If they are float16.
        """
        trained, who = trained_of(parameters), type(self).__name__
        if not self._are_known(trained):
            raise ValueError(
                f"{who}: expected the {len(self._parameters)} weights of the first update, got "
                f"{len(trained)} others. Use a new optimizer for each model, and after freezing or "
                "adding weights (or call compile again)."
            )
        dtypes = sorted({str(parameter.dtype) for parameter in trained})
        if "float16" in dtypes:
            raise TypeError(
                f"{who}: expected float32 or float64 weights, got float16, in which squares of "
                'gradients underflow. Use dtype="float32".'
            )
        if len(dtypes) > 1:
            raise ValueError(
                f"{who}: expected weights of one dtype, got {' and '.join(dtypes)}. Use an "
                "optimizer for each."
            )

    def _are_known(self, trained: Sequence[Parameter]) -> bool:
        known = self._parameters
        return not known or (len(trained) == len(known) and all(map(operator.is_, trained, known)))

    def restore(self, parameters: Sequence[Parameter], calls: int, state: dict[str, Array]) -> None:
        """Set the calls and the state of an optimizer that has updated `parameters`."""
        self._parameters = trained_of(parameters) if calls else []
        self._buffers = None
        self.calls = calls
        self.state = state

    def _laid_out(self, parameters: Sequence[Parameter]) -> Buffers:
        """Return the buffers that the weights are views of, and make those that are missing.

        State may be missing later, too: momentum can be set after the first update.
        """
        xp, buffers = parameters[0].backend.xp, self._buffers
        if buffers is None or not self._are_known(parameters) or not buffers.are_in_use():
            self.check(parameters)
            self._parameters = list(parameters)
            self._buffers = buffers = Buffers(self._parameters)
        for name in self.buffer_names:
            if name not in self.state:
                self.state[name] = xp.zeros_like(buffers.weights)
        return buffers
