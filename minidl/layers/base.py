"""Base class of layers: weights, random streams, a name, and the model that a layer belongs to."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from minidl import initializers, regularizers, rng
from minidl.alternatives import keras_defaults, missing_attribute, refuse_names
from minidl.arguments import number_array, positive_integer, snake_case, undefined
from minidl.constraints import Constraint
from minidl.engine.parameter import Parameter
from minidl.engine.tensor import Tensor, as_tensor
from minidl.layers import symbol, terms
from minidl.layers.holder import Holder
from minidl.layers.placement import Placement
from minidl.regularizers import Regularizer

AS_BATCH = "pass one sample as x[None], and samples of one number as x.reshape(-1, 1)."


class Layer(Holder):
    """A function with weights; a subclass defines `call`, and `build` if it has weights.

    The layer finds its weights, random streams and sublayers in its attributes, and in lists,
    tuples and dictionaries there. The weights of sublayers are its weights, too.

    Parameters
    ----------
    name : str, optional
        The name in summaries, errors and files, unique among the layers that one model or layer
        holds. A model names its other layers ``dense``, ``dense_1`` and so on.
    input_shape : tuple of int, optional
        The shape of one sample, without the batch. With it, the first layer of a `Sequential`
        has the model built at once.

    Raises
    ------
    TypeError, ValueError
        If `name` is not a string or is empty, or `input_shape` is not a tuple of lengths.

    Notes
    -----
    `fit` records a step and replays it, see ``model.recording``. An optimizer with a rule of your
    own prevents this. So does a layer, model, loss, metric, regularizer or constraint of your own,
    unless its class declares ``recordable = True``. A subclass does not inherit it. For a function
    as an activation, set ``swish.recordable = True``. This promises:

    - Results depend only on inputs, weights, random streams and constants.
    - Nothing is read on the host, as by ``x.numpy()``, ``x.item()``, ``float(x)`` or ``if x > 0``.
    - No attribute and no global variable changes from step to step.
    - Products of matrices are products of tensors. No array is kept for a later step.

    A schedule is a function of the number of the update. Callbacks need no promise, since they run
    between steps and may change anything there.

    A layer in whose training an output depends on other samples, as in `BatchNormalization`, sets
    the attribute ``needs_whole_batches = True``. It is then not trained on parts of batches.

    Examples
    --------
    A layer with a weight:

    >>> class Scale(Layer):
    ...     def build(self, input_shape):
    ...         self.factor = self.add_weight("factor", (input_shape[-1],), "ones")
    ...
    ...     def call(self, x):
    ...         return x * self.factor
    >>> Scale()(Tensor([1.0, 2.0]))
    Tensor([1., 2.], dtype=float32, requires_grad=True)

    A random layer holds a `RandomStream`. Here each sample keeps all of its values or none:

    >>> from minidl import rng
    >>> from minidl.rng import RandomStream
    >>> class DropSample(Layer):
    ...     def __init__(self, rate, seed=None, **arguments):
    ...         super().__init__(**arguments)
    ...         self.rate, self.seed, self.stream = rate, seed, RandomStream(seed)
    ...
    ...     def call(self, x):
    ...         if not rng.is_training():
    ...             return x
    ...         address = self.stream.next_address(x.shape)
    ...         keep = x.backend.keep_mask((len(x), 1), self.rate, address)
    ...         return x * x.like(keep).astype(x.dtype) / (1 - self.rate)
    >>> with rng.training(step=0):
    ...     DropSample(0.5, seed=3)(Tensor([[1.0, 2.0], [3.0, 4.0]]))
    Tensor([[2., 4.],
            [0., 0.]], dtype=float32)
    """

    # The terms of the latest forward pass are in a slot: attributes stay the same between calls.
    __slots__ = ("__dict__", "__weakref__", "_terms")
    _terms: terms.Terms

    # Here as well as in __init__, for subclasses that do not call it.
    name: str | None = None
    name_is_given = False
    input_shape: tuple[int, ...] | None = None
    built_for: tuple[int, ...] | None = None  # the shape of the first sample
    output_shape: tuple[int | None, ...] | None = None
    built = False
    placement: Placement | None = None
    needs_whole_batches = False  # whether one sample's output depends on the others in the batch
    scope = ""  # the names of the layers around it, if another layer has its name
    _weight_names: tuple[str, ...] = ()
    takes_list = False  # whether `call` takes a list of tensors
    _takes_training = False  # whether `call` has a parameter of that name

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        if inspect.isfunction(cls.call):
            parameters = inspect.signature(cls.call).parameters
            refuse_names("call's parameters", parameters, who=f"{cls.__name__}.call")
            cls._takes_training = "training" in parameters
        if inspect.isfunction(vars(cls).get("build")):
            cls.build = _recorded(cls.build)  # type: ignore[method-assign]

    @keras_defaults(
        trainable=True,
        dtype=(None, "float32"),
        activity_regularizer=None,
        autocast=True,
        input_dim=None,
    )
    def __init__(self, *, name: str | None = None, input_shape: tuple[int, ...] | None = None):
        who = type(self).__name__
        if not isinstance(name, str | None):
            raise TypeError(f"{who}: expected name to be a string, got {name!r}.")
        if name == "":
            raise ValueError(f"{who}: expected a name, got an empty string. Leave name out.")
        if input_shape is not None:
            if not isinstance(input_shape, tuple | list):
                raise TypeError(
                    f"{who}: expected input_shape to be a tuple, got {input_shape!r}. Use "
                    f"({input_shape!r},)."
                )
            input_shape = tuple(positive_integer(f"{who}: input_shape", n) for n in input_shape)
        self.name = name
        self.name_is_given = name is not None
        self.input_shape = input_shape

    if not TYPE_CHECKING:  # type checkers would accept every attribute

        def __getattr__(self, name: str) -> Any:
            return missing_attribute(self, "Layer", name)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, without the terms of a forward pass."""
        return vars(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    @property
    def label(self) -> str:
        """The name, or `class_label` if the layer has no name yet."""
        return self.name or self.class_label

    @property
    def path(self) -> str:
        """The name in files and of weights: `label`, after `scope` if that is not unique."""
        return self.scope + self.label

    @property
    def class_label(self) -> str:
        """The class name in snake case."""
        return snake_case(type(self).__name__)

    # -------------------------------------------------------------------- for subclasses

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Create the weights for inputs of `input_shape`, which includes the batch.

        The layer is built then, also if the user calls this: its first call keeps the weights.
        """

    def _run_build(self, build: Callable[..., None], input_shape: tuple[int | None, ...]) -> None:
        """Run a definition of `build`; if it raises, it can run again."""
        before = self._weight_names, self.built
        try:
            build(self, input_shape)
        except BaseException:
            self._weight_names, self.built = before
            raise
        self.built = True

    def call(self, x: Any, /) -> Any:
        """Return the output for `x`, after `build` has run.

        `minidl.rng.is_training` returns the mode. A definition with a parameter `training` receives
        it. If the class sets ``takes_list = True``, `x` is a list of tensors, and the input shape
        of `build` a list of shapes.
        """
        undefined(self, "call(self, x)")

    def add_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: str | initializers.Initializer,
        constraint: Constraint | None = None,
        learning_rate_factor: float = 1.0,
        regularizer: str | Regularizer | None = None,
    ) -> Parameter:
        """Return a new weight; call this in `build` and store the result in an attribute.

        Parameters
        ----------
        name : str
            The name, unique within the layer.
        shape : tuple of int
            The shape.
        initializer : str or Initializer
            The initial values.
        constraint : Constraint, optional
            Applied after each update.
        learning_rate_factor : float
            0 or above. Optimizers multiply their learning rate by it for this weight.
        regularizer : str or Regularizer, optional
            Its penalty on the weight is a term of the loss.

        Raises
        ------
        RuntimeError
            If the initial values are random and neither a model nor the initializer has a seed.
        ValueError
            If the layer has a weight of that name, initializer or constraint do not fit the
            shape, or the factor is negative.
        """
        if name in self._weight_names:
            raise ValueError(
                f"{self.label}: expected unique names of weights, got {name!r} twice. Rename one."
            )
        placement = self.placement or Placement()
        initializer = initializers.get(initializer)
        initializer.check(shape)
        seed = placement.seed if initializer.seed is None else initializer.seed
        if seed is None and initializer.is_random:
            raise RuntimeError(
                f"{self.label}: expected a seed for its weights, got None. Put the layer into a "
                f"model, or pass {type(initializer).__name__}(seed=0)."
            )
        if constraint is not None:
            constraint.check(shape)
        stream = placement.next_weight_stream()
        full_name = f"{self.path}/{name}"
        if placement.initial_values is None:
            values = initializer.draw(shape, seed=seed or 0, stream=stream)
        else:
            values = placement.initial_values(full_name, shape)
        # A copy: the array may be read-only, or serve other weights.
        values = number_array(self.label, f"initial values of {name}", values)
        values = np.array(values, placement.dtype, order="C")
        parameter = Parameter(values, placement.backend, full_name, stream)
        parameter.constraint = constraint
        parameter.learning_rate_factor = learning_rate_factor
        parameter.requires_grad = self._trainable and name not in self.not_trained
        parameter.regularizer = regularizers.get(regularizer)
        self._weight_names = (*self._weight_names, name)
        return parameter

    def _add_weight_of(self, kind: str, name: str, shape: tuple[int, ...]) -> Parameter:
        """Return a new weight with the attributes ``KIND_initializer`` and so on as its options."""
        options = "initializer", "constraint", "regularizer"
        chosen = {option: getattr(self, f"{kind}_{option}") for option in options}
        weight = self.add_weight(name, shape, **chosen)
        weight.in_keras = kind
        return weight

    def add_loss(self, term: Tensor) -> None:
        """Add a term to the loss that `fit` minimises and that `fit` and `evaluate` report.

        Call this in `call`. Sample weights do not scale the term, and `predict` ignores it. A loop
        written by hand adds the model's `losses`. On the CPU, steps with terms are not recorded.

        Parameters
        ----------
        term : Tensor
            A scalar.

        Raises
        ------
        TypeError, ValueError
            If `term` is not a Tensor, not a scalar, or on another device.
        RuntimeError
            Outside of `call`.

        Examples
        --------
        >>> class SmallOutputs(Layer):
        ...     def call(self, x):
        ...         self.add_loss(0.5 * (x * x).mean())
        ...         return x
        >>> layer = SmallOutputs()
        >>> y = layer(Tensor([1.0, 3.0]))
        >>> [term.item() for term in layer.losses]
        [2.5]
        """
        found = terms.current()
        if found is None:
            raise RuntimeError(
                f"{self.label}: expected add_loss within call, got it outside. Call the layer."
            )
        backend = None if self.placement is None else self.placement.backend
        found.append((self, terms.checked(f"{self.label}: add_loss", term, backend)))

    @property
    def losses(self) -> list[Tensor]:
        """The terms that this layer and layers below it added in its latest call, and penalties.

        The penalties are those of the regularizers, computed anew from the weights. `fit`,
        `evaluate` and `predict` call the layers of a model, but not the model itself.
        """
        below = set(self.walk())
        added = [term for layer, term in getattr(self, "_terms", ()) if layer in below]
        return added + terms.penalties(self.parameters())

    # -------------------------------------------------------------------- for users

    @overload
    def __call__(self, x: symbol.Symbols, training: bool | None = ...) -> symbol.Symbol: ...
    @overload
    def __call__(self, x: Any, training: bool | None = ...) -> Tensor: ...
    def __call__(self, x: Any, training: bool | None = None) -> Any:
        """Return the layer's output; the first call builds the layer.

        Parameters
        ----------
        x : Tensor, array_like or Symbol
            The input, with the batch along axis 0. Arrays are cast to the dtype of the layer. For
            a symbol the result is a symbol, and the layer is not built.
        training : bool, optional
            The mode. By default that of the block around it, as of `minidl.training`.

        Raises
        ------
        TypeError
            If `x` does not hold numbers.
        ValueError
            If `x` does not have the layer's ``input_shape``.
        """
        if symbol.are_symbols(x):
            return symbol.called(self, x, training)
        if training is not None and bool(training) != rng.is_training():
            with rng.training() if training else rng.inference():
                return self(x)
        of_pass = terms.current()
        if of_pass is None:  # the outermost call of a forward pass
            with terms.collected():
                return Layer.__call__(self, x)
        self._terms = of_pass
        x = self._as_input(x)
        is_list = isinstance(x, list)
        if not is_list and self.input_shape is not None and x.shape[1:] != self.input_shape:
            advice = "Pass samples of this shape, or change input_shape."
            if x.ndim != 1 + len(self.input_shape):
                advice = f"Axis 0 is the batch: {AS_BATCH}"
            raise ValueError(
                f"{self.label}: expected samples of its input_shape {self.input_shape}, got "
                f"{x.shape[1:]}. {advice}"
            )
        if self.output_shape is not None:
            return self._called(x)
        shape: Any = [each.shape for each in x] if is_list else x.shape
        if not self.built:
            self.build(shape)
            self.built = True  # `build` may come from a class that is not a Layer
        y = self._called(x)
        self.built_for = tuple(each[1:] for each in shape) if is_list else shape[1:]
        self.output_shape = symbol.batch_shape(y)
        return y

    def _called(self, x: Any) -> Any:
        call: Any = self.call
        return call(x, training=rng.is_training()) if self._takes_training else call(x)

    def _as_input(self, x: Any) -> Any:
        """Return an input, or all inputs of a list, as tensors."""
        if self.takes_list:
            if not isinstance(x, list | tuple):
                raise TypeError(
                    f"{self.label}: expected a list, got a {type(x).__name__}. Use [a, b]."
                )
            return [self._as_tensor(each) for each in x]
        return self._as_tensor(x)

    def _as_tensor(self, x: Any) -> Tensor:
        """Return a tensor as it is, and an array of the host on the layer's device."""
        if isinstance(x, Tensor):
            return x
        refuse_layers(self.label, x)
        if isinstance(x, list | tuple) and any(isinstance(each, Tensor) for each in x):
            raise TypeError(
                f"{self.label}: expected one tensor, got a list. A layer of yours whose call takes "
                "a list sets takes_list = True."
            )
        place = self.placement or Placement()
        return as_tensor(self.label, "x", x, place.backend).astype(place.dtype)

    def walk(self) -> "Iterator[Layer]":
        """Yield this layer and all layers below it, depth first, each once."""
        seen: set[Layer] = set()
        stack: list[Layer] = [self]
        while stack:
            layer = stack.pop()
            if layer not in seen:
                seen.add(layer)
                yield layer
                stack.extend(reversed(layer.held(Layer)))

    def check_built(self) -> None:
        """Raise ValueError if the layer is not built, so that it has neither weights nor shapes."""
        if not self.built:
            raise ValueError(
                f"{self.label}: expected a built layer, got one without weights and shapes. Pass "
                "input_shape= to the model's first layer, or call the model on data."
            )


def refuse_layers(who: str, x: Any) -> None:
    """Raise TypeError for a layer as the input of a layer, Keras' functional style."""
    if isinstance(x, Layer):
        raise TypeError(
            f"{who}: expected data or symbols, got the layer {x.label}. Begin with x = "
            "layers.Input(shape), and call each layer on the result of the one before it."
        )


def _recorded(build: Callable[..., None]) -> Callable[..., None]:
    """Return a definition of `build` after which the layer is built, also if the user calls it."""

    @functools.wraps(build)
    def recorded(self: Layer, input_shape: tuple[int, ...]) -> None:
        self._run_build(build, input_shape)

    return recorded
