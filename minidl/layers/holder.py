"""Weights, random streams and sublayers that the attributes of a layer hold."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from minidl.arguments import number_array
from minidl.engine.parameter import Parameter
from minidl.rng import RandomStream

Kind = TypeVar("Kind")


class Holder:
    """The part of a layer that finds what it holds: weights, random streams and sublayers."""

    __slots__ = ()
    label: Any  # its name
    check_built: Any  # raises ValueError if it is not built
    not_trained: tuple[str, ...] = ()  # names of its weights that are statistics
    _trainable = True

    def held(self, kind: type[Kind]) -> list[Kind]:
        """Return the objects of `kind` that the attributes hold, in order, each once."""
        return list(dict.fromkeys(_find(vars(self), kind)))

    def walk(self) -> Iterator[Any]:
        """Yield this layer and all layers below it, depth first, each once."""
        raise NotImplementedError

    def parameters(self) -> list[Parameter]:
        """Return the weights of this layer and of all layers below it, depth first, each once."""
        return self._held_below(Parameter)

    def streams(self) -> list[RandomStream]:
        """Return the random streams of this layer and of all below it, depth first, each once."""
        return self._held_below(RandomStream)

    def _held_below(self, kind: type[Kind]) -> list[Kind]:
        return list(dict.fromkeys(item for layer in self.walk() for item in layer.held(kind)))

    def count_params(self) -> int:
        """Return the number of values in all weights.

        Raises
        ------
        ValueError
            If the layer is not built, so that its weights do not exist yet.
        """
        self.check_built()
        return sum(math.prod(parameter.shape) for parameter in self.parameters())

    @property
    def trainable(self) -> bool:
        """Whether weights are trained; setting it holds for all layers below, and for later ones.

        After the first update, call `compile` again: the optimizer keeps no state for other
        weights.
        """
        weights = self.parameters()
        return any(w.requires_grad for w in weights) if weights else self._trainable

    @trainable.setter
    def trainable(self, wanted: bool) -> None:
        for layer in self.walk():
            layer._trainable = bool(wanted)
            for parameter in layer.held(Parameter):
                name = parameter.name.rpartition("/")[2]
                parameter.requires_grad = bool(wanted) and name not in layer.not_trained

    def get_weights(self) -> list[np.ndarray]:
        """Return copies of all weights on the host, in the order of `parameters`."""
        return [parameter.numpy() for parameter in self.parameters()]

    def set_weights(self, weights: Iterable[np.ndarray]) -> None:
        """Set all weights.

        Raises
        ------
        TypeError, ValueError
            If an array does not hold numbers, or the number of arrays or their shapes differ. No
            weight is changed then.
        """
        parameters = self.parameters()
        expected = [parameter.shape for parameter in parameters]
        who = f"{self.label}: set_weights"
        given = [number_array(who, f"array {n}", weight) for n, weight in enumerate(weights)]
        received = [array.shape for array in given]
        if expected != received:
            raise ValueError(f"{who}: expected arrays of shapes {expected}, got {received}.")
        # Copies: the arrays may be weights.
        arrays = [a.astype(p.dtype) for a, p in zip(given, parameters, strict=True)]
        for parameter, array in zip(parameters, arrays, strict=True):
            with parameter.backend.active:
                parameter.assign(parameter.backend.asarray(array))


def _find(value: object, kind: type[Kind]) -> Iterator[Kind]:
    """Yield the objects of `kind` in nested lists, tuples and dictionaries, in order."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find(item, kind)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _find(item, kind)
