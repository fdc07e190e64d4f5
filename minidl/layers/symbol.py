"""Symbols: placeholders for data, from which functional models are built."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from minidl import rng
from minidl.engine.backward import no_grad
from minidl.engine.parameter import Parameter
from minidl.engine.tensor import Tensor
from minidl.layers import terms
from minidl.layers.placement import Placement

Kind = TypeVar("Kind")
Shape = tuple[int | None, ...]


class Call:
    """Call of a layer on symbols.

    Parameters
    ----------
    layer : Layer
        The layer.
    arguments : sequence of Symbol
        Its inputs.
    is_list : bool
        Whether the layer receives a list.
    """

    def __init__(self, layer: Any, arguments: Sequence["Symbol"], is_list: bool):
        self.layer, self.arguments, self.is_list = layer, tuple(arguments), is_list
        self.results: int | None = None  # the number of outputs in a list; None without a list


class Symbol:
    """Placeholder for a batch: an `Input`, or an output of a layer that is called on symbols.

    ``models.Model(inputs, outputs)`` makes a model of symbols. Weights are created only then.

    Attributes
    ----------
    shape : tuple
        The shape of the batch; the length of axis 0 is None.

    Examples
    --------
    >>> from minidl import layers
    >>> x = layers.Input((4,))
    >>> layers.Dense(3)(x)
    <Symbol (None, 3) of dense>
    >>> (x + layers.Dense(4)(x)).shape
    (None, 4)
    """

    # The layers of two inputs that compute operators, by the names of the methods.
    operators: ClassVar[dict[str, Callable[[], Any]]] = {}
    shape: Shape
    made_by: Call | None = None
    place = 0  # among the outputs of the call

    def __repr__(self) -> str:
        assert self.made_by is not None, "Input has a representation of its own"
        return f"<Symbol {self.shape} of {self.made_by.layer.label}>"

    def __add__(self, other: Any) -> Any:
        return self._merged("__add__", other)

    def __sub__(self, other: Any) -> Any:
        return self._merged("__sub__", other)

    def __mul__(self, other: Any) -> Any:
        return self._merged("__mul__", other)

    def _merged(self, operator: str, other: Any) -> Any:
        if not isinstance(other, Symbol):
            return self._unsupported()
        return self.operators[operator]()([self, other])

    def _unsupported(self, *_: Any) -> Any:
        raise TypeError(
            f"{self!r}: expected +, - or * of two symbols, got another operation. Use a layer, "
            "such as Activation(lambda x: 2 * x)."
        )

    __radd__ = __rsub__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = __neg__ = _unsupported
    __matmul__ = __rmatmul__ = __getitem__ = __array_ufunc__ = _unsupported


Symbols = Symbol | Sequence[Symbol]


def are_symbols(x: Any) -> bool:
    """Return whether `x` is a symbol, or a list or tuple with one."""
    if isinstance(x, list | tuple):
        return any(isinstance(item, Symbol) for item in x)
    return isinstance(x, Symbol)


def called(layer: Any, x: Any, training: bool | None = None) -> Any:
    """Return the symbols of the outputs of a layer that is called on symbols.

    The shapes are observed: a copy of the layer is called on zeros. The layer stays as it was.

    Raises
    ------
    TypeError, ValueError
        If `x` holds other things than symbols, or does not fit the layer.
    """
    is_list = not isinstance(x, Symbol)
    arguments = list(x) if is_list else [x]
    for each in arguments:
        if not isinstance(each, Symbol):
            raise TypeError(
                f"{layer.label}: expected symbols, got a {type(each).__name__} among them. Use an "
                "Input for each array that varies."
            )
    if is_list and not layer.takes_list:
        raise TypeError(f"{layer.label}: expected one symbol, got a list. Merge them before it.")
    if training is not None:
        raise TypeError(
            f"{layer.label}: expected a call on symbols without training, got {training!r}. For "
            "outputs with dropout use predict(x, samples=...)."
        )
    call = Call(layer, arguments, is_list)
    shape = _observed(layer, [each.shape for each in arguments], is_list)
    if isinstance(shape, tuple):
        return _result(call, shape)
    call.results = len(shape)
    return [_result(call, each, place) for place, each in enumerate(shape)]


def _result(call: Call, shape: Shape, place: int = 0) -> Symbol:
    symbol = Symbol()
    symbol.shape, symbol.made_by, symbol.place = shape, call, place
    return symbol


def _observed(layer: Any, shapes: Sequence[Any], is_list: bool) -> Any:
    """Return the output shape of a layer for inputs of these shapes, or a list of shapes."""
    below = list(layer.walk())
    optimizers = [each.optimizer for each in below if hasattr(each, "optimizer")]
    twin = copies(layer, below, kept=optimizers)
    for each in twin.walk():
        if each.placement is None:
            each.placement = Placement(seed=0)
        each.placement.initial_values = lambda name, shape: np.zeros(shape)
    backend, dtype = twin.placement.backend, twin.placement.dtype
    zeros = [np.zeros((1, *shape[1:]), dtype) for shape in shapes]
    batch = [Tensor.of(backend.asarray(each), backend) for each in zeros]
    with rehearsing():
        y = twin(batch if is_list else batch[0])
    return batch_shape(y)


def batch_shape(y: Any) -> Any:
    """Return the shape of a batch, in which axis 0 is None; of a list of batches a list."""
    return [batch_shape(each) for each in y] if isinstance(y, list) else (None, *y.shape[1:])


@contextmanager
def rehearsing() -> Iterator[None]:
    """Open a context in which layers are called on zeros, to build them or to observe shapes."""
    # A layer may divide by zeros, take their logarithm, or a mean of no rows.
    quiet = warnings.catch_warnings(action="ignore", category=RuntimeWarning)
    with rng.inference(), no_grad(), terms.collected(), np.errstate(all="ignore"), quiet:
        yield


def copies(things: Kind, layers: Iterable[Any], kept: Iterable[Any] = ()) -> Kind:
    """Return deep copies of things that hold `layers`.

    The arrays of weights, the objects of `kept`, and other models that layers belong to are shared.
    """
    layers, memo = set(layers), {id(thing): thing for thing in kept}
    for layer in layers:
        memo |= {id(weight): copy.copy(weight) for weight in layer.held(Parameter)}
        place = layer.placement
        if place is not None and place.owner not in layers:  # a layer of another model
            memo[id(place)] = replace(place, weight_streams=place.weight_streams.copy())
    return copy.deepcopy(things, memo)
