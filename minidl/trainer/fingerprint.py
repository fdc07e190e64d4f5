"""Fingerprint of a model between two calls of `fit`, to find changes by hand."""

import inspect
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl.backend import Array, Backend
from minidl.constraints import Constraint
from minidl.losses import Loss
from minidl.metrics import Metric
from minidl.optimizers import Optimizer
from minidl.optimizers.schedules import LearningRateSchedule
from minidl.regularizers import Regularizer
from minidl.rng import RandomStream

Fingerprint = list[tuple[str, Any]]  # names, each with a value that changes with what it stands for
OF_WEIGHTS = ("requires_grad", "learning_rate_factor", "the constraint", "the regularizer")
DESCRIBED = (Loss, Constraint, Regularizer, Metric, Optimizer, LearningRateSchedule)


def fingerprint_of(model: Any, state: Mapping[str, Any]) -> Fingerprint:
    """Return all that the results of a resumed run depend on, beside its position and its data.

    Arrays are represented by checksums, objects by the arguments of their constructors, which are
    kept in attributes of the same names.

    Parameters
    ----------
    model : Model
        The model.
    state : mapping
        Weights, optimizer state and counters, as in `TrainState.state`.
    """
    backend = model.backend
    found: Fingerprint = []
    for parameter in model.parameters():
        for setting in OF_WEIGHTS:
            value = getattr(parameter, setting.removeprefix("the "))
            found.append((f"{setting} of {parameter.name}", _value(value, backend)))
    for layer in model.walk():
        found += _arguments(layer, layer.label, backend)
        for stream in layer.held(RandomStream):
            found.append((f"the random stream of {layer.label}", (stream.seed, stream.number)))
    found.append(("the loss", _value(model.loss, backend)))
    found.append(("the list of metrics", _value(list(model.metrics), backend)))
    found += _arguments(model.optimizer, "optimizer", backend)
    arrays = ((name.removeprefix("weights/"), state[name]) for name in state)
    return found + [(name, _value(array, backend)) for name, array in arrays]


def changed(before: Fingerprint, now: Fingerprint) -> str:
    """Return the name of the first difference between two fingerprints, or an empty string."""
    for (_, old), (name, new) in zip(before, now, strict=False):
        if old != new:
            return name
    return "" if len(before) == len(now) else "the list of layers"


def _arguments(thing: Any, label: str, backend: Backend) -> Fingerprint:
    """Return the values of the attributes that are named as arguments of the constructor."""
    names: dict[str, None] = {}
    for kind in type(thing).__mro__:
        constructor = vars(kind).get("__init__")
        if inspect.isfunction(constructor):
            names |= dict.fromkeys(inspect.signature(constructor).parameters)
    # Another model may rename a layer that it shares.
    return [
        (f"{label}.{name}", _value(getattr(thing, name), backend))
        for name in names
        if name != "name" and hasattr(thing, name)
    ]


def _value(thing: Any, backend: Backend) -> Any:
    if isinstance(thing, np.generic):
        thing = thing.item()
    if isinstance(thing, list | tuple):
        return [_value(item, backend) for item in thing]
    if backend.is_array(thing) or isinstance(thing, np.ndarray):
        return _checksum(thing, backend)
    if isinstance(thing, DESCRIBED):
        return type(thing), _arguments(thing, "", backend)
    if inspect.isroutine(thing):
        return thing
    return repr(thing) if isinstance(thing, bool | int | float | str | None) else type(thing)


def _checksum(array: Array, backend: Backend) -> tuple[tuple[int, ...], str, int]:
    host = np.ascontiguousarray(backend.to_numpy(array))
    return array.shape, array.dtype.str, zlib.crc32(host.data)
