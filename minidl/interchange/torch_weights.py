"""Weights as PyTorch names and shapes them: a state dict in a safetensors file.

A `Dense` is a ``torch.nn.Linear``, whose weight is transposed, (units, inputs); all else is as it
is. Written names are ``LAYER.weight`` and ``LAYER.bias``, with minidl's name of the layer. A file
that is read has these names, or numbers its layers, as ``torch.nn.Sequential`` and attributes like
``fc1``, ``fc2`` do: then they are taken in the order of the numbers.

``load_state_dict`` of a ``torch.nn.Sequential`` wants the places of the layers for their names::

    places = {"dense": "1", "dense_1": "4"}
    split = ((*name.split("."), w) for name, w in safetensors.torch.load_file(path).items())
    theirs.load_state_dict({f"{places[layer]}.{kind}": w for layer, kind, w in split})

It has them at once where minidl's layers were named so, ``Dense(8, name="1")``.
"""

import re

import numpy as np

from minidl import tensor_file
from minidl.files import PathLike
from minidl.layers import Dense
from minidl.models import Model
from minidl.parameter import Parameter
from minidl.tensor_file import TensorFile


def load(model: Model, path: PathLike) -> list[np.ndarray]:
    """Return the weights of `model`, in the order of its ``parameters()``, from a file.

    Raises
    ------
    ValueError
        If the file is damaged or a whole model's, its names do not tell which weight is whose, or
        shapes differ.
    """
    transposed = _transposed(model)
    with TensorFile(path) as file:
        if "minidl" in file.metadata:
            raise ValueError(
                f"{path}: expected weights alone, found a whole model; use models.load(path)"
            )
        names = _matched(model, list(file.shapes), path)
        for parameter in model.parameters():
            expected = parameter.shape[:: -1 if parameter in transposed else 1]
            name = names[parameter]
            if file.shapes[name] != expected or file.dtypes[name].kind != "f":
                raise ValueError(
                    f"{path}: {parameter.name} needs floating-point numbers of shape {expected}, "
                    f"found {name} of {file.shapes[name]} and {file.dtypes[name]}"
                )
        arrays = [file.read(names[parameter]) for parameter in model.parameters()]
    pairs = zip(model.parameters(), arrays, strict=True)
    return [array.T if parameter in transposed else array for parameter, array in pairs]


def save(model: Model, path: PathLike) -> None:
    """Write the weights of `model` as a state dict."""
    transposed = _transposed(model)
    arrays = {}
    for parameter in model.parameters():
        values = parameter.numpy()
        arrays[_name(parameter)] = values.T if parameter in transposed else values
    if len(arrays) < len(model.parameters()):
        raise ValueError(
            f"{model.label}: two weights have one name; give layers, and the weights that one "
            "layer adds, names of their own"
        )
    tensor_file.write(path, arrays, {"format": "pt"})


def _transposed(model: Model) -> set[Parameter]:
    return {layer.weight for layer in model.walk() if isinstance(layer, Dense) and layer.built}


def _name(parameter: Parameter) -> str:
    return parameter.name.replace("/", ".")


def _numbers(layer: str) -> list[tuple[int, str]]:
    """Return what orders names by the numbers in them, which may have any number of digits."""
    digits = (number.lstrip("0") for number in re.findall(r"[0-9]+", layer))
    return [(len(number), number) for number in digits]


def _matched(model: Model, names: list[str], path: PathLike) -> dict[Parameter, str]:
    """Say for each weight of the model which of a file's names is its own."""
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
            f"many numbered layers (0.weight, 0.bias, ...); found {', '.join(sorted(names)):.1000}"
        )
    return {
        parameter: f"{layer}.{parameter.name.rpartition('/')[2]}"
        for layer, group in zip(numbered, ours.values(), strict=True)
        for parameter in group
    }
