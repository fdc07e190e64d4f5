"""Weights in the form of PyTorch: a state dict in a safetensors file.

A `Dense` layer is a ``torch.nn.Linear``, whose weight has shape (units, inputs); everything else
keeps its shape. Written names are ``LAYER.weight`` and ``LAYER.bias``, with minidl's name of the
layer. A file to read has these names, or numbers its layers, as ``torch.nn.Sequential`` and
attributes like ``fc1``, ``fc2`` do; then the layers are read in the order of the numbers.

The averages of a `BatchNormalization` are ``running_mean`` and ``running_var``. The values stay as
they are, although PyTorch averages variances with the divisor n - 1, and minidl with n. Counters of
batches, ``num_batches_tracked``, are not written and not read.

``load_state_dict`` of a ``torch.nn.Sequential`` expects positions as the names of the layers::

    places = {"dense": "1", "dense_1": "4"}
    split = ((*name.split("."), w) for name, w in safetensors.torch.load_file(path).items())
    theirs.load_state_dict({f"{places[layer]}.{kind}": w for layer, kind, w in split})

No renaming is needed if minidl's layers have these names: ``Dense(8, name="1")``.
"""

import re

import numpy as np

from minidl.engine.parameter import Parameter
from minidl.layers import Dense
from minidl.models import Model
from minidl.storage import tensor_file
from minidl.storage.atomic import PathLike
from minidl.storage.tensor_file import TensorFile


def load(model: Model, path: PathLike) -> list[np.ndarray]:
    """Return the weights of a file, in the order of ``model.parameters()``.

    Raises
    ------
    ValueError
        If the file is damaged or holds a whole model, if its names do not identify the weights, or
        if shapes differ.
    """
    transposed = _transposed(model)
    with TensorFile(path) as file:
        if "minidl" in file.metadata:
            raise ValueError(f"{path}: expected weights, got a whole model. Use models.load(path).")
        stored = [name for name in file.shapes if not name.endswith(".num_batches_tracked")]
        names, arrays = _matched(model, stored, path), []
        for parameter in model.parameters():
            name, is_transposed = names[parameter], parameter in transposed
            expected = parameter.shape[::-1] if is_transposed else parameter.shape
            if file.shapes[name] != expected or file.dtypes[name].kind != "f":
                raise ValueError(
                    f"{path}: expected floating-point numbers of shape {expected} for "
                    f"{parameter.name}, got {name} of {file.shapes[name]} and {file.dtypes[name]}."
                )
            array = file.read(name)
            arrays.append(array.T if is_transposed else array)
    return arrays


def save(model: Model, path: PathLike) -> None:
    """Write the weights of `model` as a state dict."""
    transposed = _transposed(model)
    arrays = {}
    for parameter in model.parameters():
        values = parameter.numpy()
        arrays[_name(parameter)] = values.T if parameter in transposed else values
    if len(arrays) < len(model.parameters()):
        raise ValueError(
            f"{model.label}: expected unique names, got two weights with one name. Rename layers, "
            "or the weights of a layer."
        )
    tensor_file.write(path, arrays, {"format": "pt"})


def _transposed(model: Model) -> set[Parameter]:
    """Return the weights whose axes PyTorch has in the other order."""
    return {layer.weight for layer in model.walk() if isinstance(layer, Dense) and layer.built}


def _name(parameter: Parameter) -> str:
    return parameter.name.replace("/", ".")


def _numbers(layer: str) -> list[tuple[int, str]]:
    """Return a sort key that orders names by the numbers in them."""
    digits = (number.lstrip("0") for number in re.findall(r"[0-9]+", layer))
    return [(len(number), number) for number in digits]


def _matched(model: Model, names: list[str], path: PathLike) -> dict[Parameter, str]:
    """Return the name in the file of each weight of the model."""
    parameters = model.parameters()
    if {_name(parameter) for parameter in parameters} == set(names):
        return {parameter: _name(parameter) for parameter in parameters}
    ours: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        ours.setdefault(parameter.name.rpartition("/")[0], []).append(parameter)
    theirs: dict[str, set[str]] = {}
    for name in names:
        layer, _, kind = name.rpartition(".")
        theirs.setdefault(layer, set()).add(kind)
    numbered = sorted(theirs, key=_numbers)
    kinds = [{parameter.name.rpartition("/")[2] for parameter in group} for group in ours.values()]
    is_numbered = len({re.sub(r"[0-9]+", "#", layer) for layer in theirs}) == 1
    if not is_numbered or [theirs[layer] for layer in numbered] != kinds:
        raise ValueError(
            f"{path}: expected the weights {', '.join(map(_name, parameters))}, or those of as "
            f"many numbered layers (0.weight, 0.bias, ...), got {', '.join(sorted(names)):.1000}."
        )
    return {
        parameter: f"{layer}.{parameter.name.rpartition('/')[2]}"
        for layer, group in zip(numbered, ours.values(), strict=True)
        for parameter in group
    }
