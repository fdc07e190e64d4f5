"""What a network is, as JSON: how it is saved without pickle, and built again.

A thing is described by the name of its class and the arguments of its constructor, which minidl's
classes keep in attributes of the same names. Only minidl's own classes are known, so that a file
can ask for nothing else.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from minidl import constraints, initializers, layers, losses, metrics, optimizers, rng, schedules
from minidl.autograd import no_grad
from minidl.layers import Dropout, Layer, activations
from minidl.layers.base import positive_integer
from minidl.models import Sequential

MAX_LAYERS = 10_000
MAX_SAMPLE_SIZE = 2**24
_CLASSES = (
    *(layers.Activation, layers.Dense, Dropout, layers.Flatten, layers.ReLU),
    *(layers.Rescaling, layers.Softmax, Sequential),
    *(initializers.Zeros, initializers.Ones, initializers.GlorotUniform),
    *(initializers.GlorotNormal, initializers.HeUniform, initializers.HeNormal),
    constraints.MaxNorm,
    *(optimizers.SGD, optimizers.RMSprop, optimizers.Adam, optimizers.AdamW),
    *(schedules.ExponentialDecay, schedules.InverseTimeDecay, schedules.CosineDecay),
    schedules.PiecewiseConstantDecay,
    *(losses.SparseCategoricalCrossentropy, losses.CategoricalCrossentropy),
    losses.MeanSquaredError,
    *(metrics.Accuracy, metrics.SparseCategoricalAccuracy, metrics.CategoricalAccuracy),
)
KNOWN: dict[str, type] = {kind.__name__: kind for kind in _CLASSES}
# What JSON may hold for an argument of this annotation; constructors check the others themselves.
_JSON_TYPES: dict[Any, Any] = {
    bool: bool | int,
    float: int | float,
    str: str,
    str | None: str | None,
}


def describe(thing: Any) -> Any:
    """Return a JSON value from which `build` makes the like of `thing`.

    Raises
    ------
    TypeError
        If it is, or holds, something of the user's own: a class or a function.

    Examples
    --------
    >>> describe(layers.Dense(3, activation="relu").activation)
    'relu'
    >>> describe(schedules.CosineDecay(0.1, 100))["arguments"]
    {'initial_learning_rate': 0.1, 'decay_steps': 100, 'alpha': 0.0}
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
            raise TypeError(foreign(thing, "function"))
        return name
    kind = type(thing)
    if KNOWN.get(kind.__name__) is not kind:
        raise TypeError(foreign(kind))
    if isinstance(thing, Sequential):
        return {"class": "Sequential", **_describe_layers(thing)}
    arguments = {name: describe(getattr(thing, name)) for name in _arguments(kind)}
    if isinstance(thing, Layer):
        arguments["name"] = thing.label
    if isinstance(thing, Dropout):
        arguments["seed"] = thing.effective_seed  # as it is after its first draw
    return {"class": kind.__name__, "arguments": arguments}


def foreign(thing: Any, what: str = "class") -> str:
    """Return the message that a class or function of the user's own cannot be saved."""
    return (
        f"save: {thing.__module__}.{thing.__qualname__} is a {what} of your own, which a file "
        "cannot hold; keep the weights with model.save_weights(path), and build the model by your "
        "program"
    )


def _describe_layers(model: Sequential) -> dict[str, Any]:
    return {
        "name": model.name,
        "input_shape": describe(model.input_shape),
        "layers": [describe(layer) for layer in model.layers],
    }


def _arguments(kind: type) -> list[str]:
    """Return the names of a constructor's arguments that are kept in attributes.

    An input_shape is the model's to keep: it would build a layer before its weights are at hand.
    """
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "input_shape"]


def describe_network(model: Sequential) -> dict[str, Any]:
    """Return the description of a whole model: layers, weights, dtype and seed.

    Raises
    ------
    TypeError
        If the model, or a part of it, is of a class of the user's own.
    ValueError
        If a layer is in the model more than once, is not built while others are, or has weights
        that are not named as it is, or not of the model's dtype.
    """
    described = describe(model)
    twice = [layer.label for layer, count in Counter(_all_layers(model)).items() if count > 1]
    if twice:
        raise ValueError(
            f"save: {twice[0]} is in the model more than once, which a file cannot hold; keep the "
            "weights with model.save_weights(path)"
        )
    _check_weights(model)
    weights = [
        {
            "name": parameter.name,
            "shape": list(parameter.shape),
            "stream": parameter.stream,
            "trainable": parameter.requires_grad,
            "constraint": describe(parameter.constraint),
        }
        for parameter in model.parameters()
    ]
    return described | {
        "built_for": describe(model.built_for),
        "dtype": str(model.dtype),
        "seed": model.seed,
        "weights": weights,
    }


def _check_weights(model: Sequential) -> None:
    """Raise ValueError where weights are not those that the model, built again, would ask for."""
    unbuilt = next((layer for layer in model.walk() if not layer.built), None)
    if unbuilt is not None and (model.built_for is not None or model.parameters()):
        raise ValueError(
            f"save: {unbuilt.label} is not built, and other layers are, so that not all weights "
            "are known; call the model on data first"
        )
    for layer in (layer for layer in _all_layers(model) if not isinstance(layer, Sequential)):
        for parameter in layer.parameters():
            if parameter.name.rpartition("/")[0] != layer.label:
                raise ValueError(
                    f"save: {layer.label} has the weight {parameter.name}, from before it was "
                    "given another name; give it back the name that it was built with"
                )
            if parameter.dtype != model.dtype:
                raise ValueError(
                    f"save: {parameter.name} is {parameter.dtype}, and the model {model.dtype}; "
                    "build the layer within this model"
                )


def _all_layers(model: Sequential) -> Iterator[Layer]:
    """Give the layers of a model and of those within it, as often as they are there."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, Sequential):
            yield from _all_layers(layer)


def build(description: Any, kind: type) -> Any:
    """Return what `describe` described, which must be a `kind`.

    Raises
    ------
    ValueError
        If the description names no class of minidl, or one that is no `kind`.
    TypeError
        If it has another form, or arguments that the class does not take.
    """
    if not isinstance(description, Mapping):
        raise TypeError(f"expected the description of a {kind.__name__}, found {description!r:.80}")
    name = description.get("class")
    known = KNOWN.get(name) if isinstance(name, str) else None
    if known is None or not issubclass(known, kind):
        raise ValueError(f"expected a {kind.__name__} of minidl, found {name!r:.80}")
    if known is Sequential:
        _check_type("Sequential", "name", description["name"], str | None)
        below = [build(layer, Layer) for layer in description["layers"]]
        return Sequential(below, name=description["name"])
    arguments = {
        key: build(value, object) if isinstance(value, Mapping) else value
        for key, value in description["arguments"].items()
    }
    unknown = arguments.keys() - {*_arguments(known), "name"}
    if unknown:
        raise ValueError(f"{name}: found unknown arguments {sorted(unknown)!r:.80}")
    annotations = {p.name: p.annotation for p in inspect.signature(known).parameters.values()}
    for key, value in arguments.items():
        _check_type(name, key, value, annotations.get(key, str | None))  # a layer's name is left
    return known(**arguments)


def _check_type(kind: Any, argument: str, value: Any, annotation: Any) -> None:
    """Raise ValueError where a value is plainly not what an argument is annotated with."""
    if not isinstance(value, _JSON_TYPES.get(annotation, object)):
        expected = getattr(annotation, "__name__", annotation)
        raise ValueError(f"{kind}: expected {argument} to be {expected}, found {value!r:.80}")


def build_network(
    description: Mapping[str, Any], device: str, saved: Callable[[str, tuple[int, ...]], Any]
) -> Sequential:
    """Return the model that `describe_network` described, with the weights that `saved` gives."""
    model, sample_shape = build_without_weights(description, device)
    assert model.placement is not None, "Sequential adopts its layers"
    if sample_shape is not None:
        model.placement.saved = saved
        # A batch of no samples: it has the shapes, and takes no memory however large they are.
        with no_grad():
            model(np.zeros((0, *sample_shape), model.dtype))
        model.placement.saved = None
    _set_input_shapes(model, description)
    parameters = model.parameters()
    expected = [(parameter.name, list(parameter.shape)) for parameter in parameters]
    found = [(row["name"], row["shape"]) for row in description["weights"]]
    if found != expected:
        raise ValueError(f"weights {found!r:.200}, where the network has {expected!r:.200}")
    for parameter, row in zip(parameters, description["weights"], strict=True):
        _check_type(parameter.name, "trainable", row["trainable"], bool)
        parameter.requires_grad = bool(row["trainable"])
        parameter.stream = rng.checked_integer(f"{parameter.name}: stream", row["stream"], 2**32)
        if row["constraint"] is not None:
            parameter.constraint = build(row["constraint"], constraints.MaxNorm)
            parameter.constraint.check(parameter.shape)
    model.placement.weight_streams.update(p.stream for p in parameters)
    return model


def build_without_weights(
    description: Mapping[str, Any], device: str
) -> tuple[Sequential, tuple[int, ...] | None]:
    """Return the model before it is built, and the shape of the samples to build it for, if any."""
    if _count_layers(description) > MAX_LAYERS:
        raise ValueError(f"expected at most {MAX_LAYERS:,} layers, found more")
    _check_type("Sequential", "name", description["name"], str | None)
    model = Sequential(
        [build(layer, Layer) for layer in description["layers"]],
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
    """Return a sample's shape, or raise ValueError where it is none or too large."""
    shape = tuple(positive_integer("the shape of a sample", length) for length in shape)
    if math.prod(shape) > MAX_SAMPLE_SIZE:
        raise ValueError(f"expected samples of at most {MAX_SAMPLE_SIZE:,} numbers, found {shape}")
    return shape


def _set_input_shapes(model: Sequential, description: Mapping[str, Any]) -> None:
    """Give a model, and those within it, the input shapes that they were given."""
    if description["input_shape"] is not None:
        model.input_shape = _checked_shape(description["input_shape"])
        if model.built_for not in (None, model.input_shape):
            raise ValueError(
                f"{model.label}: input_shape {model.input_shape}, and built for samples of shape "
                f"{model.built_for}"
            )
    for layer, below in zip(model.layers, description["layers"], strict=True):
        if isinstance(layer, Sequential):
            _set_input_shapes(layer, below)
