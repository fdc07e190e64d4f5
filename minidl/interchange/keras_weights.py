"""Weights in Keras' format: HDF5 files ``NAME.weights.h5`` of Keras 3.

A layer's weights are the datasets ``layers/CLASS/vars/0``, ``1``, ...; CLASS is its class in snake
case, with ``_1``, ``_2`` for further ones of that class; a `Sequential` within the model has a
``layers`` of its own. minidl's `Dense` keeps its weights as Keras does, so they are copied as they
are. What an optimizer has saved in the file is left alone. HDF5 needs h5py, the extra ``keras``.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from minidl.files import PathLike, check_regular, write_whole
from minidl.layers import Layer, Parameter
from minidl.models import Model, Sequential

MAX_FILE_BYTES = 2**34


def load(model: Model, path: PathLike) -> list[np.ndarray]:
    """Return the weights of `model`, in the order of its ``parameters()``, from a file.

    Raises
    ------
    ValueError
        If the file is damaged, or its weights are not those of the model's layers.
    OSError
        If it cannot be read.
    """
    h5py = _h5py()
    check_regular(path, MAX_FILE_BYTES)
    found: dict[Parameter, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            for name, layer in _groups(model):
                parameters = list(layer.own_parameters())
                variables = _variables(h5py, file, f"{name}/vars")
                _check_shapes(path, layer, parameters, variables)
                for parameter, variable in zip(parameters, variables, strict=True):
                    found[parameter] = variable[...]
            _check_nothing_is_left(h5py, file, model, path)
    except (OSError, RuntimeError, KeyError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not h5py's own
            raise
        raise ValueError(f"{path}: expected Keras' weights in HDF5, found: {error}") from error
    return [found[parameter] for parameter in model.parameters()]


def save(model: Model, path: PathLike) -> None:
    """Write the weights of `model`, so that the like of it in Keras loads them."""
    h5py = _h5py()
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, layer in _groups(model):
            group = file.create_group(f"{name}/vars")
            group.attrs["name"] = layer.label
            for place, parameter in enumerate(layer.own_parameters()):
                group.create_dataset(str(place), data=parameter.numpy())
        file.create_group("vars").attrs["name"] = model.label
    write_whole(path, content.getvalue())


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "weights: .weights.h5 files need h5py; pip install 'minidl[keras]'"
        ) from error
    return h5py


def _groups(model: Layer, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Give the name of each layer's group in the file, and the layer."""
    if not isinstance(model, Sequential):
        raise TypeError(
            f"{model.label}: .weights.h5 files name layers by their place in a Sequential; for "
            "other models use .safetensors"
        )
    seen: Counter[str] = Counter()
    for layer in model.layers:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
        name = f"{prefix}layers/{kind}_{seen[kind]}" if seen[kind] else f"{prefix}layers/{kind}"
        seen[kind] += 1
        yield name, layer
        if next(layer.sublayers(), None) is not None:
            yield from _groups(layer, f"{name}/")


def _variables(h5py: ModuleType, file: Any, name: str) -> list[Any]:
    """Return the datasets 0, 1, ... of a group; none where the group is not there."""
    group = _reached(h5py, file, name)
    if group is None:
        return []
    return [_plain(h5py, group, str(place)) for place in range(len(group))]


def _reached(h5py: ModuleType, file: Any, name: str) -> Any:
    """Follow a name group by group, over hard links only: others may lead to other files."""
    for part in name.split("/"):
        link = file.get(part, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink) or not isinstance(file[part], h5py.Group):
            raise ValueError(f"{name}: expected a group, found something else")
        file = file[part]
    return file


def _plain(h5py: ModuleType, group: Any, name: str) -> Any:
    """Return a dataset that lies, as it is, in the file itself."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink) or not isinstance(group[name], h5py.Dataset):
        raise ValueError(f"{group.name}/{name}: expected a data set, found something else")
    data = group[name]
    if data.dtype.kind != "f" or data.chunks or data.is_virtual or data.external:
        raise ValueError(
            f"{data.name}: expected floating-point numbers that lie in one piece, as Keras writes "
            f"them, found {data.dtype} in another form"
        )
    return data


def _check_shapes(path: PathLike, layer: Layer, ours: list[Parameter], theirs: list[Any]) -> None:
    expected = [parameter.shape for parameter in ours]
    found = [variable.shape for variable in theirs]
    if expected != found:
        raise ValueError(
            f"{path}: {layer.label} has weights of shapes {expected}, and the file {found} in its "
            "place; build the same network"
        )


def _check_nothing_is_left(h5py: ModuleType, file: Any, model: Layer, path: PathLike) -> None:
    """Raise ValueError where the file has weights for layers that the model does not have."""
    known = {name.split("/")[1] for name, _ in _groups(model)}
    for name in set(_reached(h5py, file, "layers") or ()) - known:
        if _variables(h5py, file, f"layers/{name}/vars"):
            raise ValueError(
                f"{path}: holds weights for a layer {name} that {model.label} does not have; "
                "build the same network"
            )
