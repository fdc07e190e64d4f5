"""How a model tells its layers apart: names for people, numbers for random draws."""

from collections.abc import Sequence

from minidl import rng
from minidl.layers.base import Layer
from minidl.layers.dropout import Dropout


def name_layers(layers: Sequence[Layer], taken: set[str]) -> None:
    """Name the unnamed ``dense``, ``dense_1``, ..., leaving out what is `taken`.

    A name that a nested model gave, and that an earlier layer has, gives way to the next free one.

    Raises
    ------
    ValueError
        If two layers were given one name.
    """
    taken = set(taken)
    for layer in layers:
        if layer.name is not None and layer.name_is_given:
            if layer.name in taken:
                raise ValueError(f"two layers are named {layer.name!r}; give each its own name")
            taken.add(layer.name)
    for layer in layers:
        if not layer.name_is_given:
            if layer.name is None or layer.name in taken:
                _rename(layer, taken)
            taken.add(layer.label)


def _rename(layer: Layer, taken: set[str]) -> None:
    """Give `layer`, and the weights it has, the first name that is not taken."""
    layer.name = None
    stem = layer.label
    names = (f"{stem}_{n}" if n else stem for n in range(len(taken) + 1))
    layer.name = next(name for name in names if name not in taken)
    for parameter in layer.own_parameters():
        parameter.name = f"{layer.name}/{parameter.name.rpartition('/')[2]}"


def number_random_layers(layers: Sequence[Layer], foreign: Sequence[Layer]) -> None:
    """Give the random layers streams 0, 1, 2, ... in order.

    A number that a layer was given, or has drawn from, is never changed, nor is that of a
    `foreign` layer, which belongs to another model. A number that a nested model gave, and that an
    earlier layer has now, gives way to the next free one.

    Raises
    ------
    ValueError
        If two layers with numbers that cannot change would make the same draws.
    """
    random_layers = [layer for layer in layers if isinstance(layer, Dropout)]
    unchangeable = [layer for layer in random_layers if layer.stream_is_fixed]
    unchangeable += [layer for layer in foreign if isinstance(layer, Dropout)]
    fixed: dict[tuple[int | None, int], Dropout] = {}
    for layer in unchangeable:
        if layer.stream is not None:
            twin = fixed.setdefault((layer.effective_seed, layer.stream), layer)
            if twin is not layer:
                raise ValueError(
                    f"{twin.label} and {layer.label} both draw from stream {layer.stream}; give "
                    "one another number before its first use: Dropout(rate, stream=...)"
                )
    taken = {stream for _, stream in fixed}
    for layer in random_layers:
        if not layer.stream_is_fixed:
            if layer.stream is None or layer.stream in taken:
                layer.stream = next(n for n in range(rng.LAYER_STREAMS) if n not in taken)
            taken.add(layer.stream)
