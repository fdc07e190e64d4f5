"""Checkpoints: a model and its training state in one safetensors file.

The arrays of the file are those of `TrainState.state`, by name:

=======================  =========================================================================
``weights/NAME``         the weights
``optimizer/NAME``       the optimizer's flat buffers, ``iterations`` and ``learning_rate``
``model/...``            ``step`` and ``epoch``
``random/...``           ``step`` and ``is_fixed`` of the random streams, depth first
``position/...``         `Position`, and ``totals`` and ``counts`` of loss and metrics
``position/metrics/N``   arrays in the states of metrics that are not means
``run/memory/...``       what callbacks remember, if it is an array
``names/is_given``       of all layers, depth first, beginning with the model
=======================  =========================================================================

Its metadata entry ``minidl`` is a JSON object: the number of the format, minidl's version, the
description of the network with its seeds and stream numbers, loss, optimizer and metrics, the
history, whether the run can be resumed, and under ``state`` what else `TrainState.state` returns.
Masks and the order of the samples follow from seed, stream, step and epoch, so none is stored. No
time is stored: equal runs write equal files.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minidl import losses, metrics
from minidl.backend import Backend, get_backend
from minidl.callbacks.base import numbers
from minidl.engine.tensor import Tensor
from minidl.formats.description import (
    Builder,
    Described,
    describe,
    describe_network,
    foreign,
    kinds_of,
)
from minidl.models import Functional, Model, Sequential
from minidl.optimizers import Optimizer
from minidl.rng import checked_integer
from minidl.storage import tensor_file
from minidl.storage.atomic import PathLike
from minidl.storage.tensor_file import TensorFile, check_dtype
from minidl.trainer.position import Position
from minidl.version import __version__

FORMAT = 1
# What `compile` chose: attributes of the model, and arguments of `compile`.
COMPILED = {"optimizer": Optimizer, "loss": losses.Loss, "metrics": metrics.Metric}
LIMIT = 2**32  # of all integers: steps, epochs, batches and samples
MEMORY = "run/memory/"
METRICS = "position/metrics"  # the states of metrics that are not means
# Exceptions that reading an invalid description may raise.
INVALID = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


# ------------------------------------------------------------------------------ writing


def save(model: Model, path: PathLike) -> None:
    """Write a checkpoint of `model`; `Model.save` is the public name."""
    header = _header(model)
    arrays: dict[str, np.ndarray] = {}
    others: dict[str, Any] = {}
    for name, value in model.train_state.state().items():
        if model.backend.is_array(value) or isinstance(value, np.ndarray):
            arrays[name] = model.backend.to_numpy(value)
        elif name == METRICS:
            others[name] = _packed(value, model.backend, arrays)
        elif name != "run/history":  # it is in the header
            others[name] = value
    arrays["names/is_given"] = np.array([layer.name_is_given for layer in model.walk()], "bool")
    try:
        text = tensor_file.as_json(header | {"state": others})
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"save: expected the state of callbacks to hold arrays and JSON values: {error}."
        ) from error
    tensor_file.write(path, arrays, {"minidl": text})


def check(model: Model) -> None:
    """Raise TypeError or ValueError if `load` could not read the checkpoint of a model."""
    _header(model)


def _header(model: Model) -> dict[str, Any]:
    """Return the description of a model, or raise if the model could not be built again."""
    if not isinstance(model, Described):
        raise TypeError(foreign(type(model)))
    optimizer = model.optimizer
    if model.train_state.is_torn or (optimizer is not None and optimizer.is_changing):
        raise ValueError(
            "save: expected weights and optimizer state of the same step, got those of an "
            "interrupted update. Load the last checkpoint, or keep the weights with "
            "model.save_weights(path)."
        )
    network, training = describe_network(model), describe_training(model)
    for metric in model.metrics if training else ():
        if not metric.is_mean:
            _packed(metric.fresh().state(), model.backend, {})
    try:
        # A file names the classes of the user; its reader passes them as custom_objects.
        parts = [model.optimizer, model.loss, model.metrics] if training else []
        builder = Builder(
            [kind for kind in kinds_of([model, *parts]) if kind not in (Functional, Sequential)]
        )
        builder.build_unbuilt(network, model.device)
        _build_training(builder, training)
    except INVALID as error:
        raise ValueError(f"save: {error}") from error
    return {
        "format": FORMAT,
        "version": __version__,
        "network": network,
        "training": training,
        "resumable": not model.train_state.why_not_resumable(),
        # Other values are left out, so that a long run does not fail because of them.
        "history": [(epoch, numbers(logs)) for epoch, logs in model.history.rows()],
    }


def describe_training(model: Model) -> dict[str, Any] | None:
    """Return the description of what `compile` chose, or None if it was not called."""
    if model.optimizer is None:
        return None
    return {name: describe(getattr(model, name)) for name in COMPILED}


def _build_training(builder: Builder, training: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of `compile` of a description."""
    if training is None:
        return {}
    return {name: builder.build(training[name], kind) for name, kind in COMPILED.items()}


def _packed(value: Any, backend: Backend, arrays: dict[str, np.ndarray]) -> Any:
    """Return JSON for a part of a metric's state; its arrays are added to `arrays`."""
    if isinstance(value, Tensor):
        return {"tensor": _packed(value.data, backend, arrays)["array"]}
    for kind, is_kind in (
        ("array", backend.is_array(value)),
        ("host", isinstance(value, np.ndarray)),
        ("scalar", isinstance(value, np.generic)),
    ):
        if is_kind:
            check_dtype("save: expected arrays in the states of metrics", value.dtype)
            name = f"{METRICS}/{sum(name.startswith(METRICS) for name in arrays)}"
            arrays[name] = np.asarray(backend.to_numpy(value) if kind == "array" else value)
            return {kind: name}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_packed(item, backend, arrays) for item in value]}
    if type(value) is dict:
        items = value.items()
        return {"dict": [[_packed(part, backend, arrays) for part in item] for item in items]}
    if not isinstance(value, bool | int | float | str | None):
        raise TypeError(
            "save: expected the states of metrics to hold numbers, strings, arrays, tensors, and "
            f"lists, tuples and dictionaries of them, got a {type(value).__name__}. Define state() "
            "and load_state() in the metric."
        )
    return value


# ------------------------------------------------------------------------------ reading


def load(path: PathLike, device: str = "cpu", custom_objects: Iterable[Any] = ()) -> Described:
    """Return the model of a checkpoint; `models.load` is the public name."""
    get_backend(device)  # its errors and the builder's do not name the file
    builder = Builder(custom_objects)
    with TensorFile(path) as file:
        try:
            return _Reader(file, builder).model(device)
        except (*INVALID, MemoryError) as error:
            reason = (str(error) or type(error).__name__).rstrip(".")
            raise ValueError(f"{path}: expected a checkpoint of minidl, got: {reason}.") from error


class _Reader:
    """Reader of one checkpoint; each array's shape and dtype are checked before it is read."""

    def __init__(self, file: TensorFile, builder: Builder):
        self._file = file
        self._builder = builder
        self._unread = set(file.shapes)

    def model(self, device: str) -> Described:
        header = self._header()
        network, training = header["network"], header["training"]
        self._dtype = np.dtype(network["dtype"])
        model = self._builder.build_network(network, device, self._weight)
        if training is not None:
            model.compile(**_build_training(self._builder, training))
        if "names/is_given" in self._file.shapes:  # not in files of older versions
            everything = list(model.walk())
            is_given = self._array("names/is_given", (len(everything),), "bool")
            for layer, name_is_given in zip(everything, is_given, strict=True):
                layer.name_is_given = bool(name_is_given)
        model.train_state.load_state(self._state(model, header))
        _check_position(model.position)
        if self._unread:
            raise ValueError(f"arrays that the network does not have: {sorted(self._unread)!r:.80}")
        return model

    def _header(self) -> Mapping[str, Any]:
        if "minidl" not in self._file.metadata:
            raise ValueError(
                "no description of a network; for weights alone use model.load_weights(path)"
            )
        header = json.loads(self._file.metadata["minidl"])
        if header["format"] != FORMAT:
            raise ValueError(
                f"format {header['format']!r:.80}, written by version {header['version']!r:.80}; "
                f"this version reads format {FORMAT}"
            )
        return header

    def _state(self, model: Described, header: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of `TrainState.state`, without the weights.

        The new model's state gives the expected names and shapes, and the defaults for entries that
        older files lack.
        """
        others = header.get("state", {})
        state: dict[str, Any] = {}
        for name, value in model.train_state.state("model", "random", "position", "run").items():
            if isinstance(value, np.ndarray):
                state[name] = self._array(name, value.shape, value.dtype)
            else:
                state[name] = others.get(name, value)
        if "position/shards" in self._file.shapes:  # of a shared run
            state["position/shards"] = self._array("position/shards", (), "int64")
        if model.optimizer is not None:
            state |= self._optimizer_state(model, model.optimizer)
        state |= {name: others[name] for name in others if name.startswith(MEMORY)}
        for name in [name for name in self._unread if name.startswith(MEMORY)]:
            state[name] = self._file.read(name)
            self._unread.discard(name)
        if METRICS in others:
            state[METRICS] = self._unpacked(others[METRICS], model.backend)
        state["run/history"] = _checked_history(header["history"])
        if state["run/moment"] is not None:
            state["run/moment"] = _checked_moment(state["run/moment"])
        if not header.get("resumable", True) and not state["run/obstacle"]:
            state["run/obstacle"] = "this checkpoint was saved as not resumable"
        return state

    def _optimizer_state(self, model: Described, optimizer: Optimizer) -> dict[str, Any]:
        size = sum(p.data.size for p in model.parameters() if p.requires_grad)
        state = {"optimizer/iterations": self._array("optimizer/iterations", (), "int64")}
        # Buffers are saved from the first update on; the learning rate only without a schedule.
        kinds: dict[str, tuple[Any, Any]] = {"optimizer/learning_rate": ((), "float64")}
        for name in optimizer.buffer_names:
            kinds[f"optimizer/{name}"] = (size,), self._dtype
        for name in kinds.keys() & self._file.shapes.keys():
            state[name] = self._array(name, *kinds[name])
        return state

    def _unpacked(self, value: Any, backend: Backend) -> Any:
        """Return the part of a metric's state that `_packed` described."""
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "dict":
            return dict([self._unpacked(part, backend) for part in item] for item in content)
        if kind in ("list", "tuple"):
            items = [self._unpacked(item, backend) for item in content]
            return items if kind == "list" else tuple(items)
        self._unread.remove(content)  # raises KeyError if the file lacks it
        array = self._file.read(content)
        if kind == "tensor":
            return Tensor.of(backend.asarray(array), backend)
        return {"array": backend.asarray(array), "host": array, "scalar": array[()]}[kind]

    def _weight(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return self._array(f"weights/{name}", shape, self._dtype)

    def _array(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        file = self._file
        if name not in file.shapes:
            raise ValueError(f"no array {name!r:.80}")
        if (file.shapes[name], file.dtypes[name]) != (shape, np.dtype(dtype)):
            raise ValueError(
                f"{name} of shape {file.shapes[name]} and {file.dtypes[name]}, expected {shape} "
                f"and {np.dtype(dtype)}"
            )
        self._unread.discard(name)
        array = file.read(name)
        for number in array.ravel().tolist() if array.dtype == np.int64 else ():
            checked_integer(name, number, LIMIT)
        return array


def _check_position(position: Position) -> None:
    """Raise ValueError if no run can be at a position."""
    batches = math.ceil(position.samples / position.batch_size) if position.batch_size else 0
    is_known = position.samples or not position.batch_size  # else an iterable yields the batches
    if is_known and position.batch > batches:
        raise ValueError(f"position/batch {position.batch} in an epoch of {batches} batches")


def _checked_history(rows: list[Any]) -> list[tuple[int, dict[str, float]]]:
    return [
        (
            checked_integer("history: epoch", epoch, LIMIT),
            {name: float(value) for name, value in logs.items()},
        )
        for epoch, logs in rows
    ]


def _checked_moment(moment: Any) -> list[Any]:
    name, number, step, acted = moment
    checked_integer("run/moment: number", number, LIMIT)
    checked_integer("run/moment: step", step, LIMIT)
    return [str(name), number, step, [str(key) for key in acted]]


# ------------------------------------------------------------------------------ comparing


def differences(model: Model, other: Model) -> Iterator[tuple[str, Any, Any]]:
    """Yield where the descriptions of two models differ, with both values."""
    ours, theirs = (
        {"seed": m.seed, "network": describe(m), "training": describe_training(m)}
        for m in (model, other)
    )
    yield from _unequal(ours, theirs, "")


def matching(model: Model, path: PathLike) -> Model:
    """Return the model of a checkpoint of the same network with the same settings.

    Raises
    ------
    ValueError
        If `path` holds another network or other settings, or is damaged.
    """
    parts = [model, model.optimizer, model.loss, model.metrics]
    kinds = [kind for kind in kinds_of(parts) if kind is not Sequential]
    saved = load(path, model.device, kinds)
    for where, ours, theirs in differences(model, saved):
        # Callbacks change the rate, unless it is a schedule.
        if not (where.endswith("learning_rate") and isinstance(ours, float)):
            raise ValueError(
                f"{path}: expected a run with {where} {ours!s:.200}, got {theirs!s:.200}. Use "
                "another folder, or the program that wrote it."
            )
    return saved


def _unequal(ours: Any, theirs: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key in ours:
            yield from _unequal(ours[key], theirs[key], f"{where} {key}".lstrip())
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _unequal(*pair, f"{where}[{index}]")
    elif ours != theirs:
        yield where, ours, theirs
