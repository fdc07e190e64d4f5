"""Registration of layers in a model: names, stream numbers, device and dtype.

All names and numbers are planned and checked first, then assigned: an error changes nothing.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from minidl import rng
from minidl.arguments import free_name
from minidl.engine.parameter import Parameter
from minidl.layers.base import Layer
from minidl.layers.placement import Placement
from minidl.rng import RandomStream


def adopt(model: Layer, placement: Placement) -> None:
    """Set names, stream numbers and placement of all layers below an outermost model.

    A layer that another model holds keeps its name, seed and stream numbers: its draws must not
    change.

    Raises
    ------
    ValueError
        If two layers of one model have one name, if two layers have one random stream, or if a
        layer was built on another device or with another dtype.
    """
    below = [layer for layer in model.walk() if layer is not model]
    within = {model, *below}
    own: list[Layer] = []
    foreign: list[Layer] = []
    for layer in below:
        is_own = layer.placement is None or layer.placement.owner in within
        _check_placement(model, layer, placement, is_own)
        (own if is_own else foreign).append(layer)
    names = _plan_names(own, taken={layer.label for layer in foreign})
    scopes = _plan_scopes(model, names, foreign)
    numbers = _plan_numbers(own, foreign, placement.seed)
    for layer in own:
        layer.placement = placement
        if (layer.name, layer.scope) != (names[layer], scopes[layer]):
            layer.name, layer.scope = names[layer], scopes[layer]
            for parameter in layer.held(Parameter):
                parameter.name = f"{layer.path}/{parameter.name.rpartition('/')[2]}"
        for stream in layer.held(RandomStream):
            stream.model_seed, stream.number = placement.seed, numbers[stream]
    for layer in model.walk():
        if layer.built:
            placement.weight_streams.update(weight.stream for weight in layer.held(Parameter))


def _check_placement(model: Layer, layer: Layer, placement: Placement, is_own: bool) -> None:
    """Raise ValueError if the layer's device or dtype differs from the model's."""
    places: dict[str, Any] = {parameter.name: parameter for parameter in layer.held(Parameter)}
    if not is_own and not layer.built:
        places[layer.label] = layer.placement
    for name, place in places.items():
        if (place.backend, place.dtype) != (placement.backend, placement.dtype):
            raise ValueError(
                f"{model.label}: expected {name} to have the model's device "
                f"{placement.backend.name} and dtype {placement.dtype}, got {place.backend.name} "
                f"and {place.dtype}. Build each layer within one model."
            )


def _plan_names(layers: Sequence[Layer], taken: set[str]) -> dict[Layer, str]:
    """Return a name for each layer: its given name, else ``dense``, ``dense_1`` and so on.

    A name that a nested model assigned changes if an earlier layer has it; a given name stays.
    """
    taken = set(taken)
    names = {}
    for layer in sorted(layers, key=lambda layer: not layer.name_is_given):  # given names first
        name = layer.label
        if name in taken and not layer.name_is_given:
            name = free_name(layer.class_label, taken)
        taken.add(name)
        names[layer] = name
    return names


def _plan_scopes(
    model: Layer, names: dict[Layer, str], foreign: Sequence[Layer]
) -> dict[Layer, str]:
    """Return for each layer the prefix that makes its path unique: ``""``, or ``block/``."""
    parents: dict[Layer, Layer] = {}
    for parent in model.walk():
        for layer in parent.held(Layer):
            parents.setdefault(layer, parent)

    def scope(layer: Layer) -> str:
        parent = parents[layer]
        return "" if parent is model else f"{scope(parent)}{names.get(parent, parent.label)}/"

    count = Counter([*names.values(), *(layer.label for layer in foreign)])
    scopes = {layer: scope(layer) if count[name] > 1 else "" for layer, name in names.items()}
    paths = {layer.path for layer in foreign}
    for layer, name in names.items():
        if scopes[layer] + name in paths:
            raise ValueError(
                f"layers: expected unique names, got two layers named {name!r}. Rename one."
            )
        paths.add(scopes[layer] + name)
    return scopes


def _plan_numbers(
    layers: Sequence[Layer], foreign: Sequence[Layer], seed: int | None
) -> dict[RandomStream, int]:
    """Return a number for each random stream: 0, 1, 2 and so on, depth first.

    Fixed numbers do not change: given ones, used ones, and those of another model's layers. A
    number that a nested model assigned changes if an earlier stream has it.

    Streams that have all drawn may share seed and number: networks that were trained apart, with
    one seed, go on drawing what they drew.
    """
    own = {stream: layer for layer in layers for stream in layer.held(RandomStream)}
    others = {stream: layer for layer in foreign for stream in layer.held(RandomStream)}
    numbers: dict[RandomStream, int] = {}
    # The fixed streams and their layers, by seed and number.
    holders: dict[tuple[int | None, int], tuple[RandomStream, Layer]] = {}
    for stream, layer in (own | others).items():
        if stream.number is None or not (stream.is_fixed or stream in others):
            continue
        stream_seed = seed if stream in own and stream.own_seed is None else stream.seed
        address = (stream_seed, stream.number)
        other, holder = holders.setdefault(address, (stream, layer))
        if other is not stream and not (other.step and stream.step):
            raise ValueError(
                f"layers: expected unique random streams, got stream {stream.number} in "
                f"{holder.label} and in {layer.label}: they would draw equal masks. Pass another "
                "number to one layer, Dropout(rate, stream=...), or another seed to its model."
            )
        numbers[stream] = stream.number
    taken = set(numbers.values())
    for stream in own:
        if stream not in numbers:
            number = stream.number
            if number is None or number in taken:
                number = next(n for n in range(rng.LAYER_STREAMS) if n not in taken)
            taken.add(number)
            numbers[stream] = number
    return numbers
