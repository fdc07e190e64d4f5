"""Network of the playground page: layers as JSON, and weights of 16 bits."""

import re
from typing import Any

import numpy as np

from minidl.layers import Dense, Dropout, Flatten, Layer, Rescaling
from minidl.layers.activations import name_of
from minidl.models import Model, Sequential

SIDE, CLASSES = 28, 10  # of the images
MAX_WEIGHTS = 2_000_000  # a page of 5.4 MB; 100 thinned networks in a fraction of a second
KINDS = (Rescaling, Flatten, Dropout, Dense)
ORDER = re.compile("(Rescaling |Flatten )*(Dropout )?(Dense (Dropout )?)*Dense ")
IN_WORDS = "Rescaling, Flatten, Dropout, hidden Dense with Dropout behind them, and Dense"
LARGEST = np.iinfo(np.int16).max


def check_network(model: Model) -> None:
    """Raise ValueError if the page cannot show the network.

    It can show a built `Sequential` of float32 or float64, for inputs of 28 x 28 numbers:
    `Rescaling`, `Flatten` and `Dropout` of the inputs, all optional; any number of hidden
    ``Dense(units, "relu")``, each with or without `Dropout` behind it; ``Dense(10, "softmax")``.
    At least one layer is `Dropout`, with a fixed rate below 1, and scales in training.
    """
    if type(model) is not Sequential or model.built_for is None:
        raise expectation("a built Sequential", type(model).__name__, "Load or build one.")
    if np.prod(model.built_for) != SIDE * SIDE:
        raise expectation(
            f"inputs of {SIDE} x {SIDE} numbers", f"{model.built_for}", "Resize the images."
        )
    if model.dtype == np.float16:
        raise expectation("weights of float32 or float64", "float16", "Train in float32.")
    names = [type(layer).__name__ for layer in model.layers]
    known = all(type(layer) in KINDS for layer in model.layers)
    if not known or not ORDER.fullmatch("".join(f"{name} " for name in names)):
        raise expectation(IN_WORDS, ", ".join(names), "Leave the others out.")
    for layer in model.layers:
        _check_layer(layer, is_last=layer is model.layers[-1])
    if not any(isinstance(layer, Dropout) for layer in model.layers):
        raise expectation("a network with Dropout", "one without", "Add Dropout behind a Dense.")
    weights = model.get_weights()
    if (count := sum(array.size for array in weights)) > MAX_WEIGHTS:
        raise expectation(f"at most {MAX_WEIGHTS:,} weights", f"{count:,}", "Use fewer units.")
    if not all(np.isfinite(array).all() for array in weights):
        raise expectation("finite weights", "NaN or infinity", "Train the network again.")


def _check_layer(layer: Layer, *, is_last: bool) -> None:
    if isinstance(layer, Dense):
        expected = "softmax" if is_last else "relu"
        if name_of(layer.activation) != expected:
            found = name_of(layer.activation) or "another function"
            raise expectation(f"activation {expected} of {layer.label}", found, "Change it.")
        if is_last and layer.units != CLASSES:
            raise expectation(f"{CLASSES} outputs", f"{layer.units}", "The page is for digits.")
    if isinstance(layer, Dropout):
        if layer.is_scheduled or layer.rate == 1 or layer.noise_shape is not None:
            raise expectation(
                f"{layer.label} with a number below 1 as rate and no noise_shape",
                f"rate {layer.rate!r:.80} and noise_shape {layer.noise_shape}",
                "Use a plain rate.",
            )
        if layer.scaling != "train":
            raise expectation(
                f"{layer.label} with scaling 'train'", f"{layer.scaling!r}", "Change it."
            )


def expectation(expected: str, found: str, advice: str) -> ValueError:
    """Return the error for a wrong argument of the page."""
    return ValueError(f"playground: expected {expected}, got {found}. {advice}")


def default_white(model: Model) -> float:
    """Return what a network most likely takes for a white pixel: 255 or 1.

    Networks with a `Rescaling` take the bytes of the image; others were trained on ``x / 255``.
    """
    return 255.0 if any(isinstance(layer, Rescaling) for layer in model.layers) else 1.0


def described_layers(model: Model, white: float) -> list[dict[str, Any]]:
    """Return the layers as the page needs them, in JSON values.

    `white` is the network's input for a white pixel.
    """
    layers: list[dict[str, Any]] = [{"kind": "rescaling", "scale": white / 255, "offset": 0}]
    size = SIDE * SIDE
    for layer in model.layers:
        if isinstance(layer, Rescaling):
            layers.append({"kind": "rescaling", "scale": layer.scale, "offset": layer.offset})
        elif isinstance(layer, Dense):
            sizes = {"inputs": size, "units": layer.units}
            layers.append({"kind": "dense", **sizes, "activation": name_of(layer.activation)})
            size = layer.units
        elif isinstance(layer, Dropout):
            # JavaScript's numbers cannot hold each seed, so it is text.
            address = {"seed": str(layer.seed), "stream": layer.stream}
            layers.append({"kind": "dropout", "units": size, "rate": layer.rate, **address})
    return layers


def packed_weights(model: Model) -> bytes:
    """Return the weights of all Dense layers: little-endian, 16 bits a weight.

    A layer has its biases and one scale for each unit, both float32, and its weights as int16 in C
    order; scale times integer is the weight. The probabilities differ from those of the network
    by about 5e-5. They would differ ten times as much with float16.
    """
    parts = []
    for layer in model.layers:
        if isinstance(layer, Dense):
            weight = layer.weight.numpy().astype(np.float64)
            bias = np.zeros(layer.units) if layer.bias is None else layer.bias.numpy()
            scale = (np.abs(weight).max(axis=0) / LARGEST).astype("<f4")
            scale[scale < np.finfo(np.float32).tiny] = 1  # of weights that are 0
            integers = np.rint(weight / scale).astype("<i2")
            parts += [bias.astype("<f4").tobytes(), scale.tobytes(), integers.tobytes()]
    return b"".join(parts)
