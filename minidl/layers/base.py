"""What a layer is: weights, a name, and the model it belongs to."""

import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minidl import initializers, rng
from minidl.autograd import Tensor
from minidl.backend import Backend, get_backend
from minidl.constraints import MaxNorm
from minidl.keras_gaps import Missing, missing_attribute, refuse, refuse_definition
from minidl.parameter import Parameter

Kind = TypeVar("Kind")


@dataclass
class Placement:
    """Where a model's layers live: its device, dtype and seed, and the weight streams in use.

    `owner` is the outermost model, which names and numbers the layers. `saved`, where it is given,
    returns the values of the weight of a name and shape, in place of drawn ones.
    """

    backend: Backend
    dtype: np.dtype
    seed: int | None = None
    owner: "Layer | None" = None
    weight_streams: set[int] = field(default_factory=set)
    saved: Callable[[str, tuple[int, ...]], np.ndarray] | None = None

    def next_weight_stream(self) -> int:
        """Take the next free stream for a weight."""
        stream = rng.WEIGHT_STREAMS
        while stream in self.weight_streams:
            stream += 1
        self.weight_streams.add(stream)
        return stream


class Layer:
    """A function with weights; subclass it and give `call`, and `build` where it has weights.

    Weights and layers that are held in attributes, or in lists, tuples and dictionaries in
    attributes, are found by themselves; the weights of such layers are this layer's too.

    Parameters
    ----------
    name : str, optional
        The name in summaries and messages; a model names its unnamed layers ``dense``,
        ``dense_1`` and so on.
    input_shape : tuple of int, optional
        The shape of one sample; the first layer of a `Sequential` may give it, so that the
        model is built at once.

    Examples
    --------
    >>> class Scale(Layer):
    ...     def build(self, input_shape):
    ...         self.factor = self.add_weight("factor", (input_shape[-1],), "ones")
    ...
    ...     def call(self, x):
    ...         return x * self.factor
    >>> Scale()(Tensor([1.0, 2.0]))
    Tensor([1., 2.], dtype=float32, requires_grad=True)
    """

    # Here as well as in __init__, for subclasses that do not call it.
    name: str | None = None
    name_is_given = False
    input_shape: tuple[int, ...] | None = None
    built_for: tuple[int, ...] | None = None  # the shape of the first sample
    output_shape: tuple[int | None, ...] | None = None
    built = False
    placement: Placement | None = None
    trainable = Missing("Layer")

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        if inspect.isfunction(cls.call):
            parameters = inspect.signature(cls.call).parameters
            refuse_definition("call's parameters", parameters, who=f"{cls.__name__}.call")

    def __init__(
        self,
        *,
        name: str | None = None,
        input_shape: tuple[int, ...] | None = None,
        **not_taken: Any,
    ):
        refuse("layer", not_taken, who=type(self).__name__)
        if not isinstance(name, str | None):
            raise TypeError(f"{type(self).__name__}: name must be a string, received {name!r}")
        if name == "":
            raise ValueError(
                f"{type(self).__name__}: name must not be empty; leave it out, and the model gives "
                "one"
            )
        if input_shape is not None:
            if not isinstance(input_shape, tuple | list):
                raise TypeError(
                    f"{type(self).__name__}: input_shape must be a tuple, without the batch, "
                    f"received {input_shape!r}; use ({input_shape!r},)"
                )
            who = f"{type(self).__name__}: input_shape"
            input_shape = tuple(positive_integer(who, length) for length in input_shape)
        self.name = name
        self.name_is_given = name is not None
        self.input_shape = input_shape

    if not TYPE_CHECKING:  # there it would stand for every name

        def __getattr__(self, name: str) -> Any:
            return missing_attribute(self, "Layer", name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    @property
    def label(self) -> str:
        """The name, or what a model would derive it from."""
        return self.name or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    # -------------------------------------------------------------------- for subclasses

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Create the weights for inputs of `input_shape`, the batch included."""

    def call(self, x: Any) -> Any:
        """Return the layer's output; `build` has run.

        In inference mode ``minidl.rng.current_block()`` is None.
        """
        raise NotImplementedError(f"{type(self).__name__}: a Layer must define call(self, x)")

    def add_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: str | initializers.Initializer,
        constraint: MaxNorm | None = None,
    ) -> Parameter:
        """Create a weight; call it in `build` and keep the result in an attribute.

        Where a layer keeps several in a list, tuple or dictionary, give each a `name` of its own.

        Raises
        ------
        RuntimeError
            If the values are random and neither a model nor the initializer gives a seed.
        """
        placement = self.placement or Placement(get_backend("cpu"), np.dtype("float32"))
        initializer = initializers.get(initializer)
        seed = placement.seed if initializer.seed is None else initializer.seed
        if seed is None:
            if isinstance(initializer, initializers.VarianceScaling):
                raise RuntimeError(
                    f"{self.label}: its weights need a seed; put the layer in a model, or give "
                    f"the initializer one: {type(initializer).__name__}(seed=0)"
                )
            seed = 0
        if constraint is not None:
            constraint.check(shape)
        stream = placement.next_weight_stream()
        full_name = f"{self.label}/{name}"
        if placement.saved is None:
            values = initializer.draw(shape, seed=seed, stream=stream)
        else:
            values = placement.saved(full_name, shape)
        parameter = Parameter(values.astype(placement.dtype), placement.backend, full_name, stream)
        parameter.constraint = constraint
        return parameter

    # -------------------------------------------------------------------- for users

    def __call__(self, x: Any, **not_taken: Any) -> Any:
        """Apply the layer to a tensor, building it at the first call."""
        refuse("call", not_taken, who=self.label)
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{self.label}: expected a Tensor, received {type(x).__name__}; use Tensor(x), "
                "or a model, which takes arrays"
            )
        if self.input_shape is not None and x.shape[1:] != self.input_shape:
            remedy = ""
            if x.shape[1:] == self.input_shape[1:]:
                remedy = "; for numbers that are a sample each give x[:, None]"
                if self.input_shape != (1,):
                    remedy = "; for one sample give x[None]"
            raise ValueError(
                f"{self.label}: expected samples of shape {self.input_shape}, as its input_shape "
                f"says, received {x.shape[1:]}{remedy}"
            )
        first = not self.built
        if first:
            self.build(x.shape)
            self.built = True
        y = self.call(x)
        if first:
            self.built_for = x.shape[1:]
            self.output_shape = (None, *y.shape[1:])
        return y

    def sublayers(self) -> "Iterator[Layer]":
        """Give the layers that this one holds directly, in the order they were set."""
        return _held(vars(self), Layer)

    def own_parameters(self) -> Iterator[Parameter]:
        """Give the weights that this layer holds directly, in the order they were set."""
        return iter(dict.fromkeys(_held(vars(self), Parameter)))

    def walk(self) -> "Iterator[Layer]":
        """Give this layer and all below it, depth first, each once."""
        seen: set[Layer] = set()
        stack: list[Layer] = [self]
        while stack:
            layer = stack.pop()
            if layer not in seen:
                seen.add(layer)
                yield layer
                stack.extend(reversed(list(layer.sublayers())))

    def parameters(self) -> list[Parameter]:
        """Return the weights of this layer and of all below it, depth first."""
        found = (parameter for layer in self.walk() for parameter in layer.own_parameters())
        return list(dict.fromkeys(found))

    def count_params(self) -> int:
        """Return the number of numbers in the weights.

        Raises
        ------
        ValueError
            If the layer is not built, so that it has no weights yet.
        """
        if not self.built:
            raise ValueError(
                f"{self.label}: not built, so its weights are not known; give the model's first "
                "layer input_shape=, or call the model on data"
            )
        return sum(math.prod(parameter.shape) for parameter in self.parameters())


@contextmanager
def unchanged_on_error(layers: Iterable[Layer]) -> Iterator[None]:
    """Bring layers, and all below them, back to what they were where what is done inside fails.

    Attributes are brought back, not what is inside a list, say, that one of them holds.
    """
    below = [layer for above in layers for layer in above.walk()]
    attributes = [(layer, vars(layer).copy()) for layer in below]
    names = [(weight, weight.name) for layer in below for weight in layer.own_parameters()]
    owned = [
        (layer.placement, layer.placement.weight_streams.copy())
        for layer in below
        if layer.placement is not None and layer.placement.owner is layer
    ]
    try:
        yield
    except BaseException:
        for layer, before in attributes:
            vars(layer).clear()
            vars(layer).update(before)
        for weight, name in names:
            weight.name = name
        for placement, streams in owned:
            placement.weight_streams = streams
        raise


def positive_integer(name: str, value: Any) -> int:
    """Return `value`, an integer of Python or NumPy above 0, or raise ValueError."""
    if isinstance(value, bool | np.bool) or not hasattr(value, "__index__") or not value > 0:
        raise ValueError(f"{name} must be a positive integer, received {value!r}")
    return operator.index(value)


def _held(value: object, kind: type[Kind]) -> Iterator[Kind]:
    """Give what there is of `kind` in lists, tuples and dictionaries, in their order."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _held(item, kind)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _held(item, kind)
