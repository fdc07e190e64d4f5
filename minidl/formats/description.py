"""Descriptions of networks and their parts as JSON, without pickle.

An object is described by the name of its class and the arguments of its constructor, which are kept
in attributes of the same names. A description can create objects of minidl's classes, and of
classes that the reader names, and of nothing else.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from minidl import constraints, layers, regularizers
from minidl.arguments import as_list, constructor_parameters, positive_integer
from minidl.engine.parameter import Parameter
from minidl.formats.kinds import BASES, KNOWN, NAMES, Described
from minidl.layers import Layer, activations
from minidl.models import Functional, Model, Sequential
from minidl.models.graph import Graph
from minidl.rng import checked_integer

MAX_LAYERS = 10_000
MAX_SAMPLE_SIZE = 2**24


# ------------------------------------------------------------------------------ describing


def describe(thing: Any) -> Any:
    """Return a JSON value from which `Builder.build` creates an equal object.

    Raises
    ------
    TypeError
        If it is, or holds, something else than JSON values and objects of the known kinds.

    Examples
    --------
    >>> describe(layers.Dense(3, activation="relu").activation)
    'relu'
    >>> describe(constraints.MaxNorm(3))
    {'class': 'MaxNorm', 'arguments': {'max_value': 3.0, 'axis': 0}}
    """
    if thing is None or isinstance(thing, bool | str):
        return thing
    if isinstance(thing, np.bool):
        return bool(thing)
    if isinstance(thing, Integral):
        return int(thing)
    if isinstance(thing, Real):
        return float(thing)
    if isinstance(thing, list | tuple):
        return [describe(item) for item in thing]
    if inspect.isroutine(thing):
        name = activations.name_of(thing)
        if name is None:
            raise TypeError(foreign(thing))
        return name
    kind = type(thing)
    if kind is Sequential:
        return {
            "class": "Sequential",
            "name": thing.name,
            "input_shape": describe(thing.input_shape),
            "layers": [describe(layer) for layer in thing.layers],
        }
    if kind is Functional:
        graph = thing.graph
        return {
            "class": "Functional",
            "name": thing.name,
            "inputs": [[each.name, describe(each.input_shape)] for each in graph.inputs],
            "layers": [describe(layer) for layer in thing.layers],
            "calls": describe(graph.calls),
            "outputs": list(graph.outputs),
        }
    if not isinstance(thing, BASES) or isinstance(thing, layers.Input | Model):
        raise TypeError(foreign(kind))
    name = NAMES.get(kind, kind.__name__)
    if KNOWN.get(name, kind) is not kind:
        raise TypeError(
            f"save: expected unique names of classes, got {_full_name(kind)} with the name of a "
            "class of minidl. Rename your class."
        )
    own = _arguments(kind, of_bases=False)
    arguments = {key: _described(key, _kept(thing, key)) for key in own} | _passed_on(thing, own)
    if isinstance(thing, Layer):
        arguments["name"] = thing.label
    return {"class": name, "arguments": arguments}


def _described(name: str, value: Any) -> Any:
    """Return the description of an argument.

    The argument ``function``, as of `FunctionLoss`, may be a function of the user: a file has its
    name, and the reader passes it among ``custom_objects``.
    """
    is_named = name == "function" and inspect.isfunction(value)
    return {"function": value.__name__} if is_named else describe(value)


def _kept(thing: Any, name: str) -> Any:
    """Return the attribute that keeps a constructor's argument, or raise TypeError."""
    kind = type(thing)
    if name not in vars(thing) and not hasattr(kind, name):
        raise TypeError(
            f"save: expected {kind.__name__} to keep its argument {name} in the attribute "
            f"{name}, found none. Set self.{name} in __init__."
        )
    return getattr(thing, name)


def _passed_on(thing: Any, own: list[str]) -> dict[str, Any]:
    """Return the arguments that a class passes to its base class as ``**arguments``.

    `own` are those that it names. Arguments that the class sets itself are left out: only values
    that differ from those of an object built from its own arguments are returned. If there is no
    such object, all are returned.
    """
    kind = type(thing)
    named = ["name"] if isinstance(thing, Layer) else []  # by `describe`
    others = [name for name in _arguments(kind) if name not in own + named]
    found = {name: describe(_kept(thing, name)) for name in others}
    if not found:
        return {}
    try:
        plain = kind(**{name: getattr(thing, name) for name in own})
    except (TypeError, ValueError):  # an argument that is passed on has no default
        return found
    return {name: value for name, value in found.items() if describe(getattr(plain, name)) != value}


def kinds_of(thing: Any) -> Iterator[Any]:
    """Yield the classes and functions that the description of `thing` names."""
    if isinstance(thing, list | tuple):
        for item in thing:
            yield from kinds_of(item)
    elif isinstance(thing, Described):
        yield type(thing)
        yield from kinds_of(thing.layers)
    elif isinstance(thing, BASES):
        yield type(thing)
        for name in _arguments(type(thing)):
            yield from kinds_of(getattr(thing, name, None))
    elif inspect.isfunction(thing) and activations.name_of(thing) is None:
        yield thing


def foreign(thing: Any) -> str:
    """Return the message that files cannot hold a function, or objects of a class."""
    kinds = ", ".join(kind.__name__ for kind in BASES)
    what, expected = "a class", f"numbers, strings, lists, or objects of the kinds {kinds}"
    if not isinstance(thing, type):
        what = "a function"
    elif issubclass(thing, Model):
        expected = "a Sequential, or a model made by Model(inputs, outputs)"
    return (
        f"save: expected {expected}, got {_full_name(thing)}, {what} that files cannot hold. Keep "
        "the weights with model.save_weights(path), and build the model in your program."
    )


def _full_name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _arguments(kind: type, *, of_bases: bool = True) -> list[str]:
    """Return the names of a constructor's arguments, which are kept in attributes.

    The model keeps an input_shape: it would build a layer before its weights are known.
    """
    parameters = constructor_parameters(kind, of_bases=of_bases)
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise TypeError(
                f"save: expected {kind.__name__} to name its arguments, got *{parameter.name}. "
                f"Use one argument {parameter.name} for the list."
            )
    return [p.name for p in parameters if p.name != "input_shape"]


def describe_network(model: Described) -> dict[str, Any]:
    """Return the description of a whole model: layers, weights, dtype and seed.

    Raises
    ------
    TypeError
        If a part of the model cannot be described.
    ValueError
        If a layer is in the model more than once or is not built while others are, or if a weight
        does not have the name of its layer or the dtype of the model.
    """
    described = describe(model)
    twice = [layer.label for layer, count in _occurrences(model).items() if count > 1]
    if twice:
        raise ValueError(
            f"save: expected each layer once in the model, got {twice[0]} more than once. Keep the "
            "weights with model.save_weights(path)."
        )
    _check_weights(model)
    weights = [
        {
            "name": parameter.name,
            "shape": list(parameter.shape),
            "stream": parameter.stream,
            "trainable": parameter.requires_grad,
            "constraint": describe(parameter.constraint),
            "regularizer": describe(parameter.regularizer),
            "learning_rate_factor": parameter.learning_rate_factor,
        }
        for parameter in model.parameters()
    ]
    return described | {
        "built_for": describe(model.built_for),
        "dtype": str(model.dtype),
        "seed": model.seed,
        "weights": weights,
    }


def _check_weights(model: Described) -> None:
    """Raise ValueError if the weights are not those that a new model would create."""
    unbuilt = next((layer for layer in model.walk() if not layer.built), None)
    if unbuilt is not None and (model.built_for is not None or model.parameters()):
        raise ValueError(
            f"save: expected a built model, but {unbuilt.label} is not built and others are. Call "
            "the model on data first."
        )
    for layer in model.walk():
        for parameter in layer.held(Parameter):
            if parameter.name.rpartition("/")[0] != layer.path:
                raise ValueError(
                    f"save: expected the weights of {layer.label} to have its name, got "
                    f"{parameter.name}. Give the layer the name that it was built with."
                )
            if parameter.dtype != model.dtype:
                raise ValueError(
                    f"save: expected {parameter.name} to be {model.dtype}, as the model, got "
                    f"{parameter.dtype}. Build the layer within this model."
                )


def _occurrences(model: Described) -> Counter[Layer]:
    """Return how often each layer occurs in the lists of models and attributes of layers."""
    counts: Counter[Layer] = Counter()
    waiting: list[Layer] = [model]
    while waiting:
        layer = waiting.pop()
        below = layer.layers if isinstance(layer, Described) else layer.held(Layer)
        waiting += [each for each in dict.fromkeys(below) if each not in counts]
        counts.update(below)
    return counts


# ------------------------------------------------------------------------------ building


class Builder:
    """Creation of objects from their descriptions.

    Parameters
    ----------
    custom_objects : sequence of type or function, or mapping to them
        Classes and functions of the user that a description may name.

    Raises
    ------
    TypeError
        If one of them is neither a class nor a function.
    ValueError
        If two have one name, or one has the name of a class of minidl.
    """

    def __init__(self, custom_objects: Iterable[Any] = ()):
        self._known: dict[str, Any] = dict(KNOWN)
        if isinstance(custom_objects, Mapping):
            custom_objects = custom_objects.values()
        for kind in as_list("load", "custom_objects", custom_objects):
            if not (isinstance(kind, type) or inspect.isfunction(kind)):
                raise TypeError(
                    f"custom_objects: expected a list of classes, got {kind!r} in it. Use "
                    "[MyLayer, MyLoss]."
                )
            if self._known.setdefault(NAMES.get(kind, kind.__name__), kind) is not kind:
                raise ValueError(
                    "custom_objects: expected classes with unique names, got two named "
                    f"{kind.__name__}. Rename your class."
                )

    def build(self, description: Any, kind: type) -> Any:
        """Return the object of a description, which must be a `kind`; lists give lists.

        Raises
        ------
        ValueError
            If the description names an unknown class, or one that is not a `kind`.
        TypeError
            If it has another form, or arguments that the class does not take.
        """
        if isinstance(description, list):
            return [self.build(item, kind) for item in description]
        if not isinstance(description, Mapping):
            raise TypeError(f"expected a description of a {kind.__name__}, got {description!r:.80}")
        name = description.get("class")
        known = self._known.get(name) if isinstance(name, str) else None
        if not isinstance(known, type) or not issubclass(known, kind):
            raise ValueError(
                f"expected a {kind.__name__} of minidl or of custom_objects, got {name!r:.80}. "
                "Pass your own classes: custom_objects=[MyLayer, MyLoss]"
            )
        if known in (Functional, Sequential):
            return self._model(description, name=description["name"])
        arguments = {key: self._argument(v) for key, v in description["arguments"].items()}
        names = _arguments(known)
        unknown = arguments.keys() - {*names, "name"}
        if unknown:
            raise ValueError(f"{name}: expected its own arguments, got {sorted(unknown)!r:.80}")
        # The constructor of a user's layer may take no name.
        layer_name = None if "name" in names else arguments.pop("name", None)
        built: Any = known(**arguments)
        if layer_name is not None:
            built.name, built.name_is_given = layer_name, True
        if isinstance(built, Layer):
            # The state of a file restores it; streams that have drawn may share a number.
            for stream in built.streams():
                stream.is_fixed = False
        return built

    def _model(self, description: Mapping[str, Any], **arguments: Any) -> Described:
        """Return the unbuilt model of a description; the arguments are those of `Model`."""
        below = self.build(description["layers"], Layer)
        if description["class"] != "Functional":
            return Sequential(below, **arguments)
        inputs = [
            layers.Input(_checked_shape(shape), name=name) for name, shape in description["inputs"]
        ]
        graph = Graph(inputs, below, description["calls"], description["outputs"])
        return Functional.of_graph(graph, **arguments)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._argument(item) for item in value]
        if isinstance(value, Mapping) and "function" in value:
            found = self._known.get(str(value["function"]))
            if not inspect.isfunction(found):
                raise ValueError(f"expected a function of custom_objects, got {value!r:.80}")
            return found
        return self.build(value, object) if isinstance(value, Mapping) else value

    def build_network(
        self,
        description: Mapping[str, Any],
        device: str,
        saved: Callable[[str, tuple[int, ...]], Any],
    ) -> Described:
        """Return the model of a description, with the weights that `saved` returns."""
        model, sample_shape = self.build_unbuilt(description, device)
        _set_input_shapes(model, description)
        if sample_shape is not None:
            model.build_with(saved, sample_shape)
        parameters = model.parameters()
        expected = [(parameter.name, list(parameter.shape)) for parameter in parameters]
        found = [(row["name"], row["shape"]) for row in description["weights"]]
        if found != expected:
            raise ValueError(f"expected the weights {expected!r:.200}, got {found!r:.200}")
        for parameter, row in zip(parameters, description["weights"], strict=True):
            parameter.requires_grad = bool(row["trainable"])
            stream = checked_integer(f"{parameter.name}: stream", row["stream"], 2**32)
            parameter.stream = stream
            parameter.learning_rate_factor = row.get("learning_rate_factor", 1.0)
            if row["constraint"] is not None:
                parameter.constraint = self.build(row["constraint"], constraints.Constraint)
                parameter.constraint.check(parameter.shape)
            if row.get("regularizer") is not None:
                parameter.regularizer = self.build(row["regularizer"], regularizers.Regularizer)
        model.placement.weight_streams.update(p.stream for p in parameters)
        return model

    def build_unbuilt(
        self, description: Mapping[str, Any], device: str
    ) -> tuple[Described, tuple[int, ...] | None]:
        """Return the model without weights, and the shape of the samples to build it for."""
        if _count_layers(description) > MAX_LAYERS:
            raise ValueError(f"expected at most {MAX_LAYERS:,} layers, got more")
        model = self._model(
            description,
            device=device,
            dtype=description["dtype"],
            seed=description["seed"],
            name=description["name"],
        )
        built_for = description["built_for"]
        return model, None if built_for is None else _checked_shape(built_for)


def _count_layers(description: Mapping[str, Any]) -> int:
    below = [layer for layer in description["layers"] if "layers" in layer]
    return len(description["layers"]) + sum(_count_layers(layer) for layer in below)


def _checked_shape(shape: Any) -> tuple[int, ...]:
    """Return the shape of a sample, or raise ValueError if it is invalid or too large."""
    shape = tuple(positive_integer("the shape of a sample", length) for length in shape)
    if math.prod(shape) > MAX_SAMPLE_SIZE:
        raise ValueError(f"expected samples of at most {MAX_SAMPLE_SIZE:,} numbers, got {shape}")
    return shape


def _set_input_shapes(model: Described, description: Mapping[str, Any]) -> None:
    """Set the input shapes of a model, and of the models in it."""
    if description.get("input_shape") is not None:
        model.input_shape = _checked_shape(description["input_shape"])
    for layer, below in zip(model.layers, description["layers"], strict=True):
        if isinstance(layer, Described):
            _set_input_shapes(layer, below)
