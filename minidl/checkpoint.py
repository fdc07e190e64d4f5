"""Checkpoints: a model, its optimizer and the position in its training, in one file.

The file is in the safetensors format. Its arrays are

=======================  =========================================================================
``weights/NAME``         the weights
``optimizer/NAME``       the optimizer's flat buffers, and ``optimizer/iterations``
``model/...``            ``step`` and ``epoch``
``names/is_given``       of all layers, depth first, the model before them
``random/...``           ``step`` and ``is_fixed`` of the random layers, depth first
``position/...``         `Position`, integer by integer; ``totals`` and ``counts`` of its metrics
=======================  =========================================================================

and its one text, ``minidl``, is a JSON object: the format's number, minidl's version, the network's
description (in which seeds and streams are), loss, optimizer and metrics, the history, and whether
the run can be resumed. Masks and the order of the samples follow from seed, stream, step and epoch:
none is stored. Nor is the time: equal runs give equal files.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from minidl import description, losses, metrics, optimizers, tensor_file
from minidl.backend import Array, get_backend
from minidl.callbacks import History, Logs
from minidl.callbacks.saving import step_files
from minidl.files import PathLike, check_writable
from minidl.layers import Dropout
from minidl.models import Model, Sequential
from minidl.position import Position
from minidl.rng import checked_integer
from minidl.tensor_file import TensorFile
from minidl.version import __version__

FORMAT = 1
ENDING = ".safetensors"
INTEGERS = 2**32  # all integers are below it: steps, epochs, batches, samples
POSITION = tuple(field.name for field in fields(Position) if not field.kw_only)  # the integers
# What reading a description can raise that makes no sense, wherever in it the nonsense is.
NONSENSE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


# ------------------------------------------------------------------------------ writing


def check_path(path: PathLike) -> None:
    """Raise ValueError or OSError where no checkpoint could be, before there is one to write."""
    check_writable(path)
    if not os.fspath(path).endswith(ENDING):
        raise ValueError(f"{path}: a model is saved in NAME{ENDING}; give a file of such a name")


def save(model: Model, path: PathLike) -> None:
    """Write a checkpoint of `model`; `Model.save` is the public name."""
    check_path(path)
    texts = describe(model)
    tensor_file.write(path, _arrays(model), {"minidl": json.dumps(texts)})


def describe(model: Model) -> dict[str, Any]:
    """Return what the file says in words, or raise where `load` could not read what it says."""
    if not isinstance(model, Sequential):
        raise TypeError(description.foreign(type(model)))
    if model.position.torn:
        raise ValueError(
            "save: training was broken off within a step, so that weights and optimizer are not "
            "of the same one; load the last checkpoint, train on with fit, or keep the weights "
            "with model.save_weights(path)"
        )
    network, training = description.describe_network(model), describe_training(model)
    try:
        description.build_without_weights(network, model.device)
        _build_training(training)
    except NONSENSE as error:
        raise ValueError(f"save: {error}") from error
    epochs = zip(model.history.epoch, model.history.logs, strict=True)
    return {
        "format": FORMAT,
        "version": __version__,
        "network": network,
        "training": training,
        "resumable": model.position.is_of(model.optimizer, model.parameters()),
        "history": [(epoch, _numbers(logs)) for epoch, logs in epochs],
    }


def describe_training(model: Model) -> dict[str, Any] | None:
    """Return the description of what `compile` chose, None where it was not called."""
    if model.optimizer is None:
        return None
    return {
        "optimizer": description.describe(model.optimizer),
        "loss": description.describe(model.loss),
        "metrics": description.describe(model.metrics),
    }


def _build_training(training: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of `compile` that `describe_training` described."""
    if training is None:
        return {}
    return {
        "optimizer": description.build(training["optimizer"], optimizers.Optimizer),
        "loss": description.build(training["loss"], losses.Loss),
        "metrics": [description.build(metric, metrics.Metric) for metric in training["metrics"]],
    }


def _numbers(logs: Logs) -> dict[str, float]:
    """Return the numbers of an epoch; callbacks may have added to it whatever they like.

    A run of hours is not to end for what is no number: it is left out.
    """
    numbers = {}
    for name, value in logs.items():
        with suppress(TypeError, ValueError, OverflowError):
            if isinstance(name, str) and not isinstance(value, str) and np.ndim(value) == 0:
                numbers[name] = float(value)
    return numbers


def _arrays(model: Model) -> dict[str, np.ndarray]:
    random_layers = _random_layers(model)
    position = model.position
    arrays = {f"weights/{parameter.name}": parameter.numpy() for parameter in model.parameters()}
    arrays |= {
        "model/step": _integer(model.step),
        "model/epoch": _integer(model.epoch),
        "names/is_given": np.array([layer.name_is_given for layer in model.walk()], "bool"),
        "random/step": np.array([layer.step for layer in random_layers], "int64"),
        "random/is_fixed": np.array([layer.stream_is_fixed for layer in random_layers], "bool"),
    }
    if model.optimizer is not None:
        iterations, state = _state(model.optimizer, model)
        arrays["optimizer/iterations"] = _integer(iterations)
        for name, values in state.items():
            arrays[f"optimizer/{name}"] = model.backend.to_numpy(values)
        arrays |= {f"position/{name}": _integer(getattr(position, name)) for name in POSITION}
        sums = position.totals()
        totals = [sums.get(name, (0.0, 0)) for name in _logged(model)]
        arrays["position/totals"] = np.array([total for total, _ in totals], "float64")
        arrays["position/counts"] = np.array([count for _, count in totals], "int64")
    return arrays


def _state(optimizer: optimizers.Optimizer, model: Model) -> tuple[int, dict[str, Array]]:
    """Return the iterations, and the state for which the optimizer has a use when built again."""
    if not optimizer.is_for(model.parameters()):
        return 0, {}  # it is that of other weights, and would be refused
    return optimizer.iterations, {
        name: values
        for name, values in optimizer.state.items()
        if name in optimizer.state_names  # SGD's momentum may be 0 by now
    }


def _integer(value: int) -> np.ndarray:
    return np.array(value, "int64")


def _logged(model: Model) -> list[str]:
    return ["loss", *(metric.name for metric in model.metrics)]


def _random_layers(model: Model) -> list[Dropout]:
    return [layer for layer in model.walk() if isinstance(layer, Dropout)]


# ------------------------------------------------------------------------------ reading


def load(path: PathLike, device: str = "cpu") -> Sequential:
    """Build a model from a checkpoint; `models.load` is the public name."""
    get_backend(device)  # whose errors say nothing of the file
    if os.path.isdir(path):
        raise ValueError(
            f"{path}: expected a file, received a folder; give one of its files, as that of "
            f"checkpoint.latest({os.fspath(path)!r})"
        )
    with TensorFile(path) as file:
        try:
            return _Reader(file).model(device)
        except (*NONSENSE, MemoryError) as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path}: expected a checkpoint of minidl, found: {reason}") from error


class _Reader:
    """Take a checkpoint apart; each array is checked by shape and dtype before it is read."""

    def __init__(self, file: TensorFile):
        self._file = file
        self._unread = set(file.shapes)

    def model(self, device: str) -> Sequential:
        texts = self._texts()
        network = texts["network"]
        self._dtype = np.dtype(network["dtype"])
        model = description.build_network(network, device, self._weight)
        model.step = self._integer("model/step")
        model.epoch = self._integer("model/epoch")
        model.history = _history(texts["history"])
        random_layers = _random_layers(model)
        steps = self._array("random/step", (len(random_layers),), "int64").tolist()
        fixed = self._array("random/is_fixed", (len(random_layers),), "bool")
        for layer, step, is_fixed in zip(random_layers, steps, fixed, strict=True):
            layer.step = checked_integer("random/step", step, INTEGERS)
            layer.stream_is_fixed = bool(is_fixed)
        if "names/is_given" in self._file.shapes:  # not in files of before it was kept
            everything = list(model.walk())
            is_given = self._array("names/is_given", (len(everything),), "bool")
            for part, name_is_given in zip(everything, is_given, strict=True):
                part.name_is_given = bool(name_is_given)
        if texts["training"] is not None:
            self._restore_training(model, texts)
        if self._unread:
            raise ValueError(f"arrays that the network does not have: {sorted(self._unread)!r:.80}")
        return model

    def _texts(self) -> Mapping[str, Any]:
        if "minidl" not in self._file.metadata:
            raise ValueError(
                "no description of a network; for weights alone use model.load_weights(path)"
            )
        texts = json.loads(self._file.metadata["minidl"])
        if texts["format"] != FORMAT:
            raise ValueError(
                f"format {texts['format']!r:.80}, written by version {texts['version']!r:.80}; "
                f"this version reads format {FORMAT}"
            )
        return texts

    def _restore_training(self, model: Sequential, texts: Mapping[str, Any]) -> None:
        model.compile(**_build_training(texts["training"]))
        optimizer = model.optimizer
        assert optimizer is not None, "compile has just set it"
        parameters = model.parameters()
        size = sum(p.data.size for p in parameters if p.requires_grad)
        state = {}
        for name in optimizer.state_names:
            if f"optimizer/{name}" in self._file.shapes:  # from the first update on
                values = self._array(f"optimizer/{name}", (size,), self._dtype)
                state[name] = model.backend.asarray(values)
        optimizer.restore(parameters, self._integer("optimizer/iterations"), state)
        names = _logged(model)
        totals = self._array("position/totals", (len(names),), "float64").tolist()
        counts = self._array("position/counts", (len(names),), "int64").tolist()
        integers = (self._integer(f"position/{name}") for name in POSITION)
        model.position = Position(*integers)
        if texts.get("resumable", True):  # not in files of before it was kept
            model.position.optimizer = optimizer
        _check_position(model.position, totals, counts)
        model.position.earlier = dict(zip(names, zip(totals, counts, strict=True), strict=True))

    def _weight(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return self._array(f"weights/{name}", shape, self._dtype)

    def _integer(self, name: str) -> int:
        return checked_integer(name, int(self._array(name, (), "int64")), INTEGERS)

    def _array(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        file = self._file
        if name not in file.shapes:
            raise ValueError(f"no array {name!r:.80}")
        if (file.shapes[name], file.dtypes[name]) != (shape, np.dtype(dtype)):
            raise ValueError(
                f"{name} of shape {file.shapes[name]} and {file.dtypes[name]}, where {shape} and "
                f"{np.dtype(dtype)} are needed"
            )
        self._unread.discard(name)
        return file.read(name)


def _check_position(position: Position, totals: list[float], counts: list[int]) -> None:
    """Raise ValueError where no run can stand there."""
    batches = math.ceil(position.samples / position.batch_size) if position.batch_size else 0
    if position.batch > batches:
        raise ValueError(f"position/batch {position.batch}, where the epoch has {batches}")
    if position.shuffle > 1:
        raise ValueError(f"position/shuffle {position.shuffle}, which is neither 0 nor 1")
    for total, count in zip(totals, counts, strict=True):
        # A sum of samples may be NaN, as the loss of a run that diverges; a sum of none may not.
        if count < 0 or (count == 0 and total != 0):
            raise ValueError(f"position/totals {total}, the sum over {count} samples")


def _history(rows: list[Any]) -> History:
    history = History()
    for row in rows:
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[1], dict)):
            raise ValueError(f"history: {row!r:.80}, which is no epoch with what it logged")
        epoch, logs = row
        checked_integer("history: epoch", epoch, INTEGERS)
        for name, value in logs.items():
            if not isinstance(value, int | float):
                raise ValueError(f"history: {name!r:.80} with {value!r:.80}, which is no number")
        history.on_epoch_end(epoch, {name: float(value) for name, value in logs.items()})
    return history


# ------------------------------------------------------------------------------ choosing


def latest(folder: PathLike) -> Path | None:
    """Return the file of the most steps that `callbacks.ModelCheckpoint` wrote, None without one.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    return max(step_files(folder), default=None)


def differences(model: Model, other: Model) -> Iterator[tuple[str, Any, Any]]:
    """Give where the descriptions of two models differ, and what each says there."""
    ours, theirs = (
        {"seed": m.seed, "network": description.describe(m), "training": describe_training(m)}
        for m in (model, other)
    )
    yield from _unequal(ours, theirs, "")


def _unequal(ours: Any, theirs: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key in ours:
            yield from _unequal(ours[key], theirs[key], f"{where} {key}".lstrip())
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _unequal(*pair, f"{where}[{place}]")
    elif ours != theirs:
        yield where, ours, theirs
