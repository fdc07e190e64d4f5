"""Weights in the format of Keras 3: HDF5 files ``NAME.weights.h5``.

A layer's weights are the datasets ``layers/CLASS/vars/0``, ``1`` and so on. CLASS is its class in
snake case, with ``_1``, ``_2`` for further layers of that class; a model within the model
has its own ``layers``. A `Dense` layer has its weights in the same shape as in Keras. The state of
an optimizer in a file is ignored. HDF5 needs h5py, the extra ``keras``.
"""

import io
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from minidl.engine.parameter import Parameter
from minidl.layers import Layer
from minidl.models import Functional, Model, Sequential
from minidl.storage.atomic import PathLike, check_regular_file, write_atomically
from minidl.storage.extras import from_extra

MAX_FILE_BYTES = 2**34


def load(model: Model, path: PathLike) -> list[np.ndarray]:
    """Return the weights of a file, in the order of ``model.parameters()``.

    Raises
    ------
    ValueError
        If the file is damaged, or its weights do not fit the model's layers.
    OSError
        If the file cannot be read.
    """
    h5py = _h5py()
    check_regular_file(path, MAX_FILE_BYTES)
    found: dict[Parameter, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            for name, layer in _groups(model):
                parameters = layer.held(Parameter)
                variables = _variables(file, f"{name}/vars")
                expected = [parameter.shape for parameter in parameters]
                shapes = [variable.shape for variable in variables]
                if shapes != expected:
                    raise ValueError(
                        f"{path}: expected weights of shapes {expected} for {layer.label}, got "
                        f"{shapes}. Build the same network."
                    )
                for parameter, variable in zip(parameters, variables, strict=True):
                    found[parameter] = variable[...]
            _check_nothing_is_left(file, model, path)
    except (OSError, RuntimeError, KeyError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of h5py
            raise
        raise ValueError(f"{path}: expected Keras' weights in HDF5, got: {error}.") from error
    return [found[parameter] for parameter in model.parameters()]


def save(model: Model, path: PathLike) -> None:
    """Write the weights of `model` for the same network in Keras."""
    h5py = _h5py()
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, layer in _groups(model):
            group = file.create_group(f"{name}/vars")
            group.attrs["name"] = layer.label
            for place, parameter in enumerate(layer.held(Parameter)):
                group.create_dataset(str(place), data=parameter.numpy())
        file.create_group("vars").attrs["name"] = model.label
    write_atomically(path, content.getvalue())


def _h5py() -> ModuleType:
    with from_extra("keras", "h5py", who="weights"):
        import h5py
    return h5py


def _groups(model: Layer, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield the name of each layer's group in the file, and the layer."""
    if not isinstance(model, Functional | Sequential):
        raise TypeError(
            f"{model.label}: expected a Sequential or a functional model for .weights.h5 files, "
            "which name layers by their position. For other models use .safetensors."
        )
    seen: Counter[str] = Counter()
    for layer in model.layers:
        kind = layer.class_label
        name = f"{prefix}layers/{kind}_{seen[kind]}" if seen[kind] else f"{prefix}layers/{kind}"
        seen[kind] += 1
        yield name, layer
        if layer.held(Layer):
            yield from _groups(layer, f"{name}/")


def _variables(file: Any, name: str) -> list[Any]:
    """Return the datasets 0, 1, ... of a group; none if the group does not exist."""
    group = _group(file, name)
    variables = [_member(group, str(place), "Dataset") for place in range(len(group))]
    for data in variables:
        if data.dtype.kind != "f" or data.chunks or data.is_virtual or data.external:
            raise ValueError(
                f"{data.name}: expected floating-point numbers in one piece, as Keras writes them, "
                f"got {data.dtype} in another form."
            )
    return variables


def _group(file: Any, name: str) -> Any:
    """Return the group of a name, or an empty tuple if it does not exist."""
    for part in name.split("/"):
        if file.get(part, getlink=True) is None:
            return ()
        file = _member(file, part, "Group")
    return file


def _member(group: Any, name: str, kind: str) -> Any:
    """Return a member of a group that the file itself holds; other links may leave the file."""
    h5py, link = _h5py(), group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink) or not isinstance(group[name], getattr(h5py, kind)):
        raise ValueError(f"{group.name}/{name}: expected a {kind}, got something else.")
    return group[name]


def _check_nothing_is_left(file: Any, model: Layer, path: PathLike) -> None:
    """Raise ValueError if the file has weights of layers that the model does not have."""
    known = {name.split("/")[1] for name, _ in _groups(model)}
    for name in set(_group(file, "layers")) - known:
        if _variables(file, f"layers/{name}/vars"):
            raise ValueError(
                f"{path}: expected weights of the layers of {model.label}, got those of another "
                f"layer, {name}. Build the same network."
            )
